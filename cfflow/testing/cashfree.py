"""`LocalCashfree`: what a test has in its hands of the gateway that runs beside it.

Every call may be made from a blocking test and from an async one; it blocks for a fraction
of a millisecond, while the gateway's own thread does the work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, NamedTuple, TypedDict

from cfflow.testing.gateway_thread import GatewayThread

__all__ = ["LocalCashfree", "LocalEffect", "LocalOrder", "LocalWebhook"]

_CUSTOMER = {"customer_id": "customer_7", "customer_phone": "9898989898"}


class LocalOrder(NamedTuple):
    """An order at the local gateway, and the session with which it is paid."""

    order_id: str
    payment_session_id: str


class LocalEffect(NamedTuple):
    """One effect on money, as the bank's ledger has it; `amount` in rupees.

    effect: "attempt_created", "authorized", "captured", "voided", "released" (the hold ran
    out), "failed", "dropped" (the customer left).
    """

    effect: str
    order_id: str
    cf_payment_id: str
    amount: Decimal
    at: datetime


class LocalWebhook(NamedTuple):
    """A webhook as the gateway sends it, signed: `orchestrator.on_webhook(headers, body)`."""

    type: str
    headers: dict[str, str]
    body: bytes


class LocalClock:
    """The gateway's time. The `orchestrator` fixture's store goes by it too."""

    def __init__(self, thread: GatewayThread, emulator: Any) -> None:
        self._thread = thread
        self._emulator = emulator
        self._followers: list[Callable[[float], None]] = []

    @property
    def now(self) -> datetime:
        """What time it is at the gateway."""
        return datetime.fromtimestamp(self.now_s(), UTC)

    def now_s(self) -> float:
        """What time it is at the gateway, in seconds since the epoch."""
        now: float = self._emulator.clock.now()
        return now

    def advance(self, seconds: float) -> None:
        """Skip time, at the gateway and in the store: what was due there has happened then.

        Holds run out, customers answer, OTP pages expire. Webhooks that became due are on
        their way; what is due for a worker waits for one. Raises `ValueError` for a time
        that is negative.
        """

        def skip() -> None:
            self._emulator.clock.advance(seconds)
            self._emulator.bank.advance(self._emulator.clock.now())

        self._thread.call(skip)
        for follower in self._followers:
            follower(self._emulator.clock.offset_s)

    def follow(self, follower: Callable[[float], None]) -> None:
        """Have this called with the seconds skipped so far, now and whenever more are."""
        self._followers.append(follower)
        follower(self._emulator.clock.offset_s)


class LocalFaults:
    """What goes wrong on request."""

    def __init__(self, thread: GatewayThread, emulator: Any) -> None:
        self._thread = thread
        self._emulator = emulator

    def add(self, call: str, kind: str, **rule: Any) -> None:
        """Let the next calls that match meet a fault.

        call: "pay", "authenticate", "authorize", "fetch_payment", "fetch_payments",
        "create_order", "fetch_order", "any". kind: "lost_before", "lost_after" (done, and
        no answer), "status_before", "status_after", "html", "garbage", "delay_before",
        "delay_after" and the others of the emulator's manual. rule: `count`, `status`,
        `delay_s`, `order_id` and what else is told there. Raises `ValueError`.
        """
        import msgspec

        from cfflow.emulator import Fault

        fault = msgspec.convert({"call": call, "kind": kind, **rule}, Fault)
        self._thread.call(lambda: self._emulator.faults.add(fault))

    def clear(self) -> None:
        """Forget every rule that still waits."""
        self._thread.call(self._emulator.faults.clear)


class LocalLedger:
    """Every effect on money at the bank, in the order it happened. Iterable."""

    def __init__(self, thread: GatewayThread, emulator: Any) -> None:
        self._thread = thread
        self._emulator = emulator

    def __iter__(self) -> Iterator[LocalEffect]:
        return iter(self._read(lambda: list(self._emulator.bank.ledger)))

    def of(self, order_id: str) -> list[LocalEffect]:
        """The effects on one order; none for an order that never was."""
        return self._read(lambda: self._emulator.bank.ledger_of(order_id))

    def effects(self, order_id: str) -> list[str]:
        """The effects on one order by name, such as `["attempt_created", "captured"]`."""
        return [entry.effect for entry in self.of(order_id)]

    def _read(self, read: Callable[[], list[Any]]) -> list[LocalEffect]:
        def up_to_date() -> list[Any]:
            self._emulator.bank.advance(self._emulator.clock.now())
            return read()

        return [
            LocalEffect(
                entry.effect,
                entry.order_id,
                entry.cf_payment_id,
                entry.amount,
                datetime.fromtimestamp(entry.at, UTC),
            )
            for entry in self._thread.call(up_to_date)
        ]


class LocalWebhooks:
    """What the gateway tells the merchant, and where to."""

    def __init__(self, thread: GatewayThread, emulator: Any) -> None:
        self._thread = thread
        self._emulator = emulator

    def send_to(self, url: str | None, **settings: Any) -> None:
        """Send webhooks to a URL; None keeps them here. `settings`: those of the emulator.

        Raises `ValueError` for a URL or a setting that makes no sense.
        """
        self._thread.call(lambda: self._emulator.webhooks.configure(url=url, **settings))

    def of(self, order_id: str) -> list[LocalWebhook]:
        """The webhooks about an order, oldest first, signed now, wherever they were sent."""
        from cfflow.emulator.webhook_outbox import PendingAttempt
        from cfflow.emulator.webhook_requests import webhook_request

        def read() -> list[LocalWebhook]:
            now = self._emulator.clock.now()
            self._emulator.bank.advance(now)
            found = [each for each in self._emulator.webhooks if each.order_id == order_id]
            letters = [webhook_request(PendingAttempt(now, 0, delivery)) for delivery in found]
            return [
                LocalWebhook(delivery.type, sent.headers, sent.body)
                for delivery, sent in zip(found, letters, strict=True)
            ]

        return self._thread.call(read)

    def deliver(self) -> None:
        """Block until every webhook that is due by now was attempted.

        Not where the receiver runs on this test's own event loop: there, await `delivered`.
        """
        self._thread.wait(self._emulator.deliver)

    async def delivered(self) -> None:
        """Return when every webhook that is due by now was attempted."""
        import asyncio

        await asyncio.wrap_future(self._thread.submit(self._emulator.deliver))


class GatewaySettings(TypedDict):
    """The settings of `cfflow.connect` that say where the gateway is and who asks it."""

    environment: str
    client_id: str
    client_secret: str


class LocalCashfree:
    """A gateway for one test: a real socket, an empty bank, and no network.

    `base_url`, `client_id` and `client_secret` are what a checkout is configured with;
    `settings` holds them by the names of `cfflow.connect`. `clock`, `faults`, `ledger` and
    `webhooks` are what no real gateway offers.
    """

    def __init__(self, thread: GatewayThread, emulator: Any) -> None:
        self._thread = thread
        self._emulator = emulator
        self.base_url: str = emulator.base_url
        self.client_id: str = emulator.client_id
        self.client_secret: str = emulator.client_secret
        self.clock = LocalClock(thread, emulator)
        self.faults = LocalFaults(thread, emulator)
        self.ledger = LocalLedger(thread, emulator)
        self.webhooks = LocalWebhooks(thread, emulator)

    @property
    def settings(self) -> GatewaySettings:
        """The gateway's settings by the names of `cfflow.connect`."""
        return {
            "environment": self.base_url,
            "client_id": self.client_id,
            "client_secret": self.client_secret,
        }

    @property
    def environ(self) -> dict[str, str]:
        """The same settings by the names of the environment variables, for a child process."""
        return {
            "CASHFREE_ENVIRONMENT": self.base_url,
            "CASHFREE_CLIENT_ID": self.client_id,
            "CASHFREE_CLIENT_SECRET": self.client_secret,
        }

    def create_order(
        self, amount: Decimal | int | str, *, hold: bool = False, **fields: Any
    ) -> LocalOrder:
        """A new order of `amount` rupees.

        hold: card payments of it are held until a capture, as with pre-authorization.
        fields: further ones of the gateway's create-order call, such as `order_id`,
        `order_meta` or `order_expiry_time`. Raises `ValueError` with the gateway's words.
        """
        body = {
            "order_amount": Decimal(amount),
            "order_currency": "INR",
            "customer_details": _CUSTOMER,
            "order_tags": {"cfflow_preauth": "true"} if hold else None,
            **fields,
        }

        from cfflow.emulator import Refused

        def create() -> LocalOrder:
            bank = self._emulator.bank
            account = bank.account(self.client_id, self.client_secret)
            try:
                order = bank.create_order(account, body, self._emulator.clock.now())
            except Refused as refusal:
                raise ValueError(str(refusal)) from None
            return LocalOrder(order.order_id, bank.session_of(order))

        return self._thread.call(create)

    def approve(self, order_id: str) -> None:
        """Let the customer approve what waits for them: at the bank's page, in the UPI app.

        Raises `LookupError` when nothing waits.
        """
        self._decide(order_id, "pay")

    def decline(self, order_id: str) -> None:
        """Let the customer's bank decline what waits. Raises as `approve` does."""
        self._decide(order_id, "decline")

    def leave(self, order_id: str) -> None:
        """Let the customer walk away from what waits. Raises as `approve` does."""
        self._decide(order_id, "leave")

    def _decide(self, order_id: str, decision: str) -> None:
        def decide() -> None:
            bank, now = self._emulator.bank, self._emulator.clock.now()
            bank.advance(now)
            waiting = [each for each in bank.attempts_of(order_id) if bank.customer.is_open(each)]
            if not waiting:
                raise LookupError(f"no payment of {order_id} waits for its customer")
            getattr(bank.customer, decision)(waiting[-1], now)

        self._thread.call(decide)
