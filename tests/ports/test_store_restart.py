"""A store that lost its last commits: the bank executes nothing twice.

Real servers are rolled back, lost and failed over under a running orchestrator. The bank's
ledger shows what was executed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cfflow import CfflowError, Conflict, IllegalStep, OutcomeUnknown, Payment, State
from cfflow.cli.doctor import examine
from cfflow.errors import PaymentNotFound, StoreReplaced
from cfflow.testing.shared_time import SKIPPED_MS_KEY
from tests.engine.shop import OTP, Shop, card, until
from tests.errors_kit import payment_in
from tests.ports.orders_kit import loaded
from tests.ports.servers import Proxy, Server, redis7_binary, running, valkey_binary
from tests.ports.shop_kit import (
    SECOND_AFTER_S,
    VERIFIED_AFTER_S,
    open_sibling,
    open_timed_shop,
    pass_time,
    refused_as_too_early,
    second_payment,
)

_INQUIRIES = ("fetch_payment", "fetch_payments", "fetch_order")


@pytest.fixture(params=[valkey_binary, redis7_binary], ids=["valkey", "redis7"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    """A server of this test alone, which keeps its data on its disk."""
    with running(Server(request.param(), tmp_path / "own", "--appendonly", "yes")) as started:
        yield started


@pytest.fixture
async def shop(server: Server) -> AsyncIterator[Shop]:
    """A shop whose payments live on that server."""
    async with open_timed_shop(server.url) as opened:
        yield opened


@pytest.fixture
def replica(server: Server, tmp_path: Path) -> Iterator[Server]:
    """A replica of that server; a primary's first one changes the name of its history."""
    with running(Server(server.binary, tmp_path / "replica", "--appendonly", "yes")) as started:
        started.follow(server)
        yield started


def inquiries(shop: Shop) -> int:
    """Return how many inquiries the bank has received."""
    return sum(shop.performed(call) for call in _INQUIRIES)


async def created(shop: Shop, flow: str = "native_otp") -> tuple[Payment, str]:
    """Return a payment that was started, and its session."""
    order_id, session = await shop.order(hold=flow == "preauth")
    return await shop.cashier.start(flow, order_id=order_id, amount="170.00"), session


async def refused_as_lost(shop: Shop, server: Server, payment: Payment, session: str) -> None:
    """Press pay until an inquiry has found the attempt of the lost pay: it is refused then."""
    await refused_as_too_early(shop.cashier.pay(payment, session, card()))
    await pass_time(shop, server, VERIFIED_AFTER_S)
    await refused_as_too_early(shop.cashier.pay(payment, session, card()))
    for _ in range(2):
        with pytest.raises(IllegalStep, match="unclaimed_money"):
            await shop.cashier.pay(payment.id, session, card())
        await pass_time(shop, server, SECOND_AFTER_S)


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
    await refused_as_too_early(getattr(shop.cashier, again)(held))
    await pass_time(shop, server, VERIFIED_AFTER_S)
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
    await refused_as_lost(shop, server, payment, session)
    found = await shop.cashier.adopt(payment.order_id, flow="native_otp")
    assert [(p.id, p.state) for p in found] == [(payment.id, State.CAPTURED)]
    assert shop.effects(payment.order_id).count("attempt_created") == 1


async def test_a_lost_pay_that_arrives_between_the_two_inquiries_is_found(
    shop: Shop, server: Server, tmp_path: Path
) -> None:
    """The first one did not see it; this is what the second one is for."""
    payment, session = await created(shop)
    before = server.keep(tmp_path / "created")
    shop.fault("pay", "lost_before")
    with pytest.raises(OutcomeUnknown):
        await shop.cashier.pay(payment, session, card())
    server.roll_back(before)
    await refused_as_too_early(shop.cashier.pay(payment, session, card()))
    await pass_time(shop, server, VERIFIED_AFTER_S)
    await refused_as_too_early(shop.cashier.pay(payment, session, card()))
    await pass_time(shop, server, SECOND_AFTER_S - 5)
    await refused_as_too_early(shop.cashier.pay(payment, session, card()))
    await shop.cashier.gateway.pay(session, card())
    await pass_time(shop, server, 5)
    with pytest.raises(IllegalStep, match="unclaimed_money"):
        await shop.cashier.pay(payment, session, card())
    assert shop.effects(payment.order_id).count("attempt_created") == 1


