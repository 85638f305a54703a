"""What `why` says of a payment: as it is now, with who, why and in which zone."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from cfflow.cashfree import facts
from cfflow.core.authors import Author, Cause
from cfflow.core.chart import State
from cfflow.core.decide import decide
from cfflow.core.observation import Failure
from cfflow.core.operation import Step
from cfflow.core.order import Snapshot
from cfflow.core.people import abandon
from cfflow.views.why import Why, why_of
from tests.core.core_kit import (
    DAY,
    NATIVE,
    SECOND,
    T0,
    a_created,
    a_payment,
    an_otp_page,
    answered,
    decided,
    entity,
    inquired,
    opened,
    order_is,
    otp_result,
    with_record,
)

NOW = T0 + 40 * SECOND
WAITS = "the bank waits for the customer's OTP"


def why(held: Snapshot, now_ms: int = NOW) -> Why:
    return why_of(held, NATIVE, now_ms)


def turned(**changes: Any) -> Snapshot:
    page = an_otp_page()
    otp = page.record.otp
    assert otp is not None
    return with_record(page, otp=msgspec.structs.replace(otp, **changes))


@pytest.mark.parametrize(
    ("held", "now_ms", "words"),
    [
        (an_otp_page(), NOW, WAITS),
        (turned(accepted=True), NOW, "the OTP was accepted"),
        (turned(), T0 + 301 * SECOND, "the time for the OTP is over"),
        (turned(submits_used=3), NOW, "all tries of the OTP are used"),
        (turned(unsure=True), NOW, "the answer to an OTP was lost"),
        (opened(an_otp_page(), Step.SUBMIT_OTP, T0), NOW, "its outcome is not known yet"),
        (with_record(a_created(), pay_given_up_at_ms=T0), NOW, "is still looked for"),
        (decided(a_created(), order_is("EXPIRED", NOW), NOW), NOW, "no attempt was made"),
        (a_payment(State.FAILED), NOW, "this attempt took no money so far"),
        (with_record(a_payment(State.CAPTURED), confirming=True), NOW, "not confirmed it yet"),
        (with_record(a_payment(State.AUTHORIZED), confirming=True), NOW, "working on a capture"),
    ],
)
def test_the_first_line_says_how_it_is_now(held: Snapshot, now_ms: int, words: str) -> None:
    """An OTP page that is over, or used, or answered, waits for no OTP."""
    first = str(why(held, now_ms)).splitlines()[0]
    assert words in first
    assert (WAITS in first) == (words == WAITS)


def test_an_expired_order_is_not_called_an_attempt() -> None:
    """The transition's own line, too."""
    text = str(why(decided(a_created(), order_is("EXPIRED", NOW), NOW)))
    assert "the order takes no payment any more" in text
    assert "attempt took no money" not in text


def test_a_failure_is_told_with_code_and_reason() -> None:
    """All that the gateway gave, on a line of its own."""
    failure = Failure("TRANSACTION_DECLINED", "insufficient_funds", "bank", "declined by the bank")
    seen = entity("FAILED", failure=failure)
    failed = decided(an_otp_page(), inquired(seen, asked_at_ms=NOW), NOW)
    assert (
        "Failure: TRANSACTION_DECLINED, insufficient_funds, by bank, declined by the bank."
        in str(why(failed)).splitlines()
    )


def test_a_look_that_is_past_is_overdue() -> None:
    """Not "next look at" a moment that has gone by."""
    held = an_otp_page()
    due_at_ms = held.record.wake_at_ms
    assert due_at_ms is not None
    assert "Next look at" in str(why(held, due_at_ms))
    late = why(held, due_at_ms + 1)
    assert late.is_overdue
    assert "overdue since" in str(late)
    assert "Next look at" not in str(late)
    assert not why(a_payment(State.CAPTURED), T0 + 9 * DAY).is_overdue


def test_an_inquiry_that_proved_nothing_is_told() -> None:
    """Somebody has asked, and when; one that moved the payment is in the timeline already."""
    polled = decided(a_payment(State.INITIATED), inquired(entity("PENDING"), asked_at_ms=NOW), NOW)
    assert "the last inquiry: it proved nothing new" in str(why(polled))
    given_up = abandon(polled, NATIVE, NOW + SECOND).snapshot
    assert "the last inquiry: it proved nothing new" in str(why(given_up, NOW + SECOND))
    moved = decided(a_payment(State.INITIATED), inquired(entity("FAILED"), asked_at_ms=NOW), NOW)
    assert "proved nothing new" not in str(why(moved))
    assert why(a_created()).last_inquiry is None


def test_it_says_who() -> None:
    """Who abandoned, whose step it was, and that the worker did it by itself."""
    by = Author(Cause.CALLER, "cust:9")
    assert "abandoned, by cust:9" in str(
        why(abandon(an_otp_page(), NATIVE, NOW, author=by).snapshot)
    )
    seen = inquired(entity("FAILED"), asked_at_ms=NOW)
    failed = decide(an_otp_page(), seen, NATIVE, NOW, Author(Cause.WORKER)).snapshot
    assert "by the worker's inquiry" in str(why(failed))
    own = opened(an_otp_page(), Step.SUBMIT_OTP, T0)
    own = decided(own, answered(own, otp_result("FAILED"), asked_at_ms=T0), T0)
    assert ", by" not in str(why(own))


def test_times_carry_their_zone() -> None:
    """UTC, or another one that was asked for."""
    told = why(an_otp_page())
    assert "2025-10-09 08:53:20.000 UTC" in str(told)
    assert "2025-10-09 14:23:20.000 IST" in told.text(facts.IST)
    assert "UTC" not in told.text(facts.IST)
