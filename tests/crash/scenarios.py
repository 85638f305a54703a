"""Every step, stage by stage, and all the points at which a process can die in it.

A stage is one Redis write or one gateway call, in the order in which the step makes them.
A point is one side of a stage. A test compares what a step really does with its stages, so
that every write and every call has its points.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Final

from msgspec.structs import replace

from cfflow import Orchestrator, OutcomeUnknown, State
from cfflow.cashfree.gateway import frozen_authorize
from tests.crash.child import Job
from tests.crash.stages import Doom, Side
from tests.crash.till import Till
from tests.engine.shop import OTP, card

__all__ = ["FLOW", "SCENARIOS", "Point", "Scenario"]

#: The preauth flow, but a hold that was neither captured nor voided is captured before it lapses.
FLOW: Final = """\
name = "crash_hotel"
summary = "A hold that is captured before it lapses, even without the merchant."
capture = "manual"
methods = ["card"]

[hold]
on_expiry = "capture"
"""

_SEVEN_DAYS_S: Final = 7 * 86_400
_SIX_HOURS_S: Final = 21_600

_WRITES: Final = frozenset({"start", "commit", "lease", "defer"})
_EFFECTS: Final = frozenset({"pay", "authenticate", "authorize"})

#: The sides of a stage and the name of a point there.
_OF_A_WRITE: Final[tuple[tuple[Side, str], ...]] = (("before", "before"), ("after", "after"))
_OF_AN_EFFECT: Final[tuple[tuple[Side, str], ...]] = (
    ("before", "before"),
    ("sent", "before_effect_of"),
    ("late", "long_before_effect_of"),
    ("acted", "after_effect_of"),
    ("after", "after_answer_of"),
)

Prepare = Callable[[Till, Orchestrator], Awaitable[Job]]


@dataclass(frozen=True)
class Point:
    """One side of one stage, where a process dies; `call` is the stage's write or call."""

    name: str
    doom: Doom
    call: str


@dataclass(frozen=True)
class Scenario:
    """A step: its stages as (name, write or call), how to prepare it, how its order ends.

    `again` is what the merchant tries next, "" for the same step; after
    `pause_s`. `attempts`: how many the bank may have begun. `by_itself`: a worker alone
    finds everything that the bank has done; a lost store needs the next `adopt`.
    """

    name: str
    stages: tuple[tuple[str, str], ...]
    prepare: Prepare
    end: State = State.CAPTURED
    again: str = ""
    pause_s: float = 0.0
    attempts: int = 1
    by_itself: bool = True

    def points(self) -> Iterator[Point]:
        """Yield every point of this step."""
        for number, (stage, what) in enumerate(self.stages):
            sides = _OF_AN_EFFECT if what in _EFFECTS else _OF_A_WRITE
            for side, name in sides:
                yield Point(f"{name}_{stage}", Doom(number, side), what)
        yield Point("at_the_end", Doom(len(self.stages), "after"), "")

    def next_try(self, job: Job) -> Job:
        """Return what the merchant does next."""
        return replace(job, act=self.again or job.act)


def _step(call: str) -> tuple[tuple[str, str], ...]:
    return (("operation", "commit"), ("call", call), ("outcome", "commit"))


_ASKED: Final = (("lease", "lease"), ("inquiry", "fetch_payment"), ("finding", "commit"))
_ASKED_ALL: Final = (("lease", "lease"), ("inquiry", "fetch_payments"), ("finding", "commit"))
_SUBMIT: Final = (
    ("operation", "commit"),
    ("call", "authenticate"),
    ("inquiry", "fetch_payment"),
    ("outcome", "commit"),
)


# how each of them is prepared


def _paying(flow: str, method: str) -> Prepare:
    async def prepare(shop: Till, till: Orchestrator) -> Job:
        return replace(await shop.begun(till, flow), method=method)

    return prepare


def _at_otp(act: str, argument: str = OTP, wait_s: float = 0.0) -> Prepare:
    async def prepare(shop: Till, till: Orchestrator) -> Job:
        job = await shop.at_otp(till)
        shop.clock.skip(wait_s)
        return replace(job, act=act, argument=argument)

    return prepare


