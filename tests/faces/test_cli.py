"""The command line as people meet it: real processes, a real store, a real gateway."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.main import get_command

import cfflow
from cfflow import Payment
from cfflow.cli.app import app
from cfflow.emulator import EmulatorProcess
from tests.faces.faces_kit import CFFLOW, ROOT, Till, environment, run, spawn
from tests.ports.servers import Server, redis7_binary

pytestmark = pytest.mark.timeout(240)

COMMANDS = (
    "demo",
    "emulator",
    "worker",
    "list",
    "show",
    "why",
    "adopt",
    "abandon",
    "acknowledge",
    "resolve",
    "status",
    "pause",
    "resume",
    "accept-store",
    "events",
    "graph",
    "check",
    "doctor",
)
PAYMENT_FIELDS = tuple(field.name for field in dataclasses.fields(Payment))

#: An option that only says which variable to set.
NEVER_TYPED = {"--client-secret"}
ORDERS = ["new", "tea", "waits", "held", "room", "car", "broken"]
STATES = ["created", "captured", "otp_pending", "authorized", "captured", "voided", "failed"]
OTP_NOWHERE = (
    "no method of this flow has the channel post, so no OTP is asked on your page; "
    "allowed: the section only beside a method over post: card, emi"
)
NOWHERE = {"CFFLOW_REDIS_URL": "redis://127.0.0.1:1"}


def refused(done: subprocess.CompletedProcess[str], *words: str, status: int = 1) -> None:
    """Expect a refusal: its status, its words on standard error, and no traceback."""
    assert done.returncode == status, done
    assert "Traceback" not in done.stderr
    # Boxes around usage errors break lines.
    shown = re.sub(r"[\s│]+", " ", done.stderr)
    assert all(word in shown for word in words), shown


@pytest.fixture(scope="module")
def free_port() -> int:
    """A port on which no process listens."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def test_it_tells_its_version() -> None:
    """`cfflow --version`, in one line."""
    done = spawn("--version")
    assert (done.returncode, done.stdout) == (0, f"cfflow {cfflow.__version__}\n")


def test_the_module_is_the_command() -> None:
    """`python -m cfflow` and `cfflow` are one thing."""
    done = subprocess.run(
        [sys.executable, "-m", "cfflow", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"cfflow {cfflow.__version__}\n"


def test_the_help_names_every_command() -> None:
    """`cfflow --help` is where people begin."""
    done = spawn("--help", COLUMNS="200")
    assert done.returncode == 0
    assert set(COMMANDS) <= set(re.findall(r"^│ ([\w-]+) ", done.stdout, re.MULTILINE))


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str) -> None:
    """And its help has a sentence on what it does."""
    done = run(command, "--help", COLUMNS="200")
    assert done.returncode == 0
    assert f"Usage: cfflow {command}" in done.stdout


def commands_of(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Yield each command below this one, and this one, with its whole name."""
    yield name, command
    for each, below in getattr(command, "commands", {}).items():
        yield from commands_of(below, f"{name} {each}")


def options_of(command: Any) -> set[str]:
    """Return the options that a command takes on its command line."""
    names = {n for each in command.params for n in (*each.opts, *each.secondary_opts)}
    return {name for name in names if name.startswith("--")} - NEVER_TYPED


TREE = dict(commands_of(get_command(app), "cfflow"))
PAGE = (ROOT / "docs" / "reference" / "cli.md").read_text()
#: The first cell of each row: `cfflow NAME ARGUMENTS [--option VALUE]`.
ROWS = {
    re.split(r" (?=[^a-z])", row)[0]: row
    for row in re.findall(r"^\| `(cfflow .*?)` \|", PAGE.replace("\\|", "/"), re.MULTILINE)
}


def test_the_manual_has_a_row_for_every_command_and_no_other() -> None:
    """Those of the emulator too."""
    assert set(ROWS) == set(TREE) - {"cfflow"}
    assert {name.split()[1] for name in ROWS} == set(COMMANDS)
    assert "`cfflow --version`" in PAGE


@pytest.mark.parametrize("name", sorted(set(TREE) - {"cfflow"}))
def test_the_manual_has_every_option_of_a_command_and_no_other(name: str) -> None:
    """Read off the command itself, both ways; one that must be given stands without brackets."""
    row = ROWS[name]
    assert set(re.findall(r"--[a-z-]+", row)) == options_of(TREE[name])
    needed = {each.opts[0] for each in TREE[name].params if each.required}
    free = set(re.findall(r"--[a-z-]+", re.sub(r"\[[^]]*\]", "", row)))
    assert free == {option for option in needed if option.startswith("--")}


def test_the_manual_names_the_variable_of_what_is_never_typed() -> None:
    """The emulator's secret is refused on a command line."""
    assert "CFFLOW_EMULATOR_CLIENT_SECRET" in PAGE
    assert not any(option in PAGE for option in NEVER_TYPED)


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["show"],
        ["show", "a.1", "b.1"],
        ["list", "--limit", "none"],
        ["list", "--limit", "0"],
        ["list", "--state", "paid"],
        ["list", "--nonsense"],
        ["emulator", "--port", "70000"],
        ["emulator", "--chaos", "2"],
        ["emulator", "--webhook-url", "nonsense"],
        ["emulator", "fault", "pay"],
        ["emulator", "resend"],
        ["events"],
        ["check"],
    ],
    ids=" ".join,
)
def test_wrong_usage_ends_with_two(arguments: list[str]) -> None:
    """A wrong command prints how to write it."""
    refused(run(*arguments, **NOWHERE), "Usage: cfflow", status=2)


