"""Eight processes, 200 tasks, one payment: exactly one effect, and everybody is told.

The processes stand at a barrier until all are ready; one Valkey server and one bank serve
them. What the bank carried out is counted by the bank.
"""

from __future__ import annotations

from collections import Counter

import pytest

from tests.crash.child import Job
from tests.crash.till import PROCESSES, TASKS, Till

#: How a press ends that came too late: nothing was sent.
_BEATEN = {"Conflict", "IllegalStep"}


def _one_won(told: Counter[str], payment_id: str) -> None:
    assert told[payment_id] == 1, told
    assert set(told) <= {payment_id, *_BEATEN}
    assert told.total() == PROCESSES * TASKS


async def test_the_same_otp_of_eight_processes_is_one_submission(till: Till) -> None:
    """One call, one captured payment; 199 are told that nothing was sent."""
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
    """One of them wins, and the bank hears of one."""
    async with till.process() as orchestrator:
        job = await till.held(orchestrator)
    _one_won(await till.race(job, *buttons), job.payment_id)
    assert till.performed("authorize") == 1
    assert await till.findings(job.order_id, settled=True) == []
    assert till.effects(job.order_id)[-1] in {"captured", "voided"}


async def test_starts_of_eight_processes_are_one_payment(till: Till) -> None:
    """Everybody gets the same one, and the order has no other."""
    async with till.process() as orchestrator:
        order_id, _ = await till.order(orchestrator)
    job = Job(act="start", order_id=order_id, flow="native_otp", payment_id=f"{order_id}.1")
    assert await till.race(job, "start") == {f"{order_id}.1": PROCESSES * TASKS}
    async with till.process() as orchestrator:
        found = await orchestrator.find()
    assert [payment.id for payment in found] == [f"{order_id}.1"]


async def test_pays_of_eight_processes_are_one_attempt(till: Till) -> None:
    """One attempt at the bank; the customer's card is asked for once."""
    async with till.process() as orchestrator:
        job = await till.begun(orchestrator, "native_otp")
    _one_won(await till.race(job, "pay"), job.payment_id)
    assert till.performed("pay") == 1
    assert till.effects(job.order_id) == ["attempt_created"]
    assert await till.findings(job.order_id, settled=True) == []
