"""The gateway's JSON on one side, observations and next actions on the other.

An answer is readable when the fields that decide are: those of type `Decides` (lenient.py). Any
other field keeps its default where it has another type. Unknown fields are ignored, unknown enum
values pass through, ids come as numbers or strings, null and missing are the same. An amount that
is not a finite number, or an attempt's id that cannot be one, makes an answer undecodable. Texts
are cut to the limits of `core/bounds.py`.
"""

from __future__ import annotations

import re
from datetime import datetime
from decimal import Decimal
from typing import Any, Final, TypeVar

import msgspec

from cfflow.cashfree import facts
from cfflow.cashfree.lenient import UNREADABLE, Decides
from cfflow.cashfree.paid_with import PaidWith, method_name, paid_with
from cfflow.cashfree.texts import short, word
from cfflow.core.actions import ApproveInApp, AskOtp, NextAction, Redirect, SubmitForm
from cfflow.core.bounds import (
    ACTION_MAX_B,
    CURRENCY_MAX,
    NAMED_ORDER_MAX,
    REFERENCE_MAX,
    URL_MAX,
)
from cfflow.core.money import without_noise
from cfflow.core.observation import Call, Failure, Observation
from cfflow.core.printable import has_controls
from cfflow.core.sealed import Sealed
from cfflow.errors import InvalidInput

#: Amounts go out as JSON numbers with their two decimals: 1.00, never "1.00" or 1.0e0.
encode: Final = msgspec.json.Encoder(decimal_format="number").encode

_Id = int | str | None

_YEAR_10000_MS: Final = 253_402_300_800_000

_ATTEMPT: Final = re.compile(facts.CF_PAYMENT_ID_PATTERN)
_ORDER: Final = re.compile(facts.ORDER_ID_PATTERN)

_REFERENCE: Final = re.compile(rf"[0-9A-Za-z][0-9A-Za-z ./:_-]{{0,{REFERENCE_MAX - 1}}}")

_T = TypeVar("_T")

_NULL: Final = msgspec.Raw(b"null")
_decode_json: Final = msgspec.json.Decoder().decode
_pack: Final = msgspec.msgpack.Encoder().encode


def json_body(body: Sealed[dict[str, Any]]) -> Sealed[bytes]:
    """Return the bytes of a request's body, without the fields that are None, sealed.

    Raises `InvalidInput` for what JSON cannot hold, and for a number that no program reads.
    """
    try:
        made = Sealed(encode({k: v for k, v in body.reveal().items() if v is not None}))
        _decode_json(made.reveal())
    except (*UNREADABLE, TypeError, OverflowError):
        # Raised below, outside: the encoder's own error quotes what it could not encode.
        failure = InvalidInput("the request has a value that JSON cannot hold, or half a character")
    else:
        return made
    raise failure


