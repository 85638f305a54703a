"""Customers and their banks: they pay, drop out, do nothing, or pay when it is too late."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from cfflow.emulator import Bank
from cfflow.emulator.records import Account, Attempt
from cfflow.emulator.refusals import Refused
from tests.sim.loop import VirtualLoop
from tests.sim.story import Story
from tests.sim.truth import Truth

#: A second card, for a payment on another system's page. Sometimes the first one is used.
_OTHER_CARD = "6074825972083818"


class Customers:
    """Acts on every attempt at the bank, some time after it has begun."""

    def __init__(
        self,
        bank: Bank,
        account: Account,
        truth: Truth,
        *,
        loop: VirtualLoop,
        rng: Random,
        story: Story,
        now: Callable[[], float],
        rough: bool,
        several: bool,
    ) -> None:
        self._bank = bank
        self._account = account
        self._truth = truth
        self._loop = loop
        self._rng = rng
        self._story = story
        self._now = now
        self.late = 0.6 if rough else rng.choice((0.0, 0.2, 0.6))
        self.passive = rng.choice((0.0, 0.1, 0.5))
        self._verdicts = ("SUCCESS", "SUCCESS", "SUCCESS", "FAILED", "USER_DROPPED")
        if several:
            # A payment must fail for another one to be begun, and its money may come later.
            self.late, self.passive = 0.5, 0.1
            self._verdicts = ("SUCCESS", "SUCCESS", "FAILED", "FAILED", "USER_DROPPED")
        self._met: set[int] = set()
        self.waiting = 0

    def meet(self, order_id: str) -> None:
        """Draw for every new attempt what its customer will do, and when."""
        for attempt in self._truth.attempts(order_id):
            if attempt.cf_payment_id not in self._met:
                self._met.add(attempt.cf_payment_id)
                self._decide(attempt)

    def stray(self, order_id: str, session: str, card: str, at_s: float) -> None:
        """Let the customer pay the order on another page; `at_s` shifts the time into the past."""
        number = card if at_s < 0 else _OTHER_CARD
        fields = {
            "channel": "link",
            "card_number": number,
            "card_holder_name": "Test",
            "card_expiry_mm": "12",
            "card_expiry_yy": "31",
            "card_cvv": "111",
        }
        try:
            self._bank.pay(session, {"card": fields}, self._now() + min(at_s, 0.0))
        except Refused:
            return
        self._truth.catch_up()
        self._story.add("customer", f"pays {order_id} on another page with card {number[-4:]}")
        self.meet(order_id)

    def _decide(self, attempt: Attempt) -> None:
        types_otp = attempt.method.action == "post"
        if self._rng.random() < (0.8 if types_otp else self.passive):
            return
        verdict = self._rng.choice(self._verdicts)
        self._later(self._rng.choice((0.5, 5.0, 40.0, 200.0)), attempt, verdict)

    def _later(self, about_s: float, attempt: Attempt, verdict: str) -> None:
        self.waiting += 1
        after_s = about_s * self._rng.uniform(0.3, 1.7)
        self._loop.call_later(after_s, self._act, attempt, verdict)

    def _act(self, attempt: Attempt, verdict: str) -> None:
        self.waiting -= 1
        try:
            name = str(attempt.cf_payment_id)
            self._bank.simulate(self._account, name, verdict, None, self._now())
        except Refused:
            return
        self._truth.catch_up()
        self._story.add("customer", f"makes {name} {verdict}")
        if verdict != "SUCCESS" and self._rng.random() < self.late:
            self._later(self._rng.choice((8.0, 30.0, 600.0, 5000.0)), attempt, "SUCCESS")
