"""Whose store it is, and what a person has stopped: real processes, and the commands for people."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest

import cfflow
from cfflow.emulator import EmulatorProcess
from tests.faces.faces_kit import ROOT, Till, environment, spawn, to_otp
from tests.ports.servers import Proxy, Server, running, valkey_binary

pytestmark = pytest.mark.timeout(240)

WHO = ("--actor", "asha", "--note", "the old server is gone")
ACCOUNT = {
    "CASHFREE_CLIENT_ID": "TEST_one",
    "CASHFREE_CLIENT_SECRET": "a-secret-of-the-tests",
    "CASHFREE_ENVIRONMENT": "sandbox",
}


class Checkout:
    """A checkout process that is told order ids and reports what became of them."""

    def __init__(self, **settings: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faces.checkout_process"],
            cwd=ROOT,
            env=environment(**(ACCOUNT | settings)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        assert self._line() == "ready"
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def start(self, order_id: str) -> str:
        """Start a payment; return its id, or the error."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{order_id}\n")
        self._process.stdin.flush()
        return self._line()

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A server of this test alone."""
    with running(Server(valkey_binary(), tmp_path / "own")) as started:
        yield started


def status(url: str) -> dict[str, object]:
    """Return what `cfflow status` shows."""
    done = spawn("status", "--json", CFFLOW_REDIS_URL=url)
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout)
    return found


def accept(url: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Accept the store as a person does."""
    return spawn("accept-store", *WHO, **(ACCOUNT | {"CFFLOW_REDIS_URL": url} | settings))


def test_a_flushed_store_is_refused_until_a_person_accepts_it(server: Server) -> None:
    """The process that was there before the flush goes on once the command was given."""
    with Checkout(CFFLOW_REDIS_URL=server.url) as checkout:
        assert checkout.start("order_1") == "order_1.1"
        server.run("FLUSHALL")
        assert checkout.start("order_1").startswith("StoreReplaced")
        assert accept(server.url).returncode == 0
        assert checkout.start("order_1") == "order_1.1"
    decisions = status(server.url)["decisions"]
    assert isinstance(decisions, list)
    assert [(one["what"], one["actor"]) for one in decisions] == [("accept-store", "asha")]


def test_a_process_does_not_follow_a_new_store_by_itself(server: Server) -> None:
    """Another process that opens the empty server gives it a name of its own."""
    with Checkout(CFFLOW_REDIS_URL=server.url) as checkout:
        assert checkout.start("order_1") == "order_1.1"
        server.run("FLUSHALL")
        with Checkout(CFFLOW_REDIS_URL=server.url) as newer:
            assert newer.start("order_2") == "order_2.1"
            assert checkout.start("order_3").startswith("StoreReplaced")
            assert accept(server.url).returncode == 0
            assert checkout.start("order_3") == "order_3.1"
            assert newer.start("order_4") == "order_4.1"


async def test_another_server_under_the_same_address_is_refused(
    server: Server, tmp_path: Path
) -> None:
    """A wrong failover, or a restored backup of another deployment."""
    with running(Server(valkey_binary(), tmp_path / "other")) as other:
        with Checkout(CFFLOW_REDIS_URL=other.url) as elsewhere:
            assert elsewhere.start("order_2") == "order_2.1"
        async with Proxy(server.port).running() as proxy:
            await asyncio.to_thread(_move_to_another_server, server, proxy, other)


def _move_to_another_server(server: Server, proxy: Proxy, other: Server) -> None:
    with Checkout(CFFLOW_REDIS_URL=proxy.url) as checkout:
        assert checkout.start("order_1") == "order_1.1"
        proxy.target = other.port
        server.kill()
        assert checkout.start("order_3").startswith("StoreReplaced")


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"CASHFREE_CLIENT_ID": "TEST_two"}, "another account"),
        ({"CASHFREE_ENVIRONMENT": "production"}, "of sandbox, not of production"),
    ],
)
def test_another_accounts_or_environments_namespace_is_refused(
    server: Server, settings: dict[str, str], reason: str
) -> None:
    """Until a person accepts it; then both accounts may use it, as while keys are replaced."""
    with Checkout(CFFLOW_REDIS_URL=server.url) as checkout:
        assert checkout.start("order_1") == "order_1.1"
        with Checkout(CFFLOW_REDIS_URL=server.url, **settings) as stranger:
            refused = stranger.start("order_2")
            assert refused.startswith("StoreReplaced")
            assert reason in refused
        assert accept(server.url, **settings).returncode == 0
        with Checkout(CFFLOW_REDIS_URL=server.url, **settings) as accepted:
            assert accepted.start("order_2") == "order_2.1"
        assert checkout.start("order_3") == "order_3.1"
    with Checkout(CFFLOW_REDIS_URL=server.url, CFFLOW_NAMESPACE="other", **settings) as own:
        assert own.start("order_2") == "order_2.1"


async def test_what_a_person_paused_is_refused_and_shown(
    bank: EmulatorProcess, tmp_path: Path
) -> None:
    """In the refusal, in `status` and in `doctor`: who, why and since when; then it goes on."""
    till = Till(bank, tmp_path)
    async with till.connect() as cashier:
        done = await asyncio.to_thread(till.spawn, "pause", "pay", *WHO)
        assert done.returncode == 0, done.stderr
        with pytest.raises(cfflow.Paused) as refused:
            await to_otp(cashier, "paused", "native_otp", "20.00")
        assert (refused.value.gate, refused.value.actor) == ("pay", "asha")
        assert (refused.value.safe_to_retry, refused.value.money_may_have_moved) == (True, False)
        for command in ("status", "doctor"):
            shown = await asyncio.to_thread(till.spawn, command)
            assert "pay, by asha" in shown.stdout
            assert "the old server is gone" in shown.stdout
        assert (await asyncio.to_thread(till.spawn, "resume", "pay", *WHO)).returncode == 0
        payment = await to_otp(cashier, "goes-on", "native_otp", "20.00")
        assert payment.cf_payment_id is not None
        decided = [(one.what, one.actor) for one in (await cashier.status()).decisions]
        assert decided == [("resume pay", "asha"), ("pause pay", "asha")]


def test_a_gate_that_does_not_exist_is_wrong_usage(bank: EmulatorProcess, tmp_path: Path) -> None:
    """Exit status 2, and the gates that there are."""
    done = Till(bank, tmp_path).run("pause", "everything", *WHO)
    assert done.returncode == 2
    assert "resend" in done.stderr
