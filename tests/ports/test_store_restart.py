"""A store that lost its last commits: the bank executes nothing twice.

Real servers are rolled back, lost and failed over under a running orchestrator. The bank's
ledger shows what was executed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cfflow import IllegalStep, OutcomeUnknown, Payment, State
from cfflow.cli.doctor import examine
from cfflow.store.protocol import load_order, load_payment
from cfflow.store.redis.store import RedisStore
from tests.engine.shop import OTP, Shop, card, open_shop
from tests.errors_kit import payment_in
from tests.ports.servers import Proxy, Server, redis7_binary, running, valkey_binary

_INQUIRIES = ("fetch_payment", "fetch_payments", "fetch_order")


@pytest.fixture(params=[valkey_binary, redis7_binary], ids=["valkey", "redis7"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    """A server of this test alone, which keeps its data on its disk."""
    with running(Server(request.param(), tmp_path / "own", "--appendonly", "yes")) as started:
        yield started


@pytest.fixture
async def shop(server: Server) -> AsyncIterator[Shop]:
    """A shop whose payments live on that server."""
    async with open_shop(store=RedisStore(server.url)) as opened:
        yield opened


def inquiries(shop: Shop) -> int:
    """Return how many inquiries the bank has received."""
    return sum(shop.performed(call) for call in _INQUIRIES)


async def created(shop: Shop, flow: str = "native_otp") -> tuple[Payment, str]:
    """Return a payment that was started, and its session."""
    order_id, session = await shop.order(hold=flow == "preauth")
    return await shop.cashier.start(flow, order_id=order_id, amount="170.00"), session


# a server that lost commits


@pytest.mark.parametrize("again", ["capture", "void"])
@pytest.mark.parametrize(("done", "state"), [("capture", "captured"), ("void", "voided")])
async def test_a_lost_capture_or_void_is_found(
    shop: Shop, server: Server, tmp_path: Path, done: str, again: str, state: str
) -> None:
    """The next step is refused, and the bank has executed one."""
    held = await shop.held()
    before = server.keep(tmp_path / "held")
    await getattr(shop.cashier, done)(held)
    server.roll_back(before)
    assert (await shop.cashier.get(held)).state is State.AUTHORIZED
    with pytest.raises(IllegalStep):
        await getattr(shop.cashier, again)(held)
    assert (await shop.cashier.get(held)).state == state
    assert shop.effects(held.order_id) == ["attempt_created", "authorized", state]
    assert shop.performed("authorize") == 1


async def test_a_lost_pay_is_not_sent_again(shop: Shop, server: Server, tmp_path: Path) -> None:
    """The customer's second pay is refused with a review, and adopt finds the money."""
    payment, session = await created(shop)
    before = server.keep(tmp_path / "created")
    paying = await shop.cashier.pay(payment, session, card())
    await shop.cashier.submit_otp(paying, OTP)
    server.roll_back(before)
    with pytest.raises(IllegalStep, match="unclaimed_money"):
        await shop.cashier.pay(payment, session, card())
    found = await shop.cashier.adopt(payment.order_id, flow="native_otp")
    assert [(p.id, p.state) for p in found] == [(payment.id, State.CAPTURED)]
    assert shop.effects(payment.order_id).count("attempt_created") == 1


async def test_a_lost_start_that_comes_again_needs_an_inquiry(
    shop: Shop, server: Server, tmp_path: Path
) -> None:
    """Order, payment and attempt are gone from the store: an inquiry precedes the first step."""
    before = server.keep(tmp_path / "empty")
    payment, session = await created(shop)
    await shop.cashier.pay(payment, session, card())
    server.roll_back(before)
    again = await shop.cashier.start("native_otp", order_id=payment.order_id, amount="170.00")
    assert again.version == 1
    with pytest.raises(IllegalStep, match="unclaimed_money"):
        await shop.cashier.pay(again, session, card())
    assert shop.performed("pay") == 1


async def test_a_server_that_lost_everything_is_detected(
    shop: Shop, server: Server, tmp_path: Path
) -> None:
    """Without any data, a new start needs an inquiry, as after any other loss."""
    payment, session = await created(shop)
    await shop.cashier.pay(payment, session, card())
    (tmp_path / "nothing").mkdir()
    server.roll_back(tmp_path / "nothing")
    again = await shop.cashier.start("native_otp", order_id=payment.order_id, amount="170.00")
    with pytest.raises(IllegalStep, match="unclaimed_money"):
        await shop.cashier.pay(again, session, card())
    assert shop.performed("pay") == 1


async def test_a_caller_with_a_lost_version_sends_nothing(
    shop: Shop, server: Server, tmp_path: Path
) -> None:
    """Its version is newer than the stored one: a conflict, and no call."""
    payment, session = await created(shop, "preauth")
    before = server.keep(tmp_path / "created")
    paying = await shop.cashier.pay(payment, session, card())
    server.roll_back(before)
    with pytest.raises(Exception, match="has changed"):
        await shop.cashier.submit_otp(paying, OTP)
    assert shop.performed("authenticate") == 0


async def test_a_step_with_a_lost_sequence_number_has_another_key(
    shop: Shop, server: Server, tmp_path: Path
) -> None:
    """The bank replays a stored error under the lost key; the new step is executed."""
    held = await shop.held()
    before = server.keep(tmp_path / "held")
    shop.fault("authorize", "status_stored")
    with pytest.raises(OutcomeUnknown) as lost:
        await shop.cashier.capture(held)
    lost_operation = payment_in(lost.value).operation
    server.roll_back(before)
    captured = await shop.cashier.capture(held)
    assert captured.state is State.CAPTURED
    snapshot = await load_payment(shop.cashier.store, held.order_id, 1)
    assert lost_operation is not None
    assert snapshot.record.sequence == lost_operation.sequence
    assert shop.effects(held.order_id).count("captured") == 1


