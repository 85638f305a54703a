"""`LocalCashfree`: a test's control of the gateway that runs beside it.

A blocking test and an async one can make every call. It blocks for a fraction of a
millisecond, while the gateway's own thread does the work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, NamedTuple, TypedDict

from cfflow.testing.gateway_thread import GatewayThread

_CUSTOMER = {"customer_id": "customer_7", "customer_phone": "9898989898"}


class LocalOrder(NamedTuple):
    """An order at the local gateway, and its payment session."""

    order_id: str
    payment_session_id: str


class LocalEffect(NamedTuple):
    """One effect on money in the bank's ledger; `amount` in rupees.

    effect: "attempt_created", "authorized", "captured", "voided", "released" (the hold ran
    out), "failed", "dropped" (the customer left).
    """

    effect: str
    order_id: str
    cf_payment_id: str
    amount: Decimal
    at: datetime


class LocalWebhook(NamedTuple):
    """A signed webhook as the gateway sends it, for `orchestrator.on_webhook(headers, body)`."""

    type: str
    headers: dict[str, str]
    body: bytes


class LocalClock:
    """The gateway's time, which the `orchestrator` fixture's store uses too."""

    def __init__(self, thread: GatewayThread, emulator: Any) -> None:
        self._thread = thread
        self._emulator = emulator
        self._followers: list[Callable[[float], None]] = []

    @property
    def now(self) -> datetime:
        """The gateway's time."""
        return datetime.fromtimestamp(self.now_s(), UTC)

    def now_s(self) -> float:
        """Return the gateway's time in seconds since the epoch."""
        now: float = self._emulator.clock.now()
        return now

    def advance(self, seconds: float) -> None:
        """Skip time, at the gateway and in the store.

        When it returns, the gateway has done what became due: holds ended, customers decided,
        OTP pages expired. Webhooks that became due are being sent. Payments that became due
        wait for a worker. Raises `ValueError` for a negative time.
        """

        def skip() -> None:
            self._emulator.clock.advance(seconds)
            self._emulator.bank.advance(self._emulator.clock.now())

        self._thread.call(skip)
        for follower in self._followers:
            follower(self._emulator.clock.offset_s)

    def follow(self, follower: Callable[[float], None]) -> None:
        """Call this with the seconds skipped so far, now and each time that more are skipped."""
        self._followers.append(follower)
        follower(self._emulator.clock.offset_s)


class LocalFaults:
    """Faults that the gateway produces on request."""

    def __init__(self, thread: GatewayThread, emulator: Any) -> None:
        self._thread = thread
        self._emulator = emulator

    def add(self, call: str, kind: str, **rule: Any) -> None:
        """Make the next calls that match fail.

        call: "pay", "authenticate", "authorize", "fetch_payment", "fetch_payments",
        "create_order", "fetch_order", "any". kind: "lost_before", "lost_after" (done, and
        the answer is lost), "status_before", "status_after", "html", "garbage", "delay_before",
        "delay_after" and the others of the emulator's manual. rule: `count`, `status`,
        `delay_s`, `order_id` and the others described there. Raises `ValueError` for an
        unknown one.
        """
        import msgspec

        from cfflow.emulator import Fault

        fault = msgspec.convert({"call": call, "kind": kind, **rule}, Fault)
        self._thread.call(lambda: self._emulator.faults.add(fault))

    def clear(self) -> None:
        """Remove all faults that have not been used up."""
        self._thread.call(self._emulator.faults.clear)


class LocalLedger:
    """All effects on money at the bank, oldest first. Iterable."""

    def __init__(self, thread: GatewayThread, emulator: Any) -> None:
        self._thread = thread
        self._emulator = emulator

    def __iter__(self) -> Iterator[LocalEffect]:
        return iter(self._read(lambda: list(self._emulator.bank.ledger)))

    def of(self, order_id: str) -> list[LocalEffect]:
        """Return the effects on one order; empty for an unknown order."""
        return self._read(lambda: self._emulator.bank.ledger_of(order_id))

    def effects(self, order_id: str) -> list[str]:
        """Return the names of an order's effects, such as `["attempt_created", "captured"]`."""
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
    """The webhooks of the gateway, and where it sends them."""

    def __init__(self, thread: GatewayThread, emulator: Any) -> None:
        self._thread = thread
        self._emulator = emulator

    def send_to(self, url: str | None, **settings: Any) -> None:
        """Send webhooks to a URL; with None they are not sent. `settings`: those of the emulator.

        Raises `ValueError` for a URL or a setting that is refused.
        """
        self._thread.call(lambda: self._emulator.webhooks.configure(url=url, **settings))

    def of(self, order_id: str) -> list[LocalWebhook]:
        """Return the webhooks about an order, oldest first, signed now, sent or not."""
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
        """Block until every webhook that is due by now has been attempted.

        If the receiver runs on this test's own event loop, await `delivered` instead.
        """
        self._thread.wait(self._emulator.deliver)

    async def delivered(self) -> None:
        """Return when every webhook that is due by now has been attempted."""
        import asyncio

        await asyncio.wrap_future(self._thread.submit(self._emulator.deliver))


class GatewaySettings(TypedDict):
    """The settings of `cfflow.connect` that say where the gateway is and who asks it."""

    environment: str
    client_id: str
    client_secret: str


class LocalCashfree:
    """A gateway for one test: a real socket, an empty bank, and no network.

    A checkout is configured with `base_url`, `client_id` and `client_secret`; `settings` has
    them by the names of `cfflow.connect`. `clock`, `faults`, `ledger` and `webhooks` control
    the gateway.
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
        """Create an order of `amount` rupees.

        hold: its card payments are held until a capture, as with pre-authorization. fields:
        further fields of the gateway's create-order call, such as `order_id`, `order_meta` or
        `order_expiry_time`. Raises `ValueError` with the gateway's message if it refuses.
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
        """Approve the payment that waits for its customer, at the bank's page or in the UPI app.

        Raises `LookupError` if none waits.
        """
        self._decide(order_id, "pay")

    def decline(self, order_id: str) -> None:
        """Decline the payment that waits for its customer. Raises as `approve` does."""
        self._decide(order_id, "decline")

    def leave(self, order_id: str) -> None:
        """Leave the payment that waits for its customer. Raises as `approve` does."""
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
