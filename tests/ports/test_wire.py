"""The gateway's JSON: what is read of each answer, and what does not decode at all."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.pretty import pretty_repr

from cfflow import ApproveInApp, AskOtp, Failure, Redirect, SubmitForm
from cfflow.cashfree.lenient import decoder
from cfflow.cashfree.paid_with import PaidWith
from cfflow.cashfree.wire import (
    AuthenticateAnswer,
    FetchedOrder,
    Order,
    PayAnswer,
    PaymentEntity,
    Simulation,
    check_amounts,
    encode,
    next_action,
    observe_authenticate,
    observe_entity,
    observe_pay,
    timestamp_ms,
)
from cfflow.core.observation import Call, Observation, prove
from tests.ports.forms_kit import FORMS, changed

AUTHORIZATION = {
    "action": "CAPTURE",
    "status": "PENDING",
    "captured_amount": 100,
    "start_time": "2022-02-09T18:04:34+05:30",
    "end_time": "2022-02-19T18:04:34+05:30",
    "approve_by": "2022-02-09T18:04:34+05:30",
    "action_reference": "6595231908096894505959",
    "action_time": "2022-08-03T16:09:51",
}
TAKEN = {
    "cf_payment_id": 12376123,
    "order_id": "order_8123",
    "entity": "payment",
    "payment_currency": "INR",
    "error_details": None,
    "order_amount": 10.01,
    "is_captured": True,
    "payment_group": "upi",
    "authorization": AUTHORIZATION,
    "payment_method": {"upi": {"channel": "collect", "upi_id": "rohit@xcxcx"}},
    "payment_amount": 10.01,
    "payment_time": "2021-07-23T12:15:06+05:30",
    "payment_completion_time": "2021-07-23T12:18:59+05:30",
    "payment_status": "SUCCESS",
    "payment_message": "Transaction successful",
    "bank_reference": "P78112898712",
    "auth_id": "A898101",
}
DECLINED = TAKEN | {
    "cf_payment_id": 12376124,
    "error_details": {
        "error_code": "TRANSACTION_DECLINED",
        "error_description": "issuer bank or payment service provider declined the transaction",
        "error_reason": "auth_declined",
        "error_source": "customer",
    },
    "payment_group": "credit_card",
    "authorization": None,
    "payment_method": {"card": {"channel": "link", "card_number": "xxxxxx1111"}},
    "payment_status": "FAILED",
    "payment_message": "Transaction failed",
}
PAID = {
    "payment_method": "card",
    "channel": "link",
    "action": "link",
    "cf_payment_id": 91235,
    "payment_amount": 22.42,
    "data": {
        "url": "https://sandbox.cashfree.com/pg/view/gateway/FHsuvhayLM5mmhINoqri7ba296e2ebca8b98",
        "payload": {"name": "card"},
        "content_type": "application/x-www-form-urlencoded",
        "method": "post",
    },
}
WRONG_OTP = {
    "cf_payment_id": 975654863,
    "authenticate_status": "FAILED",
    "action": "SUBMIT_OTP",
    "payment_message": "otp is invalid",
}
KINDS: dict[str, Any] = {
    "pay": PayAnswer,
    "authenticate": AuthenticateAnswer,
    "entity": PaymentEntity,
    "entities": list[PaymentEntity],
    "order": FetchedOrder,
    "simulation": Simulation,
}


def entity(**changes: Any) -> Observation:
    """The observation of the page's payment entity, with changes."""
    return observe_entity(decode(PaymentEntity, TAKEN | changes), Call.FETCH_PAYMENT)


def decode(kind: Any, body: Any) -> Any:
    """A body as the client decodes it."""
    return decoder(kind)(json.dumps(body).encode())


def test_the_pages_captured_payment_is_observed_field_by_field() -> None:
    """Amounts are exact, times are milliseconds, the id is a string."""
    assert entity() == Observation(
        call=Call.FETCH_PAYMENT,
        cf_payment_id="12376123",
        order_id="order_8123",
        payment_status="SUCCESS",
        is_captured=True,
        authorization_action="CAPTURE",
        authorization_status="PENDING",
        captured_amount=Decimal(100),
        hold_expires_at_ms=1645274074000,
        method="upi",
        channel="collect",
        payment_amount=Decimal("10.01"),
        order_amount=Decimal("10.01"),
        paid_at_ms=1627022939000,
        began_at_ms=1627022706000,
        currency="INR",
        message="Transaction successful",
        payment_group="upi",
        masked="rxxxx@xcxcx",
        bank_reference="P78112898712",
        auth_id="A898101",
        acted_at_ms=1659523191000,
    )
    assert prove(entity()).row == 4