# a server that lost nothing


async def test_without_a_restart_no_inquiry_is_made(shop: Shop) -> None:
    """A hold and its capture need one inquiry: about the money, after the OTP."""
    held = await shop.held()
    assert inquiries(shop) == 1
    assert (await shop.cashier.capture(held)).state is State.CAPTURED
    assert inquiries(shop) == 1


async def test_a_killed_server_has_all_its_keys_after_the_restart(
    shop: Shop, server: Server
) -> None:
    """Byte for byte, and with their time to live."""
    await created(shop)
    await shop.at_otp()
    await shop.cashier.capture(await shop.held(), "42.50")
    voided = await shop.cashier.void(await shop.held())
    paid = await shop.cashier.submit_otp((await shop.at_otp())[0], OTP)
    assert voided.state is State.VOIDED
    assert await shop.store.purge(await load_order(shop.cashier.store, paid.order_id))
    before = everything(server)
    server.restart()
    assert everything(server) == before


def everything(server: Server) -> dict[bytes, tuple[Any, int]]:
    """Return all that a server stores, and when each key expires."""
    with server.client() as client:
        reads: dict[bytes, Callable[[bytes], Any]] = {
            b"string": client.get,
            b"hash": client.hgetall,
            b"zset": lambda key: client.zrange(key, 0, -1, withscores=True),
            b"stream": client.xrange,
        }
        keys = list(client.scan_iter())
        return {key: (reads[client.type(key)](key), client.pexpiretime(key)) for key in keys}


async def test_a_restart_costs_each_payment_one_inquiry(shop: Shop, server: Server) -> None:
    """Before its next step only; after that it goes on as before."""
    payment, session = await created(shop, "preauth")
    held = await shop.held()
    server.restart()
    before = inquiries(shop)
    paying = await shop.cashier.pay(payment, session, card())
    assert inquiries(shop) == before + 1
    taken = await shop.cashier.submit_otp(paying, OTP)
    await shop.cashier.capture(taken)
    assert inquiries(shop) == before + 2
    await shop.cashier.void(held)
    assert inquiries(shop) == before + 3


async def test_minutes_after_a_restart_a_new_payment_needs_no_inquiry(
    shop: Shop, server: Server
) -> None:
    """A payment that is started long after the restart cannot be one that was lost in it."""
    held = await shop.held()
    server.restart()
    await shop.cashier.void(held)
    assert isinstance(shop.store, RedisStore)
    keys = shop.store.keys
    for partition in range(keys.partitions):
        server.run("HSET", keys.run(partition), "run", history_of(server))
        server.run("HINCRBY", keys.run(partition), "since", -600_001)
    before = inquiries(shop)
    await shop.at_otp()
    assert inquiries(shop) == before


def history_of(server: Server) -> str:
    """Return the name of the history that a server writes."""
    return str(server.run("INFO", "replication")["master_replid"])


# failover


async def test_after_a_failover_commits_that_the_replica_lacks_are_found(
    server: Server, tmp_path: Path
) -> None:
    """Captured on the old primary only: after an inquiry there is one capture."""
    with running(Server(server.binary, tmp_path / "replica", "--appendonly", "yes")) as replica:
        async with (
            Proxy(server.port).running() as name,
            open_shop(store=RedisStore(name.url)) as shop,
        ):
            held = await shop.held()
            replica.follow(server)
            replica.lead()
            assert (await shop.cashier.capture(held)).state is State.CAPTURED
            server.kill()
            name.target = replica.port
            with pytest.raises(IllegalStep):
                await shop.cashier.capture(held)
            assert (await shop.cashier.get(held)).state is State.CAPTURED
            assert shop.effects(held.order_id).count("captured") == 1


async def test_a_primary_that_was_a_replica_meanwhile_is_detected(
    server: Server, tmp_path: Path
) -> None:
    """It was never down, and still lost commits that the other server did not have."""
    with running(Server(server.binary, tmp_path / "other", "--appendonly", "yes")) as other:
        async with open_shop(store=RedisStore(server.url)) as shop:
            held = await shop.held()
            other.follow(server)
            other.lead()
            await shop.cashier.capture(held)
            server.follow(other)
            server.lead()
            assert (await shop.cashier.get(held)).state is State.AUTHORIZED
            with pytest.raises(IllegalStep):
                await shop.cashier.capture(held)
            assert shop.effects(held.order_id).count("captured") == 1


# a connection without the right to use INFO


async def test_without_the_right_to_use_info_only_restarts_go_undetected(server: Server) -> None:
    """All else works, and doctor reports it."""
    server.run("ACL", "SETUSER", "shop", "on", ">pw", "~*", "&*", "+@all", "-info")
    url = f"redis://shop:pw@127.0.0.1:{server.port}"
    async with open_shop(store=RedisStore(url)) as shop:
        payment, session = await created(shop, "preauth")
        held = await shop.cashier.submit_otp(await shop.cashier.pay(payment, session, card()), OTP)
        before = inquiries(shop)
        server.restart()
        server.run("ACL", "SETUSER", "shop", "on", ">pw", "~*", "&*", "+@all", "-info")
        assert (await shop.cashier.capture(held)).state is State.CAPTURED
        assert inquiries(shop) == before
    findings = {finding.subject: finding for finding in await examine(url)}
    assert findings["restarts"].verdict == "note"
    assert "durability" not in findings
