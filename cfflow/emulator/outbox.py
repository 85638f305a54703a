"""The webhooks on their way: what is due, what became of each attempt, what comes again when.

Pure: whoever carries the webhooks says what time it is. An attempt counts as made when it
was due, so a clock that skips an hour leaves the same history as an hour that passed.
"""

from __future__ import annotations

import heapq
import random
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import count
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import msgspec

from cfflow.emulator.notices import Notice
from cfflow.emulator.versions import NEWEST_WEBHOOK_VERSION, WebhookVersion

# After each refused or failed attempt the next one, and after the last of them none.
RETRY_AFTER_S = (120.0, 600.0, 1800.0)
# Older ones that wait for nothing are forgotten.
KEPT_MAX = 10_000

Sequence = Literal["as_it_happened", "reversed", "shuffled"]
Outcome = Literal["accepted", "refused", "failed"]
Status = Literal["recorded", "held", "waiting", "delivered", "given_up"]


class WebhookSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where webhooks go, and how badly.

    urls: for orders without a `notify_url`; each gets every event. version: of body and
    headers. copies: how often each event is delivered. sequence: in which order those go
    out that are due together. seed: of the shuffling. hold: nothing goes out until it is
    released. at_once: how many attempts one URL may have open. time_limit_s: real seconds
    for one attempt. timestamps: of the emulator's clock, or of the machine's, for receivers
    that know nothing of skipped time. success_says_pending: the payment of a success is
    still PENDING in it.
    """

    urls: tuple[str, ...] = ()
    version: WebhookVersion = NEWEST_WEBHOOK_VERSION
    copies: Annotated[int, msgspec.Meta(ge=1, le=100)] = 1
    sequence: Sequence = "as_it_happened"
    seed: int = 0
    hold: bool = False
    at_once: Annotated[int, msgspec.Meta(ge=1, le=100)] = 1
    time_limit_s: Annotated[float, msgspec.Meta(gt=0, le=600)] = 5.0
    timestamps: Literal["emulator", "machine"] = "emulator"
    success_says_pending: bool = False


@dataclass(frozen=True, slots=True)
class DeliveryAttempt:
    """One attempt to deliver. `number` is its `x-webhook-attempt`, `at` in seconds.

    outcome: "accepted" (HTTP 200), "refused" (any other status) or "failed" (no answer).
    altered: what was made wrong in it on request.
    """

    number: int
    at: float
    outcome: Outcome
    status: int | None = None
    error: str | None = None
    altered: str | None = None


@dataclass(slots=True)
class Delivery:
    """One event for one receiver, and every attempt to bring it there.

    waiting: how many attempts are still to be made. tries: how many the schedule has made.
    """

    id: str
    notice: Notice
    url: str | None
    held: bool = False
    waiting: int = 0
    tries: int = 0
    attempts: list[DeliveryAttempt] = field(default_factory=list)

    @property
    def type(self) -> str:
        """The event's type."""
        return self.notice.type

    @property
    def order_id(self) -> str | None:
        """The order it is about."""
        return self.notice.order_id

    @property
    def delivered(self) -> bool:
        """Whether the receiver answered 200 to one that was as it should be."""
        return any(made.outcome == "accepted" and not made.altered for made in self.attempts)

    @property
    def status(self) -> Status:
        """Where it stands; "recorded": it had no URL to go to."""
        if self.delivered:
            return "delivered"
        if self.waiting:
            return "held" if self.held else "waiting"
        return "given_up" if self.attempts else "recorded"


@dataclass(order=True, slots=True)
class Errand:
    """One attempt to be made. automatic: by the schedule, not because somebody asked."""

    due_at: float
    turn: int
    delivery: Delivery = field(compare=False)
    automatic: bool = field(default=True, compare=False)
    alter: str | None = field(default=None, compare=False)


