"""No secret is on a command line: every user of a machine can read those of its processes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from typer.main import get_command

from cfflow.cli.app import app
from cfflow.emulator import EmulatorProcess
from cfflow.emulator.__main__ import main
from cfflow.store.redis.url import has_secret
from tests.faces.faces_kit import environment, run, spawn
from tests.ports.servers import Server, running, valkey_binary

SECRET = "correct-horse-battery"
URLS = (f"redis://:{SECRET}@127.0.0.1:1", f"redis://127.0.0.1:1?password={SECRET}")

LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc")


def commands(
    command: typer.core.TyperCommand, path: tuple[str, ...] = ()
) -> Iterator[tuple[str, ...]]:
    """Yield every command of the command line that has an option for a URL, with that option."""
    for parameter in command.params:
        yield from (
            (*path, name) for name in parameter.opts if name.endswith(("url", "send-to", "secret"))
        )
    for name, below in getattr(command, "commands", {}).items():
        yield from commands(below, (*path, name))


OPTIONS = sorted(commands(get_command(app)))  # type: ignore[arg-type]  # typer's own classes


def words_of(text: str) -> str:
    """Return what a message says, without the box that it is printed in."""
    return " ".join(text.replace("│", " ").split())


def test_every_option_for_a_url_is_found() -> None:
    """The test below goes through all of them."""
    assert {("worker", "--redis-url"), ("emulator", "--webhook-url")} <= set(OPTIONS)
    assert {("emulator", "--client-secret"), ("emulator", "resend", "--send-to")} <= set(OPTIONS)
    assert len(OPTIONS) > 20


@pytest.mark.parametrize("option", OPTIONS, ids=" ".join)
def test_an_option_takes_no_secret(option: tuple[str, ...]) -> None:
    """It is refused, the variable is named, and the secret is not repeated."""
    *path, name = option
    for url in URLS:
        done = run(*path, name, url, COLUMNS="200")
        assert done.returncode == 2
        assert "`ps` shows" in words_of(done.stderr)
        assert SECRET not in done.stdout + done.stderr
        if name != "--send-to":
            assert "set CFFLOW_" in words_of(done.stderr)


def test_the_help_says_where_a_password_belongs() -> None:
    """With the names of the variables."""
    for arguments, variable in (
        (("list",), "CFFLOW_REDIS_URL"),
        (("emulator",), "CFFLOW_EMULATOR_CLIENT_SECRET"),
        (("emulator",), "CFFLOW_EMULATOR_WEBHOOK_URL"),
    ):
        text = words_of(run(*arguments, "--help", COLUMNS="200").stdout)
        assert f"only as {variable}" in text


def test_a_url_without_a_password_is_taken() -> None:
    """It goes on to the server, which is not there."""
    done = run("list", "--redis-url", "redis://somebody@127.0.0.1:1")
    assert done.returncode == 1
    assert "127.0.0.1:1" in done.stderr


def test_a_password_in_the_environment_opens_the_store(tmp_path: Path) -> None:
    """The way that the refusal names."""
    with running(Server(valkey_binary(), tmp_path, "--requirepass", SECRET)) as server:
        url = f"redis://:{SECRET}@127.0.0.1:{server.port}"
        done = spawn("list", CFFLOW_REDIS_URL=url)
    assert (done.returncode, done.stdout) == (0, "No payments.\n"), done.stderr


@LINUX
def test_no_secret_of_an_emulator_process_is_on_its_command_line() -> None:
    """Read as any user may; the emulator has them all the same."""
    hook = f"http://shop:{SECRET}@127.0.0.1:1/hook"
    with EmulatorProcess(client_secret=SECRET, webhook_url=hook) as process:
        line = Path(f"/proc/{process.pid}/cmdline").read_bytes()
        settings = httpx.get(f"{process.admin_url}/webhooks/settings", trust_env=False).json()
        headers = {
            "x-api-version": "2025-01-01",
            "x-client-id": process.client_id,
            "x-client-secret": SECRET,
        }
        url = f"{process.base_url}/orders/none"
        found = httpx.get(url, headers=headers, trust_env=False)
    assert b"cfflow.emulator" in line and SECRET.encode() not in line
    assert settings["urls"] == [hook]
    assert found.status_code == 404


@LINUX
def test_the_emulator_s_command_takes_its_secret_from_the_environment() -> None:
    """What it prints shows that it has it."""
    process = subprocess.Popen(
        [sys.executable, "-m", "cfflow", "emulator", "--json"],
        stdout=subprocess.PIPE,
        text=True,
        env=environment(CFFLOW_EMULATOR_CLIENT_SECRET=SECRET),
    )
    try:
        assert process.stdout is not None
        printed = "".join(iter(process.stdout.readline, "}\n"))
        line = Path(f"/proc/{process.pid}/cmdline").read_text()
    finally:
        process.kill()
        process.communicate()
    assert f'"client_secret": "{SECRET}"' in printed
    assert SECRET not in line


@pytest.mark.parametrize(
    ("option", "value"),
    [("--client-secret", SECRET), ("--webhook-url", f"http://shop:{SECRET}@127.0.0.1/hook")],
)
def test_the_module_takes_no_secret_either(
    option: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """`python -m cfflow.emulator` names the same variables."""
    with pytest.raises(SystemExit, match="2"):
        main([option, value])
    complaint = capsys.readouterr().err
    assert "set CFFLOW_EMULATOR_" in complaint and SECRET not in complaint


@pytest.mark.parametrize(
    ("url", "secret"),
    [
        ("redis://127.0.0.1:6379/0", False),
        ("redis://user@127.0.0.1:6379", False),
        ("rediss://[::1]:6379/0?ssl_ca_certs=/etc/ca.pem", False),
        ("unix:///tmp/a@b.sock?db=1", False),
        ("embedded:/tmp/a@b", False),
        ("embedded:", False),
        ("http://127.0.0.1:3000/hook?order=1", False),
        ("redis://:p@127.0.0.1", True),
        ("redis://user:p@127.0.0.1:6379/0", True),
        ("redis://:p@ss@127.0.0.1", True),
        ("redis://:p/ss@127.0.0.1", True),
        ("redis://user:80/ss@127.0.0.1", True),
        ("redis://:p?ss@127.0.0.1", True),
        ("redis://:p#ss@127.0.0.1", True),
        ("redis://127.0.0.1?password=p", True),
        ("unix:///tmp/a.sock?db=1&password=p", True),
        ("rediss://127.0.0.1?ssl_password=p", True),
        ("http://127.0.0.1/hook?token=p", True),
    ],
)
def test_a_secret_in_a_url_is_found(url: str, secret: bool) -> None:
    """Also where a password has characters that a URL should have escaped."""
    assert has_secret(url) is secret


@given(password=st.text(min_size=1), user=st.text("abc", max_size=3), port=st.integers(1, 65535))
def test_no_password_is_overlooked(password: str, user: str, port: int) -> None:
    """Whatever its characters."""
    assert has_secret(f"redis://{user}:{password}@127.0.0.1:{port}/0")