def test_an_unknown_state_is_answered_with_the_known_ones() -> None:
    """Nobody looks up the seven states."""
    words = ("'created'", "'otp_pending'", "'voided'")
    refused(run("list", "--state", "paid", COLUMNS="200"), *words, status=2)


def test_list_shows_every_payment(till: Till) -> None:
    """Newest first, one line each, ids and states whole."""
    done = till.spawn("list")
    lines = [line.split() for line in done.stdout.splitlines()]
    assert done.returncode == 0
    assert lines[0][:3] == ["PAYMENT", "STATE", "AMOUNT"]
    assert [line[:2] for line in lines[1:]] == [
        [f"{order}.1", state] for order, state in zip(ORDERS[::-1], STATES[::-1], strict=True)
    ]


def test_list_prints_payments_for_programs(till: Till) -> None:
    """`--json` has a payment's own fields, money as text."""
    listed = till.json("list", "--oldest-first")
    assert [payment["order_id"] for payment in listed] == ORDERS
    assert {tuple(payment) for payment in listed} == {PAYMENT_FIELDS}
    assert listed[4]["captured_amount"] == "420.50"


def test_an_empty_list_says_so(till: Till) -> None:
    """No payments is an answer, not an error."""
    done = till.run("list", "--review")
    assert (done.returncode, done.stdout) == (0, "No payments.\n")


def test_the_store_can_be_named_on_the_command_line(till: Till) -> None:
    """`--redis-url` stands before the environment."""
    url = till.settings["CFFLOW_REDIS_URL"]
    done = run("list", "--json", "--redis-url", url, **NOWHERE)
    assert len(json.loads(done.stdout)) == len(ORDERS)


def test_show_shows_one_payment(till: Till) -> None:
    """What is known of it, nothing that is empty."""
    done = till.spawn("show", "room.1")
    shown = dict(line.strip().split(maxsplit=1) for line in done.stdout.splitlines())
    assert done.returncode == 0
    assert (shown["state"], shown["amount"], shown["captured_amount"]) == (
        "captured",
        "500.00",
        "420.50",
    )
    assert "failure" not in shown


def test_show_prints_a_payment_for_programs(till: Till) -> None:
    """`--json` has every field of `Payment`, in its order."""
    shown = till.json("show", "waits.1")
    assert tuple(shown) == PAYMENT_FIELDS
    assert shown["next_action"]["type"] == "ask_otp"
    assert set(shown["otp"]) == {"submits_left", "resends_left", "resend_at", "expires_at"}
    assert till.json("show", "new.1")["metadata"] == {"table": 7}


def test_show_prints_a_failure_by_names(till: Till) -> None:
    """It is stored as an array; programs branch on names."""
    failure = till.json("show", "broken.1")["failure"]
    assert set(failure) == {"code", "reason", "source", "description"}
    assert failure["code"]


def test_why_shows_the_whole_way(till: Till) -> None:
    """Every transition with its proof, what is open, what may be called."""
    done = till.spawn("why", "tea.1")
    assert done.returncode == 0
    walked = re.findall(r" (\w+): \w+ -> (\w+) \(", done.stdout)
    assert walked == [
        ("initiate", "initiated"),
        ("require_otp", "otp_pending"),
        ("reject_otp", "otp_pending"),
        ("hold", "authorized"),
        ("capture", "captured"),
    ]
    assert "Open: nothing." in done.stdout


