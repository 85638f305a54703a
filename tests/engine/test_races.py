"""Many at once: one of them wins, and the gateway hears of one."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator

import pytest

from cfflow import Conflict, IllegalStep, Payment, State
from cfflow._ports.redis_store import RedisStore
from tests.engine.shop import OTP, Shop, card, open_shop


@pytest.fixture
async def real_shop(redis_url: str) -> AsyncIterator[Shop]:
    """A shop whose payments live in a real server."""
    async with open_shop(store=RedisStore(redis_url)) as opened:
        yield opened


async def outcomes(*steps: object) -> Counter[str]:
    """Run all at once and count how they ended."""
    ended = await asyncio.gather(*steps, return_exceptions=True)  # type: ignore[call-overload]  # coroutines
    return Counter(type(end).__name__ if isinstance(end, Exception) else "done" for end in ended)


async def test_the_same_otp_twice_is_one_call(real_shop: Shop) -> None:
    """Two callers on one snapshot: one authenticate call, the other gets Conflict."""
    payment, _ = await real_shop.at_otp()
    submit = real_shop.cashier.submit_otp
    ended = await outcomes(submit(payment, OTP), submit(payment, OTP))
    assert ended == {"done": 1, "Conflict": 1}
    assert real_shop.performed("authenticate") == 1
    assert (await real_shop.cashier.get(payment)).state is State.CAPTURED


async def test_fifty_captures_and_voids_of_one_hold_are_one_effect(real_shop: Shop) -> None:
    """Exactly one capture or void reaches the gateway."""
    held = await real_shop.held()
    cashier = real_shop.cashier
    steps = [cashier.capture(held) if n % 2 else cashier.void(held) for n in range(50)]
    ended = await outcomes(*steps)
    assert ended["done"] == 1
    assert set(ended) <= {"done", Conflict.__name__, IllegalStep.__name__}
    assert real_shop.performed("authorize") == 1


async def test_fifty_starts_of_one_order_are_one_payment(real_shop: Shop) -> None:
    """start is idempotent however many call it at once."""
    order_id, session = await real_shop.order()
    started = await asyncio.gather(
        *(real_shop.cashier.start("native_otp", order_id=order_id) for _ in range(50))
    )
    assert {payment.id for payment in started} == {f"{order_id}.1"}
    ended = await outcomes(*(real_shop.cashier.pay(p, session, card()) for p in started[:20]))
    assert ended == {"done": 1, "Conflict": 19}
    assert real_shop.performed("pay") == 1


async def test_an_answer_is_merged_into_what_a_faster_inquiry_wrote(real_shop: Shop) -> None:
    """The pay's own answer comes late: its way to the bank is kept all the same."""
    order_id, session = await real_shop.order()
    payment = await real_shop.cashier.start("native_otp", order_id=order_id, amount="170")
    real_shop.fault("pay", "delay_after", delay_s=0.5)
    slow = asyncio.create_task(real_shop.cashier.pay(payment, session, card()))
    await asyncio.sleep(0.2)
    found = await found_by_inquiry(real_shop, payment.id)
    assert found.state is State.OTP_PENDING
    merged = await slow
    assert merged.version > found.version
    assert merged.next_action is not None
    assert getattr(merged.next_action, "redirect_to_bank", None)


async def found_by_inquiry(shop: Shop, payment_id: str) -> Payment:
    """Ask for an attempt although its pay is still on its way, as a late worker would."""
    from cfflow._core.decide import Inquired
    from cfflow._core.observation import Call
    from cfflow._ports.wire import observe_entity

    snapshot = await shop.cashier.snapshot(payment_id.rpartition(".")[0], 1)
    seen = await shop.cashier.gateway.fetch_payments(snapshot.order_id)
    event = Inquired(
        tuple(observe_entity(entity, Call.FETCH_PAYMENTS) for entity in seen),
        shop.cashier.store.now_ms(),
        everything=True,
    )
    flow = await shop.cashier.flow_of(snapshot)
    return await shop.cashier.shown(await shop.cashier.engine.settle(snapshot, event, flow))
