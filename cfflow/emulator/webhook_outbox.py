"""The outbox of webhooks: which attempt is due when, and the result of each.

It has no I/O and no clock: its caller passes the time. An attempt is recorded at its due
time, so a clock that skips an hour gives the same history as an hour that passed.
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

from cfflow.emulator.versions import NEWEST_WEBHOOK_VERSION, WebhookVersion
from cfflow.emulator.webhook_events import WebhookEvent

# The pauses before the retries of an attempt that was refused or failed
# (gateway.md#webhooks). After the last one there is no other.
RETRY_AFTER_S = (120.0, 600.0, 1800.0)
# How many deliveries are kept; the oldest ones without a pending attempt are removed.
KEPT_MAX = 10_000

Sequence = Literal["as_it_happened", "reversed", "shuffled"]
Outcome = Literal["accepted", "refused", "failed"]
Status = Literal["recorded", "held", "waiting", "delivered", "given_up"]


class WebhookSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where webhooks are sent, and with which irregularities.

    urls: for orders without a `notify_url`; each gets every event. version: of body and
    headers. copies: how often each event is delivered. sequence: the order of deliveries that
    are due together. seed: of the shuffling. hold: nothing is sent until it is released.
    at_once: how many attempts one URL may have open. time_limit_s: real seconds for one
    attempt. timestamps: by the emulator's clock, or by the machine's, for receivers that
    refuse the timestamps of skipped time. success_says_pending: a success event shows its
    payment as PENDING.
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
    """One attempt that was made. number: its `x-webhook-attempt`. at: in seconds.

    outcome: "accepted" (HTTP 200), "refused" (any other status) or "failed" (no response).
    altered: the alteration that was requested.
    """

    number: int
    at: float
    outcome: Outcome
    status: int | None = None
    error: str | None = None
    altered: str | None = None


@dataclass(slots=True)
class Delivery:
    """One event for one URL, with every attempt to deliver it.

    waiting: how many attempts are pending. tries: how many of those made were scheduled.
    """

    id: str
    event: WebhookEvent
    url: str | None
    held: bool = False
    waiting: int = 0
    tries: int = 0
    attempts: list[DeliveryAttempt] = field(default_factory=list)

    @property
    def type(self) -> str:
        """The event's type."""
        return self.event.type

    @property
    def order_id(self) -> str | None:
        """The order of the event."""
        return self.event.order_id

    @property
    def delivered(self) -> bool:
        """Whether the receiver responded with 200 to an unaltered attempt."""
        return any(made.outcome == "accepted" and not made.altered for made in self.attempts)

    @property
    def status(self) -> Status:
        """The state of the delivery; "recorded" means that it has no URL."""
        if self.delivered:
            return "delivered"
        if self.waiting:
            return "held" if self.held else "waiting"
        return "given_up" if self.attempts else "recorded"


@dataclass(order=True, slots=True)
class PendingAttempt:
    """One attempt to be made. automatic: it is scheduled, not requested by a caller."""

    due_at_s: float
    turn: int
    delivery: Delivery = field(compare=False)
    automatic: bool = field(default=True, compare=False)
    alter: str | None = field(default=None, compare=False)


