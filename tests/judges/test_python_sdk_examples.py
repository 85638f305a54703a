"""Judge 1: every example of the gateway's reference page, run by the official Python SDK."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.judges.python_sdk import Merchant

pytestmark = [
    # The SDK was generated for an older pydantic.
    pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning"),
]

OLDEST, NEWEST = "2022-09-01", "2026-01-01"

#: What the page's answer to a pay has, and what each example must be told to do next.
PAY_FIELDS = {"payment_method", "channel", "action", "cf_payment_id", "payment_amount", "data"}
DATA_FIELDS = {"url", "payload", "content_type", "method"}
PAYS = {
    "card_link": ("card", "link", "link"),
    "netbanking": ("netbanking", "link", "link"),
    "upi_collect": ("upi", "collect", "custom"),
    "upi_link": ("upi", "link", "custom"),
    "upi_qrcode": ("upi", "qrcode", "custom"),
    "wallet": ("app", "link", "link"),
    "card_to_save": ("card", "link", "link"),
    "saved_card": ("card", "link", "link"),
    "card_post": ("card", "post", "post"),
    "card_emi": ("card", "post", "post"),
}
OTHERS = {"fetch_payment", "fetch_payments", "authorize", "authenticate"}

#: The fields of the page's payment entity, and of its authorization.
ENTITY = (
    "cf_payment_id order_id entity payment_currency error_details order_amount is_captured"
    " payment_group authorization payment_method payment_amount payment_time"
    " payment_completion_time payment_status payment_message bank_reference auth_id"
)
#: Beside these the gateway may show the bank's own words.
ERROR = "error_code error_description error_reason error_source"
AUTHORIZATION = (
    "action status captured_amount start_time end_time approve_by action_reference action_time"
)


@pytest.fixture
def page(merchant: Merchant) -> dict[str, Callable[..., Any]]:
    """The examples of the reference page, by name."""
    from tests.judges import reference_page

    return {
        name: example
        for name, example in inspect.getmembers(reference_page, inspect.isfunction)
        if not name.startswith("_") and example.__module__ == reference_page.__name__
    }


@pytest.fixture
def oldest(merchant: Merchant, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Run an example in the oldest version, whose numeric ids its models refuse; raw JSON."""
    from pydantic import ValidationError

    from tests.judges.python_sdk import Cashfree

    def run(example: Callable[..., Any], *ids: str) -> Any:
        with monkeypatch.context() as patch:
            patch.setattr(Cashfree, "XApiVersion", OLDEST)
            with pytest.raises(
                ValidationError, match=r"cf_payment_id\n  Input should be a valid s"
            ):
                example(*ids)
        return merchant.raw()

    return run


def test_every_example_of_the_page_is_judged(page: dict[str, Callable[..., Any]]) -> None:
    """The tables above name each example once."""
    assert set(page) == {*PAYS, *OTHERS}


@pytest.mark.parametrize("name", PAYS)
def test_a_pay_of_the_page_is_answered_as_the_sdk_reads_it(
    name: str, page: dict[str, Callable[..., Any]], merchant: Merchant
) -> None:
    """The newest version fits the SDK's strict models, and one attempt came of it."""
    order = merchant.order()
    paid = page[name](order.payment_session_id)
    assert (paid.payment_method, paid.channel, paid.action) == PAYS[name]
    assert paid.payment_amount == 22.42
    assert [payment.cf_payment_id for payment in page["fetch_payments"](order.order_id)] == [
        paid.cf_payment_id
    ]


@pytest.mark.parametrize("name", PAYS)
def test_a_pay_of_the_page_is_answered_as_the_page_shows_it(
    name: str, page: dict[str, Callable[..., Any]], merchant: Merchant, oldest: Callable[..., Any]
) -> None:
    """The oldest version: the page's own fields, and a payment's id is a number."""
    raw = oldest(page[name], merchant.order().payment_session_id)
    assert set(raw) == PAY_FIELDS
    assert set(raw["data"]) - {"redirect_to_bank"} == DATA_FIELDS
    assert isinstance(raw["cf_payment_id"], int)
    assert (raw["payment_method"], raw["channel"], raw["action"]) == PAYS[name]


def test_an_otp_of_the_page_is_accepted(
    page: dict[str, Callable[..., Any]], merchant: Merchant
) -> None:
    """`authenticate` says that the OTP was right; the fetch says that the money moved."""
    order = merchant.order()
    paid = page["card_post"](order.payment_session_id)
    answer = page["authenticate"](paid.cf_payment_id)
    assert (answer.action, answer.authenticate_status) == ("SUBMIT_OTP", "SUCCESS")
    payment = page["fetch_payment"](order.order_id, paid.cf_payment_id)
    assert (payment.payment_status, payment.is_captured) == ("SUCCESS", True)


def test_an_otp_of_the_page_is_answered_as_the_page_shows_it(
    page: dict[str, Callable[..., Any]], merchant: Merchant, oldest: Callable[..., Any]
) -> None:
    """The oldest version: four fields, and the payment's id is a number."""
    paid = merchant.pay(merchant.order())
    assert oldest(page["authenticate"], paid.cf_payment_id) == {
        "cf_payment_id": int(paid.cf_payment_id),
        "authenticate_status": "SUCCESS",
        "action": "SUBMIT_OTP",
        "payment_message": "otp accepted",
    }


def test_a_capture_of_the_page_takes_one_rupee(
    page: dict[str, Callable[..., Any]], merchant: Merchant
) -> None:
    """The hold is 10.01, the capture 1.0: the payment entity comes back and says so."""
    order, cf_payment_id = merchant.held(10.01)
    captured = page["authorize"](order.order_id)
    assert captured.cf_payment_id == cf_payment_id
    assert (captured.authorization.action, captured.authorization.captured_amount) == ("CAPTURE", 1)
    assert merchant.effects(order) == ["attempt_created", "authorized", "captured"]


def test_a_capture_of_the_page_is_answered_as_the_page_shows_it(
    page: dict[str, Callable[..., Any]], merchant: Merchant, oldest: Callable[..., Any]
) -> None:
    """The oldest version: the entity's and the authorization's own fields."""
    order, cf_payment_id = merchant.held(10.01)
    raw = oldest(page["authorize"], order.order_id)
    assert (set(raw), set(raw["authorization"])) == (
        set(ENTITY.split()),
        set(AUTHORIZATION.split()),
    )
    assert raw["cf_payment_id"] == int(cf_payment_id)
    assert raw["authorization"]["captured_amount"] == 1.0


def test_a_fetch_of_the_page_is_answered_as_the_page_shows_it(
    page: dict[str, Callable[..., Any]], merchant: Merchant, oldest: Callable[..., Any]
) -> None:
    """The oldest version: a declined attempt says why, and has no authorization."""
    order = merchant.order()
    paid = merchant.pay(order, "link")
    merchant.simulate(paid.cf_payment_id, "FAILED")
    (raw,) = oldest(page["fetch_payments"], order.order_id)
    assert set(raw) == set(ENTITY.split())
    assert set(ERROR.split()) <= set(raw["error_details"])
    assert (raw["payment_status"], raw["authorization"]) == ("FAILED", None)
    assert raw == oldest(page["fetch_payment"], order.order_id, paid.cf_payment_id)