async def test_a_lost_start_that_comes_again_needs_an_inquiry(
    shop: Shop, server: Server, tmp_path: Path
) -> None:
    """Order, payment and attempt are gone from the store: inquiries precede the first step."""
    before = server.keep(tmp_path / "empty")
    payment, session = await created(shop)
    await shop.cashier.pay(payment, session, card())
    server.roll_back(before)
    again = await shop.cashier.start("native_otp", order_id=payment.order_id, amount="170.00")
    assert again.version == 1
    await refused_as_lost(shop, server, again, session)
    assert shop.performed("pay") == 1


async def test_a_server_that_lost_everything_is_detected(
    shop: Shop, server: Server, tmp_path: Path
) -> None:
    """Without any data it is another store: starts and steps are refused."""
    payment, session = await created(shop)
    await shop.cashier.pay(payment, session, card())
    (tmp_path / "nothing").mkdir()
    server.roll_back(tmp_path / "nothing")
    with pytest.raises(StoreReplaced):
        await shop.cashier.start("native_otp", order_id=payment.order_id, amount="170.00")
    with pytest.raises(StoreReplaced):
        await shop.cashier.pay(payment, session, card())
    assert shop.performed("pay") == 1


async def test_a_caller_with_a_lost_version_sends_nothing(
    shop: Shop, server: Server, tmp_path: Path
) -> None:
    """Its version is newer than the stored one: a conflict, and no call."""
    payment, session = await created(shop, "preauth")
    before = server.keep(tmp_path / "created")
    paying = await shop.cashier.pay(payment, session, card())
    server.roll_back(before)
    with pytest.raises(Conflict, match="has changed"):
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
    await refused_as_too_early(shop.cashier.capture(held))
    await pass_time(shop, server, VERIFIED_AFTER_S)
    captured = await shop.cashier.capture(held)
    assert captured.state is State.CAPTURED
    assert lost_operation is not None
    order = await loaded(shop.cashier.orders, held.order_id)
    assert order.record(1).sequence == lost_operation.sequence
    assert shop.effects(held.order_id).count("captured") == 1


# a server that lost commits of an order with several payments, or all of it


@pytest.mark.parametrize("first", ["abandoned", "failed"])
async def test_a_lost_pay_is_found_whatever_a_sibling_commits(
    shop: Shop, server: Server, tmp_path: Path, first: str
) -> None:
    """The older order gets newer tokens from a sibling; the order's history counts, not these."""
    payment, session = await second_payment(shop, first)
    before = server.keep(tmp_path / "before")
    paying = await shop.cashier.pay(payment, session, card())
    pays = shop.performed("pay")
    server.roll_back(before)
    async with open_sibling(server) as sibling:
        await sibling.commit(payment.order_id)
        with pytest.raises(Conflict, match="has changed"):
            await shop.cashier.submit_otp(paying, OTP)
        await refused_as_too_early(shop.cashier.pay(payment, session, card()))
        await sibling.commit(payment.order_id)
        await pass_time(shop, server, VERIFIED_AFTER_S)
        await refused_as_too_early(shop.cashier.pay(payment, session, card()))
        await sibling.commit(payment.order_id)
        await pass_time(shop, server, SECOND_AFTER_S)
        with pytest.raises(IllegalStep, match="review"):
            await shop.cashier.pay(payment.id, session, card())
        assert await sibling.is_kept(payment.order_id)
    found = (await loaded(shop.cashier.orders, payment.order_id)).all_payments
    reasons = [review.reason for held in found for review in held.record.open_reviews]
    assert reasons == ["unclaimed_money"]
    assert (shop.performed("pay"), shop.performed("authenticate")) == (pays, 0)