def test_the_pages_declined_payment_has_its_reason() -> None:
    """Null authorization, last four digits of the card, and the gateway's reason."""
    seen = observe_entity(decode(PaymentEntity, DECLINED), Call.FETCH_PAYMENTS)
    assert seen == Observation(
        call=Call.FETCH_PAYMENTS,
        cf_payment_id="12376124",
        order_id="order_8123",
        payment_status="FAILED",
        is_captured=True,
        failure=Failure(
            "TRANSACTION_DECLINED",
            "auth_declined",
            "customer",
            "issuer bank or payment service provider declined the transaction",
        ),
        method="card",
        channel="link",
        last_four="1111",
        payment_amount=Decimal("10.01"),
        order_amount=Decimal("10.01"),
        paid_at_ms=1627022939000,
        began_at_ms=1627022706000,
        currency="INR",
        message="Transaction failed",
        payment_group="credit_card",
        masked="xxxxxx1111",
        bank_reference="P78112898712",
        auth_id="A898101",
        card_kind="credit",
    )
    assert prove(seen).row == 1


def test_the_pages_pay_answer_is_a_redirect() -> None:
    """Row 8: an attempt exists, and the customer goes to data.url."""
    paid = decode(PayAnswer, PAID)
    assert observe_pay(paid) == Observation(
        call=Call.PAY,
        cf_payment_id="91235",
        action="link",
        method="card",
        channel="link",
        payment_amount=Decimal("22.42"),
    )
    data: Any = PAID["data"]
    assert next_action(paid) == Redirect(data["url"])
    assert prove(observe_pay(paid)).row == 8


def test_the_pages_wrong_otp_is_observed() -> None:
    """Row 10: a wrong OTP is an answer, not an error."""
    seen = observe_authenticate(decode(AuthenticateAnswer, WRONG_OTP))
    assert seen == Observation(
        call=Call.AUTHENTICATE,
        cf_payment_id="975654863",
        authenticate_status="FAILED",
        authenticate_action="SUBMIT_OTP",
        message="otp is invalid",
    )
    assert prove(seen).row == 10


@pytest.mark.parametrize("given_id", [12376123, "12376123"])
@pytest.mark.parametrize(
    ("kind", "observe"),
    [
        (PayAnswer, observe_pay),
        (AuthenticateAnswer, observe_authenticate),
        (PaymentEntity, lambda found: observe_entity(found, Call.AUTHORIZE)),
    ],
)
def test_an_id_is_a_string_in_every_version(kind: Any, observe: Any, given_id: object) -> None:
    """A number in 2022-09-01, a string from 2023-08-01 on: the same id to us."""
    assert observe(decode(kind, {"cf_payment_id": given_id})).cf_payment_id == "12376123"


def test_an_id_keeps_its_digits() -> None:
    """Leading zeros and more digits than a float has survive."""
    assert entity(cf_payment_id="0012").cf_payment_id == "0012"
    assert entity(cf_payment_id=9007199254740993).cf_payment_id == "9007199254740993"
    assert entity(cf_payment_id="").cf_payment_id is None


@pytest.mark.parametrize("name", sorted(TAKEN))
def test_a_field_that_is_null_is_the_same_as_one_that_is_missing(name: str) -> None:
    """Optional things may be either (gateway.md#values)."""
    without = {key: value for key, value in TAKEN.items() if key != name}
    missing = observe_entity(decode(PaymentEntity, without), Call.FETCH_PAYMENT)
    assert missing == entity(**{name: None})


@pytest.mark.parametrize("name", sorted(AUTHORIZATION))
def test_a_field_of_the_authorization_may_be_null_or_missing(name: str) -> None:
    """What is left of it is still read."""
    without = {key: value for key, value in AUTHORIZATION.items() if key != name}
    nulled = AUTHORIZATION | {name: None}
    assert entity(authorization=without) == entity(authorization=nulled)
    assert entity(authorization={}) == entity(authorization=None)


def test_the_data_of_a_pay_answer_may_be_null_or_missing() -> None:
    """An attempt exists all the same; there is only nothing to show."""
    for body in ({"cf_payment_id": 1, "action": "link"}, {"cf_payment_id": 1, "data": None}):
        assert next_action(decode(PayAnswer, body)) is None


