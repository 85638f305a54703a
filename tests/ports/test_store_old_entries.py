"""An order's entry that version 0.1 wrote has no `bars`: its reviews bar all the same."""

from __future__ import annotations

import msgspec
import pytest

from cfflow.core.operation import Step
from cfflow.store.protocol import Outcome
from cfflow.store.redis.store import RedisStore
from cfflow.testing.conformance.helpers import a_plan
from cfflow.testing.conformance.orders import a_step, two_payments
from tests.ports.servers import Server

_BARRED = {Step.PAY, Step.SUBMIT_OTP}


@pytest.mark.parametrize("step", Step)
async def test_an_entry_without_bits_bars_what_can_take_money(
    valkey_server: Server, step: Step
) -> None:
    """Script and core agree: without bits, a blocking review bars pay and submit_otp."""
    valkey_server.run("FLUSHALL")
    store = RedisStore(valkey_server.url)
    await store.open()
    try:
        _, second = await two_payments(store)
        entry = [["failed", "1", False, True, 0], ["initiated", "2", False, False, 0]]
        key = store.keys.order("order_1")
        await store.link.command("HSET", key, "o", msgspec.msgpack.encode(entry))
        done = await store.commit(a_plan(second, opens=True, operation=a_step(step)))
    finally:
        await store.aclose()
    assert done.outcome is (Outcome.BLOCKED if step in _BARRED else Outcome.OK)
