"""Judge 1: what a merchant does with the official Python SDK, in the SDK's own API version."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.judges.receiver import Receiver

if TYPE_CHECKING:
    from tests.judges.python_sdk import Merchant

TERMINATED = {"TERMINATED", "TERMINATION_REQUESTED"}

pytestmark = [
    # The SDK was generated for an older pydantic.
    pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning"),
]


def test_an_order_is_created_and_fetched(merchant: Merchant) -> None:
    """Both answers are the same order entity."""
    order = merchant.order(170.0, order_note="two nights", order_tags={"room": "12"})
    assert (order.order_status, order.order_amount) == ("ACTIVE", 170.0)
    assert merchant.fetch_order(order.order_id) == order


def test_an_order_is_paid_once_its_payment_has_succeeded(merchant: Merchant) -> None:
    """A wrong OTP is no error, and the next one pays the order."""
    order = merchant.order()
    paid = merchant.pay(order)
    assert merchant.submit(paid.cf_payment_id, "999999").authenticate_status == "FAILED"
    assert merchant.submit(paid.cf_payment_id).authenticate_status == "SUCCESS"
    assert merchant.fetch_order(order.order_id).order_status == "PAID"
    assert merchant.effects(order) == ["attempt_created", "captured"]


@pytest.mark.parametrize("status", ["SUCCESS", "FAILED", "PENDING", "USER_DROPPED"])
def test_a_simulated_status_is_what_a_fetch_shows(status: str, merchant: Merchant) -> None:
    """The sandbox's own call, and the fetch of what it did."""
    order = merchant.order()
    paid = merchant.pay(order, "link")
    done = merchant.simulate(paid.cf_payment_id, status)
    assert merchant.fetch(order, paid.cf_payment_id).payment_status == status
    assert merchant.fetch_simulation(done.simulation_id) == done


def test_a_hold_is_captured_in_part(merchant: Merchant) -> None:
    """The entity of the capture and that of the fetch agree on the amount."""
    order, cf_payment_id = merchant.held()
    assert merchant.fetch(order, cf_payment_id).is_captured is False
    captured = merchant.authorize(order, "CAPTURE", 20.5)
    assert captured.authorization.captured_amount == 20.5
    assert merchant.fetch(order, cf_payment_id).authorization == captured.authorization


def test_a_hold_is_voided(merchant: Merchant) -> None:
    """A void gives all of it back."""
    order, cf_payment_id = merchant.held()
    assert merchant.authorize(order, "VOID").authorization.action == "VOID"
    assert merchant.fetch(order, cf_payment_id).payment_status == "VOID"
    assert merchant.effects(order) == ["attempt_created", "authorized", "voided"]


def test_a_hold_is_captured_once(merchant: Merchant) -> None:
    """The second capture is the SDK's BadRequestException, with the gateway's body."""
    from cashfree_pg.exceptions import BadRequestException

    order, _ = merchant.held()
    merchant.authorize(order, "CAPTURE", 22.42)
    with pytest.raises(BadRequestException, match="Transaction is already processed"):
        merchant.authorize(order, "CAPTURE", 22.42)


def test_an_idempotency_key_creates_one_order(merchant: Merchant) -> None:
    """The same body under the same key is answered with the order that exists."""
    first, again = (merchant.order(55.0, key="order-of-basket-77") for _ in range(2))
    assert first == again
    assert merchant.client.last_response.getheader("x-idempotency-replayed") == "true"


@pytest.mark.parametrize(
    ("status", "type_"),
    [
        ("SUCCESS", "PAYMENT_SUCCESS_WEBHOOK"),
        ("FAILED", "PAYMENT_FAILED_WEBHOOK"),
        ("USER_DROPPED", "PAYMENT_USER_DROPPED_WEBHOOK"),
    ],
)
def test_a_webhook_s_signature_is_accepted(
    status: str, type_: str, merchant: Merchant, receiver: Receiver
) -> None:
    """Over the raw bytes, with the client's secret, as the SDK counts it."""
    order = merchant.order(notify_url=receiver.url)
    paid = merchant.pay(order, "link")
    merchant.simulate(paid.cf_payment_id, status)
    event = merchant.verified(receiver.next())
    assert event.type == type_
    assert event.object["data"]["order"]["order_id"] == order.order_id
    assert event.object["data"]["payment"]["cf_payment_id"] == paid.cf_payment_id


def test_a_webhook_that_was_changed_on_its_way_is_refused(
    merchant: Merchant, receiver: Receiver
) -> None:
    """One byte is enough."""
    paid = merchant.pay(merchant.order(notify_url=receiver.url), "link")
    merchant.simulate(paid.cf_payment_id, "FAILED")
    sent = receiver.next()
    with pytest.raises(Exception, match="signature did not match"):
        merchant.verified(sent._replace(body=sent.body.replace(b"FAILED", b"SUCCES")))


def test_a_terminated_order_takes_no_payment(merchant: Merchant) -> None:
    """The order says so, and a pay is the SDK's BadRequestException."""
    from cashfree_pg.exceptions import BadRequestException

    order = merchant.order()
    assert merchant.terminate(order.order_id).order_status in TERMINATED
    with pytest.raises(BadRequestException, match="order_inactive"):
        merchant.pay(order)


def test_wrong_credentials_are_the_sdk_s_unauthorized(
    merchant: Merchant, monkeypatch: pytest.MonkeyPatch
) -> None:
    """401 is read as what it is."""
    from cashfree_pg.exceptions import UnauthorizedException

    from tests.judges import python_sdk

    monkeypatch.setattr(python_sdk, "DEFAULT_CLIENT_SECRET", "another")
    with pytest.raises(UnauthorizedException, match="authentication_error"):
        merchant.order()


def test_every_field_of_a_payment_is_one_that_the_sdk_knows(merchant: Merchant) -> None:
    """The strict models drop what they do not know: nothing of ours is dropped."""
    order, cf_payment_id = merchant.held()
    merchant.authorize(order, "CAPTURE", 22.42)
    known = merchant.fetch(order, cf_payment_id).to_dict()
    assert _without_nulls(merchant.raw()) == known


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nulls(inner) for name, inner in value.items() if inner is not None}
    return value