@pytest.mark.parametrize("kind", ["pay", "authenticate", "entity", "order", "simulation"])
@pytest.mark.parametrize("value", [None, 7, "x", [], {"deep": [1, {"er": None}]}, True])
def test_an_unknown_field_never_breaks_an_answer(kind: str, value: object) -> None:
    """Also one that is called like a field of ours, such as request_id."""
    unknown = {"brand_new": value, "request_id": value, "call": value, "x-request-id": value}
    found = decode(KINDS[kind], unknown)
    assert found == KINDS[kind]()


def test_unknown_enum_values_pass_through() -> None:
    """A new status, action or method is passed on as it is and proves nothing new."""
    seen = entity(
        payment_status="REBOOKED",
        authorization={"action": "TICKLE", "status": "GIGGLING"},
        payment_method={"crypto": {"channel": "beam"}},
    )
    assert (seen.payment_status, seen.method, seen.channel) == ("REBOOKED", "crypto", "beam")
    assert (seen.authorization_action, seen.authorization_status) == ("TICKLE", "GIGGLING")
    assert prove(seen).row == 6
    assert next_action(decode(PayAnswer, PAID | {"action": "beam"})) is not None


@pytest.mark.parametrize("text", ["10", "10.0", "10.00", "0.10", "170.00", "99999999.99", "0"])
def test_an_amount_is_decoded_to_the_digit(text: str) -> None:
    """Never by way of a float."""
    raw = f'{{"payment_amount": {text}, "order_amount": "{text}"}}'.encode()
    found = decoder(PaymentEntity)(raw)
    assert found.payment_amount == found.order_amount == Decimal(text)
    assert isinstance(found.payment_amount, Decimal)


@pytest.mark.parametrize(
    "text",
    [
        "NaN",
        '"NaN"',
        '"sNaN"',
        "Infinity",
        "-Infinity",
        '"Infinity"',
        "1e400",
        '"1e400"',
        "1e99999999999999999999",
        "-1",
        "-0.01",
        '"-1"',
        "9" * 400,
        "1000000000000",
        "999999999999.999",
        "true",
        "[]",
        "{}",
        '""',
        '"ten"',
    ],
)
@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        (PayAnswer, '{"payment_amount": %s}'),
        (PaymentEntity, '{"payment_amount": %s}'),
        (PaymentEntity, '{"order_amount": %s}'),
        (PaymentEntity, '{"authorization": {"captured_amount": %s}}'),
        (FetchedOrder, '{"order_amount": %s}'),
        (Order, '{"order_id": "o", "payment_session_id": "s", "order_amount": %s}'),
    ],
)
def test_what_is_no_amount_of_money_does_not_decode(kind: Any, shape: str, text: str) -> None:
    """Not finite, negative or beyond any payment: the whole answer is unreadable."""
    with pytest.raises((msgspec.MsgspecError, ValueError)):
        check_amounts(decoder(kind)((shape % text).encode()))


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("1098.0000000000002", "1098.00"),
        ("1097.9999999999998", "1098.00"),
        ("10.014", "10.01"),
        ("10.016", "10.02"),
        ("10", "10.00"),
        ("10.005", "10.005"),
        ("10.015", "10.015"),
        ("10.00500000000000000000000000000000001", "10.01"),
        ("10.00499999999999999999999999999999999", "10.00"),
        ("0.004", "0.00"),
        ("999999999999.99", "999999999999.99"),
    ],
)
def test_the_noise_of_a_float_is_no_part_of_an_amount(text: str, seen: str) -> None:
    """Less than half a paisa is rounded away; an exact tie is a different amount."""
    both = f'{{"payment_amount": {text}, "order_amount": "{text}", '
    body = f'{both}"authorization": {{"captured_amount": {text}}}}}'.encode()
    found = observe_entity(check_amounts(decoder(PaymentEntity)(body)), Call.FETCH_PAYMENT)
    paid = observe_pay(check_amounts(decoder(PayAnswer)(f'{{"payment_amount": {text}}}'.encode())))
    amounts = (found.payment_amount, found.order_amount, found.captured_amount, paid.payment_amount)
    assert [str(amount) for amount in amounts] == [seen] * 4


@pytest.mark.parametrize("text", ["0.10", "1.00", "10.00", "170.00", "99999999.99"])
def test_an_amount_goes_out_as_a_number_with_its_decimals(text: str) -> None:
    """1.00 is neither "1.00" nor 1.0."""
    assert encode({"amount": Decimal(text)}) == f'{{"amount":{text}}}'.encode()