class Outbox:
    """Every delivery of one emulator, and which attempt is due when.

    kept_max: how many deliveries are kept, and more only where they wait. They are found by
    id, oldest first. Every `now` is in seconds since the epoch.
    """

    def __init__(self, kept_max: int = KEPT_MAX) -> None:
        self._kept_max = kept_max
        self.settings = WebhookSettings()
        # Ordered, because a plain dict grows slow where the first of many leaves again and again.
        self.deliveries: OrderedDict[str, Delivery] = OrderedDict()
        self._errands: list[Errand] = []
        self._turns = count()
        self._numbers = count(1)
        self._random = random.Random(0)  # noqa: S311  the same seed shuffles the same way again
        self._sequence_once: Sequence | None = None

    def configure(self, **changes: Any) -> WebhookSettings:
        """Change these settings and leave the others.

        Raises `ValueError`, and changes nothing, for what makes no sense.
        """
        settings = msgspec.convert(msgspec.structs.asdict(self.settings) | changes, WebhookSettings)
        for url in settings.urls:
            _check(url)
        if "seed" in changes:
            self._random.seed(settings.seed)
        self.settings = settings
        return settings

    def clear(self) -> None:
        """Forget every delivery; settings and the numbers of deliveries stay."""
        self.deliveries.clear()
        self._errands.clear()

    def post(self, notice: Notice, notify_url: str | None, now: float) -> list[Delivery]:
        """Take an event: for the order's own URL, else for every configured one.

        With no URL at all it is only recorded.
        """
        urls = (notify_url,) if notify_url else self.settings.urls
        if not urls:
            return [self._add(notice, None)]
        posted = []
        for url in (url for url in urls for _ in range(self.settings.copies)):
            posted.append(self._add(notice, url))
            self._push(posted[-1], now)
        return posted

    def _add(self, notice: Notice, url: str | None) -> Delivery:
        delivery = Delivery(f"wh_{next(self._numbers)}", notice, url, self.settings.hold)
        self.deliveries[delivery.id] = delivery
        if len(self.deliveries) > self._kept_max:
            self._forget()
        return delivery

    def resend(
        self, delivery: Delivery, now: float, *, alter: str | None = None, url: str | None = None
    ) -> None:
        """Let one more attempt be due at once, held or not: the same body and key.

        alter: make it wrong, as in `letters.ALTERATIONS`. url: another receiver from now on.
        Raises `ValueError` when it has no URL to go to, or one that is none.
        """
        if url is not None:
            _check(url)
        delivery.url = url or delivery.url or next(iter(self.settings.urls), None)
        if delivery.url is None:
            raise ValueError(f"{delivery.id} has no URL to go to")
        delivery.held = False
        self._push(delivery, now, automatic=False, alter=alter)

    def hold(self) -> None:
        """Keep back what waits and what comes, until it is released."""
        self.configure(hold=True)
        for errand in self._errands:
            errand.delivery.held = True

    def release(
        self,
        now: float,
        which: Iterable[Delivery] | None = None,
        sequence: Sequence | None = None,
    ) -> None:
        """Let these go out although others are held; without `which`, all, and hold no more.

        sequence: in which order these do, instead of the one of the settings.
        """
        self._sequence_once = sequence
        if which is None:
            self.configure(hold=False)
        for delivery in self.deliveries.values() if which is None else which:
            delivery.held = False
        for errand in self._errands:
            if not errand.delivery.held:
                errand.due_at = max(errand.due_at, now)
        heapq.heapify(self._errands)

    @property
    def next_due_at(self) -> float | None:
        """When the next attempt is due, if one is."""
        if not self.settings.hold:
            return self._errands[0].due_at if self._errands else None
        return min((e.due_at for e in self._errands if not e.delivery.held), default=None)

    def take_due(self, now: float) -> list[Errand]:
        """The attempts to make now, in the order of the settings; each is handed out once."""
        due, later = [], []
        while self._errands and self._errands[0].due_at <= now:
            errand = heapq.heappop(self._errands)
            if errand.delivery.held:
                later.append(errand)
            elif errand.automatic and errand.delivery.delivered:
                errand.delivery.waiting -= 1
            else:
                due.append(errand)
        for errand in later:
            heapq.heappush(self._errands, errand)
        return self._in_sequence(due)

    def settle(self, errand: Errand, status: int | None, error: str | None = None) -> None:
        """What became of an attempt, at the time it was due; what comes again is due later."""
        delivery, at = errand.delivery, errand.due_at
        outcome: Outcome = (
            "failed" if status is None else "accepted" if status == 200 else "refused"
        )
        number = len(delivery.attempts) + 1
        made = DeliveryAttempt(number, at, outcome, status, error, errand.alter)
        delivery.attempts.append(made)
        delivery.waiting -= 1
        if not errand.automatic or outcome == "accepted" or delivery.id not in self.deliveries:
            return
        if delivery.tries < len(RETRY_AFTER_S):
            delivery.held = self.settings.hold
            self._push(delivery, at + RETRY_AFTER_S[delivery.tries])
        delivery.tries += 1

    def _push(
        self, delivery: Delivery, due_at: float, *, automatic: bool = True, alter: str | None = None
    ) -> None:
        delivery.waiting += 1
        errand = Errand(due_at, next(self._turns), delivery, automatic, alter)
        heapq.heappush(self._errands, errand)

    def _in_sequence(self, due: list[Errand]) -> list[Errand]:
        if not due:
            return due
        sequence, self._sequence_once = self._sequence_once or self.settings.sequence, None
        if sequence == "reversed":
            due.reverse()
        elif sequence == "shuffled":
            self._random.shuffle(due)
        return due

    def _forget(self) -> None:
        """Keep the memory bounded: what is oldest goes, unless it still waits."""
        while len(self.deliveries) > self._kept_max:
            oldest = next(iter(self.deliveries.values()))
            if oldest.waiting:
                return
            del self.deliveries[oldest.id]


def _check(url: str) -> None:
    if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
        raise ValueError("a webhook URL begins with http:// or https:// and a host")