def test_why_prints_its_answer_for_programs(till: Till) -> None:
    """`--json` has the keys of `Why`."""
    explained = till.json("why", "waits.1")
    assert tuple(explained) == cfflow.Why.__struct_fields__
    assert {"submit_otp", "resend_otp"} & set(explained["allowed"])


def test_graph_prints_the_chart_for_people_and_programs(till: Till) -> None:
    """The same diagram, bare and in JSON."""
    bare = spawn("graph", "preauth").stdout
    assert till.json("graph", "preauth") == {"format": "mermaid", "diagram": bare.rstrip("\n")}


def test_check_accepts_the_shipped_flows() -> None:
    """Every flow of the repository, in one call."""
    files = sorted(map(str, ROOT.glob("flows/*.toml")))
    done = spawn("check", *files, "--json")
    assert done.returncode == 0
    findings = json.loads(done.stdout)
    assert [finding["file"] for finding in findings] == files
    assert {tuple(finding) for finding in findings} == {
        ("file", "name", "digest", "errors", "warnings")
    }
    assert [finding["errors"] + finding["warnings"] for finding in findings] == [[]] * len(files)


def test_check_names_every_mistake_of_every_file(tmp_path: Path) -> None:
    """File, key, what is wrong and what is allowed; the good one beside them is reported too."""
    good, bad, other = ROOT / "flows" / "upi.toml", tmp_path / "bad.toml", tmp_path / "other.toml"
    bad.write_text('name = "bad"\nmethods = ["card"]\n[otp]\nsubmits_max = 9\n[pay]\nretries = 3\n')
    other.write_text('name = "other"\nmethods = ["upi"]\ncapture = "cards"\n[otp]\n')
    done = run("check", str(bad), str(good), str(other))
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.splitlines() == [
        f"{bad}: otp.submits_max: 9 is not allowed; allowed: a whole number from 1 to 3",
        f"{bad}: pay.retries: unknown key; allowed: timeout_s",
        f"{good}: ok, flow upi",
        f'{other}: capture: "cards" is not allowed; allowed: one of "automatic", "manual"',
        f"{other}: warning: otp: {OTP_NOWHERE}",
    ]


def test_check_warns_of_a_flow_that_can_be_loaded(tmp_path: Path) -> None:
    """With status 0, and as JSON with its key; of two files with one name too."""
    mine, copy = tmp_path / "mine.toml", tmp_path / "copy.toml"
    for path in (mine, copy):
        path.write_text('name = "mine"\nmethods = ["upi"]\n[otp]\n')
    done = run("check", str(mine), str(copy), "--json")
    assert done.returncode == 0
    first, second = json.loads(done.stdout)
    assert (first["name"], first["errors"]) == ("mine", [])
    assert [warning["key"] for warning in first["warnings"]] == ["otp"]
    assert [warning["key"] for warning in second["warnings"]] == ["otp", "name"]
    assert str(mine) in second["warnings"][1]["wrong"]


@pytest.mark.parametrize("text", ["name = ", "\x00", "name = 'x'\nname = 'y'", "[[[["])
def test_check_survives_any_text(tmp_path: Path, text: str) -> None:
    """What is no TOML at all is an error in one line."""
    (tmp_path / "bad.toml").write_text(text)
    done = run("check", str(tmp_path / "bad.toml"))
    assert (done.returncode, done.stderr) == (1, "")
    assert len(done.stdout.splitlines()) == 1


@pytest.mark.parametrize("command", ["show", "why"])
@pytest.mark.parametrize(
    ("payment", "words"),
    [("nobody.1", "no payment nobody.1"), ("nobody", "no payment id"), ("tea.2", "tea.2")],
)
def test_an_unknown_payment_is_one_line(till: Till, command: str, payment: str, words: str) -> None:
    """A wrong id is no crash."""
    done = till.run(command, payment)
    refused(done, words)
    assert len(done.stderr.splitlines()) == 1


def test_an_unknown_flow_is_answered_with_the_known_ones() -> None:
    """`cfflow graph nonsense` lists what there is."""
    refused(run("graph", "nonsense"), "native_otp", "upi_mandate")


@pytest.mark.parametrize("arguments", [["list"], ["show", "a.1"], ["graph", "--payment", "a.1"]])
def test_a_missing_setting_is_named(arguments: list[str]) -> None:
    """The variable to set is in the message."""
    refused(run(*arguments), "CFFLOW_REDIS_URL")


