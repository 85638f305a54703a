"""A signed webhook is never refused for its content: every field in every JSON form."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

import pytest

from cfflow import FeedNotification, InvalidSignature
from cfflow.core.sealed import Sealed
from cfflow.feed.feed import _item
from cfflow.store.codec import encode_notification
from cfflow.store.protocol import Notification
from cfflow.webhooks import Verifier
from tests.engine.signing import SECRET, signed
from tests.ports.forms_kit import FORMS, Path, changed, paths_of

NOW_MS: Final = 1_760_000_000_000
WHEN: Final = "2025-10-09T14:23:20+05:30"
VERIFIER: Final = Verifier([Sealed(SECRET)])

CUSTOMER: Final = {
    "customer_name": "Asha",
    "customer_id": "c_7",
    "customer_email": "asha@example.com",
    "customer_phone": "9908734801",
}
PAYMENT: Final = {
    "cf_payment_id": "12376123",
    "payment_status": "SUCCESS",
    "payment_amount": 170.00,
    "payment_currency": "INR",
    "payment_message": "Transaction successful",
    "payment_time": WHEN,
    "bank_reference": "234928698581",
    "auth_id": "A898101",
    "payment_method": {"card": {"channel": "link", "card_number": "xxxxxx1111"}},
    "payment_group": "credit_card",
}
PAID: Final = {
    "data": {
        "order": {
            "order_id": "order_8123",
            "order_amount": 170.00,
            "order_currency": "INR",
            "order_tags": {"name": "value"},
        },
        "payment": PAYMENT,
        "customer_details": CUSTOMER,
        "error_details": {
            "error_code": "TRANSACTION_DECLINED",
            "error_reason": "auth_declined",
            "error_source": "customer",
        },
        "payment_gateway_details": {"gateway_name": "CASHFREE", "gateway_order_id": "12"},
        "payment_offers": [{"offer_id": "o1", "offer_meta": {"offer_title": "ten off"}}],
    },
    "event_time": WHEN,
    "type": "PAYMENT_SUCCESS_WEBHOOK",
}
REFUND: Final = {
    "cf_refund_id": 11325632,
    "cf_payment_id": 789727431,
    "refund_id": "refund_1",
    "order_id": "order_8123",
    "refund_amount": 2.50,
    "refund_status": "SUCCESS",
    "refund_splits": [{"merchantVendorId": "v", "percentage": None}],
    "metadata": None,
}
EVENTS: Final[dict[str, Any]] = {
    "success": PAID,
    "failed": PAID | {"type": "PAYMENT_FAILED_WEBHOOK"},
    "dropped": PAID | {"type": "PAYMENT_USER_DROPPED_WEBHOOK"},
    "charges": {
        "data": {
            "order": {"order_id": "order_8123", "order_amount": 170.00},
            "payment": PAYMENT,
            "charges_details": {"service_charge": 3.4, "service_tax": 0.61},
        },
        "event_time": WHEN,
        "type": "PAYMENT_CHARGES_WEBHOOK",
    },
    "refund": {"data": {"refund": REFUND}, "event_time": WHEN, "type": "REFUND_STATUS_WEBHOOK"},
    "auto refund": {
        "data": {"auto_refund": REFUND},
        "event_time": WHEN,
        "type": "AUTO_REFUND_STATUS_WEBHOOK",
    },
    "dispute": {
        "data": {
            "dispute": {"dispute_id": 433475257, "dispute_amount": 4500, "resolved_at": None},
            "order_details": {"order_id": "order_8123", "order_amount": 4500},
            "customer_details": CUSTOMER,
        },
        "event_time": WHEN,
        "type": "DISPUTE_CREATED",
    },
    "settlement": {
        "data": {"settlement": {"cf_settlement_id": 1, "amount_settled": 98.6, "utr": "u"}},
        "event_time": WHEN,
        "type": "SETTLEMENT_SUCCESS",
    },
}
PAYMENT_EVENTS: Final = {"success", "failed", "dropped"}

#: Where each other event has its order id, written by hand.
ORDER_AT: Final[dict[str, Path]] = {
    "charges": ("data", "order", "order_id"),
    "refund": ("data", "refund", "order_id"),
    "auto refund": ("data", "auto_refund", "order_id"),
    "dispute": ("data", "order_details", "order_id"),
}
#: The id of an attempt in each form that can be read.
IDS: Final = {"0": "0", "16381": "16381", "-1": "-1", '"text"': "text"}

PLACES: Final = [
    pytest.param(name, path, id=f"{name}-{'.'.join(map(str, path))}")
    for name, body in EVENTS.items()
    for path in paths_of(body)
    if path != ("type",)
]


def read(body: Any) -> Notification:
    """Return the notification of a signed body; the feed can store it and return it."""
    raw = json.dumps(body).encode()
    found = VERIFIER.read(signed(raw, NOW_MS), raw, NOW_MS)
    handed = _item("0:1-1:1", encode_notification(found, NOW_MS))
    assert isinstance(handed, FeedNotification)
    assert handed.content_id == found.content_id
    assert (handed.data is not None) == (found.data not in (None, b"null"))
    return found


def readings(name: str, path: Path) -> Iterator[tuple[str, Any, Notification]]:
    """Yield each form in that place of an event, the body's own data, and what is read of it."""
    for form, value in FORMS.items():
        body = changed(EVENTS[name], path, value)
        yield form, body.get("data"), read(body)


