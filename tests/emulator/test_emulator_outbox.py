"""The outbox by itself: what is due when, and what is kept; nobody carries anything."""

from __future__ import annotations

import pytest

from cfflow.emulator import Bank, Clock, Webhooks
from cfflow.emulator.webhook_events import WebhookEvent
from cfflow.emulator.webhook_outbox import Outbox
from tests.emulator.emulator_kit import T0, an_order, pay


def _notice(number: int) -> WebhookEvent:
    return WebhookEvent("X", f"order_{number}", None, T0, number, "2025-01-01", "secret")


@pytest.mark.parametrize("step_s", [1, 60, 120, 3600, 86400])
def test_a_jump_leaves_the_history_of_the_time_that_passed(step_s: int) -> None:
    """However the hour is passed, the attempts were made at the same times."""
    box = Outbox()
    box.configure(urls=("http://a",))
    box.add(_notice(1), None, T0)
    for now_s in range(0, 3 * 3600 + step_s, step_s):
        while errands := box.take_due(T0 + now_s):
            for errand in errands:
                box.record_result(errand, 500)
    [delivery] = box.deliveries.values()
    assert [made.at - T0 for made in delivery.attempts] == [0, 120, 720, 2520]
    assert box.next_due_at_s is None


def test_memory_is_bounded() -> None:
    """The oldest that wait for nothing are forgotten; one that waits is kept."""
    box = Outbox(kept_max=10)
    for number in range(25):
        box.add(_notice(number), None, T0)
    assert [each.id for each in box.deliveries.values()] == [f"wh_{n}" for n in range(16, 26)]
    box.add(_notice(99), "http://a", T0)
    for number in range(25):
        box.add(_notice(number), None, T0)
    assert "wh_26" in box.deliveries


def test_an_event_is_written_only_for_somebody_who_reads_it() -> None:
    """Where no URL is configured, a payment costs no body."""
    bank = Bank()
    webhooks = Webhooks(bank, Clock())
    paid = pay(bank, an_order(bank))
    bank.submit_otp(paid.cf_payment_id, "111000", T0)
    [recorded] = webhooks
    assert recorded.status == "recorded"
    assert "body" not in vars(recorded.event)


def test_a_body_tells_what_was_when_it_happened() -> None:
    """A payment that moved on since is told as it was then."""
    bank = Bank()
    webhooks = Webhooks(bank, Clock())
    paid = pay(bank, an_order(bank))
    for status in ("FAILED", "SUCCESS"):
        bank.force(paid.cf_payment_id, status, T0)
    statuses = [b'"payment_status":"FAILED"' in each.event.body for each in webhooks]
    assert statuses == [True, False]
