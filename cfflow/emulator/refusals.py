"""How the emulator says no: one exception, and the kinds of it that the gateway knows.

A refusal never quotes what was sent: the texts are fixed, so that no card number, CVV,
OTP or session id can come back in an answer or end in a log.
"""

from __future__ import annotations

HELP = "compare the request with GET /_emulator/openapi.json"
# The gateway says nothing more to who is unknown, or calls too often.
WITH_HELP = frozenset({400, 404, 409, 413, 422})


class Refused(Exception):
    """The call was refused and changed nothing, unless the text says otherwise.

    `status` is the HTTP status; `code` and `type` are the gateway's own words.
    """

    def __init__(self, status: int, code: str, message: str, type_: str) -> None:
        super().__init__(f"{status} {code}: {message}")
        self.status = status
        self.code = code
        self.message = message
        self.type = type_

    @property
    def help(self) -> str | None:
        """Where to look further: said where the request itself can be put right."""
        return HELP if self.status in WITH_HELP else None


def invalid(code: str, message: str) -> Refused:
    """400: the request itself is wrong, or the payment's state does not permit it."""
    return Refused(400, code, message, "invalid_request_error")


def not_enabled(message: str) -> Refused:
    """400: the account may not use this."""
    return Refused(400, "payment_method_unsupported", message, "feature_not_enabled")


def not_found(code: str, message: str) -> Refused:
    """404: no such thing, or not in this account."""
    return Refused(404, code, message, "invalid_request_error")


def conflict(code: str, message: str) -> Refused:
    """409: it is there already."""
    return Refused(409, code, message, "invalid_request_error")


def unauthenticated() -> Refused:
    """401: the credentials are missing or wrong."""
    return Refused(
        401, "request_failed", "client id or secret not accepted", "authentication_error"
    )


def rate_limited() -> Refused:
    """429: too many calls within the last minute; nothing was done."""
    return Refused(429, "request_failed", "too many requests, see the headers", "rate_limit_error")


def key_reused() -> Refused:
    """422: the idempotency key was used with another body."""
    message = "this idempotency key belongs to a request with another body"
    return Refused(422, "request_invalid", message, "idempotency_error")