async def _at_last_try(shop: Till, till: Orchestrator) -> Job:
    job = await shop.at_otp(till)
    for _ in range(2):
        await till.submit_otp(job.payment_id, "999999")
    return replace(job, act="submit_otp", argument=OTP)


def _held(act: str, amount: str | None = None) -> Prepare:
    async def prepare(shop: Till, till: Orchestrator) -> Job:
        return replace(await shop.held(till), act=act, amount=amount)

    return prepare


def _lost(prepare: Prepare, fault: str, act: str = "work") -> Prepare:
    """Prepare a step that ended without an answer, in a process that lived on, and is due now."""

    async def lost(shop: Till, till: Orchestrator) -> Job:
        job = await prepare(shop, till)
        shop.fault(job.order_id, fault)
        try:
            await shop.act(job)
        except OutcomeUnknown:
            shop.clock.skip(30)
            return replace(job, act=act)
        raise RuntimeError(f"{job.act} had an outcome")

    return lost


def _lapsing(flow: str) -> Prepare:
    async def prepare(shop: Till, till: Orchestrator) -> Job:
        job = await shop.held(till, flow)
        # The schedule's next moment is near: a worker that dies in between is soon replaced.
        shop.clock.skip(_SEVEN_DAYS_S - _SIX_HOURS_S + 25)
        return replace(job, act="work")

    return prepare


async def _abandoned_hold(shop: Till, till: Orchestrator) -> Job:
    job = await shop.held(till)
    await till.abandon(job.payment_id)
    shop.clock.skip(6)
    return replace(job, act="work")


async def _used_key(shop: Till, till: Orchestrator) -> Job:
    """The bank has stored an error under the capture's key, and a worker has got it."""
    job = await _lost(_held("capture"), "status_stored")(shop, till)
    await shop.look()
    # Past the schedule's next moment: the pauses grow for a step that is lost again.
    shop.clock.skip(60)
    return job


async def _missed_once(shop: Till, till: Orchestrator) -> Job:
    job = await _lost(_paying("native_otp", "card_otp"), "lost_before")(shop, till)
    await shop.look()
    shop.clock.skip(30)
    return job


async def _approved(shop: Till, till: Orchestrator) -> Job:
    """The customer has paid at the bank's own page, and only the next poll will show it."""
    job = replace(await shop.begun(till, "redirect"), method="card_link")
    await shop.act(job)
    payment = await till.get(job.payment_id)
    await till.gateway.simulate(payment.cf_payment_id or "", "SUCCESS")
    shop.clock.skip(30)
    return replace(job, act="work")


async def _unanswered(shop: Till, till: Orchestrator) -> Job:
    job = await _approved(shop, till)
    shop.fault(job.order_id, "status_before")
    return job


async def _expired(shop: Till, till: Orchestrator) -> Job:
    job = await shop.begun(till, "native_otp")
    shop.clock.skip(31 * 86_400)
    return replace(job, act="work")


async def _not_in_store(shop: Till, till: Orchestrator) -> Job:
    """An order was paid, and the store has lost all data of it."""
    order_id, session = await shop.order(till)
    attempt = await till.gateway.pay(session, card())
    await till.gateway.authenticate(str(attempt.cf_payment_id), OTP)
    return Job(act="adopt", order_id=order_id, flow="native_otp", payment_id=f"{order_id}.1")


async def _not_started(shop: Till, till: Orchestrator) -> Job:
    order_id, session = await shop.order(till)
    return Job(
        act="start",
        order_id=order_id,
        flow="native_otp",
        payment_id=f"{order_id}.1",
        session=session,
    )


async def _taken_at_once(shop: Till, till: Orchestrator) -> Job:
    """A manual flow whose money was captured at once is reviewed."""
    job = await shop.begun(till, "preauth")
    await till.pay(job.payment_id, job.session, card())
    await till.submit_otp(job.payment_id, OTP)
    return replace(job, act="acknowledge", argument="captured_without_hold")


