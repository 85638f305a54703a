"""The bank and the disk of a whole order: what the gateway does, and what a store keeps.

The bank executes whatever reaches it, and the disk keeps bytes over a token and can lose its last
writes. Neither has a rule of cfflow's: those are in `order_model.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec

from cfflow.core.decide import Answered, Ended, Event, Refused
from cfflow.core.observation import Observation
from cfflow.core.operation import Operation, Step
from cfflow.core.order import Order, notice_digest
from cfflow.core.restart import NOT_VERIFIED, Restart
from cfflow.store.codec import decode_order
from cfflow.store.protocol import Commit, Outcome, StoredOrder
from tests.core.bank_model import Bank
from tests.core.core_kit import SECOND

ORDER_ID = "order_1"
NOTICES_MAX = 16
#: An order that begins so soon after a restart may be one that was lost in it.
BEGUN_ANEW_MS = 600 * SECOND
#: The steps that name the order only.
NAMING = {Step.CAPTURE, Step.VOID}


# the bank


@dataclass(frozen=True)
class Request:
    """A step that was sent: for which payment, and what its path or body names."""

    n: int
    operation: Operation
    cf_payment_id: str | None
    sent_at_ms: int


@dataclass
class OrderBank(Bank):
    """The bank of a whole order: it executes what reaches it, however often and in any order.

    It refuses almost nothing, so that no rule holds only because the bank was careful. `keys` has
    the key of the pay that began an attempt, `executed` the keys of steps that had an effect.
    """

    keys: dict[str, str] = field(default_factory=dict)
    executed: list[str] = field(default_factory=list)
    faults: set[str] = field(default_factory=set)
    replies: dict[str, Observation] = field(default_factory=dict)

    def execute(self, request: Request, mood: str, now_ms: int) -> Event:
        """Carry out a request and return what its caller gets."""
        operation = request.operation
        if operation.step in NAMING:
            return self._authorize(request, mood, now_ms)
        found, shown = self.serve(operation, request.cf_payment_id, mood, now_ms)
        observations = [found]
        if operation.step is Step.PAY:
            self.keys[str(found.cf_payment_id)] = operation.key
            self.executed.append(operation.key)
        elif operation.step is Step.SUBMIT_OTP and mood == "right":
            # The engine asks about the money at once.
            observations.append(self.entity(str(request.cf_payment_id), now_ms))
        return Answered(operation.sequence, tuple(observations), request.sent_at_ms, shown)

    def _authorize(self, request: Request, mood: str, now_ms: int) -> Event:
        """Capture or void: the call names the order, so the bank chooses the attempt."""
        operation, ours = request.operation, request.cf_payment_id
        sequence, key, sends = operation.sequence, operation.key, operation.sends
        if key in self.faults:
            return Ended(sequence, replayed=True, sends=sends)
        if mood == "fault":
            self.faults.add(key)
            return Ended(sequence, sends=sends)
        if key not in self.replies:
            held = [name for name, known in self.attempts.items() if known.truth == "held"]
            if not held:
                return Refused(sequence, "nothing is held", sends)
            chosen = ours if ours in held and mood != "other" else held[-1]
            self.replies[key], _ = self.serve(operation, chosen, mood, now_ms)
            self.executed.append(key)
        return Answered(sequence, (self.replies[key],), request.sent_at_ms)

    def another_page(self, last_four: str, now_ms: int) -> str:
        """Begin an attempt that is not ours."""
        return self.attempt(now_ms, last_four)


# the disk


class Seen(msgspec.Struct, frozen=True):
    """What writes have shown, lost with them.

    `foreign` are the attempts of no payment that a stored list has shown with money, `closed`
    those that a person has looked at. `keys` are those of all stored steps, and `settled` those
    of pays that the disk had lost before the order was verified.
    """

    foreign: frozenset[str] = frozenset()
    closed: frozenset[str] = frozenset()
    keys: frozenset[str] = frozenset()
    settled: frozenset[str] = frozenset()


class Kept(msgspec.Struct, frozen=True):
    """All that the disk has of the order; a restart may go back to an older one.

    `seen` is what the rules have learned from the writes until then.
    """

    stored: StoredOrder | None = None
    digests: bytes = b""
    index: Mapping[tuple[str, str], int] = {}
    due_at_ms: int | None = None
    number: int = 0
    seen: Seen = Seen()

    @property
    def order(self) -> Order:
        """The order, decoded; one without payments where there is none."""
        return Order(id=ORDER_ID) if self.stored is None else decode_order(self.stored)


class Disk:
    """Keeps an order's bytes as a store does, and has no rule about payments."""

    def __init__(self) -> None:
        self.kept = Kept()
        self.past = [self.kept]
        self.restart = Restart("history1")

    def commit(self, commit: Commit, now_ms: int) -> Outcome:
        """Write over the token that the commit was decided on, or nothing."""
        held = self.kept.stored
        if held is None and commit.expected:
            return Outcome.GONE
        if (held.token if held else "") != commit.expected:
            return Outcome.CONFLICT
        stamp = self._stamp(held, commit, now_ms)
        if stamp == "":
            return Outcome.RESTARTED
        notices = dict(held.notices) if held else {}
        for attempt, text in commit.answered.items():
            if notices.get(attempt) == text:
                del notices[attempt]
        actions = (held.actions if held else b"") if commit.actions is None else commit.actions
        assert commit.record is not None
        stored = StoredOrder(ORDER_ID, stamp, commit.token, commit.record, actions, notices)
        self._keep(
            stored=stored,
            digests=commit.digests,
            index=_changed(self.kept.index, commit),
            due_at_ms=now_ms if notices else commit.wake_at_ms,
        )
        return Outcome.APPLIED

    def _stamp(self, held: StoredOrder | None, commit: Commit, now_ms: int) -> str:
        """Return the stamp to write, "" where the order must be verified first."""
        history, since_at_ms = self.restart.history, self.restart.since_at_ms
        if held is None:
            begun_anew = since_at_ms and now_ms < since_at_ms + BEGUN_ANEW_MS
            return NOT_VERIFIED if begun_anew else history
        if commit.verified:
            return history if commit.verified == history else ""
        return "" if commit.opens and held.stamp != history else held.stamp

    def notify(self, attempt: str, state: str, now_ms: int) -> bool:
        """Add a notification to the order; return whether it may report something new."""
        held, digest = self.kept.stored, notice_digest(attempt, state)
        stored = [self.kept.digests[i : i + 6] for i in range(0, len(self.kept.digests), 6)]
        if held is None or digest in stored:
            return False
        notices = dict(held.notices)
        if attempt not in notices and len(notices) >= NOTICES_MAX:
            attempt, state = "*", ""
        before = notices.get(attempt, f":{state}").partition(":")[2]
        number = self.kept.number + 1
        notices[attempt] = f"{number}:{state if before == state else ''}"
        self._keep(
            stored=msgspec.structs.replace(held, notices=notices),
            due_at_ms=now_ms,
            number=number,
        )
        return True

    def remember(self, seen: Seen) -> None:
        """Keep beside the order what its last write has shown."""
        self.kept = self.past[-1] = msgspec.structs.replace(self.kept, seen=seen)

    def lose(self, writes: int, now_ms: int) -> None:
        """Restart, and come back without the last so many writes."""
        del self.past[max(1, len(self.past) - writes) :]
        self.kept = self.past[-1]
        number = int(self.restart.history[7:]) + 1
        self.restart = Restart(f"history{number}", now_ms)

    def _keep(self, **changes: object) -> None:
        self.kept = msgspec.structs.replace(self.kept, **changes)
        self.past.append(self.kept)


def _changed(index: Mapping[tuple[str, str], int], commit: Commit) -> Mapping[tuple[str, str], int]:
    """Return the members of the indexes after a commit."""
    changed = dict(index)
    for change in commit.index:
        changed.pop((change.index, change.member), None)
        if change.score is not None:
            changed[change.index, change.member] = change.score
    return changed
