"""`cfflow emulator`: how one that runs is controlled from a shell."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, get_args

import httpx
import pytest

from cfflow.cli.emulator import Version
from cfflow.emulator import EmulatorProcess
from cfflow.emulator.versions import WebhookVersion
from tests.faces.faces_kit import ROOT, environment, run

pytestmark = pytest.mark.timeout(120)

SUBCOMMANDS = ("fault", "chaos", "clock", "ledger", "webhooks", "resend", "reset")
METHOD = {"upi": {"channel": "collect", "upi_id": "testsuccess@gocash"}}
NOBODY = "http://127.0.0.1:1"


def test_the_command_has_the_emulator_s_webhook_versions() -> None:
    """The command line starts without the extra, so it cannot import them."""
    assert get_args(Version) == get_args(WebhookVersion)


@pytest.fixture(scope="module")
def process() -> Iterator[EmulatorProcess]:
    """One emulator for the whole module, whose webhooks no server takes."""
    with EmulatorProcess(webhook_url=f"{NOBODY}/hook") as process:
        yield process


@pytest.fixture
def emulator(process: EmulatorProcess) -> EmulatorProcess:
    """The emulator, with nothing in it."""
    assert httpx.post(f"{process.admin_url}/reset", trust_env=False).status_code == 200
    return process


def steer(emulator: EmulatorProcess, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `cfflow emulator ...` against it."""
    url = emulator.base_url
    return run("emulator", *arguments, CFFLOW_EMULATOR_URL=url, COLUMNS="200")


