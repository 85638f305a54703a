"""The commands that keep payments going, run as people and supervisors run them."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

import cfflow
from cfflow import State
from cfflow.core.reviews import ReviewReason
from cfflow.emulator import EmulatorProcess
from cfflow.store.embedded import EmbeddedServer
from tests.faces.faces_kit import CFFLOW, CUSTOMER, Till, card, environment, to_otp

pytestmark = pytest.mark.timeout(240)

WHO = ("--actor", "asha", "--note", "asked the bank")

QUICK = """\
name = "quick_hotel"
capture = "manual"
methods = ["card"]

[pay]
timeout_s = 0.5
"""


@pytest.fixture
def shop(bank: EmulatorProcess, tmp_path: Path) -> Iterator[Till]:
    """A till of this test alone, and a folder of flows with a short time limit."""
    opened = Till(bank, tmp_path)
    (tmp_path / "flows").mkdir()
    (tmp_path / "flows" / "quick.toml").write_text(QUICK)
    server = EmbeddedServer(tmp_path / "store")
    with asyncio.Runner() as runner:
        runner.run(server.start())
        yield opened
        runner.run(server.stop())


def fault(shop: Till, **rule: object) -> None:
    """Let the next such call go wrong."""
    httpx.post(f"{shop.bank.admin_url}/faults", json=rule, trust_env=False).raise_for_status()


def flows(shop: Till) -> str:
    """Return the folder of this test's flows."""
    return str(shop.folder / "flows")


async def lost_capture(shop: Till, order_id: str) -> None:
    """Hold money and lose the answer to its capture."""
    async with cfflow.connect(
        redis_url=shop.settings["CFFLOW_REDIS_URL"],
        environment=shop.bank.base_url,
        client_id=shop.bank.client_id,
        client_secret=shop.bank.client_secret,
        flows=[flows(shop)],
    ) as cashier:
        tags = {"cfflow_preauth": "true"}
        order = await cashier.gateway.create_order(
            "90.00", CUSTOMER, order_id=order_id, order_tags=tags
        )
        payment = await cashier.start("quick_hotel", order_id=order_id)
        payment = await cashier.pay(payment, order.payment_session_id, card())
        payment = await cashier.submit_otp(payment, "111000")
        fault(shop, call="authorize", kind="lost_after", order_id=order_id)
        with pytest.raises(cfflow.OutcomeUnknown):
            await cashier.capture(payment)


async def ambiguous(shop: Till, order_id: str) -> str:
    """Return the id of a payment with a review, made by a pay that was lost between two others."""
    async with shop.connect() as cashier:
        payment = await to_otp(cashier, order_id, "native_otp", "20.00")
        snapshot = await cashier.orders.payment(payment.order_id, 1)
        from cfflow.core.decide import Disputed

        flow = await cashier.flows.flow_of(snapshot, cashier.store)
        await cashier.engine.settle(
            snapshot, Disputed(ReviewReason.UNCLAIMED_MONEY, "two attempts"), flow
        )
        return payment.id


def test_a_worker_ends_a_lost_capture_and_prints_it(shop: Till) -> None:
    """`cfflow worker --once`: a line each, the last one is the report."""
    asyncio.run(lost_capture(shop, "order_lost"))
    time.sleep(2)
    done = shop.spawn("worker", "--once", "--flows", flows(shop))
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "worker.started" in lines[0]
    assert any("payment.transition" in line and "to_state=captured" in line for line in lines)
    assert "worker.stopped" in lines[-1]
    assert "progressed=1" in lines[-1]
    assert not any("gateway.call" in line for line in lines)


