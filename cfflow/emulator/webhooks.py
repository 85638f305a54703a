"""The emulator's webhooks as one thing to play with: configure, hold, release, resend, look."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import count
from typing import Any

import msgspec

from cfflow.emulator.bank import Bank
from cfflow.emulator.clock import Clock
from cfflow.emulator.letters import ALTERATIONS, Alteration
from cfflow.emulator.notices import Notice, notice_of, type_of
from cfflow.emulator.outbox import Delivery, Outbox, Sequence, WebhookSettings
from cfflow.emulator.postman import Postman
from cfflow.emulator.records import DEFAULT_CLIENT_SECRET, Attempt, Effect


class Webhooks:
    """What a bank tells its merchants, and what became of it.

    Iterates over the deliveries, oldest first. Whatever it lets go out is sent by the
    server's own event loop soon after; `await deliver()` returns when it was.
    """

    def __init__(self, bank: Bank, clock: Clock) -> None:
        self.outbox = Outbox()
        # Signs the events that nobody's order is behind.
        self.secret = DEFAULT_CLIENT_SECRET
        self._bank = bank
        self._clock = clock
        self._numbers = count(1)
        self.postman = Postman(self.outbox, self._tick, self._next_due_at, self._ahead_s)
        bank.listen(self._hear)
        clock.listen(self.postman.wake)

    def __iter__(self) -> Iterator[Delivery]:
        return iter(self.deliveries)

    def __len__(self) -> int:
        return len(self.outbox.deliveries)

    @property
    def deliveries(self) -> list[Delivery]:
        """Every delivery, oldest first: type, status, and what became of each attempt."""
        return list(self.outbox.deliveries.values())

    @property
    def settings(self) -> WebhookSettings:
        """Where webhooks go, and how badly."""
        return self.outbox.settings

    def of(self, which: str) -> list[Delivery]:
        """The deliveries of this id, or about this order. Raises `LookupError` for none."""
        found = [each for each in self if which in (each.id, each.order_id)]
        if not found:
            raise LookupError(f"no webhook has the id {which}, or is about such an order")
        return found

    def configure(self, **changes: Any) -> WebhookSettings:
        """Change settings, by the names of `WebhookSettings`; `url` stands for one of `urls`.

        Raises `ValueError`, and changes nothing, for what makes no sense.
        """
        if "url" in changes:
            url = changes.pop("url")
            changes["urls"] = () if url is None else (url,)
        if changes.get("hold") is False and self.settings.hold:
            self.release()
        settings = self.outbox.configure(**changes)
        if changes.get("hold"):
            self.outbox.hold()
        return settings

    def hold(self) -> None:
        """Keep every webhook back until it is released."""
        self.outbox.hold()

    def release(self, which: str | None = None, sequence: Sequence | None = None) -> list[Delivery]:
        """Let go out what is held: all, or one delivery, or those of one order.

        sequence: "reversed" or "shuffled", other than the settings say. Without `which`,
        nothing is held any more. Raises `LookupError` when there is no such delivery.
        """
        found = None if which is None else self.of(which)
        held = [each for each in (self if found is None else found) if each.status == "held"]
        self.outbox.release(self._clock.now(), found, sequence)
        self.postman.wake()
        return held

    def resend(
        self, which: str, *, alter: Alteration | None = None, url: str | None = None
    ) -> list[Delivery]:
        """Send a delivery, or all of an order, once more: the same body, the same key.

        alter: made wrong on purpose; whatever a receiver answers to that changes nothing.
        url: to this receiver from now on. Raises `LookupError` for no such delivery,
        `ValueError` for one without a URL and for an unknown alteration.
        """
        if alter is not None and alter not in ALTERATIONS:
            raise ValueError(f"a webhook can be {', '.join(ALTERATIONS)}")
        found, now = self.of(which), self._clock.now()
        for delivery in found:
            self.outbox.resend(delivery, now, alter=alter, url=url)
        self.postman.wake()
        return found

    def send(self, type_: str, data: Mapping[str, Any]) -> list[Delivery]:
        """Send an event of any type, made up by the caller and signed as the first account's.

        It goes to the configured URLs, as refunds, disputes and settlements do.
        """
        now, version = self._clock.now(), self.settings.version
        order, payment = (_mapping(data.get(name)) for name in ("order", "payment"))
        order_id, cf_payment_id = order.get("order_id"), payment.get("cf_payment_id")
        number, paid = next(self._numbers), cf_payment_id and str(cf_payment_id)
        notice = Notice(type_, order_id, paid, now, number, version, self.secret, data=data)
        return self._post(notice, None, now)

    def clear(self) -> None:
        """Forget every delivery, the waiting ones too; the settings stay."""
        self.outbox.clear()

    def reset(self, settings: WebhookSettings) -> None:
        """Forget every delivery, and go on with these settings."""
        self.outbox.clear()
        self.outbox.configure(**msgspec.structs.asdict(settings))

    async def deliver(self) -> None:
        """Return when everything that is due by now was attempted."""
        await self.postman.deliver()

    def _hear(self, effect: Effect, attempt: Attempt, at: float) -> None:
        """An effect happened; some of them are told to the merchant."""
        type_ = type_of(effect, attempt)
        if type_ is not None:
            settings, number = self.settings, next(self._numbers)
            pending = settings.success_says_pending
            notice = notice_of(type_, attempt, at, number, settings.version, pending=pending)
            self._post(notice, _notify_url(attempt), at)

    def _post(self, notice: Notice, notify_url: str | None, now: float) -> list[Delivery]:
        posted = self.outbox.post(notice, notify_url, now)
        if posted[0].url is not None:
            self.postman.wake()
        return posted

    def _tick(self) -> float:
        now = self._clock.now()
        self._bank.advance(now)
        return now

    def _next_due_at(self) -> float:
        soonest = (self._bank.next_due_at, self.outbox.next_due_at)
        return min((at for at in soonest if at is not None), default=float("inf"))

    def _ahead_s(self) -> float:
        return self._clock.offset_s if self.settings.timestamps == "machine" else 0.0


def _notify_url(attempt: Attempt) -> str | None:
    url = (attempt.order.meta or {}).get("notify_url")
    return url if isinstance(url, str) and url else None


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