async def _taken_by_hand(shop: Till, till: Orchestrator) -> Job:
    """A person captured a reviewed hold at the gateway's own page, and resolves it."""
    job = await shop.begun(till, "native_otp", hold=True)
    await till.pay(job.payment_id, job.session, card())
    await till.submit_otp(job.payment_id, OTP)
    shop.clock.skip(30)
    await shop.act(replace(job, act="refresh"))
    body = frozen_authorize("CAPTURE", (await till.get(job.payment_id)).amount)
    await till.gateway.authorize(job.order_id, body)
    return replace(job, act="resolve", argument="captured")


SCENARIOS: Final = (
    Scenario("start", (("start", "start"),), _not_started),
    Scenario("pay_card", _step("pay"), _paying("native_otp", "card_otp")),
    Scenario("pay_link", _step("pay"), _paying("redirect", "card_link")),
    Scenario("pay_upi_link", _step("pay"), _paying("upi", "upi_link")),
    Scenario("pay_upi_collect", _step("pay"), _paying("upi", "upi_collect")),
    Scenario("submit_otp", _SUBMIT, _at_otp("submit_otp")),
    Scenario("submit_wrong_otp", _step("authenticate"), _at_otp("submit_otp", "999999")),
    Scenario("submit_last_otp", _SUBMIT, _at_last_try, again="refresh"),
    Scenario("resend_otp", _step("authenticate"), _at_otp("resend_otp", wait_s=31), pause_s=31),
    Scenario("leave_otp", (("turn_end", "commit"),), _at_otp("leave_otp")),
    Scenario("capture", _step("authorize"), _held("capture")),
    Scenario("capture_part", _step("authorize"), _held("capture", "100.00")),
    Scenario("void", _step("authorize"), _held("void"), State.VOIDED),
    Scenario(
        "refresh_lost_capture",
        (("inquiry", "fetch_payments"), ("outcome", "commit")),
        _lost(_held("capture"), "lost_after", "refresh"),
    ),
    Scenario(
        "press_lost_capture_again",
        (("inquiry", "fetch_payments"), ("finding", "commit"), *_step("authorize")),
        _lost(_held("capture"), "lost_before", "capture"),
    ),
    Scenario(
        "worker_sends_capture_again",
        (*_ASKED_ALL, *_step("authorize")),
        _lost(_held("capture"), "lost_before"),
        again="capture",
    ),
    Scenario(
        "worker_renews_capture",
        (*_ASKED_ALL, *_step("authorize")),
        _used_key,
        again="capture",
    ),
    Scenario(
        "worker_sends_void_again",
        (*_ASKED_ALL, *_step("authorize")),
        _lost(_held("void"), "lost_before"),
        State.VOIDED,
        again="void",
    ),
    Scenario(
        "worker_voids_lapsing_hold",
        (*_ASKED, *_step("authorize")),
        _lapsing("preauth"),
        State.VOIDED,
        again="capture",
    ),
    Scenario(
        "worker_captures_lapsing_hold",
        (*_ASKED, *_step("authorize")),
        _lapsing("crash_hotel"),
        again="void",
    ),
    Scenario(
        "worker_voids_abandoned_hold",
        (*_ASKED, *_step("authorize")),
        _abandoned_hold,
        State.VOIDED,
        again="capture",
    ),
    Scenario("worker_finds_pay", _ASKED_ALL, _lost(_paying("upi", "upi_collect"), "lost_after")),
    Scenario("worker_gives_pay_up", _ASKED_ALL, _missed_once, again="pay"),
    Scenario("worker_polls", _ASKED, _approved),
    Scenario(
        "worker_puts_back",
        (("lease", "lease"), ("inquiry", "fetch_payment"), ("pause", "defer")),
        _unanswered,
    ),
    Scenario(
        "worker_sees_order_expire",
        (("lease", "lease"), ("inquiry", "fetch_order"), ("finding", "commit")),
        _expired,
        State.FAILED,
        attempts=0,
    ),
    Scenario(
        "adopt",
        (("inquiry", "fetch_payments"), ("own", "start")),
        _not_in_store,
        by_itself=False,
    ),
    Scenario("abandon", (("decision", "commit"),), _at_otp("abandon"), again="start", attempts=2),
    Scenario("acknowledge", (("decision", "commit"),), _taken_at_once),
    Scenario("resolve", (("decision", "commit"),), _taken_by_hand),
)