@pytest.mark.parametrize("arguments", [["list"], ["show", "a.1"], ["why", "a.1"]])
def test_a_dead_store_is_named(arguments: list[str]) -> None:
    """Which address did not answer is in the message."""
    refused(run(*arguments, **NOWHERE), "127.0.0.1:1")


def test_a_process_that_fails_says_so_to_its_shell() -> None:
    """The same, seen from outside: status 1, one line, nothing on standard output."""
    done = spawn("list", **NOWHERE)
    refused(done, "127.0.0.1:1")
    assert (done.stdout, len(done.stderr.splitlines())) == ("", 1)


def test_a_url_of_another_kind_is_refused_without_its_password() -> None:
    """A wrong scheme is a ConfigError, and what looks like a secret stays unsaid."""
    done = run("list", CFFLOW_REDIS_URL="postgres://user:hunter2@127.0.0.1/0")
    refused(done, "redis://", "embedded:")
    assert "hunter2" not in done.stderr + done.stdout


def test_a_wrong_password_is_said_without_it(tmp_path: Path) -> None:
    """A server that refuses the key: one line, and the key is not in it."""
    server = Server(redis7_binary(), tmp_path)
    server.start()
    try:
        server.run("CONFIG", "SET", "requirepass", "right")
        url = f"redis://:hunter2@127.0.0.1:{server.port}"
        done = spawn("list", CFFLOW_REDIS_URL=url)
    finally:
        server.kill()
    refused(done, "refuses the password")
    assert "hunter2" not in done.stderr


def test_a_reader_that_has_gone_is_no_crash() -> None:
    """`cfflow graph | head -0`: no process reads, and nothing is complained about."""
    for arguments in (["graph"], ["--help"], ["check", "nowhere.toml"]):
        read, write = os.pipe()
        os.close(read)
        try:
            done = subprocess.run(
                [str(CFFLOW), *arguments],
                env=environment(),
                stdout=write,
                stderr=subprocess.PIPE,
                check=False,
            )
        finally:
            os.close(write)
        assert (done.returncode, done.stderr) == (1, b"")


def test_the_first_line_can_be_taken(till: Till) -> None:
    """`cfflow list --json | head -1` prints one line and no complaint."""
    command = f"'{CFFLOW}' list --json | head -1"
    done = subprocess.run(
        ["/bin/sh", "-c", command],
        env=environment(**till.settings),
        capture_output=True,
        text=True,
        check=True,
    )
    assert (done.stdout, done.stderr) == ("[\n", "")


def test_the_emulator_runs_until_it_is_stopped(free_port: int) -> None:
    """It prints its address and its credentials, and ends on Ctrl-C without a word."""
    command = [str(CFFLOW), "emulator", "--port", str(free_port), "--json"]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    try:
        started = _json_from(process)
        assert started == {
            "base_url": f"http://127.0.0.1:{free_port}/pg",
            "client_id": "cfflow-test-id",
            "client_secret": "cfflow-test-secret",
        }
        answer = httpx.get(f"{started['base_url']}/orders/x", trust_env=False)
        assert answer.json()["type"]
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
    finally:
        process.kill()
    assert "Traceback" not in errors
    assert process.returncode == 0


def _json_from(process: subprocess.Popen[str]) -> Any:
    text = ""
    assert process.stdout is not None
    for line in process.stdout:
        text += line
        if line == "}\n":
            break
    return json.loads(text)


def test_a_taken_port_is_named(bank: EmulatorProcess) -> None:
    """The error of a second emulator on a port names the port."""
    port = str(httpx.URL(bank.base_url).port)
    refused(spawn("emulator", "--port", port), f"port {port}", "in use")


def verdicts(till: Till, **settings: str) -> dict[str, tuple[str, str]]:
    """Return the doctor's findings: verdict and detail by subject."""
    done = till.run("doctor", "--json", **settings)
    assert done.stderr == ""
    findings = json.loads(done.stdout)
    assert all(tuple(finding) == ("verdict", "subject", "detail") for finding in findings)
    bad = any(finding["verdict"] == "bad" for finding in findings)
    assert done.returncode == (1 if bad else 0)
    return {found["subject"]: (found["verdict"], found["detail"]) for found in findings}


def test_the_doctor_finds_a_sound_place_sound(till: Till) -> None:
    """An embedded store with its append-only file, a gateway that accepts the credentials."""
    found = verdicts(till)
    assert {found[name][0] for name in ("settings", "store", "clock", "gateway")} == {"good"}
    assert found["durability"][0] == "good"
    # On a slow machine an order of the tests before is due by now, and nobody works here.
    bad = {name for name, (verdict, _) in found.items() if verdict == "bad"}
    assert bad <= {"workers"}
    assert till.spawn("doctor").returncode == len(bad)