async def test_the_answer_to_a_lost_pay_is_stored_beside_what_a_sibling_committed(
    shop: Shop, server: Server, tmp_path: Path
) -> None:
    """The server goes back to before the pay while its call is on its way."""
    payment, session = await second_payment(shop)
    before = server.keep(tmp_path / "before")
    async with open_sibling(server) as sibling:
        step = await paying_while(shop, payment, session)
        await asyncio.to_thread(server.roll_back, before)
        await sibling.commit(payment.order_id)
        paying = await step
        assert (paying.id, paying.state) == (payment.id, State.OTP_PENDING)
        assert await sibling.is_kept(payment.order_id)
        await refused_as_too_early(shop.cashier.submit_otp(paying, OTP))
        await sibling.commit(payment.order_id)
        await pass_time(shop, server, VERIFIED_AFTER_S)
        assert (await shop.cashier.submit_otp(paying, OTP)).state is State.CAPTURED
        assert await sibling.is_kept(payment.order_id)
    assert shop.effects(payment.order_id).count("attempt_created") == 1


async def test_an_order_that_is_lost_whole_and_begun_again_gets_the_answer_of_its_lost_pay(
    shop: Shop, server: Server, tmp_path: Path
) -> None:
    """It is begun again while the call is on its way: the attempt is its own, and is not lost."""
    before = server.keep(tmp_path / "empty")
    payment, session = await created(shop)
    step = await paying_while(shop, payment, session)
    await asyncio.to_thread(server.roll_back, before)
    again = await shop.cashier.start("native_otp", order_id=payment.order_id, amount="170.00")
    assert (again.version, again.id) == (1, payment.id)
    paying = await step
    assert (paying.id, paying.state) == (payment.id, State.OTP_PENDING)
    with pytest.raises(Conflict):
        await shop.cashier.pay(again, session, card())
    with pytest.raises(IllegalStep):
        await shop.cashier.pay(again.id, session, card())
    assert shop.performed("pay") == 1


async def test_a_pay_whose_order_is_lost_whole_is_reported_as_perhaps_done(
    shop: Shop, server: Server, tmp_path: Path
) -> None:
    """Its answer has no place any more, and the caller must not take it for nothing."""
    before = server.keep(tmp_path / "empty")
    payment, session = await created(shop)
    step = await paying_while(shop, payment, session)
    await asyncio.to_thread(server.roll_back, before)
    with pytest.raises(CfflowError) as lost:
        await step
    assert (lost.value.money_may_have_moved, lost.value.safe_to_retry) == (True, False)
    with pytest.raises(PaymentNotFound):
        await shop.cashier.get(payment)
    again = await shop.cashier.start("native_otp", order_id=payment.order_id, amount="170.00")
    await refused_as_lost(shop, server, again, session)
    assert shop.performed("pay") == 1


async def test_a_pay_whose_order_is_begun_again_without_its_payment_is_reported_as_perhaps_done(
    shop: Shop, server: Server, tmp_path: Path
) -> None:
    """The second payment's answer comes to an order that has a first one only."""
    before = server.keep(tmp_path / "empty")
    payment, session = await second_payment(shop)
    step = await paying_while(shop, payment, session)
    await asyncio.to_thread(server.roll_back, before)
    again = await shop.cashier.start("native_otp", order_id=payment.order_id, amount="170.00")
    assert again.id != payment.id
    with pytest.raises(CfflowError) as lost:
        await step
    assert (lost.value.money_may_have_moved, lost.value.safe_to_retry) == (True, False)
    await refused_as_lost(shop, server, again, session)
    assert shop.performed("pay") == 1


async def paying_while(shop: Shop, payment: Payment, session: str) -> asyncio.Task[Payment]:
    """Begin a pay; return when the bank has the attempt, and its answer comes only later."""
    shop.fault("pay", "delay_after", delay_s=2.0)
    step = asyncio.create_task(shop.cashier.pay(payment, session, card()))
    await until(lambda: shop.performed("pay"))
    return step


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
    assert await shop.cashier.orders.remove(await loaded(shop.cashier.orders, paid.order_id))
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


async def test_a_restart_costs_an_order_one_inquiry(shop: Shop, server: Server) -> None:
    """Two where a pay may be lost, and before the next step only: then it goes on as before."""
    payment, session = await created(shop, "preauth")
    held = await shop.held()
    server.restart()
    before = inquiries(shop)
    await refused_as_too_early(shop.cashier.pay(payment, session, card()))
    await refused_as_too_early(shop.cashier.void(held))
    assert inquiries(shop) == before
    await pass_time(shop, server, VERIFIED_AFTER_S)
    await refused_as_too_early(shop.cashier.pay(payment, session, card()))
    assert inquiries(shop) == before + 1
    await pass_time(shop, server, SECOND_AFTER_S)
    paying = await shop.cashier.pay(payment, session, card())
    assert inquiries(shop) == before + 2
    taken = await shop.cashier.submit_otp(paying, OTP)
    await shop.cashier.capture(taken)
    assert inquiries(shop) == before + 3
    await shop.cashier.void(held)
    assert inquiries(shop) == before + 4
    assert shop.performed("fetch_payments") == 3