def as_json(emulator: EmulatorProcess, *arguments: str) -> Any:
    """What `--json` prints; it must succeed."""
    done = steer(emulator, *arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def sell(emulator: EmulatorProcess, order_id: str) -> None:
    """A sale of 170 rupees by UPI."""
    headers = {
        "x-api-version": "2025-01-01",
        "x-client-id": emulator.client_id,
        "x-client-secret": emulator.client_secret,
    }
    customer = {"customer_id": "asha", "customer_phone": "9898989898"}
    body = {"order_id": order_id, "order_amount": 170, "order_currency": "INR"}
    with httpx.Client(base_url=emulator.base_url, headers=headers, trust_env=False) as http:
        order = http.post("/orders", json=body | {"customer_details": customer}).json()
        pay = {"payment_session_id": order["payment_session_id"], "payment_method": METHOD}
        assert http.post("/orders/sessions", json=pay).status_code == 200


def test_a_fault_is_added_listed_and_forgotten(emulator: EmulatorProcess) -> None:
    """With its options, in words and as JSON."""
    options = ("--status", "502", "--count", "0", "--after", "1", "--order", "tea")
    assert steer(emulator, "fault", "pay", "status_before", *options).returncode == 0
    rule = {"call": "pay", "kind": "status_before", "status": 502, "count": None}
    assert as_json(emulator, "fault")["faults"] == [rule | {"order_id": "tea", "after": 1}]
    assert steer(emulator, "fault").stdout.startswith("pay status_before status=502")
    assert steer(emulator, "fault", "--clear").stdout == "No faults.\n"


def test_chaos_begins_and_ends(emulator: EmulatorProcess) -> None:
    """Its seed and its kinds are those of the command."""
    chaos = as_json(emulator, "chaos", "0.5", "--seed", "7", "--kind", "html")["chaos"]
    assert (chaos["probability"], chaos["seed"], chaos["kinds"]) == (0.5, 7, ["html"])
    assert steer(emulator, "fault").stdout == "chaos: 0.5 of all calls\n"
    assert steer(emulator, "chaos", "0").stdout == "No faults.\n"


def test_the_clock_goes_forward(emulator: EmulatorProcess) -> None:
    """By seconds, or to a moment."""
    before = as_json(emulator, "clock")
    after = as_json(emulator, "clock", "--advance", "3600")
    assert after["offset_s"] - before["offset_s"] == 3600
    at = str(after["epoch_s"] + 60)
    assert as_json(emulator, "clock", "--to", at)["offset_s"] > after["offset_s"]
    assert " s ahead" in steer(emulator, "clock").stdout


def test_a_clock_that_goes_forward_leaves_others_behind(emulator: EmulatorProcess) -> None:
    """The command says so, once it has moved it; to look at it needs no warning."""
    assert steer(emulator, "clock").stderr == ""
    done = steer(emulator, "clock", "--advance", "7200", "--json")
    ahead = json.loads(done.stdout)["offset_s"]
    assert done.stderr.startswith(f"warning: the emulator is {ahead:.0f} s ahead")
    assert all(word in done.stderr for word in ("hold", "stale", "pytest plugin"))
    assert len(done.stderr.splitlines()) == 1


def test_the_ledger_lists_effects(emulator: EmulatorProcess) -> None:
    """All of them, or those that are asked for, with the gateway's decimals."""
    sell(emulator, "tea_1")
    sell(emulator, "tea_2")
    effects = [entry["effect"] for entry in as_json(emulator, "ledger")["ledger"]]
    assert effects == ["attempt_created", "captured"] * 2
    lines = steer(emulator, "ledger", "--order", "tea_2", "--effect", "captured").stdout.split()
    assert lines[:5] == ["AT", "EFFECT", "AMOUNT", "ORDER_ID", "CF_PAYMENT_ID"]
    assert lines[6:9] == ["captured", "170.00", "tea_2"]
    nothing = steer(emulator, "ledger", "--order", "nobody").stdout
    assert nothing == "No such effect in the ledger.\n"


def test_webhooks_are_listed_held_and_sent_again(emulator: EmulatorProcess) -> None:
    """With what became of each attempt; an altered one counts too."""
    as_json(emulator, "webhooks", "--hold", "--copies", "2")
    sell(emulator, "tea_1")
    assert [each["status"] for each in as_json(emulator, "webhooks")["webhooks"]] == ["held"] * 2
    [first, second] = as_json(emulator, "webhooks", "--release", "--sequence", "reversed")[
        "webhooks"
    ]
    assert {first["status"], second["status"]} == {"waiting"}
    [again] = as_json(emulator, "resend", first["id"], "--alter", "forged")["webhooks"]
    assert again["attempts"][1]["altered"] == "forged"
    assert len(as_json(emulator, "resend", "tea_1")["webhooks"]) == 2
    shown = steer(emulator, "webhooks", "--order", "tea_1").stdout
    assert shown.count("PAYMENT_SUCCESS_WEBHOOK") == 2
    assert steer(emulator, "webhooks", "--status", "delivered").stdout == "No webhooks.\n"


def test_webhooks_can_be_sent_elsewhere(emulator: EmulatorProcess) -> None:
    """From now on, by one command."""
    steer(emulator, "webhooks", "--send-to", f"{NOBODY}/other")
    sell(emulator, "tea_1")
    [sent] = as_json(emulator, "webhooks")["webhooks"]
    assert sent["url"] == f"{NOBODY}/other"


def test_webhooks_can_tell_the_machine_s_time(emulator: EmulatorProcess) -> None:
    """For a receiver whose clock was not set forward."""
    as_json(emulator, "webhooks", "--timestamps", "machine")
    url = f"{emulator.admin_url}/webhooks/settings"
    assert httpx.get(url, trust_env=False).json()["timestamps"] == "machine"


@pytest.mark.parametrize(
    ("arguments", "choice"),
    [
        (("fault", "foo", "lost_after"), "fetch_payments"),
        (("fault", "pay", "foo"), "lost_after"),
        (("chaos", "0.5", "--kind", "foo"), "lost_after"),
        (("ledger", "--effect", "foo"), "attempt_created"),
        (("webhooks", "--status", "foo"), "given_up"),
    ],
)
def test_a_word_that_is_none_names_those_that_are(
    emulator: EmulatorProcess, arguments: tuple[str, ...], choice: str
) -> None:
    """Users look them up there."""
    done = steer(emulator, *arguments)
    assert done.returncode == 2
    assert choice in done.stderr.replace("\n", " ")


def test_a_fault_may_have_words_of_its_own(emulator: EmulatorProcess) -> None:
    """For the errors that no call gives by itself."""
    words = ("--status", "400", "--code", "request_failed", "--type", "validation_error")
    assert steer(emulator, "fault", "pay", "status_before", *words).returncode == 0
    (rule,) = as_json(emulator, "fault")["faults"]
    assert (rule["code"], rule["type"]) == ("request_failed", "validation_error")


def _session_of_a_new_one(*options: str) -> str:
    """Start an emulator, create an order there, and stop it; the order's session."""
    process = subprocess.Popen(
        [sys.executable, "-m", "cfflow", "emulator", *options],
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    try:
        assert process.stdout is not None
        base_url = json.loads("".join(iter(process.stdout.readline, "}\n")) + "}")["base_url"]
        body = {"order_id": "tea", "order_amount": 170, "order_currency": "INR"}
        body["customer_details"] = {"customer_id": "asha", "customer_phone": "9898989898"}
        headers = {"x-api-version": "2025-01-01", "x-client-id": "cfflow-test-id"}
        headers["x-client-secret"] = "cfflow-test-secret"
        order = httpx.post(f"{base_url}/orders", json=body, headers=headers, trust_env=False)
        return str(order.json()["payment_session_id"])
    finally:
        process.kill()
        process.communicate()


def test_it_starts_with_a_bank_that_behaves_otherwise() -> None:
    """And with ids that are the same each time."""
    options = ("--options", '{"otp": "222333"}', "--seed", "7", "--json")
    sessions = [_session_of_a_new_one(*options) for _ in range(2)]
    assert sessions[0] == sessions[1]


def test_options_that_make_no_sense_are_wrong_usage() -> None:
    """Named, before anything listens."""
    done = run("emulator", "--options", '{"otpp": "1"}')
    assert done.returncode == 2
    assert "otpp" in done.stderr


def test_a_reset_empties_it(emulator: EmulatorProcess) -> None:
    """And prints its time."""
    sell(emulator, "tea_1")
    assert steer(emulator, "reset").stdout.startswith("Empty.")
    assert as_json(emulator, "ledger")["ledger"] == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["fault", "pay", "magic"],
        ["fault", "pay", "html", "--probability", "2"],
        ["chaos", "7"],
        ["clock", "--advance", "-1"],
        ["clock", "--to", "yesterday"],
        ["ledger", "--since", "soon"],
        ["resend", "tea_1", "--alter", "magic"],
        ["webhooks", "--send-to", "nonsense"],
    ],
    ids=" ".join,
)
def test_what_the_emulator_cannot_mean_is_wrong_usage(
    emulator: EmulatorProcess, arguments: list[str]
) -> None:
    """Status 2, with its reason and without a traceback."""
    done = steer(emulator, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Usage: cfflow emulator" in done.stderr


def test_a_webhook_goes_to_no_address_that_is_none(emulator: EmulatorProcess) -> None:
    """Neither from now on nor this once."""
    sell(emulator, "tea")
    for command in (("webhooks",), ("resend", "tea")):
        done = steer(emulator, *command, "--send-to", "nonsense")
        assert done.returncode == 2
        assert "a webhook URL begins with" in done.stderr


def test_an_unknown_webhook_is_said_in_one_line(emulator: EmulatorProcess) -> None:
    """Status 1, and the id that was asked for."""
    done = steer(emulator, "resend", "nobody")
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert "nobody" in done.stderr


@pytest.mark.parametrize(
    "command", [name for name in SUBCOMMANDS if name not in {"resend", "chaos"}]
)
def test_where_nobody_listens_is_said_in_one_line(command: str) -> None:
    """Status 1, with the address that was tried."""
    done = run("emulator", command, "--url", NOBODY)
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert NOBODY in done.stderr


def test_the_gateway_s_address_is_found_by_itself(emulator: EmulatorProcess) -> None:
    """A shell that has what `cfflow emulator` prints needs no more."""
    done = run("emulator", "clock", "--json", CASHFREE_ENVIRONMENT=emulator.base_url)
    assert json.loads(done.stdout)["now"]


def test_no_address_at_all_is_named() -> None:
    """The option and the variable are in the message; `sandbox` is no emulator."""
    done = run("emulator", "clock", CASHFREE_ENVIRONMENT="sandbox")
    assert done.returncode == 1
    assert "--url" in done.stderr and "CFFLOW_EMULATOR_URL" in done.stderr


@pytest.mark.parametrize("command", SUBCOMMANDS)
def test_every_command_has_help_and_a_line_in_the_manual(command: str) -> None:
    """What it is for, where people look."""
    assert f"Usage: cfflow emulator {command}" in run("emulator", command, "--help").stdout
    page = (ROOT / "docs" / "reference" / "cli.md").read_text()
    assert f"`cfflow emulator {command}" in page