def test_a_worker_runs_until_sigterm_and_prints_every_event_as_json(shop: Till) -> None:
    """Exit status 0; each line of `--json` is an event, reports among them."""
    asyncio.run(lost_capture(shop, "order_json"))
    worker = subprocess.Popen(
        [str(CFFLOW), "worker", "--json", "--report", "0.3", "--flows", flows(shop)],
        env=environment(**shop.settings),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert worker.stdout is not None
    events = []
    for line in worker.stdout:
        events.append(json.loads(line))
        report = events[-1]
        if report["event"] == "worker.report" and report["progressed"]:
            break
    worker.send_signal(signal.SIGTERM)
    rest, errors = worker.communicate(timeout=20)
    events += [json.loads(line) for line in rest.splitlines()]
    assert (worker.returncode, errors) == (0, "")
    assert events[0]["event"] == "worker.started"
    assert {"due", "lag_s", "leased", "progressed", "errors"} <= set(events[-1])
    assert events[-1]["event"] == "worker.stopped"
    assert any(event["event"] == "gateway.call" for event in events)


@pytest.mark.parametrize(
    ("options", "settings", "output", "errors"),
    [
        ([], {}, "worker.started", ""),
        (["--log-level", "WARNING"], {}, "", ""),
        ([], {"CFFLOW_LOG_LEVEL": "warning"}, "", ""),
        (["--log-target", "stderr"], {}, "", "worker.started"),
        (["--log-target", "stdout"], {"CFFLOW_LOG_TARGET": "stderr"}, "worker.started", ""),
        ([], {"CFFLOW_LOG_TARGET": "stderr"}, "", "worker.started"),
        ([], {"CFFLOW_LOG_TARGET": "logging"}, "", " INFO cfflow worker.started {"),
        (["--log-target", "file"], {}, "", "cfflow: log_target must be one of stderr"),
        (["--log-level", "LOUD"], {}, "", "cfflow: log_level must be one of DEBUG"),
    ],
)
def test_a_worker_s_log_goes_where_it_is_told(
    options: list[str], settings: dict[str, str], output: str, errors: str, shop: Till
) -> None:
    """By options or variables: its level, and standard output, standard error or logging."""
    done = shop.spawn("worker", "--once", *options, **settings)
    assert done.returncode == (1 if "cfflow:" in errors else 0)
    for expected, found in ((output, done.stdout), (errors, done.stderr)):
        assert expected in found if expected else found == ""


def test_adopt_rebuilds_an_order_from_the_gateway(shop: Till) -> None:
    """For people a line each, for programs the payments; twice is once."""
    payment = asyncio.run(ambiguous(shop, "order_adopt"))
    order_id = payment.rpartition(".")[0]
    empty = {"CFFLOW_NAMESPACE": "other"}
    done = shop.spawn("adopt", order_id, "--flow", "native_otp", **empty)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().startswith(f"{order_id}.1 is initiated 20.00 INR")
    again = shop.spawn("adopt", order_id, "--flow", "native_otp", "--json", **empty)
    assert [found["id"] for found in json.loads(again.stdout)] == [f"{order_id}.1"]


def test_a_review_is_acknowledged_by_name(shop: Till) -> None:
    """It leaves the list; `why` shows who decided and why."""
    payment = asyncio.run(ambiguous(shop, "order_ack"))
    assert payment in shop.spawn("list", "--review").stdout
    done = shop.spawn("acknowledge", payment, "unclaimed_money", *WHO)
    assert done.returncode == 0, done.stderr
    assert "otp_pending" in done.stdout
    assert payment not in shop.spawn("list", "--review").stdout
    assert "unclaimed_money by asha: asked the bank" in shop.spawn("why", payment).stdout


def test_a_payment_is_resolved_and_another_abandoned(shop: Till) -> None:
    """Both print where the payment is now."""
    payment = asyncio.run(ambiguous(shop, "order_resolve"))
    done = shop.spawn("resolve", payment, "captured", "--amount", "15.00", *WHO)
    assert (done.returncode, done.stdout.strip()) == (
        0,
        f"{payment} is captured 15.00 of 20.00 INR",
    )
    other = asyncio.run(ambiguous(shop, "order_abandon"))
    assert shop.spawn("acknowledge", other, "unclaimed_money", *WHO).returncode == 0
    shown = shop.json("abandon", other)
    assert (shown["state"], shown["next_action"]) == (State.OTP_PENDING, None)


@pytest.mark.parametrize(
    "arguments",
    [
        ["resolve", "order_x.1", "captured", *WHO],
        ["acknowledge", "order_x.1", "no_answer", *WHO],
        ["abandon", "order_x.1"],
        ["adopt", "order_x", "--flow", "nothing"],
        ["adopt", "order_nobody_knows", "--flow", "native_otp"],
    ],
)
def test_what_cannot_be_done_is_one_line_and_status_one(shop: Till, arguments: list[str]) -> None:
    """No traceback, nothing on standard output."""
    done = shop.spawn(*arguments)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("cfflow: ")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "status"), [("fetch_payment=many", 2), ("fetch_payment", 2), ("fetch_money=5", 1)]
)
def test_a_limit_that_makes_no_sense_is_refused(shop: Till, text: str, status: int) -> None:
    """Wrong form is wrong usage; a call that has no limit is named."""
    assert shop.run("worker", "--once", "--limit", text).returncode == status


@pytest.mark.parametrize(
    "arguments", [["resolve", "a.1", "captured"], ["acknowledge", "a.1", "x"], ["adopt", "a"]]
)
def test_a_missing_name_or_reason_is_wrong_usage(shop: Till, arguments: list[str]) -> None:
    """Status 2, before anything is read."""
    assert shop.run(*arguments).returncode == 2
