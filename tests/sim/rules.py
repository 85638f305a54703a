"""Rules for everything that cfflow sends to the gateway (design.md#invariants).

The bank of the emulator refuses a second capture by itself, and a real one should: these
rules check the requests instead, so that no test passes only because the bank refused.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from cfflow.core.operation import Step
from cfflow.core.schedule import PAY_MARGIN_MS
from cfflow.core.steps import SEND_WITHIN_MS
from cfflow.errors import (
    AlreadyPaid,
    CfflowError,
    Conflict,
    GatewayError,
    GatewayRejected,
    IllegalStep,
    InvalidInput,
    OtpLimit,
    Paused,
    StoreError,
    TooManyPayments,
)
from tests.sim.books import Books
from tests.sim.network import STEPS, Sent
from tests.sim.process import WORKER, WORKERS, Action
from tests.sim.truth import FOREIGN, Truth, world_s

#: A process that slept longer than this after its commit does not send any more.
_SEND_WITHIN_S = (SEND_WITHIN_MS + 20) / 1000

#: A capture or void that was sent again so often never ends this way.
_RESENDS = 25

#: So many inquiries of one kind, by workers, in so many seconds: too few pauses between them.
_STORM = 40
_STORM_S = 30.0

#: The last effect on an attempt that took nothing.
_OVER = frozenset({"failed", "dropped", "cancelled", "reversed"})

#: Errors that mean that nothing was sent.
_UNSENT = (
    AlreadyPaid,
    Conflict,
    IllegalStep,
    InvalidInput,
    OtpLimit,
    Paused,
    TooManyPayments,
)

#: The gateway's answer that it has no such order or attempt.
_NOT_FOUND = 404


class Rules:
    """Follows every request; `complain` is called for each that must not be sent."""

    def __init__(
        self, books: Books, truth: Truth, now: Callable[[], float], complain: Callable[[str], None]
    ) -> None:
        self._books = books
        self._truth = truth
        self._now = now
        self._complain = complain
        self._steps: dict[str, list[Sent]] = {}
        self._asked: dict[str, float] = {}
        self._lists: dict[str, list[Sent]] = {}
        self._fetches: dict[str, list[float]] = {}

    def sending(self, sent: Sent) -> None:
        """A process sends a request."""
        if sent.call not in STEPS:
            self._check_patience(sent)
            return
        before = self._steps.setdefault(sent.payment_id, [])
        self._check_written(sent)
        self._check_asked(sent)
        self._check_known_money(sent)
        same = [other for other in before if other.key == sent.key]
        others = [other for other in before if other.key != sent.key and other.call == sent.call]
        if sent.call == "authorize":
            self._check_resent(sent, same)
            self._check_new_key(sent, others)
        elif same:
            self._complain(f"{sent}: sent twice")
        if sent.call == "pay":
            self._check_other_pays(sent, others)
        before.append(sent)

    def arrived(self, sent: Sent) -> None:
        """The bank has dealt with a request."""
        self._truth.catch_up(sent.payment_id, sent.key)

    def answered(self, sent: Sent) -> None:
        """A living process gets the outcome of its request."""
        order_id = sent.ids[0] if sent.ids else ""
        if sent.call.startswith("fetch_") and (
            sent.outcome == "answered" or sent.status == _NOT_FOUND
        ):
            self._books.inquiries.setdefault(order_id, []).append(sent)
        if sent.outcome == "answered" and sent.call.startswith("fetch_payment"):
            self._asked[order_id] = max(self._asked.get(order_id, 0.0), sent.at_s)
            if sent.call == "fetch_payments":
                self._lists.setdefault(order_id, []).append(sent)

    def purged(self, orders: Collection[str]) -> None:
        """Orders have left the store: the numbers of their payments start again."""
        for name in [name for name in self._steps if name.rpartition(".")[0] in orders]:
            del self._steps[name]

    def adopts(self, order_id: str) -> None:
        """A caller adopts the order: from now on its payments may own any of its attempts."""
        self._books.adopted.add(order_id)

    def finished(self, action: Action, error: BaseException | None) -> None:
        """A merchant's call has ended: its error must not contradict what it did."""
        raised = f"{action.name} on {action.about} raised {type(error).__name__}"
        if isinstance(error, _UNSENT):
            self._check_unstored(action, raised)
        if not isinstance(error, CfflowError) or not action.sent:
            return
        unwritten = isinstance(error, StoreError) and not error.money_may_have_moved
        if isinstance(error, _UNSENT) or unwritten:
            self._complain(f"{raised} although it had sent {action.sent[0]}")
        needs_inquiry = isinstance(error, GatewayRejected) and error.fetch_first
        denied = isinstance(error, GatewayError) and not error.money_may_have_moved
        moved = [sent for sent in action.sent if sent.effects]
        if denied and moved and not needs_inquiry:
            self._complain(f"{raised}, which means that no money moved, but {moved[0]} moved some")

    def _check_unstored(self, action: Action, raised: str) -> None:
        """Check that a call which sent nothing has left no step open that it had stored."""
        name, token = self._books.stored_by.get(action, ("", ""))
        record = self._books.records.get(name)
        if record is not None and record.token == token and not action.sent:
            self._complain(f"{raised}, and it has stored a step of {name} that is open")

    def _check_patience(self, sent: Sent) -> None:
        """Check that workers leave a pause between two inquiries."""
        if sent.action is None or sent.action.name != WORKER:
            return
        times = self._fetches.setdefault("/".join(sent.ids), [])
        times.append(sent.at_s)
        del times[:-_STORM]
        if len(times) == _STORM and sent.at_s - times[0] < _STORM_S:
            self._complain(f"{sent}: asked {_STORM} times in {sent.at_s - times[0]:.1f} s")

    def _check_written(self, sent: Sent) -> None:
        """Check that a step was stored before it was sent: the same bytes, and not long ago."""
        operation = self._books.operations.get(sent.key)
        if operation is None:
            self._complain(f"{sent}: sent before it was stored")
            return
        frozen = (operation.body, operation.api_version)
        if sent.call == "authorize" and frozen != (sent.body, sent.api_version):
            self._complain(f"{sent}: what was sent is not what was stored")
        paused_s = sent.at_s - world_s(self._books.opened_ms[sent.key])
        if paused_s > _SEND_WITHIN_S:
            self._complain(f"{sent}: sent {paused_s:.1f} s after it was stored")

    def _check_asked(self, sent: Sent) -> None:
        """Check that a merchant's call asked for the step, and that one call sends one step."""
        action = sent.action
        step = sent.origin.step if sent.origin else ""
        if action is None or action.name not in {step, WORKER}:
            name = action.name if action else "no call"
            self._complain(f"{sent}: {name} asked for something else")
        elif action.name == WORKER and not self._worker_may(sent, step):
            self._complain(f"{sent}: a worker did that by itself")
        elif action.name != WORKER and len(action.sent) > 1:
            self._complain(f"{sent}: one {action.name} has sent {len(action.sent)} steps")

    def _check_known_money(self, sent: Sent) -> None:
        """Check that no step takes money while a list showed a foreign attempt with money."""
        step = sent.origin.step if sent.origin else None
        record = self._books.records.get(sent.payment_id)
        if step not in {Step.PAY, Step.SUBMIT_OTP} or record is None:
            return
        order_id = self._order_of(sent)
        asked_s = world_s(record.asked_at_ms)
        # The list that this record's last inquiry was: what it showed has been committed.
        lists = [seen for seen in self._lists.get(order_id, ()) if abs(seen.at_s - asked_s) < 0.2]
        if not lists or self._books.order_is_overruled(order_id):
            return
        for name, money_s in self._truth.money_s.items():
            foreign = self._truth.owners[name] == FOREIGN and name in self._books.unowned(
                [str(attempt.cf_payment_id) for attempt in self._truth.attempts(order_id)]
            )
            if foreign and all(money_s < seen.arrived_at_s[0] for seen in lists):
                self._complain(f"{sent}: attempt {name} had the order's money, as a list showed")

    def _worker_may(self, sent: Sent, step: str) -> bool:
        """Whether a worker may send it: a merchant's step again, or the flow's end of a hold."""
        openers = self._books.openers_of(sent.payment_id, step)
        if any(not who.startswith(WORKERS) for who in openers):
            return sent.call == "authorize"
        record = self._books.known[sent.payment_id]
        flow = self._books.flow_of(record.flow)
        if record.abandoned and step == "void":
            return flow.end.abandoned_hold == "void"
        return flow.capture == "manual" and flow.hold_rules.on_expiry == step

    def _check_resent(self, sent: Sent, same: list[Sent]) -> None:
        if not same:
            return
        if len(same) > _RESENDS:
            self._complain(f"{sent}: sent {len(same)} times already")
        last = same[-1]
        # The limit counts from the plan; its call may begin a little later.
        over_s = last.at_s + last.limit_s - _SEND_WITHIN_S
        if not last.outcome and self._now() < over_s:
            self._complain(f"{sent}: {last} may still be on its way")
        if self._asked.get(sent.ids[0], -1.0) < last.at_s:
            self._complain(f"{sent}: sent again without an inquiry since")

    def _check_new_key(self, sent: Sent, others: list[Sent]) -> None:
        """Check that a new key is used only after the last step certainly had no effect."""
        if self._books.overruled(sent.payment_id):
            return
        for key in {other.key: None for other in others}:
            sends = [other for other in others if other.key == key]
            over_s = self._over_s(sends[0])
            refused = any(other.outcome in {"refused", "replayed"} for other in sends)
            if not refused and self._now() < over_s:
                self._complain(f"{sent}: the outcome of {sends[-1]} is not known")
            if any(self._acted(other) and other.arrived_at_s[0] <= over_s for other in sends):
                self._complain(f"{sent}: {sends[-1]} has acted")

    def _acted(self, sent: Sent) -> bool:
        """Whether a step has had its effect; an effect on another attempt opens a review."""
        record = self._books.known[sent.payment_id]
        reviewed = any(review.reason == "other_attempt" for review in record.reviews)
        return any(e.cf_payment_id == record.cf_payment_id or not reviewed for e in sent.effects)

    def _check_other_pays(self, sent: Sent, others: list[Sent]) -> None:
        """Check that no other pay follows one that has arrived or may still arrive."""
        if self._books.overruled(sent.payment_id):
            return
        for other in others:
            if other.outcome == "refused":
                continue
            if other.key in self._books.rolled_back:
                self._check_rolled_back(sent, other)
                continue
            over_s = self._over_s(other)
            if self._now() < over_s:
                self._complain(f"{sent}: {other} may still be on its way")
            made = [name for name, key in self._truth.keys.items() if key == other.key]
            if any(self._truth.began_s[name] <= over_s for name in made):
                self._complain(f"{sent}: {other} had begun attempt {made[0]}")

    def _check_rolled_back(self, sent: Sent, other: Sent) -> None:
        """Check a step after the store lost an earlier one.

        The order was verified once the lost step's call was surely over. So an attempt that began
        by then, and that may have money, was seen and forbids the new step.
        """
        over_s = self._over_s(other)
        if self._now() < over_s:
            self._complain(f"{sent}: {other}, which the store has lost, may still be on its way")
        has_effect = any(
            self._truth.effects[entry.cf_payment_id][-1] not in _OVER for entry in other.effects
        )
        if has_effect and other.arrived_at_s[0] <= over_s:
            self._complain(f"{sent}: {other} has acted, as the verifying inquiry has shown")

    def _over_s(self, sent: Sent) -> float:
        """Return until when a step may still be on its way: its time limit and the margin."""
        operation = self._books.operations[sent.key]
        return world_s(operation.deadline_at_ms + PAY_MARGIN_MS)

    def _order_of(self, sent: Sent) -> str:
        name = sent.payment_id
        return name.rpartition(".")[0] if name else sent.ids[0]
