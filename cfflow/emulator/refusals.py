"""The errors of the gateway's calls: one exception, and a function for each kind.

An error never quotes the request: its texts are fixed, so that no card number, CVV, OTP or
session id can appear in a response or a log (gateway.md#errors, gateway.md#secrets).
"""

from __future__ import annotations

HELP = "compare the request with GET /_emulator/openapi.json"
# Errors that the caller can correct in the request have the `help` field. 401 and 429 do not.
WITH_HELP = frozenset({400, 404, 409, 413, 422})


class Refused(Exception):
    """The call was refused and changed nothing.

    status: the HTTP status. code, type: as the gateway documents them.
    """

    def __init__(self, status: int, code: str, message: str, type_: str) -> None:
        super().__init__(f"{status} {code}: {message}")
        self.status = status
        self.code = code
        self.message = message
        self.type = type_

    @property
    def help(self) -> str | None:
        """Where to find the right form of the request, or None if its form is not the cause."""
        return HELP if self.status in WITH_HELP else None


def invalid(code: str, message: str) -> Refused:
    """Return a 400: the request is wrong, or the payment's state does not permit it."""
    return Refused(400, code, message, "invalid_request_error")


def not_enabled(message: str) -> Refused:
    """Return a 400: the account may not use this."""
    return Refused(400, "payment_method_unsupported", message, "feature_not_enabled")


def not_found(code: str, message: str) -> Refused:
    """Return a 404: it does not exist, or not in this account."""
    return Refused(404, code, message, "invalid_request_error")


def conflict(code: str, message: str) -> Refused:
    """Return a 409: it exists already."""
    return Refused(409, code, message, "invalid_request_error")


def unauthenticated() -> Refused:
    """Return a 401: the credentials are missing or wrong."""
    return Refused(
        401, "request_failed", "client id or secret not accepted", "authentication_error"
    )


def rate_limited() -> Refused:
    """Return a 429: too many calls within the last minute."""
    return Refused(429, "request_failed", "too many requests, see the headers", "rate_limit_error")


def key_reused() -> Refused:
    """Return a 422: the idempotency key was used with another body."""
    message = "this idempotency key belongs to a request with another body"
    return Refused(422, "request_invalid", message, "idempotency_error")
