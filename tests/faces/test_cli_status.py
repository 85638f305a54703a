"""`cfflow status`: health in one command, and the one alert, by real processes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import cfflow
from cfflow.emulator import EmulatorProcess
from cfflow.emulator.records import PREAUTH_CLIENT_ID, PREAUTH_CLIENT_SECRET
from cfflow.store.control import Decision, decision_text
from cfflow.store.embedded import EmbeddedServer
from tests.faces.faces_kit import CFFLOW, Till, environment, run, to_otp

pytestmark = pytest.mark.timeout(240)

NOWHERE = "redis://127.0.0.1:1"
FLOW = """\
name = "impatient"
methods = ["card"]

[poll]
after_s = [1, 2, 3, 4, 6]
"""


@pytest.fixture
def shop(bank: EmulatorProcess, tmp_path: Path) -> Iterator[Till]:
    """A till of this test alone, and a flow whose bank is asked soon."""
    opened = Till(bank, tmp_path)
    (tmp_path / "impatient.toml").write_text(FLOW)
    server = EmbeddedServer(tmp_path / "store")
    with asyncio.Runner() as runner:
        runner.run(server.start())
        yield opened
        runner.run(server.stop())


async def waiting(shop: Till, *order_ids: str) -> None:
    """Begin payments about which a worker must ask: their customers are at the bank."""
    flows = [str(shop.folder / "impatient.toml")]
    async with cfflow.connect(
        redis_url=shop.settings["CFFLOW_REDIS_URL"],
        environment=shop.bank.base_url,
        client_id=shop.bank.client_id,
        client_secret=shop.bank.client_secret,
        flows=flows,
    ) as cashier:
        for order_id in order_ids:
            payment = await to_otp(cashier, order_id, "impatient", "20.00")
            await cashier.leave_otp(payment)


@contextlib.contextmanager
def worker(shop: Till, *options: str, **settings: str) -> Iterator[subprocess.Popen[str]]:
    """Run a worker process, and end it: killed, it would keep the order that it works on leased."""
    command = [str(CFFLOW), "worker", "--json", "--report", "0.5", *options]
    with subprocess.Popen(
        command, env=environment(**(shop.settings | settings)), stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.communicate(timeout=30)
            process.kill()


def status(shop: Till, *options: str, **settings: str) -> tuple[int, dict[str, Any]]:
    """Return the exit status of `cfflow status --json`, and what it prints."""
    done = shop.run("status", "--json", *options, **settings)
    return done.returncode, json.loads(done.stdout)


def alert(shop: Till, is_there: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """Return the status once the documented alert fires for this cause."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        code, found = status(shop)
        if code == 1 and is_there(found):
            return found
        time.sleep(0.5)
    raise AssertionError(found)


def about(found: dict[str, Any], what: str) -> list[dict[str, str]]:
    """Return what a person must look at, of one kind."""
    return [each for each in found["attention"] if each["about"] == what]


def reports(process: subprocess.Popen[str]) -> Iterator[dict[str, Any]]:
    """Yield the reports of a worker as it prints them."""
    assert process.stdout is not None
    for line in process.stdout:
        event = json.loads(line)
        if event["event"] == "worker.report":
            yield event


# the one alert, in three ways to need it


def test_the_alert_fires_when_no_worker_runs(shop: Till) -> None:
    """Orders are due and nobody has reported; with a worker it is over."""
    asyncio.run(waiting(shop, "order_alone"))
    found = alert(shop, lambda found: found["due"] > 0)
    (concern,) = about(found, "workers")
    assert "no worker has reported" in concern["detail"]
    assert "cfflow worker" in concern["advice"]
    with worker(shop) as process:
        next(reports(process))
        assert status(shop)[0] == 0
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
    (seen,) = status(shop)[1]["workers"]
    assert (seen["state"], seen["pid"]) == ("stopped", process.pid)


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"CASHFREE_CLIENT_SECRET": "a-wrong-secret-of-the-tests"}, "GatewayAuthError"),
        (
            {
                "CASHFREE_CLIENT_ID": PREAUTH_CLIENT_ID,
                "CASHFREE_CLIENT_SECRET": PREAUTH_CLIENT_SECRET,
            },
            "NotFound",
        ),
        ({"CASHFREE_CLIENT_SECRET": PREAUTH_CLIENT_SECRET}, "GatewayAuthError"),
    ],
    ids=["a wrong secret", "another account", "another account's secret"],
)
def test_the_alert_fires_when_a_worker_cannot_ask(
    shop: Till, settings: dict[str, str], error: str
) -> None:
    """It works, and it gets no answer; the alert names the call, the error and the settings."""
    orders = [f"order_{n}" for n in range(3)]
    asyncio.run(waiting(shop, *orders))
    with worker(shop, **settings):
        found = alert(shop, lambda found: bool(about(found, "inquiries")))
    (concern,) = about(found, "inquiries")
    assert error in concern["detail"]
    assert "CASHFREE_CLIENT_SECRET" in concern["advice"]
    (failing,) = found["failing"]
    assert (failing["error"], failing["times"] >= 3) == (error, True)
    assert about(found, "workers") == []


