"""Many callers at once: one of them wins, and the gateway gets one call."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Iterator
from itertools import cycle, islice

import pytest

from cfflow import Conflict, IllegalStep, Payment, State
from cfflow.store.redis.store import RedisStore
from tests.engine.shop import OTP, Shop, card, open_shop, until

#: The number of tasks that press the same button at once.
CROWD = 200


@pytest.fixture
async def real_shop(redis_url: str) -> AsyncIterator[Shop]:
    """A shop whose payments live in a real server."""
    async with open_shop(store=RedisStore(redis_url)) as opened:
        yield opened


async def outcomes(*steps: Awaitable[Payment]) -> Counter[str]:
    """Run all at once and count how they ended."""
    ended = await asyncio.gather(*steps, return_exceptions=True)
    return Counter(type(end).__name__ if isinstance(end, Exception) else "done" for end in ended)


def by_hand_or_id(payment: Payment) -> Iterator[Payment | str]:
    """Yield the argument of each task: half pass the payment as read, half only its id."""
    return islice(cycle((payment, payment.id)), CROWD)


def one_won(ended: Counter[str]) -> None:
    """One step was carried out; all others got an error that nothing was sent."""
    assert ended["done"] == 1
    assert set(ended) <= {"done", Conflict.__name__, IllegalStep.__name__}
    assert ended.total() == CROWD


async def test_two_callers_on_one_snapshot_are_one_call(real_shop: Shop) -> None:
    """One authenticate call; the other caller gets Conflict."""
    payment, _ = await real_shop.at_otp()
    submit = real_shop.cashier.submit_otp
    ended = await outcomes(submit(payment, OTP), submit(payment, OTP))
    assert ended == {"done": 1, "Conflict": 1}
    assert real_shop.performed("authenticate") == 1


async def test_the_same_otp_200_times_is_one_call(real_shop: Shop) -> None:
    """The bank gets one submission, and takes the money once."""
    payment, _ = await real_shop.at_otp()
    submit = real_shop.cashier.submit_otp
    one_won(await outcomes(*(submit(one, OTP) for one in by_hand_or_id(payment))))
    assert real_shop.performed("authenticate") == 1
    assert real_shop.effects(payment.order_id) == ["attempt_created", "captured"]
    assert (await real_shop.cashier.get(payment)).state is State.CAPTURED


async def test_200_resends_that_come_too_soon_are_no_call(real_shop: Shop) -> None:
    """All errors have the time of the next try; the customer gets no message."""
    payment, _ = await real_shop.at_otp()
    resend = real_shop.cashier.resend_otp
    ended = await outcomes(*(resend(one) for one in by_hand_or_id(payment)))
    assert ended == {"OtpLimit": CROWD}
    assert real_shop.performed("authenticate") == 0


@pytest.mark.parametrize("buttons", ["capture", "void", "capture and void"])
async def test_200_captures_and_voids_of_one_hold_are_one_effect(
    real_shop: Shop, buttons: str
) -> None:
    """Exactly one capture or void reaches the gateway."""
    held = await real_shop.held()
    presses = [getattr(real_shop.cashier, name) for name in buttons.split(" and ")]
    crowd = zip(by_hand_or_id(held), cycle(press for press in presses for _ in range(2)))
    one_won(await outcomes(*(press(one) for one, press in crowd)))
    assert real_shop.performed("authorize") == 1
    assert real_shop.effects(held.order_id)[:-1] == ["attempt_created", "authorized"]


async def test_200_starts_of_one_order_are_one_payment(real_shop: Shop) -> None:
    """start is idempotent, however many callers there are at once."""
    order_id, _ = await real_shop.order()
    started = await asyncio.gather(
        *(real_shop.cashier.start("native_otp", order_id=order_id) for _ in range(CROWD))
    )
    assert {payment.id for payment in started} == {f"{order_id}.1"}
    assert [payment.id for payment in await real_shop.cashier.find()] == [f"{order_id}.1"]


async def test_200_pays_of_one_payment_are_one_attempt(real_shop: Shop) -> None:
    """The gateway gets one pay."""
    order_id, session = await real_shop.order()
    payment = await real_shop.cashier.start("native_otp", order_id=order_id)
    pay = real_shop.cashier.pay
    one_won(await outcomes(*(pay(one, session, card()) for one in by_hand_or_id(payment))))
    assert real_shop.performed("pay") == 1
    assert real_shop.effects(order_id) == ["attempt_created"]


async def test_an_answer_is_merged_into_what_a_faster_inquiry_wrote(real_shop: Shop) -> None:
    """The pay's own answer comes late: the address of the bank's page is still stored."""
    order_id, session = await real_shop.order()
    payment = await real_shop.cashier.start("native_otp", order_id=order_id, amount="170")
    real_shop.fault("pay", "delay_after", delay_s=0.5)
    slow = asyncio.create_task(real_shop.cashier.pay(payment, session, card()))
    await until(lambda: real_shop.performed("pay"))
    found = await found_by_inquiry(real_shop, payment.id)
    assert found.state is State.OTP_PENDING
    merged = await slow
    assert merged.version > found.version
    assert merged.next_action is not None
    assert getattr(merged.next_action, "redirect_to_bank", None)


async def found_by_inquiry(shop: Shop, payment_id: str) -> Payment:
    """Ask for an attempt although its pay is still on its way, as a late worker would."""
    from cfflow.cashfree.wire import observe_entity
    from cfflow.core.decide import Inquired
    from cfflow.core.observation import Call

    snapshot = await shop.cashier.orders.payment(payment_id.rpartition(".")[0], 1)
    seen = await shop.cashier.gateway.fetch_payments(snapshot.order_id)
    event = Inquired(
        tuple(observe_entity(entity, Call.FETCH_PAYMENTS) for entity in seen),
        shop.cashier.store.now_ms(),
        everything=True,
    )
    flow = await shop.cashier.flows.flow_of(snapshot, shop.cashier.store)
    return await shop.cashier.shown(await shop.cashier.engine.settle(snapshot, event, flow))
