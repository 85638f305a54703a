"""Redis fails in the middle of a capture: the result is the true state or one clear error.

The bank has acted, or not; its ledger is compared with the final state of the payment.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cfflow import Conflict, Payment, State, StoreUnavailable
from cfflow.store.redis.store import RedisStore
from cfflow.testing.shared_time import SKIPPED_MS_KEY, script_with_skipped_time
from tests.engine.shop import OTP, Shop, card, open_shop, until
from tests.ports.servers import Proxy, Server, free_port, running, valkey_binary

#: The limit of a call of that flow and a margin: from then on an inquiry verifies an order.
READY_S = 17

#: A flow whose steps are on their way for one second only: then inquiries may begin.
HASTY = 'name = "hasty"\ncapture = "manual"\nmethods = ["card"]\n[pay]\ntimeout_s = 1\n'


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A server of this test alone, which keeps its data."""
    with running(Server(valkey_binary(), tmp_path / "own", "--appendonly", "yes")) as own:
        yield own


@pytest.fixture
def flow(tmp_path: Path) -> Path:
    """The file of a flow with a short time limit."""
    path = tmp_path / "hasty.toml"
    path.write_text(HASTY)
    return path


def skipping_store(url: str, **options: Any) -> RedisStore:
    """Return a store whose server's time a test can skip."""
    return RedisStore(url, script=script_with_skipped_time(), **options)


def skip(server: Server, seconds: int) -> None:
    """Skip time on a server; its store follows with the next reply."""
    server.run("INCRBY", SKIPPED_MS_KEY, seconds * 1000)


@pytest.fixture
async def shop(server: Server, flow: Path) -> AsyncIterator[Shop]:
    """A shop whose payments live on that server."""
    async with open_shop(store=skipping_store(server.url), flows=[flow]) as opened:
        yield opened


@pytest.fixture
async def proxy(server: Server) -> AsyncIterator[Proxy]:
    """A proxy to the server that can lose requests and answers."""
    async with Proxy(server.port).running() as listening:
        yield listening


@pytest.fixture
async def far_shop(proxy: Proxy, flow: Path) -> AsyncIterator[Shop]:
    """A shop behind that proxy, with short time limits."""
    async with open_shop(store=skipping_store(proxy.url, deadline_s=1.0), flows=[flow]) as opened:
        yield opened


async def capturing(shop: Shop, held: Payment) -> asyncio.Task[Payment]:
    """Begin a capture; return when the bank has taken the money and answers only later."""
    shop.fault("authorize", "delay_after", delay_s=0.5)
    step = asyncio.create_task(shop.cashier.capture(held))
    await until(lambda: shop.performed("authorize"))
    return step


async def settled(shop: Shop, held: Payment) -> State:
    """Ask until the open step is settled, and return the payment."""
    await until(lambda: has_no_open_step(shop, held))
    return (await shop.cashier.get(held)).state


async def has_no_open_step(shop: Shop, held: Payment) -> bool:
    """Ask the gateway, and return whether that settled the payment's open step."""
    return (await shop.cashier.refresh(held)).operation is None


async def captured_later(shop: Shop, server: Server, held: Payment) -> Payment:
    """Press capture until it is not refused any more: a step is under way, a restart was seen."""
    done: list[Payment] = []

    async def pressed() -> bool:
        try:
            done.append(await shop.cashier.capture(await shop.cashier.refresh(held)))
        except Conflict:
            pass
        except StoreUnavailable:
            skip(server, READY_S)
        return bool(done)

    await until(pressed)
    return done[0]


def captures(shop: Shop, held: Payment) -> int:
    """Return how often the bank took the money."""
    return shop.effects(held.order_id).count("captured")


# it comes back in time


async def test_a_restart_in_the_middle_of_a_step_is_not_noticed(shop: Shop, server: Server) -> None:
    """Killed between the call and its outcome, and back from its append-only file."""
    held = await shop.held(flow="hasty")
    step = await capturing(shop, held)
    await asyncio.to_thread(server.restart)
    captured = await step
    assert (captured.state, captured.operation) == (State.CAPTURED, None)
    assert captures(shop, held) == 1


async def test_a_script_lost_in_the_middle_of_a_step_is_sent_again(
    shop: Shop, server: Server
) -> None:
    """NOSCRIPT for the outcome: no second inquiry and no second call."""
    held = await shop.held(flow="hasty")
    step = await capturing(shop, held)
    asked = shop.performed("fetch_payment")
    server.run("SCRIPT", "FLUSH")
    assert (await step).state is State.CAPTURED
    assert (captures(shop, held), shop.performed("fetch_payment")) == (1, asked)


