"""Eight processes, 200 tasks, one payment: exactly one effect, and every task gets a result.

The processes wait at a barrier until all are ready; they share one Valkey server and one
bank. The bank counts what it carried out.
"""

from __future__ import annotations

from collections import Counter

import pytest

from tests.crash.child import Job
from tests.crash.till import PROCESSES, TASKS, Till

#: The errors of a press that came too late: nothing was sent.
_BEATEN = {"Conflict", "IllegalStep"}


def _one_won(ends: Counter[str], payment_id: str) -> None:
    assert ends[payment_id] == 1, ends
    assert set(ends) <= {payment_id, *_BEATEN}
    assert ends.total() == PROCESSES * TASKS


async def test_the_same_otp_of_eight_processes_is_one_submission(till: Till) -> None:
    """One call, one captured payment; 199 tasks get an error that means that nothing was sent."""
    async with till.process() as orchestrator:
        job = await till.at_otp(orchestrator)
    _one_won(await till.race(job, "submit_otp"), job.payment_id)
    assert till.performed("authenticate") == 1
    assert await till.findings(job.order_id, settled=True) == []
    assert till.effects(job.order_id) == ["attempt_created", "captured"]


@pytest.mark.parametrize("buttons", [("capture",), ("void",), ("capture", "void")])
async def test_captures_and_voids_of_eight_processes_are_one_effect(
    till: Till, buttons: tuple[str, ...]
) -> None:
    """One of them wins, and the bank gets one call."""
    async with till.process() as orchestrator:
        job = await till.held(orchestrator)
    _one_won(await till.race(job, *buttons), job.payment_id)
    assert till.performed("authorize") == 1
    assert await till.findings(job.order_id, settled=True) == []
    assert till.effects(job.order_id)[-1] in {"captured", "voided"}


async def test_starts_of_eight_processes_are_one_payment(till: Till) -> None:
    """Every task gets the same payment, and the order has no other."""
    async with till.process() as orchestrator:
        order_id, _ = await till.order(orchestrator)
    job = Job(act="start", order_id=order_id, flow="native_otp", payment_id=f"{order_id}.1")
    assert await till.race(job, "start") == {f"{order_id}.1": PROCESSES * TASKS}
    async with till.process() as orchestrator:
        found = await orchestrator.find()
    assert [payment.id for payment in found] == [f"{order_id}.1"]


async def test_pays_of_eight_processes_are_one_attempt(till: Till) -> None:
    """One attempt at the bank; the card is sent once."""
    async with till.process() as orchestrator:
        job = await till.begun(orchestrator, "native_otp")
    _one_won(await till.race(job, "pay"), job.payment_id)
    assert till.performed("pay") == 1
    assert till.effects(job.order_id) == ["attempt_created"]
    assert await till.findings(job.order_id, settled=True) == []
