"""The gateway's notifications: signed, late, twice, in the wrong order, or never.

A notification that is not acknowledged comes again after 2, 10 and 30 minutes. A process that
acknowledged one must not lose it: the payments that it named are due, were inquired since,
or are handled by a process.
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
from collections.abc import Callable
from random import Random

from cfflow import Orchestrator, Receipt
from cfflow.emulator import Account, Attempt, Bank
from cfflow.errors import CfflowError
from tests.sim.loop import VirtualLoop
from tests.sim.process import Died, Process
from tests.sim.story import Story

_EVENTS = {
    "authorized": "PAYMENT_SUCCESS_WEBHOOK",
    "captured": "PAYMENT_SUCCESS_WEBHOOK",
    "failed": "PAYMENT_FAILED_WEBHOOK",
    "dropped": "PAYMENT_USER_DROPPED_WEBHOOK",
    "cancelled": "PAYMENT_USER_DROPPED_WEBHOOK",
}
_AGAIN_S = (120.0, 600.0, 1800.0)
_ANSWER_S = 10.0

#: Returns a living process that can take a notification, if there is one.
Door = Callable[[], tuple[Process, Orchestrator] | None]


class Postman:
    """Sends a notification for every effect on money, in worlds with a webhook URL."""

    def __init__(
        self,
        bank: Bank,
        account: Account,
        *,
        loop: VirtualLoop,
        seed: int,
        story: Story,
        door: Door,
        now_ms: Callable[[], int],
        several: bool,
    ) -> None:
        # Its own generator: the draws of the world must not depend on notifications.
        self._rng = Random(~seed)
        self._account = account
        self._loop = loop
        self._story = story
        self._door = door
        self._now_ms = now_ms
        self._lost = self._rng.choice((0.0, 0.2, 0.6))
        self.waiting = 0
        if self._rng.random() < 0.5 or several:
            bank.listen(self._happened)

    def _happened(self, effect: str, attempt: Attempt, _at: float) -> None:
        if effect not in _EVENTS or self._rng.random() < self._lost:
            return
        about = {
            "order": {"order_id": attempt.order.order_id},
            "payment": {
                "cf_payment_id": str(attempt.cf_payment_id),
                "payment_status": "PENDING" if self._rng.random() < 0.1 else attempt.status,
            },
        }
        body = json.dumps({"type": _EVENTS[effect], "data": about}).encode()
        for _ in range(self._rng.choice((1, 1, 1, 2, 3))):
            after_s = self._rng.choice((0.0, 0.05, 2.0, 60.0, 3000.0)) * self._rng.random()
            self._later(after_s, body, 0)

    def _later(self, after_s: float, body: bytes, tries: int) -> None:
        self.waiting += 1
        self._loop.call_later(after_s, self._deliver, body, tries)

    def _deliver(self, body: bytes, tries: int) -> None:
        self.waiting -= 1
        found = self._door()
        if found is None:
            self._again(body, tries)
            return
        process, orchestrator = found
        acknowledged: asyncio.Future[bool] = self._loop.create_future()
        process.run(self._hand_in(orchestrator, body, acknowledged))
        self.waiting += 1
        self._loop.call_later(_ANSWER_S, self._look, acknowledged, body, tries)

    async def _hand_in(
        self, orchestrator: Orchestrator, body: bytes, acknowledged: asyncio.Future[bool]
    ) -> None:
        stamp = str(self._now_ms())
        digest = hmac.digest(self._account.client_secret.encode(), stamp.encode() + body, "sha256")
        signature = base64.b64encode(digest).decode()
        headers = {"x-webhook-signature": signature, "x-webhook-timestamp": stamp}
        try:
            receipt: Receipt = await orchestrator.on_webhook(headers, body)
        except (CfflowError, Died) as refused:
            self._story.add("postman", f"is refused: {type(refused).__name__}")
            return
        self._story.add("postman", f"delivers to {', '.join(receipt.payment_ids) or 'no payment'}")
        acknowledged.set_result(True)

    def _look(self, acknowledged: asyncio.Future[bool], body: bytes, tries: int) -> None:
        self.waiting -= 1
        if not acknowledged.done():
            acknowledged.cancel()
            self._again(body, tries)

    def _again(self, body: bytes, tries: int) -> None:
        if tries < len(_AGAIN_S):
            self._later(_AGAIN_S[tries], body, tries + 1)
