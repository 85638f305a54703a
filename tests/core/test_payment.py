"""A `Payment` makes its fields when the first is read; every reader gets all of them."""

from __future__ import annotations

import copy
import dataclasses
import pickle

import msgspec
import pytest

from cfflow import Payment, StoreError
from cfflow.core.chart import State
from cfflow.core.order import Snapshot
from cfflow.core.record import Details
from cfflow.views import payment as payments
from cfflow.views.payment import payment_of, snapshot_in
from tests.core.core_kit import NATIVE, SECOND, T0, a_payment, beside

NOW = T0 + 40 * SECOND
FIELDS = [field.name for field in dataclasses.fields(Payment)]


def shown(state: State = State.OTP_PENDING) -> Payment:
    return payment_of(a_payment(state), NATIVE, NOW)


@pytest.mark.parametrize("name", FIELDS)
def test_any_field_can_be_the_first_that_is_read(name: str) -> None:
    """Each is the same whichever was read before it."""
    whole = shown()
    assert [getattr(whole, each) for each in FIELDS]
    assert getattr(shown(), name) == getattr(whole, name)


def test_a_step_that_reads_the_state_alone_makes_no_other_field(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """That is what it is for: the fields cost more than a step's own bookkeeping."""
    monkeypatch.setattr(payments, "_fields_of", None)
    assert shown().state is State.OTP_PENDING
    with pytest.raises(TypeError):
        shown().id  # noqa: B018  reading it makes them


def test_what_a_payment_shows_is_of_the_time_when_it_was_returned() -> None:
    """However late a field is read: the page of an OTP that has expired since."""
    held = a_payment(State.OTP_PENDING)
    before = payment_of(held, NATIVE, NOW)
    assert before.customer_view != payment_of(held, NATIVE, NOW + 3600 * SECOND).customer_view
    assert before.customer_view == payment_of(held, NATIVE, NOW).customer_view


def test_two_payments_are_equal_if_their_fields_are() -> None:
    """Regardless of which was read."""
    one, other = shown(), shown()
    assert one.id
    assert one == other
    assert one != shown(State.CAPTURED)


def test_encoders_copies_and_pickles_have_all_fields() -> None:
    """None of them reads fields one by one."""
    whole = shown()
    assert whole.as_dict() == shown().as_dict()
    assert [*whole.as_dict()] == FIELDS
    data = msgspec.json.decode(msgspec.json.encode(shown()))
    assert [*data] == FIELDS
    assert data["id"] == whole.id
    assert [*dataclasses.asdict(shown())] == FIELDS
    assert {*FIELDS} <= {*dir(shown())}
    again = pickle.loads(pickle.dumps(shown()))  # noqa: S301  our own bytes
    for copied in (copy.copy(shown()), copy.deepcopy(shown()), again):
        assert copied == whole
        assert snapshot_in(copied) is None
    assert dataclasses.replace(shown(), version=9).version == 9


def test_a_payment_of_a_test_needs_only_the_fields_without_a_default() -> None:
    """So does a pickle of a version that had fewer fields."""
    whole = shown().as_dict()
    late = {name for name in FIELDS if name in Details.__struct_fields__}
    late |= {"authorized_at", "captured_at", "confirmed", "abandoned", "reviews"}
    made = Payment(**{name: value for name, value in whole.items() if name not in late})
    assert (made.method, made.confirmed, made.abandoned, made.reviews) == (None, True, False, ())


def test_what_is_no_field_is_an_attribute_error() -> None:
    """A misspelt name is found at once, on a copy too."""
    for payment in (shown(), copy.copy(shown())):
        with pytest.raises(AttributeError, match="'Payment' object has no attribute 'sate'"):
            payment.sate  # type: ignore[attr-defined]  # noqa: B018  that is what is tested


def test_an_order_that_does_not_decode_fails_where_the_payment_is_asked_for() -> None:
    """And not where somebody reads a field of it, who expects no error of the store."""
    held = beside(a_payment(State.FAILED), a_payment(State.CAPTURED).record)
    ours, _ = held.order.payments
    broken = msgspec.structs.replace(held.order, payments=(ours, msgspec.Raw(b"\xc1")))
    assert payment_of(held, NATIVE, NOW).id
    with pytest.raises(StoreError, match="does not decode"):
        payment_of(Snapshot(broken, held.n, held.record), NATIVE, NOW)
