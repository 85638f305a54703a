"""The OTP page: the limits of submissions, resends and time (gateway.md#authenticate)."""

from __future__ import annotations

from cfflow.emulator.records import OtpPage
from cfflow.emulator.refusals import invalid
from cfflow.emulator.request_fields import AUTHENTICATE

SUBMITS_MAX = 3
RESENDS_MAX = 2
RESEND_AFTER_S = 30.0
PAGE_S = 300.0


def submit(page: OtpPage, code: object, expected: str, now_s: float) -> bool:
    """Return whether `code` is the one-time password, and count a wrong one.

    Raises `Refused` (400) if the page has expired or there is no code; neither counts.
    """
    _require_open(page, now_s)
    AUTHENTICATE["otp"].check(code)
    page.accepted = code == expected
    page.rejections += not page.accepted
    return page.accepted


def resend(page: OtpPage, now_s: float) -> None:
    """Count one resend. Raises `Refused` (400) if it is too often, too soon or too late."""
    _require_open(page, now_s)
    if page.resends >= RESENDS_MAX:
        raise invalid("request_invalid", "The OTP was sent again too often")
    if now_s < page.last_sent_at_s + RESEND_AFTER_S:
        raise invalid("request_invalid", f"The OTP is sent again after {RESEND_AFTER_S:.0f} s")
    page.resends += 1
    page.last_sent_at_s = now_s


def exhausted(page: OtpPage) -> bool:
    """Return whether every submission is used up."""
    return page.rejections >= SUBMITS_MAX


def _require_open(page: OtpPage, now_s: float) -> None:
    if now_s >= page.expires_at_s:
        raise invalid("request_invalid", "The OTP page has expired")
