"""An answer is readable when the fields that decide are: every field in every form of JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any, Final

import msgspec
import pytest

from cfflow import ApproveInApp, GatewayRejected, Redirect
from cfflow.cashfree.client import GatewayClient
from cfflow.cashfree.failures import from_answer
from cfflow.cashfree.gateway import frozen_authorize
from cfflow.cashfree.lenient import decoder
from cfflow.cashfree.sending import GatewayAnswer, GatewayRequest
from cfflow.cashfree.wire import (
    AuthenticateAnswer,
    FetchedOrder,
    Order,
    PayAnswer,
    PaymentEntity,
    check_amounts,
    next_action,
    observe_authenticate,
    observe_entity,
    observe_pay,
    timestamp_ms,
)
from cfflow.core.observation import Call, Observation, prove
from tests.ports.forms_kit import FORMS, MISSING, Path, changed, paths_of
from tests.ports.gateway_kit import a_client, a_gateway, answer

#: What the decoder may raise, and nothing else.
UNREADABLE: Final = (msgspec.MsgspecError, ValueError, RecursionError)

PAY: Final = {
    "cf_payment_id": 91235,
    "payment_method": "card",
    "channel": "post",
    "action": "post",
    "payment_amount": 22.42,
    "data": {
        "url": "https://sandbox.cashfree.com/pg/view",
        "payload": {"name": "card", "parts": [{"key": "value"}]},
        "content_type": "application/x-www-form-urlencoded",
        "method": "post",
        "redirect_to_bank": "https://sandbox.cashfree.com/pg/bank",
    },
}
AUTHENTICATE: Final = {
    "cf_payment_id": "975654863",
    "action": "SUBMIT_OTP",
    "authenticate_status": "SUCCESS",
    "payment_message": "payment was successful",
}
ENTITY: Final = {
    "cf_payment_id": 12376123,
    "order_id": "order_8123",
    "entity": "payment",
    "payment_currency": "INR",
    "order_currency": "INR",
    "order_amount": 10.01,
    "is_captured": True,
    "payment_group": "credit_card",
    "authorization": {
        "action": "CAPTURE",
        "status": "SUCCESS",
        "captured_amount": 10,
        "start_time": "2022-02-09T18:04:34+05:30",
        "end_time": "2022-02-19T18:04:34+05:30",
        "approve_by": "2022-02-09T18:04:34+05:30",
        "action_reference": "6595231908096894505959",
        "action_time": "2022-08-03T16:09:51",
    },
    "error_details": {
        "error_code": "TRANSACTION_DECLINED",
        "error_code_raw": "51",
        "error_description": "issuer bank declined the transaction",
        "error_description_raw": "Insufficient funds",
        "error_reason": "auth_declined",
        "error_source": "customer",
        "error_subcode_raw": None,
    },
    "payment_method": {
        "card": {
            "channel": "link",
            "card_number": "xxxxxx1111",
            "card_type": "credit_card",
            "card_network": "visa",
        }
    },
    "payment_gateway_details": {"gateway_name": "CASHFREE", "gateway_order_id": "12"},
    "payment_offers": [{"offer_id": "o1", "offer_meta": {"offer_title": "ten off"}}],
    "payment_surcharge": {"payment_surcharge_service_charge": 1.5},
    "international_payment": {"international": False},
    "payment_amount": 10.01,
    "payment_time": "2021-07-23T12:15:06+05:30",
    "payment_completion_time": "2021-07-23T12:18:59+05:30",
    "payment_status": "SUCCESS",
    "payment_message": "Transaction successful",
    "bank_reference": "P78112898712",
    "auth_id": "A898101",
}
OTHER: Final = ENTITY | {"cf_payment_id": "12376124", "payment_status": "FAILED"}
ORDER: Final = {
    "cf_order_id": "2149460581",
    "order_id": "order_8123",
    "entity": "order",
    "order_currency": "INR",
    "order_amount": 10.01,
    "order_status": "ACTIVE",
    "payment_session_id": "session_a1",
    "order_expiry_time": "2021-08-16T14:46:19+05:30",
    "order_note": "a note",
    "created_at": "2021-07-16T14:46:19+05:30",
    "customer_details": {"customer_id": "c_7", "customer_phone": "9908734801"},
    "order_meta": {"return_url": None, "payment_methods": "cc,upi"},
    "order_splits": [{"vendor_id": "v", "amount": 1.5}],
    "order_tags": {"name": "value"},
}

ID: Final = {"null", "0", "16381", "-1", '""', '"text"', "missing"}
TEXT: Final = {"null", '""', '"text"', "missing"}
FLAG: Final = {"null", "true", "missing"}
AMOUNT: Final = {"null", "0", "16381", "1.5", "missing"}
HOLD: Final = {"null", "[]", '""', "{}", '{"a":1}', "missing"}

#: The fields that decide, by hand, each with the forms in which it can be read.
ENTITY_DECIDES: Final[dict[Path, set[str]]] = {
    ("cf_payment_id",): ID,
    ("order_id",): TEXT,
    ("payment_status",): TEXT,
    ("payment_amount",): AMOUNT,
    ("order_amount",): AMOUNT,
    ("is_captured",): FLAG,
    ("authorization",): HOLD,
    ("authorization", "action"): TEXT,
    ("authorization", "status"): TEXT,
    ("authorization", "captured_amount"): AMOUNT,
}
ORDER_DECIDES: Final[dict[Path, set[str]]] = {
    ("order_id",): TEXT,
    ("order_status",): TEXT,
    ("order_amount",): AMOUNT,
}
DECIDES: Final[dict[str, dict[Path, set[str]]]] = {
    "pay": {("cf_payment_id",): ID, ("action",): TEXT, ("payment_amount",): AMOUNT},
    "authenticate": {("cf_payment_id",): ID, ("authenticate_status",): TEXT},
    "fetch": ENTITY_DECIDES,
    "authorize": ENTITY_DECIDES,
    "order": ORDER_DECIDES,
    "created order": ORDER_DECIDES
    | {("order_id",): {'"text"'}, ("payment_session_id",): {'"text"'}},
}
#: Of an observation, what decides.
DECIDED: Final = (
    "cf_payment_id",
    "order_id",
    "action",
    "authenticate_status",
    "payment_status",
    "is_captured",
    "authorization_action",
    "authorization_status",
    "captured_amount",
    "payment_amount",
    "order_amount",
)

Read = Callable[[Any], tuple[Any, ...]]


def reads(kind: Any, seen: Callable[[Any], tuple[Any, ...]]) -> Read:
    """Return what reads a body as the client does, and then everything that decides of it."""
    decode = decoder(kind)
    return lambda body: seen(check_amounts(decode(json.dumps(body).encode())))


def decided(observation: Observation) -> tuple[Any, ...]:
    """Return what decides of an observation, and what it proves; it can be kept and shown."""
    msgspec.msgpack.encode(observation)
    observation.summary()
    observation.brief()
    return (*(getattr(observation, name) for name in DECIDED), prove(observation))


def of_pay(found: PayAnswer) -> tuple[Any, ...]:
    """Return what decides of a pay answer; its next action can be made."""
    next_action(found)
    return decided(observe_pay(found))


def of_order(found: FetchedOrder) -> tuple[Any, ...]:
    """Return what decides of an order; the time of its end is a time or none."""
    timestamp_ms(found.order_expiry_time)
    return found.order_id, found.order_status, found.order_amount


BODIES: Final[dict[str, Any]] = {
    "pay": PAY,
    "authenticate": AUTHENTICATE,
    "fetch": ENTITY,
    "authorize": ENTITY,
    "order": ORDER,
    "created order": ORDER,
}
READ: Final[dict[str, Read]] = {
    "pay": reads(PayAnswer, of_pay),
    "authenticate": reads(AuthenticateAnswer, lambda found: decided(observe_authenticate(found))),
    "fetch": reads(PaymentEntity, lambda found: decided(observe_entity(found, Call.FETCH_PAYMENT))),
    "authorize": reads(PaymentEntity, lambda found: decided(observe_entity(found, Call.AUTHORIZE))),
    "order": reads(FetchedOrder, of_order),
    "created order": reads(Order, lambda found: (*of_order(found), found.payment_session_id)),
}
read_list: Final = reads(
    list[PaymentEntity],
    lambda found: tuple(decided(observe_entity(one, Call.FETCH_PAYMENTS)) for one in found),
)

PLACES: Final = [
    pytest.param(kind, path, id=f"{kind}-{'.'.join(map(str, path))}")
    for kind, body in BODIES.items()
    for path in paths_of(body)
]
ENTITY_PLACES: Final = [
    pytest.param(path, id=".".join(map(str, path))) for path in paths_of(ENTITY)
]


def outcomes(read: Read, body: Any, path: Path) -> Iterator[tuple[str, tuple[Any, ...] | None]]:
    """Yield for each form in that place what is read, None where the body does not decode."""
    for form, value in FORMS.items():
        try:
            yield form, read(changed(body, path, value))
        except UNREADABLE:
            yield form, None


# every kind of answer, every field, every form


@pytest.mark.parametrize(("kind", "path"), PLACES)
def test_a_field_decides_or_its_form_changes_nothing_that_does(kind: str, path: Path) -> None:
    """A field that decides is read in its own forms alone; any other may have every form."""
    read, untouched = READ[kind], READ[kind](BODIES[kind])
    fits = DECIDES[kind].get(path)
    for form, found in outcomes(read, BODIES[kind], path):
        if fits is None:
            assert found == untouched, form
        else:
            assert (found is not None) == (form in fits), form


@pytest.mark.parametrize("kind", sorted(BODIES))
@pytest.mark.parametrize("form", sorted(set(FORMS) - {"missing"}))
def test_an_answer_is_an_object(kind: str, form: str) -> None:
    """Nothing else decodes in place of the whole answer."""
    try:
        READ[kind](FORMS[form])
        is_read = True
    except UNREADABLE:
        is_read = False
    assert is_read == (form in {"{}", '{"a":1}'} and kind != "created order")


@pytest.mark.parametrize("path", ENTITY_PLACES)
def test_an_attempt_that_cannot_be_read_does_not_hide_the_others(path: Path) -> None:
    """It stays in the list with its ids alone; the list is lost only without its id."""
    untouched = read_list([ENTITY, OTHER])
    fits = ENTITY_DECIDES.get(path)
    for form, found in outcomes(read_list, [ENTITY, OTHER], (0, *path)):
        if path == ("cf_payment_id",) and form not in ID:
            assert found is None, form
            continue
        assert found is not None, form
        assert found[1] == untouched[1], form
        if fits is None:
            assert found[0] == untouched[0], form
        elif form not in fits:
            order_id = None if path == ("order_id",) else "order_8123"
            bare = Observation(
                call=Call.FETCH_PAYMENTS, cf_payment_id="12376123", order_id=order_id
            )
            assert found[0] == decided(bare), form


@pytest.mark.parametrize("form", sorted(FORMS))
def test_an_entry_of_a_list_is_an_object(form: str) -> None:
    """An attempt of which not even the id is there cannot be left out in silence."""
    value = FORMS[form]
    found = next(was for name, was in outcomes(read_list, [ENTITY, OTHER], (0,)) if name == form)
    is_read = value is MISSING or isinstance(value, dict)
    assert (found is not None) == is_read


@pytest.mark.parametrize("form", sorted(set(FORMS) - {"missing"}))
def test_a_list_is_a_list(form: str) -> None:
    """An empty one is an order without attempts; nothing else is read as one."""
    try:
        found: Any = read_list(FORMS[form])
    except UNREADABLE:
        found = None
    assert found == (() if form == "[]" else None)


# errors

PROCESSED: Final = {
    "message": "Transaction is already processed",
    "code": "request_invalid",
    "type": "invalid_request_error",
    "help": "https://docs.cashfree.com",
    "details": {"field": "otp"},
}
INACTIVE: Final = PROCESSED | {"message": "the order is over", "code": "order_inactive"}


def refused(body: Any) -> GatewayRejected:
    """Return the error that is made of a 400 with this body."""
    request = GatewayRequest(
        Call.PAY,
        verb="POST",
        origin="https://gateway:443",
        target="/pg/orders/sessions",
        headers={},
        body=b"{}",
        limit_s=1,
    )
    answer = GatewayAnswer(request, 400, [], json.dumps(body).encode())
    error = from_answer(Call.PAY, answer)
    assert isinstance(error, GatewayRejected)
    return error


@pytest.mark.parametrize(("body", "decides"), [(PROCESSED, "message"), (INACTIVE, "code")])
@pytest.mark.parametrize("form", sorted(FORMS))
def test_an_errors_message_and_code_are_read_whatever_else_it_has(
    body: dict[str, Any], decides: str, form: str
) -> None:
    """Whether to fetch first depends on the message or the code, and on no other field."""
    for path in paths_of(body):
        error = refused(changed(body, path, FORMS[form]))
        assert error.fetch_first is (path != (decides,)), path


@pytest.mark.parametrize("form", sorted(set(FORMS) - {"missing"}))
def test_an_error_of_any_form_is_a_refusal(form: str) -> None:
    """A 400 is one, with or without words."""
    assert refused(FORMS[form]).fetch_first is False


@pytest.mark.parametrize(
    ("code", "shown"), [(16381, "16381"), (1.5, "1.5"), (True, ""), ([1], ""), (None, "")]
)
def test_a_code_that_is_a_number_becomes_its_text(code: object, shown: str) -> None:
    """Support asks for it."""
    assert refused(PROCESSED | {"code": code, "help": {"link": "x"}}).code == shown


def test_a_card_number_in_place_of_a_code_is_not_repeated() -> None:
    """A number is hidden as well as a text."""
    assert refused(PROCESSED | {"code": 4111111111111111}).code == "xxxx"


# what is left


@pytest.mark.parametrize("form", sorted(FORMS))
def test_a_payload_of_another_type_leaves_the_link(form: str) -> None:
    """The customer goes to the page all the same."""
    body = changed(PAY | {"action": "link"}, ("data", "payload"), FORMS[form])
    found = decoder(PayAnswer)(json.dumps(body).encode())
    assert next_action(found) == Redirect("https://sandbox.cashfree.com/pg/view")


@pytest.mark.parametrize("name", ["url", "method", "content_type", "redirect_to_bank"])
@pytest.mark.parametrize("form", sorted(FORMS))
def test_another_type_beside_a_payload_leaves_the_payload(form: str, name: str) -> None:
    """The deep links and the QR image are still shown."""
    body = changed(PAY | {"action": "custom"}, ("data", name), FORMS[form])
    found = decoder(PayAnswer)(json.dumps(body).encode())
    assert next_action(found) == ApproveInApp("post", {"name": "card", "parts": [{"key": "value"}]})


@pytest.mark.parametrize("form", sorted({*FORMS} - {'{"a":1}'}))
def test_only_the_field_of_another_type_is_left_out(form: str) -> None:
    """The error's other words, the hold's end and the times are still read."""
    body = changed(ENTITY, ("error_details", "error_code"), FORMS[form])
    body = changed(body, ("authorization", "start_time"), FORMS[form])
    body = changed(body, ("payment_completion_time",), FORMS[form])
    seen = observe_entity(decoder(PaymentEntity)(json.dumps(body).encode()), Call.FETCH_PAYMENT)
    assert seen.failure is not None
    assert (seen.failure.reason, seen.failure.source) == ("auth_declined", "customer")
    assert seen.hold_expires_at_ms == 1645274074000
    assert (seen.began_at_ms, seen.paid_at_ms) == (1627022706000, 1627022706000)


@pytest.mark.parametrize(
    "broken", [b'"\xff"', b'"\\ud83d"', b'"cut \\ude00 \\uD83D"', b"1e999999", b"9" * 5000]
)
def test_a_field_that_decides_nothing_may_even_be_broken(broken: bytes) -> None:
    """Bytes that are no text, and numbers that nothing can hold."""
    body = json.dumps(ENTITY).encode().replace(b'"A898101"', broken)
    seen = observe_entity(decoder(PaymentEntity)(body), Call.FETCH_PAYMENT)
    assert decided(seen) == READ["fetch"](ENTITY)


@pytest.mark.parametrize(
    ("text", "left"),
    [
        (rb"\ud83d", "\ufffd"),
        (rb"a\uDE00b", "a\ufffdb"),
        (rb"\ude00\ud83d", "\ufffd\ufffd"),
        (rb"\ud83d\ud83d\ude00", "\ufffd\N{GRINNING FACE}"),
        (rb"\ud83d\ude00 \u20b9", "\N{GRINNING FACE} \N{INDIAN RUPEE SIGN}"),
        (rb"\\ud83d", r"\ud83d"),
        (rb"\\\ud83d", "\\\ufffd"),
    ],
)
def test_half_an_emoji_is_replaced_and_the_rest_is_read(text: bytes, left: str) -> None:
    """It is left where a text was cut; everything else of the answer is as it was."""
    body = json.dumps(ENTITY | {"auth_id": 16381}).encode()
    found = decoder(PaymentEntity)(body.replace(b"Transaction successful", text))
    assert found.payment_message == left
    assert decided(observe_entity(found, Call.FETCH_PAYMENT)) == READ["fetch"](ENTITY)


def test_a_broken_body_is_read_neither_way() -> None:
    """The second reading is no way round the syntax."""
    whole = json.dumps(ENTITY).encode()
    for body in (whole[:-1], whole.replace(b'"A898101"', b"]"), whole + b"x", b""):
        with pytest.raises(UNREADABLE):
            decoder(PaymentEntity)(body)


@pytest.mark.parametrize("amount", [-1, 10**12, "NaN"])
def test_an_attempt_whose_amount_is_none_does_not_hide_the_others(amount: object) -> None:
    """It keeps its ids alone."""
    found = read_list([OTHER, ENTITY | {"payment_amount": amount}])
    bare = Observation(call=Call.FETCH_PAYMENTS, cf_payment_id="12376123", order_id="order_8123")
    assert found == (read_list([OTHER])[0], decided(bare))


def test_an_attempt_without_id_and_amount_loses_the_list() -> None:
    """It could be ours, and nothing would show it."""
    with pytest.raises(ValueError, match="no id"):
        read_list([ENTITY, ENTITY | {"cf_payment_id": None, "payment_amount": -1}])


# over HTTP


def capture(client: GatewayClient) -> Any:
    """Capture the whole of an order's hold."""
    return client.authorize("order_8123", frozen_authorize("CAPTURE", Decimal("10.01")))


async def test_a_capture_whose_auth_id_is_a_number_is_a_capture() -> None:
    """The gateway's own page shows one."""
    reply = answer(200, ENTITY | {"auth_id": 16381})
    async with a_gateway(reply) as gateway, a_client(gateway.base_url) as client:
        seen = observe_entity(await capture(client), Call.AUTHORIZE)
    assert (prove(seen).row, seen.captured_amount) == (4, Decimal(10))