@pytest.mark.parametrize(
    ("text", "at_ms"),
    [
        ("2022-08-03T16:09:51+05:30", 1659523191000),
        ("2022-08-03T16:09:51", 1659523191000),
        ("2022-08-03T10:39:51Z", 1659523191000),
        ("2022-08-03T10:39:51.250Z", 1659523191250),
        ("2022-08-03T10:39:51+00:00", 1659523191000),
        (None, None),
        ("", None),
        ("soon", None),
        ("2022-13-40T99:99:99", None),
        ("0001-01-01T00:00:00", None),
        ("0001-01-01T00:00:00Z", None),
        ("9999-12-31T23:59:59-12:00", None),
    ],
)
def test_a_time_without_an_offset_is_indian(text: str | None, at_ms: int | None) -> None:
    """And what is no time, or stands for none, is not taken for one."""
    assert timestamp_ms(text) == at_ms


@given(st.datetimes().map(str) | st.text(max_size=40))
@settings(max_examples=100, deadline=None)
def test_any_text_in_place_of_a_time_is_a_time_that_can_be_shown_or_none(text: str) -> None:
    """No answer can put a moment into a record that Python's datetime cannot hold."""
    at_ms = timestamp_ms(text)
    assert at_ms is None or 0 < at_ms < 253_402_300_800_000


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        (
            {"action": "post", "data": {"redirect_to_bank": "https://bank"}},
            AskOtp("https://bank"),
        ),
        ({"action": "post", "data": {"redirect_to_bank": None}}, AskOtp(None)),
        ({"action": "post", "data": {"redirect_to_bank": {"a": 1}}}, AskOtp(None)),
        ({"action": "post", "data": None}, AskOtp(None)),
        (
            {
                "action": "form",
                "data": {
                    "url": "https://bank",
                    "payload": {"a": "b"},
                    "method": "get",
                    "content_type": "text/plain",
                },
            },
            SubmitForm("https://bank", {"a": "b"}, "get", "text/plain"),
        ),
        (
            {"action": "form", "data": {"url": "https://bank"}},
            SubmitForm("https://bank", {}, "post", "application/x-www-form-urlencoded"),
        ),
        (
            {"action": "custom", "channel": "qrcode", "data": {"payload": {"qrcode": "data:"}}},
            ApproveInApp("qrcode", {"qrcode": "data:"}),
        ),
        ({"action": "custom", "channel": None, "data": None}, ApproveInApp("", {})),
        ({"action": "link", "data": {"url": None}}, None),
    ],
)
def test_the_answers_action_is_the_customers_next_step(
    changes: dict[str, Any], shown: object
) -> None:
    """gateway.md#pay-action: post, form, custom, and link for all else."""
    assert next_action(decode(PayAnswer, PAID | changes)) == shown


@pytest.mark.parametrize(
    ("method", "read"),
    [
        ({"card": {"channel": "post", "card_number": "xxxxxx1111"}}, ("card", "post", "1111")),
        ({"card": {"card_number": "xxxxxxxxxxxx"}}, ("card", None, None)),
        ({"card": {"card_number": 1111}}, ("card", None, None)),
        ({"card": None}, ("card", None, None)),
        ({"netbanking": {"channel": 7}}, ("netbanking", None, None)),
        ({"a": {}, "b": {}}, (None, None, None)),
        ({}, (None, None, None)),
        ("card", (None, None, None)),
        (None, (None, None, None)),
    ],
)
def test_what_was_paid_with_is_read_as_far_as_it_goes(method: object, read: object) -> None:
    """A part of another form leaves the fields about money readable, and the other parts."""
    seen = entity(payment_method=method)
    assert (seen.method, seen.channel, seen.last_four) == read


UPI = {"method": "upi", "channel": "collect"}
EMI = {"channel": "link", "card_number": "xxxxxx1111", "card_bank_name": "HDFC Bank"}


