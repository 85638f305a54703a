"""The emulator's webhooks for tests and demos: configure, hold, release, resend, inspect."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import count
from typing import Any

import msgspec

from cfflow.emulator.bank import Bank
from cfflow.emulator.clock import Clock
from cfflow.emulator.records import DEFAULT_CLIENT_SECRET, Attempt, Effect
from cfflow.emulator.webhook_events import WebhookEvent, event_of, event_type_of
from cfflow.emulator.webhook_outbox import Delivery, Outbox, Sequence, WebhookSettings
from cfflow.emulator.webhook_requests import ALTERATIONS, Alteration
from cfflow.emulator.webhook_sender import WebhookSender


class Webhooks:
    """The webhooks about one bank's payments. Iterates over the deliveries, oldest first.

    The server's event loop sends them soon after they are due; `await deliver()` returns
    when it has.
    """

    def __init__(self, bank: Bank, clock: Clock) -> None:
        self.outbox = Outbox()
        # Signs the events of `send`, which belong to no order and so to no account.
        self.secret = DEFAULT_CLIENT_SECRET
        self._bank = bank
        self._clock = clock
        self._numbers = count(1)
        self.sender = WebhookSender(self.outbox, self._tick, self._next_due_at_s, self._earlier_s)
        bank.listen(self._on_effect)
        clock.listen(self.sender.wake)

    def __iter__(self) -> Iterator[Delivery]:
        return iter(self.deliveries)

    def __len__(self) -> int:
        return len(self.outbox.deliveries)

    @property
    def deliveries(self) -> list[Delivery]:
        """Every delivery, oldest first, with its attempts."""
        return list(self.outbox.deliveries.values())

    @property
    def settings(self) -> WebhookSettings:
        """The present settings."""
        return self.outbox.settings

    def of(self, which: str) -> list[Delivery]:
        """Return the deliveries with this id or of this order. Raises `LookupError` for none."""
        found = [each for each in self if which in (each.id, each.order_id)]
        if not found:
            raise LookupError(f"no webhook has the id {which}, or is about such an order")
        return found

    def configure(self, **changes: Any) -> WebhookSettings:
        """Change settings, by the names of `WebhookSettings`; `url` stands for one of `urls`.

        Raises `ValueError`, and changes nothing, for invalid ones.
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
        """Hold every webhook until it is released."""
        self.outbox.hold()

    def release(self, which: str | None = None, sequence: Sequence | None = None) -> list[Delivery]:
        """Release one delivery, those of one order, or all, and return them.

        sequence: "reversed" or "shuffled", instead of the one in the settings. Without
        `which`, new webhooks are no longer held. Raises `LookupError` for no such delivery.
        """
        found = None if which is None else self.of(which)
        held = [each for each in (self if found is None else found) if each.status == "held"]
        self.outbox.release(self._clock.now(), found, sequence)
        self.sender.wake()
        return held

    def resend(
        self, which: str, *, alter: Alteration | None = None, url: str | None = None
    ) -> list[Delivery]:
        """Send a delivery, or those of an order, once more with the same body and key.

        alter: makes the request wrong; a 200 to it does not count as delivered. url: replaces
        the delivery's URL. Raises `LookupError` for no such delivery, `ValueError` for one
        without a URL and for an unknown alteration.
        """
        if alter is not None and alter not in ALTERATIONS:
            raise ValueError(f"a webhook can be {', '.join(ALTERATIONS)}")
        found, now_s = self.of(which), self._clock.now()
        for delivery in found:
            self.outbox.resend(delivery, now_s, alter=alter, url=url)
        self.sender.wake()
        return found

    def send(self, type_: str, data: Mapping[str, Any]) -> list[Delivery]:
        """Send an event of any type with the caller's data, signed with `secret`.

        It goes to the URLs of the settings, as refunds, disputes and settlements do.
        """
        now_s, version = self._clock.now(), self.settings.version
        order, payment = (_mapping(data.get(name)) for name in ("order", "payment"))
        order_id, cf_payment_id = order.get("order_id"), payment.get("cf_payment_id")
        number, paid = next(self._numbers), cf_payment_id and str(cf_payment_id)
        event = WebhookEvent(type_, order_id, paid, now_s, number, version, self.secret, data=data)
        return self._add(event, None, now_s)

    def clear(self) -> None:
        """Remove every delivery, pending ones too. The settings stay."""
        self.outbox.clear()

    def reset(self, settings: WebhookSettings) -> None:
        """Remove every delivery and replace the settings."""
        self.outbox.clear()
        self.outbox.configure(**msgspec.structs.asdict(settings))

    async def deliver(self) -> None:
        """Return when everything that is due by now has been attempted."""
        await self.sender.deliver()

    def _on_effect(self, effect: Effect, attempt: Attempt, at_s: float) -> None:
        """Add the event for an effect, if it has one."""
        type_ = event_type_of(effect, attempt)
        if type_ is not None:
            settings, number = self.settings, next(self._numbers)
            pending = settings.success_says_pending
            event = event_of(type_, attempt, at_s, number, settings.version, pending=pending)
            self._add(event, _notify_url(attempt), at_s)

    def _add(self, event: WebhookEvent, notify_url: str | None, now_s: float) -> list[Delivery]:
        added = self.outbox.add(event, notify_url, now_s)
        if added[0].url is not None:
            self.sender.wake()
        return added

    def _tick(self) -> float:
        now_s = self._clock.now()
        self._bank.advance(now_s)
        return now_s

    def _next_due_at_s(self) -> float:
        soonest = (self._bank.next_due_at_s, self.outbox.next_due_at_s)
        return min((at_s for at_s in soonest if at_s is not None), default=float("inf"))

    def _earlier_s(self) -> float:
        return self._clock.offset_s if self.settings.timestamps == "machine" else 0.0


def _notify_url(attempt: Attempt) -> str | None:
    url = (attempt.order.meta or {}).get("notify_url")
    return url if isinstance(url, str) and url else None


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
