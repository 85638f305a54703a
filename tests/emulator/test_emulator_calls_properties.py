"""Any request gets a response of the gateway, never an error of the emulator's own."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from cfflow.emulator import Bank
from cfflow.emulator.calls import Incoming, perform
from cfflow.emulator.methods import READERS
from tests.emulator.emulator_kit import HOLDS, T0, a_bank, a_hold, order_body, patient

texts = st.text("aZ09_-@. \u00b2\u0966", max_size=8) | st.sampled_from(
    ["link", "post", "collect", "4111111111111111", "CAPTURE", "SUCCESS", "9000-01-01T00:00:00Z"]
)
scalars = st.none() | st.booleans() | st.integers() | st.decimals(allow_nan=False) | texts
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(texts, inner, max_size=2)
)
FIELDS = (
    "channel",
    "card_number",
    "card_expiry_mm",
    "card_cvv",
    "instrument_id",
    "cryptogram",
    "card_display",
    "token_requestor_id",
    "upi_id",
    "upi_expiry_minutes",
    "authorize_only",
    "authorization",
    "provider",
    "phone",
    "netbanking_bank_code",
    "netbanking_bank_name",
    "emi_tenure",
    "card_bank_name",
    "city",
)
ORDER_FIELDS = [
    *sorted(order_body()),
    "order_expiry_time",
    "order_note",
    "order_tags",
    "order_meta",
]
methods = st.dictionaries(
    st.sampled_from(sorted(READERS)),
    values | st.dictionaries(st.sampled_from(FIELDS), values, max_size=6),
    max_size=2,
)


@patient
@given(
    methods | values,
    st.dictionaries(st.sampled_from(["save_instrument", "offer_id"]), values | texts),
)
def test_any_payment_method_is_accepted_or_refused(method: Any, more: dict[str, Any]) -> None:
    """The status is 200 with an attempt, or 400 without one."""
    bank = a_bank()
    order = bank.create_order(HOLDS, order_body(), T0)
    body = {"payment_session_id": bank.session_of(order), "payment_method": method, **more}
    status = _status(bank, "pay", body)
    assert (status, len(order.attempts)) in ((200, 1), (400, 0))


@patient
@given(st.dictionaries(st.sampled_from(ORDER_FIELDS), values))
def test_any_order_is_accepted_or_refused(changes: dict[str, Any]) -> None:
    """The status is 200 or 400."""
    assert _status(a_bank(), "create_order", order_body(**changes)) in (200, 400)


@patient
@given(st.dictionaries(st.sampled_from(["action", "amount"]), values))
def test_any_authorize_is_accepted_or_refused(body: dict[str, Any]) -> None:
    """The status is 200 or 400."""
    bank = a_bank()
    order, _ = a_hold(bank)
    assert _status(bank, "authorize", body, order.order_id) in (200, 400)


@patient
@given(
    st.dictionaries(st.sampled_from(["payment_status", "payment_error_code"]), values) | values,
    values,
)
def test_any_simulation_is_accepted_or_refused(forced: Any, entity_id: Any) -> None:
    """The status is 200, 400 or 404, for any payment and status."""
    bank = a_bank()
    _, attempt = a_hold(bank)
    for payment in (entity_id, str(attempt.cf_payment_id)):
        body = {"entity": "PAYMENTS", "entity_id": payment, "entity_simulation": forced}
        assert _status(bank, "simulate", body) in (200, 400, 404)


@patient
@given(values | st.just("TERMINATED"))
def test_any_termination_is_accepted_or_refused(order_status: Any) -> None:
    """The status is 200 or 400."""
    bank = a_bank()
    order = bank.create_order(HOLDS, order_body(), T0)
    body = {"order_status": order_status}
    assert _status(bank, "terminate_order", body, order.order_id) in (200, 400)


@patient
@given(values, values)
def test_any_otp_is_accepted_or_refused(action: Any, otp: Any) -> None:
    """The status is 200 or 400."""
    bank = a_bank()
    _, attempt = a_hold(bank)
    body = {"action": action, "otp": otp}
    assert _status(bank, "authenticate", body, str(attempt.cf_payment_id)) in (200, 400)


def _status(bank: Bank, call: str, body: dict[str, Any], *ids: str) -> int:
    status, response = perform(
        bank, Incoming(call, ids, "2025-01-01", HOLDS, body, "http://127.0.0.1/pg"), T0
    )
    assert response
    return status