def wanted_of_payment(path: Path, form: str) -> tuple[str, str, str]:
    """Return the order, the attempt and its reported state, written by hand."""
    match path:
        case ("data",) | ("data", "order"):
            return "", "", ""
        case ("data", "order", "order_id"):
            return ("text", "12376123", "captured") if form == '"text"' else ("", "", "")
        case ("data", "payment"):
            return "order_8123", "", ""
        case ("data", "payment", "cf_payment_id"):
            attempt = IDS.get(form, "")
            return "order_8123", attempt, "captured" if attempt else ""
        case ("data", "payment", "payment_status"):
            return "order_8123", "12376123", ""
        case _:
            return "order_8123", "12376123", "captured"


def wanted_of_other(name: str, path: Path, form: str) -> tuple[str, str, str]:
    """Return the same for an event that is not about an attempt."""
    named_at = ORDER_AT.get(name)
    if named_at is None:
        return "", "", ""
    if path == named_at:
        return "text" if form == '"text"' else "", "", ""
    return "" if path == named_at[: len(path)] else "order_8123", "", ""


@pytest.mark.parametrize(("name", "path"), PLACES)
def test_a_field_of_any_form_is_accepted_and_changes_only_its_own_value(
    name: str, path: Path
) -> None:
    """An event that names an attempt is about it; any other goes to the feed with its data."""
    seen = list(readings(name, path))
    assert [form for form, _, _ in seen] == list(FORMS) and len(FORMS) > 5
    for form, data, found in seen:
        is_payment = name in PAYMENT_EVENTS
        wanted = wanted_of_payment(path, form) if is_payment else wanted_of_other(name, path, form)
        assert (found.order_id, found.cf_payment_id, found.reported_state) == wanted, form
        assert found.type == EVENTS[name]["type"]
        assert (found.data is None) == (found.cf_payment_id != ""), form
        assert found.data is None or json.loads(found.data) == data, form


@pytest.mark.parametrize("name", sorted(EVENTS))
@pytest.mark.parametrize("form", sorted(set(FORMS) - {'"text"'}))
def test_a_type_out_of_form_is_malformed(name: str, form: str) -> None:
    """Only the type is required: without it the event cannot be identified."""
    with pytest.raises(InvalidSignature) as refused:
        read(changed(EVENTS[name], ("type",), FORMS[form]))
    assert refused.value.reason == "malformed"


@pytest.mark.parametrize("name", sorted(EVENTS))
def test_a_type_that_is_new_is_accepted(name: str) -> None:
    """The gateway adds event types without notice."""
    assert read(changed(EVENTS[name], ("type",), "text")).type == "text"


@pytest.mark.parametrize("form", sorted(set(FORMS) - {"missing"}))
def test_a_body_that_is_no_event_is_malformed(form: str) -> None:
    """Not an object, or one without a type."""
    with pytest.raises(InvalidSignature) as refused:
        read(FORMS[form])
    assert refused.value.reason == "malformed"