@pytest.mark.parametrize(
    ("method", "group", "paid"),
    [
        (
            {"card": {"channel": "post", "card_number": "xxxxxx1111", "card_network": "visa"}},
            "debit_card",
            PaidWith("card", "post", "1111", "debit", "visa", masked="xxxxxx1111"),
        ),
        (
            {"emi": EMI | {"card_type": "credit_card"}},
            None,
            PaidWith("emi", "link", "1111", "credit", None, "HDFC Bank", "xxxxxx1111"),
        ),
        (
            {"net_banking": {"channel": "link", "netbanking_bank_name": "TESTR"}},
            "net_banking",
            PaidWith("netbanking", "link", bank="TESTR"),
        ),
        *(
            (
                {"upi": {"channel": "collect", "upi_id": upi_id}},
                "upi",
                PaidWith(**UPI, masked=masked),
            )
            for upi_id, masked in (
                ("a@b", "xxxx@b"),
                ("asha.rao@okbank", "asxxxx@okbank"),
                ("9898989898@upi", "98xxxx@upi"),
                ("no upi id", None),
                ("a@b@c", None),
                (7, None),
                ("x" * 400 + "@b", None),
            )
        ),
        ({"wallet": {"phone": "9898989898"}}, "wallet", PaidWith("app")),
        ({"card": {"card_network": 7, "card_bank_name": ["x"]}}, 7, PaidWith("card")),
        ({"card": [{"channel": "post"}]}, {}, PaidWith("card")),
        ([{"card": {}}], "credit_card", PaidWith(card_kind="credit")),
        ({"card": {}, "upi": {}}, None, PaidWith()),
        (7, None, PaidWith()),
    ],
)
def test_what_was_paid_with_is_typed(method: object, group: object, paid: PaidWith) -> None:
    """Callers of fetch payment get a value of ours, whatever the gateway sends."""
    found = decode(PaymentEntity, TAKEN | {"payment_method": method, "payment_group": group})
    assert found.payment_method == paid
    assert found.payment_amount == Decimal("10.01")


@pytest.mark.parametrize(
    "broken",
    [
        b'{"card": {"channel": "\xff"}}',
        b'"\\ud83d"',
        b"1e999999",
        b"9" * 5000,
    ],
    ids=["bytes", "half an emoji", "huge exponent", "many digits"],
)
def test_a_broken_payment_method_leaves_the_rest_readable(broken: bytes) -> None:
    """The money's own fields are as they were, alone and in a list."""
    body = json.dumps(TAKEN | {"payment_method": 16381}).encode().replace(b"16381", broken)
    found = [decoder(PaymentEntity)(body), *decoder(list[PaymentEntity])(b"[%s]" % body)]
    for one in found:
        assert one.payment_method.method in (None, "card")
        assert prove(observe_entity(one, Call.FETCH_PAYMENT)).row == 4


@pytest.mark.parametrize("show", [repr, str, pretty_repr], ids=["repr", "str", "rich"])
def test_what_was_paid_with_does_not_show_what_identifies_or_pays(show: Any) -> None:
    """No UPI id, phone or number, neither on the entity nor on the value made of it."""
    hidden = {"upi_id": "rohit@upi", "phone": "9898989898", "card_number": "4111111111111111"}
    for method in ("card", "upi", "app"):
        found = decode(PaymentEntity, TAKEN | {"payment_method": {method: hidden}})
        shown = show(found) + show(found.payment_method)
        assert [text for text in hidden.values() if text in shown] == []


@pytest.mark.parametrize(
    ("given", "method"),
    [
        ("wallet", "app"),
        ("net_banking", "netbanking"),
        ("bank_transfer", "banktransfer"),
        ("pay_later", "paylater"),
        ("credit_card", "card"),
        ("debit_card", "card"),
        ("prepaid_card", "card"),
        ("card_emi", "emi"),
        ("credit_card_emi", "emi"),
        ("debit_card_emi", "emi"),
        ("cardless_emi", "cardless_emi"),
        ("upi", "upi"),
    ],
)
def test_a_method_has_the_name_that_a_pay_takes(given: str, method: str) -> None:
    """A lost pay is looked for by its method, and pages name a method differently."""
    assert entity(payment_method={given: {}}).method == method
    assert observe_pay(decode(PayAnswer, PAID | {"payment_method": given})).method == method


@pytest.mark.parametrize(
    ("group", "method", "kind"),
    [
        ("credit_card", {"card": {}}, "credit"),
        ("DEBIT_CARD", {"card": {}}, "debit"),
        ("prepaid_card", None, "prepaid"),
        ("credit_card_emi", {"emi": {}}, "credit"),
        (None, {"card": {"card_type": "debit_card"}}, "debit"),
        ("card", {"credit_card": {"card_type": "CREDIT"}}, "credit"),
        ("debit_card", {"card": {"card_type": "credit_card"}}, "debit"),
        (7, {"card": {"card_type": "prepaid"}}, "prepaid"),
        ("upi", {"upi": {"card_type": "credit_card"}}, None),
        ("credit_line", {"paylater": {}}, None),
        ("card", {"card": {"card_type": 7}}, None),
        ("card", {"card": "credit_card"}, None),
        (None, {}, None),
    ],
)
def test_the_kind_of_a_card_is_read_from_either_field(
    group: object, method: object, kind: str | None
) -> None:
    """How long a hold lasts depends on it; the group counts first."""
    assert entity(payment_group=group, payment_method=method).card_kind == kind


