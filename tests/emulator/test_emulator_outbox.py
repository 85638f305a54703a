"""The outbox alone, without a sender: what is due when, and what is kept."""

from __future__ import annotations

import pytest

from cfflow.emulator import Bank, Clock, Webhooks
from cfflow.emulator.webhook_events import WebhookEvent
from cfflow.emulator.webhook_outbox import Outbox
from tests.emulator.emulator_kit import T0, an_order, pay


def _event(number: int) -> WebhookEvent:
    return WebhookEvent("X", f"order_{number}", None, T0, number, "2025-01-01", "secret")


@pytest.mark.parametrize("step_s", [1, 60, 120, 3600, 86400])
def test_a_skip_gives_the_same_history_as_small_steps(step_s: int) -> None:
    """The attempts have the same times for any size of step."""
    box = Outbox()
    box.configure(urls=("http://a",))
    box.add(_event(1), None, T0)
    for now_s in range(0, 3 * 3600 + step_s, step_s):
        while errands := box.take_due(T0 + now_s):
            for errand in errands:
                box.record_result(errand, 500)
    [delivery] = box.deliveries.values()
    assert [made.at - T0 for made in delivery.attempts] == [0, 120, 720, 2520]
    assert box.next_due_at_s is None


def test_memory_is_bounded() -> None:
    """The oldest deliveries are removed, except those with a pending attempt."""
    box = Outbox(kept_max=10)
    for number in range(25):
        box.add(_event(number), None, T0)
    assert [each.id for each in box.deliveries.values()] == [f"wh_{n}" for n in range(16, 26)]
    box.add(_event(99), "http://a", T0)
    for number in range(25):
        box.add(_event(number), None, T0)
    assert "wh_26" in box.deliveries


def test_a_body_is_encoded_only_when_it_is_read() -> None:
    """Without a URL, a payment does not pay for encoding."""
    bank = Bank()
    webhooks = Webhooks(bank, Clock())
    paid = pay(bank, an_order(bank))
    bank.submit_otp(paid.cf_payment_id, "111000", T0)
    [recorded] = webhooks
    assert recorded.status == "recorded"
    assert "body" not in vars(recorded.event)


def test_a_body_shows_the_payment_at_the_time_of_the_event() -> None:
    """A later change of the payment does not change it."""
    bank = Bank()
    webhooks = Webhooks(bank, Clock())
    paid = pay(bank, an_order(bank))
    for status in ("FAILED", "SUCCESS"):
        bank.force(paid.cf_payment_id, status, T0)
    statuses = [b'"payment_status":"FAILED"' in each.event.body for each in webhooks]
    assert statuses == [True, False]
