"""Everything that cfflow raises, and what each error means for the money.

    CfflowError
    ├── ConfigError            a setting is missing, unknown or impossible
    ├── FlowError              a flow's TOML text cannot be used
    ├── PaymentNotFound        no such payment in the store
    ├── AlreadyPaid            an attempt of this order took money
    ├── TooManyPayments        the order has as many payments as one may have
    ├── IllegalStep            the payment's state does not permit this step
    ├── OtpLimit               the flow's OTP limits forbid it now (retry_at)
    ├── InvalidInput           an argument that could never be sent
    │   └── InvalidAmount      zero, negative, more than two decimals, over the hold
    ├── Conflict               another commit changed the payment first
    ├── OutcomeUnknown         the call may have had an effect; an inquiry decides
    ├── InvalidSignature       a notification that is not verified (reason)
    ├── StoreError             what the store returned cannot be used
    │   ├── StoreUnavailable   the store did not write it: down, read-only, full
    │   └── StoreReplaced      it is another store than the one that this process began with
    ├── Paused                 a person has stopped such steps (gate)
    └── GatewayError           the gateway's answer, or the lack of one
        ├── GatewayRejected    it refused this request (code, message)
        ├── GatewayAuthError   it refused these credentials
        ├── RateLimited        too many calls (retry_after_s)
        └── GatewayUnavailable it was not reached, or an inquiry got no answer

Every class has two flags about the step that raised it: `safe_to_retry`, whether the same call
may be made again without an inquiry first, and `money_may_have_moved`. No error's text contains
a card number, a CVV, an OTP or a session id.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from datetime import datetime

    from cfflow.views.payment import Payment


#: Why a notification was refused.
Reason = Literal["missing_header", "bad_timestamp", "stale", "forged", "oversized", "malformed"]


class CfflowError(Exception):
    """Root of the tree. `payment` is the payment as it was last read, None where there was none."""

    safe_to_retry: bool = False
    money_may_have_moved: bool = False

    def __init__(self, message: str, *, payment: Payment | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.payment = payment


class ConfigError(CfflowError):
    """A setting is missing, unknown or impossible. Nothing was sent."""


class FlowError(CfflowError):
    """A flow's text cannot be used; the message names file, key and reason."""


class PaymentNotFound(CfflowError):
    """The store has no payment of this id. After a loss of data: `adopt` the order."""


class AlreadyPaid(CfflowError):
    """An attempt of this order took money already; no new one was started."""


class TooManyPayments(CfflowError):
    """The order has as many payments as one may have; no new one was started. Make a new order."""


class IllegalStep(CfflowError):
    """The payment's state does not permit this step. Nothing was sent."""


class OtpLimit(CfflowError):
    """The flow's OTP limits forbid this step now. Nothing was sent.

    `retry_at` is when it becomes possible (an aware datetime), None for never.
    """

    def __init__(
        self, message: str, *, retry_at: datetime | None = None, payment: Payment | None = None
    ) -> None:
        super().__init__(message, payment=payment)
        self.retry_at = retry_at


class InvalidInput(CfflowError):
    """An argument that can never be sent: an ill-formed order id, OTP or session id."""


class InvalidAmount(InvalidInput):
    """An amount that can never be sent: zero, negative, three decimals, over the hold."""


class Conflict(CfflowError):
    """Another commit changed this payment first, or a step is on its way. Nothing was sent.

    Read the payment again and decide anew: the same button may have been pressed twice.
    """


class OutcomeUnknown(CfflowError):
    """The call may have been sent, and whether it had an effect is not known.

    Treat it neither as success nor as failure. The operation stays open; `refresh` asks the
    gateway, whose answer decides (gateway.md#proof). `replayed`: the gateway repeated, under the
    same key, the error with which it had ended the first call (gateway.md#idempotency).
    """

    money_may_have_moved = True
    replayed: bool = False


class InvalidSignature(CfflowError):
    """A notification that is not verified: respond with 400. Nothing was changed.

    `reason`: `missing_header`, `bad_timestamp`, `stale`, `forged`, `oversized` or `malformed`.
    """

    def __init__(self, message: str, *, reason: Reason = "forged") -> None:
        super().__init__(message)
        self.reason = reason


class StoreError(CfflowError):
    """The store returned something that cfflow cannot use."""


class StoreUnavailable(StoreError):
    """The store did not write it: down, read-only, loading or out of memory.

    `money_may_have_moved` is True when a gateway call had been made before its outcome
    could be stored; its operation stays open, an inquiry decides, and then it is not
    `safe_to_retry`.
    """

    safe_to_retry = True

    def __init__(
        self, message: str, *, money_may_have_moved: bool = False, payment: Payment | None = None
    ) -> None:
        super().__init__(message, payment=payment)
        self.money_may_have_moved = money_may_have_moved


class StoreReplaced(StoreError):
    """The store is not the one that the process began with, or it is another account's.

    It was flushed, or this is another server. Steps and starts are refused until a person accepts
    the store (`cfflow accept-store`): its payments may be missing, and a second pay could charge
    a customer twice. Nothing was sent, unless `money_may_have_moved` is True: then the outcome
    of a call could not be stored.
    """


class Paused(CfflowError):
    """A person has stopped such steps for all orders. Nothing was sent.

    `gate`: `pay`, `auto` (the worker's own captures and voids) or `resend`. `actor` and `note`:
    who stopped it and why; `at`: when (an aware datetime). Try again once it goes on.
    """

    safe_to_retry = True

    def __init__(
        self, gate: str, *, actor: str, note: str, at: datetime, payment: Payment | None = None
    ) -> None:
        text = f"{gate} is paused by {actor} since {at:%Y-%m-%d %H:%M} UTC: {note}"
        super().__init__(text, payment=payment)
        self.gate, self.actor, self.note, self.at = gate, actor, note, at


class GatewayError(CfflowError):
    """The gateway's answer, or the lack of one. Its support finds the call by `request_id`.

    `was_sent` is False where this process sent nothing: held back by the rate budget, not
    connected, closed. Then the gateway has never seen the call, and there is no `status`.
    """

    was_sent: bool = True

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        code: str = "",
        type: str = "",  # noqa: A002  the gateway's own field name
        request_id: str = "",
        payment: Payment | None = None,
    ) -> None:
        super().__init__(message, payment=payment)
        self.status = status
        self.code = code
        self.type = type
        self.request_id = request_id


class GatewayRejected(GatewayError):
    """The gateway refused this request; no money moved by it.

    `fetch_first` is True for refusals which show that the gateway has more information than
    we have ("already processed", `order_inactive`): the engine asked before it raised.
    """

    fetch_first: bool = False


class GatewayAuthError(GatewayError):
    """The gateway refused these credentials. The payment stays as it was."""


class RateLimited(GatewayError):
    """Too many calls; this one had no effect. Try again after `retry_after_s` seconds."""

    safe_to_retry = True

    def __init__(
        self,
        message: str,
        *,
        retry_after_s: float,
        status: int | None = None,
        code: str = "",
        type: str = "",  # noqa: A002  the gateway's own field name
        request_id: str = "",
        payment: Payment | None = None,
    ) -> None:
        super().__init__(
            message, status=status, code=code, type=type, request_id=request_id, payment=payment
        )
        self.retry_after_s = retry_after_s


class GatewayUnavailable(GatewayError):
    """The gateway was not reached, or an inquiry got no answer. No money moved by it."""

    safe_to_retry = True