@pytest.mark.parametrize("name", ["error_code", "error_reason", "error_source"])
def test_a_card_number_in_the_banks_words_is_not_kept(name: str) -> None:
    """A failure goes into the store, where no card number may be."""
    details = {name: "CARD 4111 1111 1111 1111 no", "error_description": "4111111111111111"}
    failure = entity(error_details=details).failure
    assert failure is not None
    assert "CARD xxxx no" in failure.__repr__()
    assert failure.description == "xxxx"


@pytest.mark.parametrize("show", [repr, str, pretty_repr], ids=["repr", "str", "rich"])
@pytest.mark.parametrize("kind", [Order, FetchedOrder])
def test_an_order_does_not_show_its_session(kind: Any, show: Any) -> None:
    """Whoever reads a log could pay with it."""
    order = decode(kind, {"order_id": "order_1", "payment_session_id": "session_secret"})
    assert order.payment_session_id == "session_secret"
    assert show(order).startswith(f"{kind.__name__}(order_id='order_1'")
    assert "session_secret" not in show(order)


@pytest.mark.parametrize("name", ["order_id", "payment_session_id"])
@pytest.mark.parametrize("form", [*FORMS, "blank"])
def test_an_order_that_was_created_has_an_id_and_a_session(name: str, form: str) -> None:
    """Without one of them it could not be paid; both are text, never None."""
    value: Any = " " if form == "blank" else FORMS[form]
    order = {"order_id": "order_1", "payment_session_id": "session_1", "order_note": 7}
    body = changed(order, (name,), value)
    try:
        found = check_amounts(decode(Order, body))
    except (msgspec.MsgspecError, ValueError):
        assert form != '"text"'
        return
    assert (form, getattr(found, name)) == ('"text"', "text")


def test_an_order_that_is_fetched_may_have_no_session() -> None:
    """One that takes no payment any more is still an order."""
    order = check_amounts(decode(FetchedOrder, {"order_id": "order_1", "order_status": "PAID"}))
    assert (order.order_status, order.payment_session_id) == ("PAID", None)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
known_names = st.sampled_from(
    sorted({*TAKEN, *PAID, *WRONG_OTP, "request_id", "order_status", "simulation_id"})
)
bodies = st.dictionaries(known_names, json_values, max_size=6)


@pytest.mark.parametrize("kind", sorted(KINDS))
@given(body=bodies | st.lists(bodies, max_size=2) | json_values)
@settings(max_examples=40, deadline=None)
def test_any_json_decodes_to_an_answer_or_not_at_all(kind: str, body: object) -> None:
    """Whatever comes: an answer that can be observed, or one of `UNREADABLE`."""
    try:
        found = decode(KINDS[kind], body)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return
    for one in found if isinstance(found, list) else [found]:
        match one:
            case PayAnswer():
                prove(observe_pay(one))
                next_action(one)
            case AuthenticateAnswer():
                prove(observe_authenticate(one))
            case PaymentEntity():
                prove(observe_entity(one, Call.FETCH_PAYMENT))


@pytest.mark.parametrize("kind", sorted(KINDS))
@given(raw=st.binary(max_size=60))
@settings(max_examples=40, deadline=None)
def test_any_bytes_decode_or_raise_what_the_client_catches(kind: str, raw: bytes) -> None:
    """Garbage is no way to raise something else."""
    try:
        check_amounts(decoder(KINDS[kind])(raw))
    except (msgspec.MsgspecError, ValueError):
        return


@pytest.mark.parametrize("url", ["javascript:alert(1)", "data:text/html,x", "file:///etc", "", 7])
@pytest.mark.parametrize("action", ["post", "link", "form"])
def test_a_link_that_is_no_page_is_not_passed_on(action: str, url: object) -> None:
    """Only http and https: another scheme would run inside the merchant's own page."""
    data = {"url": url if isinstance(url, str) else None, "redirect_to_bank": url}
    answer = decoder(PayAnswer)(json.dumps({"action": action, "data": data}).encode())
    assert next_action(answer) in (None, AskOtp(None))