async def test_a_start_soon_after_a_restart_needs_an_inquiry_and_later_it_needs_none(
    shop: Shop, server: Server
) -> None:
    """A payment that is started long after the restart cannot be one that was lost in it."""
    server.restart()
    # A lease sees the restart in every partition.
    await shop.store.lease(64, 1)
    soon, session = await created(shop)
    await refused_as_too_early(shop.cashier.pay(soon, session, card()))
    await pass_time(shop, server, 590)
    soon, session = await created(shop)
    await refused_as_too_early(shop.cashier.pay(soon, session, card()))
    await pass_time(shop, server, 11)
    before = inquiries(shop)
    await shop.at_otp()
    assert inquiries(shop) == before


# failover


async def test_after_a_failover_commits_that_the_replica_lacks_are_found(
    server: Server, replica: Server
) -> None:
    """Captured on the old primary only: after an inquiry there is one capture."""
    async with Proxy(server.port).running() as name, open_timed_shop(name.url) as shop:
        held = await shop.held()
        replica.catch_up(server)
        replica.lead()
        assert (await shop.cashier.capture(held)).state is State.CAPTURED
        server.kill()
        name.target = replica.port
        await refused_as_too_early(shop.cashier.capture(held))
        await pass_time(shop, replica, VERIFIED_AFTER_S)
        with pytest.raises(IllegalStep):
            await shop.cashier.capture(held)
        assert (await shop.cashier.get(held)).state is State.CAPTURED
        assert shop.effects(held.order_id).count("captured") == 1


async def test_a_primary_that_was_a_replica_meanwhile_is_detected(
    server: Server, replica: Server
) -> None:
    """It was never down, and still lost commits that the other server did not have."""
    async with open_timed_shop(server.url) as shop:
        held = await shop.held()
        replica.catch_up(server)
        replica.lead()
        await shop.cashier.capture(held)
        server.follow(replica)
        server.lead()
        assert (await shop.cashier.get(held)).state is State.AUTHORIZED
        await refused_as_too_early(shop.cashier.capture(held))
        await pass_time(shop, server, VERIFIED_AFTER_S)
        with pytest.raises(IllegalStep):
            await shop.cashier.capture(held)
        assert shop.effects(held.order_id).count("captured") == 1


@pytest.mark.parametrize("behind_s", [60, 86_400])
async def test_a_promoted_replica_whose_clock_is_behind_lets_no_step_pass(
    server: Server, replica: Server, behind_s: int
) -> None:
    """By its clock the orders were written in the future: no clock is compared."""
    async with Proxy(server.port).running() as name, open_timed_shop(name.url) as shop:
        held = await shop.held()
        payment, session = await created(shop)
        replica.catch_up(server)
        replica.lead()
        await shop.cashier.capture(held)
        await shop.cashier.pay(payment, session, card())
        server.kill()
        replica.run("SET", SKIPPED_MS_KEY, -behind_s * 1000)
        name.target = replica.port
        await refused_as_too_early(shop.cashier.capture(held))
        await refused_as_lost(shop, replica, payment, session)
        with pytest.raises(IllegalStep):
            await shop.cashier.capture(held)
        assert (await shop.cashier.get(held)).state is State.CAPTURED
        assert (shop.performed("authorize"), shop.performed("pay")) == (1, 2)


# a connection without the right to use INFO


async def test_without_the_right_to_use_info_only_restarts_go_undetected(server: Server) -> None:
    """All else works, and doctor reports it."""
    server.run("ACL", "SETUSER", "shop", "on", ">pw", "~*", "&*", "+@all", "-info")
    url = f"redis://shop:pw@127.0.0.1:{server.port}"
    async with open_timed_shop(url) as shop:
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