class Answer(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Base of the gateway's answers; `request_id` is its own number for the call."""

    # From a header. No field of a body has this name, so none can be mistaken for it.
    request_id: str = msgspec.field(default="", name="(x-request-id)")

    def check(self) -> None:
        """Raise `ValueError` where a decoded value is impossible, such as a negative amount."""


class PayData(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """`data` of a pay answer: where the customer goes and with what."""

    url: str | None = None
    payload: dict[str, Any] | None = None
    content_type: str | None = None
    method: str | None = None
    redirect_to_bank: Any = None


class PayAnswer(Answer, frozen=True, kw_only=True, gc=False):
    """The answer to pay: one attempt exists, and `action` names what the customer does next."""

    cf_payment_id: Decides[_Id] = None
    payment_method: str | None = None
    channel: str | None = None
    action: Decides[str | None] = None
    payment_amount: Decides[Decimal | None] = None
    data: PayData | None = None

    def check(self) -> None:
        """Raise `ValueError` for an impossible amount or id."""
        _check_id(self.cf_payment_id)
        _check_each(self.payment_amount)


class AuthenticateAnswer(Answer, frozen=True, kw_only=True, gc=False):
    """The answer to an OTP submission or resend."""

    cf_payment_id: Decides[_Id] = None
    action: str | None = None
    authenticate_status: Decides[str | None] = None
    payment_message: str | None = None

    def check(self) -> None:
        """Raise `ValueError` for an impossible id."""
        _check_id(self.cf_payment_id)


class Authorization(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What was done with a hold, and whether the bank has confirmed it."""

    action: Decides[str | None] = None
    status: Decides[str | None] = None
    captured_amount: Decides[Decimal | None] = None
    start_time: str | None = None
    end_time: str | None = None
    approve_by: str | None = None
    action_reference: str | None = None
    action_time: str | None = None


class ErrorDetails(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Why an attempt failed (gateway.md#errors)."""

    error_code: str | None = None
    error_description: str | None = None
    error_reason: str | None = None
    error_source: str | None = None


class PaymentEntity(Answer, frozen=True, kw_only=True, gc=False):
    """One attempt, as fetch and authorize show it."""

    cf_payment_id: Decides[_Id] = None
    order_id: Decides[str | None] = None
    payment_status: Decides[str | None] = None
    payment_amount: Decides[Decimal | None] = None
    order_amount: Decides[Decimal | None] = None
    payment_currency: str | None = None
    is_captured: Decides[bool | None] = None
    authorization: Decides[Authorization | None] = None
    error_details: ErrorDetails | None = None
    payment_group: str | None = None
    # Kept as JSON: whatever stands in it, the fields about money stay readable, and a printed
    # entity shows no UPI id and no phone.
    _payment_method: msgspec.Raw = msgspec.field(default=_NULL, name="payment_method")
    payment_message: str | None = None
    payment_time: str | None = None
    payment_completion_time: str | None = None
    bank_reference: str | None = None
    auth_id: str | None = None

    def check(self) -> None:
        """Raise `ValueError` for an impossible amount or id."""
        _check_id(self.cf_payment_id)
        captured = self.authorization.captured_amount if self.authorization else None
        _check_each(self.payment_amount, self.order_amount, captured)

    def with_ids_only(self) -> PaymentEntity:
        """Return this attempt with its ids alone, which prove nothing.

        Raises `ValueError` where its own id is missing or impossible: it might be ours, and
        without it the list would look as if our pay had made no attempt.
        """
        if _id(self.cf_payment_id) is None:
            raise ValueError("an attempt in the list has no id that can be read")
        _check_id(self.cf_payment_id)
        return PaymentEntity(cf_payment_id=self.cf_payment_id, order_id=self.order_id)

    @property
    def payment_method(self) -> PaidWith:
        """What was paid with, as far as it is shown. A part that cannot be read is None."""
        try:
            found = _decode_json(self._payment_method)
        except UNREADABLE:
            found = None
        return paid_with(found, self.payment_group)


class Customer(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Whose order it is. `repr` shows none of it."""

    customer_id: str | None = None
    customer_phone: str | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return []


class FetchedOrder(Answer, frozen=True, kw_only=True, gc=False):
    """An order as fetch order shows it; one that takes no payment may have no session.

    Its `payment_session_id` pays it, so `repr` does not show it.
    """

    cf_order_id: _Id = None
    order_id: Decides[str | None] = None
    order_status: Decides[str | None] = None
    order_amount: Decides[Decimal | None] = None
    order_currency: str | None = None
    order_expiry_time: str | None = None
    payment_session_id: str | None = None
    customer_details: Customer | None = None

    def check(self) -> None:
        """Raise `ValueError` for an impossible amount."""
        _check_each(self.order_amount)

    def __repr__(self) -> str:
        kind = type(self).__name__
        return f"{kind}(order_id={self.order_id!r}, order_status={self.order_status!r})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        # rich and structlog's tracebacks use this one, and msgspec's own shows every field.
        return [("order_id", self.order_id), ("order_status", self.order_status)]


class Order(FetchedOrder, frozen=True, kw_only=True, gc=False):
    """An order that was just created: it has an id, and a session to pay it with."""

    order_id: Decides[str]
    payment_session_id: Decides[str]

    def check(self) -> None:
        """Raise `ValueError` for an empty id or session too: the order could not be paid."""
        super().check()
        if not self.order_id.strip() or not self.payment_session_id.strip():
            raise ValueError("the order has no id or no payment session")


class Simulation(Answer, frozen=True, kw_only=True, gc=False):
    """A simulation in the sandbox: the status that an attempt was forced to."""

    simulation_id: _Id = None
    entity: str | None = None
    entity_id: _Id = None
    entity_simulation: Any = None


class ErrorAnswer(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The body of an error. No field of it decides: the status alone shows a refusal."""

    message: str | None = None
    code: str | int | float | None = None
    type: str | None = None


def check_amounts(found: _T) -> _T:
    """Return a decoded answer; raises `ValueError` where a value of it is impossible.

    In a list such an attempt keeps its ids alone, so that it does not hide the others.
    """
    if isinstance(found, list):
        found[:] = [_checked_entry(entry) for entry in found]
    elif isinstance(found, Answer):
        found.check()
    return found


def _checked_entry(entry: PaymentEntity) -> PaymentEntity:
    try:
        entry.check()
    except ValueError:
        return entry.with_ids_only()
    return entry


def observe_pay(answer: PayAnswer) -> Observation:
    """Return the observation of a pay answer; one without an id proves no attempt."""
    return Observation(
        call=Call.PAY,
        cf_payment_id=_id(answer.cf_payment_id),
        action=word(answer.action),
        method=word(answer.payment_method and method_name(answer.payment_method)),
        channel=word(answer.channel),
        payment_amount=_money(answer.payment_amount),
        request_id=answer.request_id,
    )


def observe_authenticate(answer: AuthenticateAnswer) -> Observation:
    """Return the observation of an authenticate answer."""
    return Observation(
        call=Call.AUTHENTICATE,
        cf_payment_id=_id(answer.cf_payment_id),
        authenticate_status=word(answer.authenticate_status),
        authenticate_action=word(answer.action),
        message=short(answer.payment_message),
        request_id=answer.request_id,
    )


def observe_entity(entity: PaymentEntity, call: Call) -> Observation:
    """Return the observation of a payment entity, which is the answer to this call."""
    authorization = entity.authorization or Authorization()
    began_at_ms = timestamp_ms(entity.payment_time)
    paid_at_ms = began_at_ms
    if entity.payment_completion_time != entity.payment_time:
        paid_at_ms = timestamp_ms(entity.payment_completion_time) or began_at_ms
    paid = entity.payment_method
    return Observation(
        call=call,
        cf_payment_id=_id(entity.cf_payment_id),
        order_id=named_order(entity.order_id),
        payment_status=word(entity.payment_status),
        is_captured=entity.is_captured,
        authorization_action=word(authorization.action),
        authorization_status=word(authorization.status),
        captured_amount=_money(authorization.captured_amount),
        hold_expires_at_ms=timestamp_ms(authorization.end_time),
        failure=_failure(entity.error_details),
        method=word(paid.method),
        channel=word(paid.channel),
        last_four=paid.last_four,
        payment_amount=_money(entity.payment_amount),
        order_amount=_money(entity.order_amount),
        began_at_ms=began_at_ms,
        paid_at_ms=paid_at_ms,
        currency=word(entity.payment_currency, CURRENCY_MAX),
        message=short(entity.payment_message),
        request_id=entity.request_id,
        card_kind=paid.card_kind,
        payment_group=word(entity.payment_group),
        masked=paid.masked,
        bank_reference=_reference(entity.bank_reference),
        auth_id=_reference(entity.auth_id),
        acted_at_ms=timestamp_ms(authorization.action_time),
    )


def named_order(order_id: str | None) -> str | None:
    """Return the order that an answer names; what can be no order of ours is only kept to show."""
    ours = order_id is not None and _ORDER.fullmatch(order_id)
    # An order's id may have as many digits as a card, and must stay what it is.
    return order_id if ours else word(order_id, NAMED_ORDER_MAX)


def next_action(answer: PayAnswer) -> NextAction | None:
    """Return what the customer has to do (gateway.md#pay-action); None where there is no page.

    None too where it is too large to be kept: the customer cannot go on with half of it.
    """
    data = answer.data or PayData()
    if answer.action == "post":
        return AskOtp(_page(data.redirect_to_bank))
    url = _page(data.url)
    if answer.action == "form" and url:
        method = word(data.method) or "post"
        kind = word(data.content_type) or "application/x-www-form-urlencoded"
        return _kept(SubmitForm(url, data.payload or {}, method, kind))
    if answer.action == "custom":
        return _kept(ApproveInApp(word(answer.channel) or "", data.payload or {}))
    return Redirect(url) if url else None


def _page(url: object) -> str | None:
    """Return the address of a page; a `javascript:` link would run on the merchant's page.

    One with a line break in it would add a header to the merchant's own redirect.
    """
    if not isinstance(url, str) or len(url) > URL_MAX or has_controls(url):
        return None
    return url if url.lower().startswith(("https://", "http://")) else None


def _kept(action: NextAction) -> NextAction | None:
    """Return an action with the gateway's own JSON in it, None where it is too large."""
    try:
        size_b = len(_pack(action))
    except (OverflowError, ValueError, RecursionError):
        # A number that no store can hold. It is shown to the caller of pay, and not stored.
        return action
    return action if size_b <= ACTION_MAX_B else None


def timestamp_ms(text: str | None) -> int | None:
    """Return milliseconds since the epoch; a time without an offset is Indian time.

    None for a text that is not a time, and for a placeholder such as the year 1.
    """
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=facts.IST)
    at_ms = round(moment.timestamp() * 1000)
    return at_ms if 0 < at_ms < _YEAR_10000_MS else None


def _id(value: _Id) -> str | None:
    return str(value) if value not in (None, "") else None


def _check_id(value: _Id) -> None:
    """Raise `ValueError` for an id that no attempt can have.

    It would be stored with the payment, and be a part of the next call's address.
    """
    name = _id(value)
    if name is not None and not _ATTEMPT.fullmatch(name):
        raise ValueError("the id of an attempt in the answer is out of form")


def _reference(text: str | None) -> str | None:
    """Return a bank's reference as it is kept, whole; None for a text that can be none.

    It may have as many digits as a card, and a support call needs all of them.
    """
    found = _REFERENCE.fullmatch(text.strip()) if text else None
    return None if found is None else found[0]


def _money(amount: Decimal | None) -> Decimal | None:
    return None if amount is None else without_noise(amount)


def _check_each(*amounts: Decimal | None) -> None:
    """Raise `ValueError` for an amount that is not finite, negative or beyond any payment.

    An answer with such an amount proves nothing, whatever its status.
    """
    for amount in amounts:
        if amount is not None and not (amount.is_finite() and 0 <= amount <= facts.AMOUNT_MAX):
            raise ValueError("an amount in the answer is not an amount of money")


def _failure(details: ErrorDetails | None) -> Failure | None:
    if details is None or details == ErrorDetails():
        return None
    texts = (
        details.error_code,
        details.error_reason,
        details.error_source,
        details.error_description,
    )
    # It is kept in the store, and a bank's own words may name the card.
    return Failure(*map(short, texts))
