"""The only place where failures of HTTP and of the gateway become cfflow's errors.

The table is gateway.md#errors-proof. The question is always whether the request may have had its
effect. A step whose answer is lost, broken or a server error has an unknown outcome. The same
failure of an inquiry moved no money: the inquiry may be made again.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import msgspec

from cfflow.cashfree import facts
from cfflow.cashfree.calls import ROUTES
from cfflow.cashfree.lenient import UNREADABLE, decoder
from cfflow.cashfree.sending import GatewayAnswer, GatewayRequest
from cfflow.cashfree.texts import without_card_numbers
from cfflow.cashfree.wire import ErrorAnswer
from cfflow.core.bounds import ERROR_CODE_MAX, ERROR_TEXT_MAX, REQUEST_ID_MAX
from cfflow.core.observation import Call
from cfflow.errors import (
    CfflowError,
    GatewayAuthError,
    GatewayError,
    GatewayRejected,
    GatewayUnavailable,
    OutcomeUnknown,
    RateLimited,
)

_BAD_REQUEST: Final = 400
_SERVER_ERROR: Final = 500
#: An equal request is known, or the gateway gave up waiting: a step may have been done.
_MAYBE_DONE: Final = frozenset({408, 409, 422, 425})

#: What a request carries and no error may repeat.
_SECRETS: Final = frozenset(
    {"card_cvv", "card_number", "cryptogram", "otp", "payment_session_id", "phone", "upi_id"}
)
#: Shorter values occur in ordinary words, so replacing them would only spoil the message.
_SECRET_MIN: Final = 3

_REQUEST_ID: Final = facts.REQUEST_ID_HEADER.encode()
_REPLAYED: Final = facts.REPLAYED_HEADER.encode()

_decode_error = decoder(ErrorAnswer)


class HeldBack(Exception):
    """Raised under the client instead of sending: the call must wait for `wait_s` seconds."""

    def __init__(self, wait_s: float) -> None:
        super().__init__(f"held back for {wait_s:g} s")
        self.wait_s = wait_s


class _ErrorTexts(NamedTuple):
    """The texts of an error's body; "" for one that is missing or cannot be read."""

    message: str = ""
    code: str = ""
    type: str = ""


def request_id_of(answer: GatewayAnswer) -> str:
    """Return the gateway's own id of the call, "" where it sent none."""
    return answer.header(_REQUEST_ID)[:REQUEST_ID_MAX]


def from_transport(
    call: Call, error: Exception, never_sent: tuple[type[Exception], ...]
) -> CfflowError:
    """Return the error for a call without a complete answer.

    `never_sent`: the errors that prove, of this transport, that not a byte was written.
    """
    kind = type(error).__name__
    if isinstance(error, HeldBack):
        return not_sent(
            RateLimited(
                f"{call}: held back by the rate budget, nothing was sent;"
                f" try again in {error.wait_s:g} s",
                retry_after_s=error.wait_s,
                code="rate_budget",
            )
        )
    if isinstance(error, never_sent):
        text = f"{call}: the gateway was not reached ({kind}); nothing was sent"
        return not_sent(GatewayUnavailable(text))
    if ROUTES[call].moves:
        return OutcomeUnknown(f"{call}: no answer ({kind}); the gateway may have acted")
    return GatewayUnavailable(f"{call}: no answer ({kind})")


def not_sent(error: GatewayError) -> GatewayError:
    """Return the error as that of a call of which nothing was sent."""
    error.was_sent = False
    return error


def undecodable(call: Call, answer: GatewayAnswer) -> CfflowError:
    """Return the error for a 2xx whose body does not decode to the answer of this call."""
    status, request_id = answer.status, request_id_of(answer)
    text = f"{call}: answer {status} does not decode (request {request_id or 'unnamed'})"
    if ROUTES[call].moves:
        return OutcomeUnknown(text)
    return GatewayUnavailable(text, status=status, request_id=request_id)


def from_answer(call: Call, answer: GatewayAnswer) -> CfflowError:
    """Return the error for an answer whose status is not 2xx."""
    status = answer.status
    received = _texts(answer)
    body = _without_secrets(received, answer.request)
    text = f"{call}: {status} {body.code or body.type}: {body.message or 'no message'}"[
        :ERROR_TEXT_MAX
    ]
    details: dict[str, Any] = {
        "status": status,
        "code": body.code,
        "type": body.type,
        "request_id": request_id_of(answer),
    }
    if status in {401, 403}:
        return GatewayAuthError(f"{text}; check client id, secret and environment", **details)
    if status == 429:
        wait_s = retry_after_s(answer)
        return RateLimited(
            f"{call}: rate limit; try again in {wait_s:g} s", retry_after_s=wait_s, **details
        )
    maybe_done = ROUTES[call].moves and status in _MAYBE_DONE
    if _BAD_REQUEST <= status < _SERVER_ERROR and not maybe_done:
        rejected = GatewayRejected(text, **details)
        rejected.fetch_first = _fetch_first(received)
        return rejected
    if ROUTES[call].moves:
        unknown = OutcomeUnknown(f"{text}; the gateway may have acted")
        unknown.replayed = answer.header(_REPLAYED).lower() == "true"
        return unknown
    return GatewayUnavailable(text, **details)


def _without_secrets(body: _ErrorTexts, request: GatewayRequest) -> _ErrorTexts:
    """Return the texts without what the request carried: the gateway may repeat a card number.

    Cut to what is kept of an error, and only then: half of a secret would not be found.
    """
    secrets = sorted(_secrets(request), key=len, reverse=True)

    def clean(text: str) -> str:
        for secret in secrets:
            text = text.replace(secret, "xxxx")
        return without_card_numbers(text)

    message, code, kind = map(clean, body)
    return _ErrorTexts(message[:ERROR_TEXT_MAX], code[:ERROR_CODE_MAX], kind[:ERROR_CODE_MAX])


def _secrets(request: GatewayRequest) -> set[str]:
    found = {request.headers.get(facts.CLIENT_SECRET_HEADER, "")}
    parts: list[Any] = [msgspec.json.decode(request.body or b"{}")]
    while parts:
        part = parts.pop()
        if isinstance(part, dict):
            parts.extend(value for value in part.values() if isinstance(value, dict))
            found |= {part[name] for name in _SECRETS & part.keys()}
    return {text for text in found if isinstance(text, str) and len(text) >= _SECRET_MIN}


def _texts(answer: GatewayAnswer) -> _ErrorTexts:
    """Return the texts of an error's body. HTML or garbage has none and changes nothing."""
    try:
        found = _decode_error(answer.body)
    except UNREADABLE:
        return _ErrorTexts()
    code = "" if found.code is None else str(found.code)
    return _ErrorTexts(found.message or "", code, found.type or "")


def _fetch_first(body: _ErrorTexts) -> bool:
    """Whether this refusal shows that the gateway has more information about the payment."""
    message = body.message.lower()
    shown = any(text in message for text in facts.FETCH_FIRST_TEXTS)
    return shown or body.code in facts.FETCH_FIRST_CODES


def retry_after_s(answer: GatewayAnswer) -> float:
    """Return how many seconds a 429 asks to wait: the first header with a plausible number counts.

    Without such a number, `RETRY_AFTER_S`.
    """
    for name in facts.RETRY_HEADERS:
        try:
            seconds = float(answer.header(name.encode()))
        except ValueError:
            continue
        if 0 <= seconds <= facts.RETRY_AFTER_MAX_S:
            return seconds
    return facts.RETRY_AFTER_S