def test_the_doctor_names_missing_settings_and_looks_at_the_rest(till: Till) -> None:
    """What is missing is named; the store that is known is examined all the same."""
    found = verdicts(till, CASHFREE_CLIENT_ID="", CASHFREE_CLIENT_SECRET="")
    verdict, detail = found["settings"]
    assert verdict == "bad"
    assert "CASHFREE_CLIENT_ID" in detail
    assert "CASHFREE_CLIENT_SECRET" in detail
    assert "CASHFREE_ENVIRONMENT" not in detail
    assert found["store"][0] == "good"
    assert "gateway" not in found


def test_the_doctor_notices_wrong_credentials(till: Till) -> None:
    """The gateway refuses them; they are not printed."""
    verdict, detail = verdicts(till, CASHFREE_CLIENT_SECRET="hunter2")["gateway"]
    assert verdict == "bad"
    assert "credentials are refused" in detail
    assert "hunter2" not in detail


def test_the_doctor_notices_a_dead_gateway(till: Till) -> None:
    """No process listens there."""
    verdict, detail = verdicts(till, CASHFREE_ENVIRONMENT="http://127.0.0.1:1/pg")["gateway"]
    assert verdict == "bad"
    assert "not reached" in detail


def test_the_doctor_notices_a_wrong_address(till: Till) -> None:
    """A server that answers, but not at this address, has accepted no credentials."""
    wrong = till.bank.base_url.removesuffix("/pg")
    verdict, detail = verdicts(till, CASHFREE_ENVIRONMENT=wrong)["gateway"]
    assert verdict == "bad"
    assert "does not answer as Cashfree" in detail


def test_the_doctor_notices_an_unknown_environment(till: Till) -> None:
    """Neither sandbox nor production nor a URL."""
    verdict, detail = verdicts(till, CASHFREE_ENVIRONMENT="staging")["gateway"]
    assert verdict == "bad"
    assert "sandbox" in detail


def test_the_doctor_notices_a_dead_store(till: Till) -> None:
    """The gateway is examined all the same."""
    found = verdicts(till, **NOWHERE)
    assert found["store"][0] == "bad"
    assert found["gateway"][0] == "good"


def test_the_doctor_judges_what_a_server_can_lose(till: Till, tmp_path: Path) -> None:
    """No append-only file is bad; an evicting policy is a note, and bad once it has a limit."""
    server = Server(redis7_binary(), tmp_path)
    server.start()
    try:
        url = {"CFFLOW_REDIS_URL": server.url}
        verdict, detail = verdicts(till, **url)["durability"]
        assert verdict == "bad"
        assert "appendonly yes" in detail
        server.run("CONFIG", "SET", "appendonly", "yes")
        server.run("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
        found = verdicts(till, **url)
        assert found["durability"][0] == "note"
        assert found["memory"][0] == "note"
        server.run("CONFIG", "SET", "maxmemory", "100mb")
        verdict, detail = verdicts(till, **url)["store"]
        assert verdict == "bad"
        assert "maxmemory-policy noeviction" in detail
    finally:
        server.kill()


def test_the_doctor_notices_a_clock_that_is_off(till: Till) -> None:
    """An hour apart from the store is a note, because the store's clock is the one that is used."""
    program = (
        "import sys, time; real = time.time; time.time = lambda: real() + 3600\n"
        "sys.argv = ['cfflow', 'doctor', '--json']\n"
        "from cfflow.__main__ import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment(**till.settings),
        capture_output=True,
        text=True,
        check=False,  # an order of the tests before may be due: then it exits with 1
    )
    (clock,) = (found for found in json.loads(done.stdout) if found["subject"] == "clock")
    assert clock["verdict"] == "note"
    off_ms = re.search(r"(\d+) ms apart", clock["detail"])
    assert off_ms is not None
    assert 3_590_000 < int(off_ms[1]) < 3_610_000


def test_no_command_leaves_a_server_behind(tmp_path: Path) -> None:
    """`embedded:DIR` starts a server for the command and stops it with it."""
    done = spawn("list", CFFLOW_REDIS_URL=f"embedded:{tmp_path / 'store'}")
    assert done.stdout == "No payments.\n"
    assert not (tmp_path / "store" / "valkey.sock").exists()