async def test_a_server_that_loads_its_data_is_waited_for(shop: Shop, server: Server) -> None:
    """LOADING is not an answer to a commit, but it passes."""
    held = await shop.held(flow="hasty")
    for i in range(60):
        # Longer than what it loads between two looks at its connections.
        server.run("SET", f"ballast{i}", os.urandom(2_000))
    server.run("BGREWRITEAOF")
    await until(lambda: not server.run("INFO", "persistence")["aof_rewrite_in_progress"])
    server.options = (*server.options, "--key-load-delay", "100000")
    server.options = (*server.options, "--loading-process-events-interval-bytes", "1024")
    step = await capturing(shop, held)
    await asyncio.to_thread(server.restart)
    # In a thread: a server that loads is slow to answer, and the gateway is on this loop.
    while "errorstat_LOADING" not in await asyncio.to_thread(server.run, "INFO", "errorstats"):
        await asyncio.sleep(0.01)
    await asyncio.to_thread(server.run, "CONFIG", "SET", "key-load-delay", "0")
    assert (await step).state is State.CAPTURED
    assert captures(shop, held) == 1


# it refuses the outcome


async def becomes_a_replica(server: Server) -> Callable[[], object]:
    """READONLY: a failover took the server's role away, and gives it back."""
    server.run("REPLICAOF", "127.0.0.1", free_port())
    return lambda: server.run("REPLICAOF", "NO", "ONE")


async def runs_full(server: Server) -> Callable[[], object]:
    """OOM: nothing more fits in."""
    server.run("CONFIG", "SET", "maxmemory", "1")
    return lambda: server.run("CONFIG", "SET", "maxmemory", "0")


async def fails_to_save(server: Server) -> Callable[[], object]:
    """MISCONF: the last snapshot could not be written, so the server takes no more."""
    (server.folder / "dump.rdb").mkdir()
    server.run("CONFIG", "SET", "save", "900 1")
    server.run("BGSAVE")
    await until(lambda: server.run("INFO", "persistence")["rdb_last_bgsave_status"] != "ok")
    return lambda: server.run("CONFIG", "SET", "stop-writes-on-bgsave-error", "no")


async def hangs(server: Server) -> Callable[[], object]:
    """Its connections stay open, and no reply comes."""
    server.pause()
    return server.resume


async def misses_replicas(server: Server) -> Callable[[], object]:
    """NOREPLICAS: the server itself is configured to refuse writes without replicas."""
    server.run("CONFIG", "SET", "min-replicas-to-write", "1")
    return lambda: server.run("CONFIG", "SET", "min-replicas-to-write", "0")


#: Makes a server fail, and returns how to mend it.
Fails = Callable[[Server], Awaitable[Callable[[], object]]]

REFUSALS = [becomes_a_replica, runs_full, fails_to_save, hangs, misses_replicas]


@pytest.mark.parametrize("fails", REFUSALS)
async def test_an_outcome_that_cannot_be_written_down_is_found_later(
    far_shop: Shop, server: Server, fails: Fails
) -> None:
    """The money moved: the error reports that it may have, and the step stays open."""
    held = await far_shop.held(flow="hasty")
    step = await capturing(far_shop, held)
    mend = await fails(server)
    with pytest.raises(StoreUnavailable) as failed:
        await step
    mend()
    assert failed.value.money_may_have_moved
    assert await settled(far_shop, held) is State.CAPTURED
    assert captures(far_shop, held) == 1


@pytest.mark.parametrize("fails", REFUSALS)
async def test_a_step_that_cannot_be_written_down_is_not_sent(
    far_shop: Shop, server: Server, fails: Fails
) -> None:
    """No money moves, and when the server works again, the same call succeeds."""
    held = await far_shop.held(flow="hasty")
    mend = await fails(server)
    with pytest.raises(StoreUnavailable) as failed:
        await far_shop.cashier.capture(held)
    mend()
    assert not failed.value.money_may_have_moved
    assert far_shop.performed("authorize") == 0
    assert (await captured_later(far_shop, server, held)).state is State.CAPTURED
    assert captures(far_shop, held) == 1


# the connection is cut in the middle of a commit


@pytest.mark.parametrize("what", ["lose_replies", "lose_requests"])
@pytest.mark.parametrize("times", [1, 3])
async def test_a_step_whose_commits_are_cut_off_is_done_once(
    far_shop: Shop, proxy: Proxy, what: str, times: int
) -> None:
    """It is unknown whether it was stored: it is sent again under its token, and stored once."""
    held = await far_shop.held(flow="hasty")
    setattr(proxy, what, times)
    captured = await far_shop.cashier.capture(held)
    assert (captured.state, captured.version) == (State.CAPTURED, held.version + 2)
    assert (captures(far_shop, held), proxy.cut) == (1, times)


