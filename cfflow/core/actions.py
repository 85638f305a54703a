"""What the customer has to do next: `Payment.next_action`.

Made from the `action` and `data` of a pay answer (gateway.md#pay-action). It is removed when the
state is left or the customer's turn is over.
"""

from __future__ import annotations

from typing import Any

import msgspec


class AskOtp(msgspec.Struct, frozen=True, tag="ask_otp"):
    """Ask for the OTP on your own page.

    Offer `redirect_to_bank` beside it, for a customer who gets no OTP. It is None when the pay's
    answer was lost, and then `leave_otp` is not possible.
    """

    redirect_to_bank: str | None = None


class Redirect(msgspec.Struct, frozen=True, tag="redirect"):
    """Send the customer's browser to `url`."""

    url: str


class SubmitForm(msgspec.Struct, frozen=True, tag="submit_form"):
    """Submit a form with these fields from the customer's browser."""

    url: str
    fields: dict[str, Any]
    method: str = "post"
    content_type: str = "application/x-www-form-urlencoded"


class ApproveInApp(msgspec.Struct, frozen=True, tag="approve_in_app"):
    """The customer approves in an app, scans a code or transfers money.

    `payload` is the gateway's own: deep links by app, a QR image, an account to pay to.
    """

    channel: str
    payload: dict[str, Any]


NextAction = AskOtp | Redirect | SubmitForm | ApproveInApp