def test_a_report_counts_what_was_put_back(shop: Till) -> None:
    """With a wrong secret nothing is due between two tries, and the order is late all the same."""
    asyncio.run(waiting(shop, "order_late"))
    lags: list[float] = []
    with worker(shop, CASHFREE_CLIENT_SECRET="a-wrong-secret-of-the-tests") as process:
        for report in reports(process):
            if report["put_back"]:
                lags.append(report["lag_s"])
            if lags and lags[-1] > 4:
                break
    assert lags == sorted(lags)
    code, found = status(shop, "--max-lag", "2")
    assert (code, found["put_back"]) == (1, 1)
    (concern,) = about(found, "lag")
    assert "2 s are permitted" in concern["detail"]
    with worker(shop) as process:
        while next(reports(process))["put_back"]:
            pass


# each reason to look


def test_a_store_that_is_well_is_well(till: Till) -> None:
    """Exit status 0, what is there by state, and nothing that a person must do."""
    asyncio.run(life_sign(till))
    done = till.run("status")
    code, found = status(till)
    assert (done.returncode, code, found["is_healthy"], found["attention"]) == (0, 0, True, [])
    assert {"created", "authorized", "captured", "voided", "failed"} <= set(found["payments"])
    assert found["payments"]["voided"] == 1
    assert set(found["gates"]) == {"pay", "auto", "resend"}
    assert all(gate["is_open"] for gate in found["gates"].values())
    assert "nothing needs a person" in done.stdout
    assert "voided 1" in done.stdout


async def life_sign(till: Till) -> None:
    """Let a worker look once: what is due in the till is done, and a worker was seen."""
    async with till.connect() as cashier:
        await cfflow.Worker(cashier).run_once()


async def close_gate(till: Till, note: str) -> None:
    """Close a gate with a note that no command of ours would take."""
    async with till.connect() as cashier:
        decision = Decision(what="pause auto", actor="asha", note=note, at_ms=1)
        await cashier.store.set_gate("auto", decision_text(decision))


def test_a_closed_gate_is_a_reason_and_its_note_is_printed_safely(shop: Till) -> None:
    """Who, why and how to open it; a control character of the note does not act."""
    asyncio.run(life_sign(shop))
    assert status(shop)[0] == 0
    asyncio.run(close_gate(shop, "incident \x1b[31m4711"))
    code, found = status(shop)
    (concern,) = about(found, "gates")
    assert (code, found["gates"]["auto"]["is_open"]) == (1, False)
    assert found["gates"]["auto"]["closed"]["actor"] == "asha"
    assert "cfflow resume auto" in concern["advice"]
    done = shop.run("status")
    assert (done.returncode, "\x1b" in done.stdout) == (1, False)
    assert "4711" in done.stdout


def test_open_reviews_are_counted_by_reason(shop: Till) -> None:
    """And the next command is named."""
    from tests.faces.test_cli_recovery import ambiguous

    for order_id in ("order_1", "order_2"):
        asyncio.run(ambiguous(shop, order_id))
    code, found = status(shop)
    assert (code, found["reviewed"], found["reviews"]) == (1, 2, {"unclaimed_money": 2})
    (concern,) = about(found, "reviews")
    assert "unclaimed_money 2" in concern["detail"]
    assert "cfflow list --review" in concern["advice"]


def test_another_accounts_store_is_a_reason(shop: Till) -> None:
    """Where the environment names the account that asks."""
    asyncio.run(life_sign(shop))
    code, found = status(shop, CASHFREE_ENVIRONMENT="production")
    (concern,) = about(found, "store")
    assert (code, concern["detail"]) == (1, "it keeps payments of local, not of production")
    assert status(shop, CASHFREE_CLIENT_ID="")[0] == 0


def test_an_empty_redis_is_a_reason(shop: Till) -> None:
    """A wrong address or namespace looks like that, and so does a lost store."""
    code, found = status(shop, CFFLOW_NAMESPACE="elsewhere")
    (concern,) = about(found, "store")
    assert (code, found["store"]["name"]) == (1, "")
    assert "CFFLOW_NAMESPACE" in concern["advice"]


@pytest.mark.parametrize(
    ("arguments", "url"),
    [(["--max-lag", "-1"], ""), (["--lag"], ""), ([], NOWHERE), ([], "http://127.0.0.1")],
)
def test_what_cannot_be_looked_at_is_status_two(shop: Till, arguments: list[str], url: str) -> None:
    """Bad usage and no connection: a monitor tells them from a store that needs a person."""
    done = shop.run("status", *arguments, **({"CFFLOW_REDIS_URL": url} if url else {}))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr


def test_without_settings_status_is_two() -> None:
    """No URL is no connection."""
    done = run("status")
    assert (done.returncode, "redis_url" in done.stderr) == (2, True)