@pytest.mark.parametrize("what", ["lose_replies", "lose_requests"])
async def test_an_outcome_whose_commit_is_cut_off_is_in_once(
    far_shop: Shop, proxy: Proxy, what: str
) -> None:
    """The same after the call as before it."""
    held = await far_shop.held(flow="hasty")
    step = await capturing(far_shop, held)
    setattr(proxy, what, 2)
    captured = await step
    assert (captured.state, captured.version) == (State.CAPTURED, held.version + 2)
    assert (captures(far_shop, held), proxy.cut) == (1, 2)


@pytest.mark.parametrize("what", ["lose_replies", "lose_requests"])
async def test_a_step_whose_commit_never_gets_an_answer_is_not_sent(
    far_shop: Shop, server: Server, proxy: Proxy, what: str
) -> None:
    """It may be in the store: then an inquiry finds it there, and it is sent once."""
    held = await far_shop.held(flow="hasty")
    setattr(proxy, what, 1_000)
    with pytest.raises(StoreUnavailable) as failed:
        await far_shop.cashier.capture(held)
    setattr(proxy, what, 0)
    assert not failed.value.money_may_have_moved
    assert far_shop.performed("authorize") == 0
    assert (await far_shop.cashier.get(held)).version == held.version + (what == "lose_replies")
    assert (await captured_later(far_shop, server, held)).state is State.CAPTURED
    assert captures(far_shop, held) == 1


@pytest.mark.parametrize("what", ["lose_replies", "lose_requests"])
async def test_an_outcome_whose_commit_never_gets_an_answer_is_found_later(
    far_shop: Shop, proxy: Proxy, what: str
) -> None:
    """The error reports that the money may have moved; it has moved, once."""
    held = await far_shop.held(flow="hasty")
    step = await capturing(far_shop, held)
    setattr(proxy, what, 1_000)
    with pytest.raises(StoreUnavailable) as failed:
        await step
    setattr(proxy, what, 0)
    assert failed.value.money_may_have_moved
    assert await settled(far_shop, held) is State.CAPTURED
    assert captures(far_shop, held) == 1


# a failover


async def test_a_step_that_a_failover_lost_while_it_ran_is_recovered(
    server: Server, proxy: Proxy, flow: Path, tmp_path: Path
) -> None:
    """The step was stored on the old primary; its outcome goes to one that has no such step."""
    with running(Server(server.binary, tmp_path / "next")) as successor:
        await asyncio.to_thread(successor.follow, server)
        async with open_shop(store=skipping_store(proxy.url), flows=[flow]) as shop:
            held = await shop.held(flow="hasty")
            await until(lambda: successor.run("DBSIZE") == server.run("DBSIZE"))
            successor.lead()
            step = await capturing(shop, held)
            server.kill()
            proxy.target = successor.port
            captured = await step
            assert (captured.state, captured.operation) == (State.CAPTURED, None)
            assert captures(shop, held) == 1


async def test_a_pay_that_a_failover_lost_while_it_ran_is_recovered_by_its_answer(
    server: Server, proxy: Proxy, flow: Path, tmp_path: Path
) -> None:
    """The answer has the attempt; the payment takes it, and the OTP is asked for."""
    with running(Server(server.binary, tmp_path / "next")) as successor:
        await asyncio.to_thread(successor.follow, server)
        async with open_shop(store=skipping_store(proxy.url), flows=[flow]) as shop:
            order_id, session = await shop.order(hold=True)
            payment = await shop.cashier.start("hasty", order_id=order_id, amount="170.00")
            await until(lambda: successor.run("DBSIZE") == server.run("DBSIZE"))
            successor.lead()
            shop.fault("pay", "delay_after", delay_s=0.5)
            step = asyncio.create_task(shop.cashier.pay(payment, session, card()))
            await until(lambda: shop.performed("pay"))
            server.kill()
            proxy.target = successor.port
            paying = await step
            assert paying.cf_payment_id is not None
            assert shop.performed("pay") == 1
            with pytest.raises(StoreUnavailable, match="may have lost a commit"):
                await shop.cashier.submit_otp(await shop.cashier.get(payment), OTP)
            skip(successor, READY_S)
            held = await shop.cashier.submit_otp(await shop.cashier.get(payment), OTP)
            assert held.state is State.AUTHORIZED