class Outbox:
    """Every delivery of one emulator, by id, oldest first, and its pending attempts.

    kept_max: how many deliveries are kept; those with a pending attempt are kept besides.
    Every `now_s` is in seconds since the epoch.
    """

    def __init__(self, kept_max: int = KEPT_MAX) -> None:
        self._kept_max = kept_max
        self.settings = WebhookSettings()
        # An OrderedDict, because a plain dict gets slow when its first key is removed often.
        self.deliveries: OrderedDict[str, Delivery] = OrderedDict()
        self._pending: list[PendingAttempt] = []
        self._turns = count()
        self._numbers = count(1)
        self._random = random.Random(0)  # noqa: S311  the same seed shuffles the same way again
        self._sequence_once: Sequence | None = None

    def configure(self, **changes: Any) -> WebhookSettings:
        """Change some settings and return them all.

        Raises `ValueError`, and changes nothing, for invalid ones.
        """
        settings = msgspec.convert(msgspec.structs.asdict(self.settings) | changes, WebhookSettings)
        for url in settings.urls:
            _check(url)
        if "seed" in changes:
            self._random.seed(settings.seed)
        self.settings = settings
        return settings

    def clear(self) -> None:
        """Remove every delivery. Settings stay, and ids are not used again."""
        self.deliveries.clear()
        self._pending.clear()

    def add(self, event: WebhookEvent, notify_url: str | None, now_s: float) -> list[Delivery]:
        """Add an event and return its deliveries: for `notify_url`, else for every set URL.

        With no URL at all it is only recorded.
        """
        urls = (notify_url,) if notify_url else self.settings.urls
        if not urls:
            return [self._add(event, None)]
        added = []
        for url in (url for url in urls for _ in range(self.settings.copies)):
            added.append(self._add(event, url))
            self._schedule(added[-1], now_s)
        return added

    def _add(self, event: WebhookEvent, url: str | None) -> Delivery:
        delivery = Delivery(f"wh_{next(self._numbers)}", event, url, self.settings.hold)
        self.deliveries[delivery.id] = delivery
        if len(self.deliveries) > self._kept_max:
            self._remove_oldest()
        return delivery

    def resend(
        self, delivery: Delivery, now_s: float, *, alter: str | None = None, url: str | None = None
    ) -> None:
        """Schedule one more attempt for `now_s`, with the same body and key, even if held.

        alter: one of `webhook_requests.ALTERATIONS`. url: replaces the delivery's URL.
        Raises `ValueError` if it has no URL or an invalid one.
        """
        if url is not None:
            _check(url)
        delivery.url = url or delivery.url or next(iter(self.settings.urls), None)
        if delivery.url is None:
            raise ValueError(f"{delivery.id} has no URL to go to")
        delivery.held = False
        self._schedule(delivery, now_s, automatic=False, alter=alter)

    def check_receiver(self, url: str) -> None:
        """Raise `ValueError` for a URL that is not set, and to which no delivery goes."""
        _check(url)
        if url not in self.settings.urls and all(
            each.url != url for each in self.deliveries.values()
        ):
            raise ValueError(
                "url : is no receiver yet; set it first: PUT /_emulator/webhooks/settings,"
                " or cfflow emulator webhooks --send-to URL"
            )

    def hold(self) -> None:
        """Hold every pending and every new delivery until it is released."""
        self.configure(hold=True)
        for pending in self._pending:
            pending.delivery.held = True

    def release(
        self,
        now_s: float,
        which: Iterable[Delivery] | None = None,
        sequence: Sequence | None = None,
    ) -> None:
        """Release these deliveries. Without `which`, release all and end the holding.

        sequence: their order, instead of the one in the settings.
        """
        self._sequence_once = sequence
        if which is None:
            self.configure(hold=False)
        for delivery in self.deliveries.values() if which is None else which:
            delivery.held = False
        for pending in self._pending:
            if not pending.delivery.held:
                pending.due_at_s = max(pending.due_at_s, now_s)
        heapq.heapify(self._pending)

    @property
    def next_due_at_s(self) -> float | None:
        """When the next attempt is due, or None."""
        if not self.settings.hold:
            return self._pending[0].due_at_s if self._pending else None
        return min((e.due_at_s for e in self._pending if not e.delivery.held), default=None)

    def take_due(self, now_s: float) -> list[PendingAttempt]:
        """Remove and return the attempts that are due, in the order of the settings."""
        due, later = [], []
        while self._pending and self._pending[0].due_at_s <= now_s:
            pending = heapq.heappop(self._pending)
            if pending.delivery.held:
                later.append(pending)
            elif pending.automatic and pending.delivery.delivered:
                pending.delivery.waiting -= 1
            else:
                due.append(pending)
        for pending in later:
            heapq.heappush(self._pending, pending)
        return self._in_sequence(due)

    def record_result(
        self, pending: PendingAttempt, status: int | None, error: str | None = None
    ) -> None:
        """Record an attempt at its due time, and schedule a retry if it needs one.

        status: of the response, or None when there was none. error: why there was none.
        """
        delivery, at = pending.delivery, pending.due_at_s
        outcome: Outcome = (
            "failed" if status is None else "accepted" if status == 200 else "refused"
        )
        number = len(delivery.attempts) + 1
        made = DeliveryAttempt(number, at, outcome, status, error, pending.alter)
        delivery.attempts.append(made)
        delivery.waiting -= 1
        if not pending.automatic or outcome == "accepted" or delivery.id not in self.deliveries:
            return
        if delivery.tries < len(RETRY_AFTER_S):
            delivery.held = self.settings.hold
            self._schedule(delivery, at + RETRY_AFTER_S[delivery.tries])
        delivery.tries += 1

    def _schedule(
        self,
        delivery: Delivery,
        due_at_s: float,
        *,
        automatic: bool = True,
        alter: str | None = None,
    ) -> None:
        delivery.waiting += 1
        pending = PendingAttempt(due_at_s, next(self._turns), delivery, automatic, alter)
        heapq.heappush(self._pending, pending)

    def _in_sequence(self, due: list[PendingAttempt]) -> list[PendingAttempt]:
        if not due:
            return due
        sequence, self._sequence_once = self._sequence_once or self.settings.sequence, None
        if sequence == "reversed":
            due.reverse()
        elif sequence == "shuffled":
            self._random.shuffle(due)
        return due

    def _remove_oldest(self) -> None:
        """Remove the oldest deliveries beyond the limit, so that memory stays bounded."""
        while len(self.deliveries) > self._kept_max:
            oldest = next(iter(self.deliveries.values()))
            if oldest.waiting:
                return
            del self.deliveries[oldest.id]


def _check(url: str) -> None:
    if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
        raise ValueError("a webhook URL begins with http:// or https:// and a host")
