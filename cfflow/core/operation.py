"""A step that was stored before it was sent, and its status."""

from __future__ import annotations

from decimal import Decimal
from enum import StrEnum
from typing import Final

import msgspec

#: Two processes know the store's clock to some milliseconds each. What lies in the future by
#: more than this was written before the clock went back.
CLOCK_ERROR_MS: Final = 5_000


class Step(StrEnum):
    """A gateway call that may move money or use up a customer's try. Append only."""

    PAY = "pay"
    SUBMIT_OTP = "submit_otp"
    RESEND_OTP = "resend_otp"
    CAPTURE = "capture"
    VOID = "void"


class OperationStatus(StrEnum):
    """The status of an open operation; `Operation.status` is the only place that derives it."""

    SENDING = "sending"
    UNKNOWN = "unknown"
    NOT_DONE = "not_done"
    ACCEPTED = "accepted"


class Operation(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """A step that was stored before its call, and that its outcome closes.

    `body` is the frozen request of capture and void, byte for byte; the bodies of pay and
    authenticate hold card data and OTPs and are never kept. `began_at_ms` is when the step
    began: a renewal under a new key never changes it, so that a person is called in time.
    `deadline_at_ms` is when the call must be over; before it, not seeing its effect proves
    nothing. `not_seen_at_ms` is when an inquiry was asked that saw no effect: no attempt, or an
    untouched hold. `replayed`: the gateway repeated a stored error under this key, so the
    key is used up. `sends` counts the calls made under it: a refusal is about one call only.
    `key_began_at_ms` is when its key was first used and `sent_at_ms` when the newest call was
    written down; 0 means `began_at_ms`. `gateway_at_ms` is the earliest time that the gateway's
    own clock can have shown when a pay was written down; None where it was not known. `cause`
    (a position in `authors.CAUSES`) and `actor` are who began the step.
    """

    step: Step
    sequence: int
    key: str
    began_at_ms: int
    deadline_at_ms: int
    api_version: str = ""
    body: bytes = b""
    amount: Decimal | None = None
    method: str | None = None
    channel: str | None = None
    last_four: str | None = None
    known_attempt_ids: tuple[str, ...] = ()
    accepted: bool = False
    not_seen_at_ms: int | None = None
    replayed: bool = False
    sends: int = 1
    key_began_at_ms: int = 0
    sent_at_ms: int = 0
    gateway_at_ms: int | None = None
    cause: int = 0
    actor: str = ""

    @property
    def key_first_used_at_ms(self) -> int:
        """When this key was first sent."""
        return self.key_began_at_ms or self.began_at_ms

    @property
    def last_sent_at_ms(self) -> int:
        """When the newest call of this step was written down."""
        return self.sent_at_ms or self.began_at_ms

    def status(self, now_ms: int) -> OperationStatus:
        """Return the status at this time of the store's clock.

        A time well before the step began means that the store's clock went back. How long
        the call has been on its way cannot be calculated then, so an inquiry has to decide.
        """
        if self.accepted:
            return OperationStatus.ACCEPTED
        if self.began_at_ms - CLOCK_ERROR_MS <= now_ms < self.deadline_at_ms:
            return OperationStatus.SENDING
        seen_untouched = (
            self.not_seen_at_ms is not None and self.deadline_at_ms <= self.not_seen_at_ms <= now_ms
        )
        if seen_untouched and self.step in {Step.CAPTURE, Step.VOID}:
            return OperationStatus.NOT_DONE
        return OperationStatus.UNKNOWN
