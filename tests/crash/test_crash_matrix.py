"""The crash matrix: every step, killed on both sides of every write and of every effect.

A cell: a process does a step and kills itself at one point of it, with a real SIGKILL. Then a fresh
worker looks after the order, the merchant tries the same again, the order comes to its end,
and every button is pressed once more. After each of these the bank's ledger and the store
are compared with design.md#invariants (audit.py).
"""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from typing import Final

import pytest
from msgspec.structs import replace

from cfflow import CfflowError, Orchestrator, OutcomeUnknown, State
from tests.crash.child import ACTS, Job
from tests.crash.scenarios import SCENARIOS, Point, Scenario
from tests.crash.stages import SLOW_S
from tests.crash.till import Till

CELLS: Final = [
    pytest.param(step, point, id=f"{step.name}-{point.name}")
    for step in SCENARIOS
    for point in step.points()
]

#: What a merchant's page can press once more, of a payment that is at its end.
_BUTTONS: Final = ("pay", "submit_otp", "resend_otp", "leave_otp", "capture", "void", "abandon")


@pytest.mark.parametrize(("step", "point"), CELLS)
async def test_a_death_at_this_point_costs_nothing(
    till: Till, step: Scenario, point: Point
) -> None:
    """Killed there, found by a worker, tried again: one effect, nothing lost, an end."""
    job = await _prepared(till, step)
    await _die(till, job, point)
    await till.recover(job.order_id)
    # An OTP that the bank accepts long after its page was asked about is seen by the next poll.
    known = step.by_itself and point.doom.side != "late"
    assert await till.findings(job.order_id, settled=known) == []
    till.clock.skip(step.pause_s)
    await _refused_or_done(till, step.next_try(job))
    assert await till.findings(job.order_id) == []
    async with till.process() as orchestrator:
        ended = await till.finish(orchestrator, job, step.end)
        assert ended.state is step.end
        await _audit(till, job, step)
        await _press_everything(orchestrator, replace(job, payment_id=ended.id))
    await _audit(till, job, step)


@pytest.mark.parametrize("step", [pytest.param(step, id=step.name) for step in SCENARIOS])
async def test_a_step_has_no_write_and_no_call_without_its_points(
    till: Till, step: Scenario
) -> None:
    """Without a kill, a step makes exactly the writes and calls whose sides are in the matrix."""
    job = await _prepared(till, step)
    end = await till.kill(job, None)
    assert end.seen == tuple(what for _, what in step.stages), end.error


async def _prepared(till: Till, step: Scenario) -> Job:
    async with till.process() as orchestrator:
        return await step.prepare(till, orchestrator)


async def _die(till: Till, job: Job, point: Point) -> None:
    """Kill the process there; a slow bank acts later, before or after the first inquiry."""
    before = till.performed(point.call)
    end = await till.kill(job, point.doom)
    assert end.status == -signal.SIGKILL, end
    if point.doom.side == "late":
        await till.look()
        # A call whose key the bank has already answered is not counted: wait by the clock instead.
        await asyncio.sleep(SLOW_S)
    if point.doom.side in {"sent", "late"}:
        await till.wait_for_bank(point.call, before + 1)


async def _refused_or_done(till: Till, job: Job) -> None:
    """The merchant's next try: what it does is known when it returns."""
    try:
        await till.act(job)
    except OutcomeUnknown as unknown:
        pytest.fail(f"{job.act} left its outcome unknown: {unknown}")
    except CfflowError:
        return


async def _press_everything(orchestrator: Orchestrator, job: Job) -> None:
    """Check that every button is refused for a payment at its end."""
    for button in _BUTTONS:
        with pytest.raises(CfflowError):
            await ACTS[button](orchestrator, job)


async def _audit(till: Till, job: Job, step: Scenario) -> None:
    """Check that the customer's money moved once, and that no call was sent twice."""
    assert await till.findings(job.order_id, settled=True) == []
    effects = Counter(till.effects(job.order_id))
    money = {name: effects[name] for name in ("captured", "voided", "released")}
    wanted = {"captured": step.end is State.CAPTURED, "voided": step.end is State.VOIDED}
    assert money == {**wanted, "released": 0}, effects
    assert effects["attempt_created"] <= step.attempts
    assert till.performed("pay") == effects["attempt_created"]
    assert till.performed("authorize") == effects["authorized"]
