"""What a review means and what a person does about it: told by `why` and by the guide.

One sentence each, in the order of docs/guides/recovery.md, which has a section for every
reason; a test keeps the two together.
"""

from __future__ import annotations

from typing import Final

__all__ = ["ADVICE"]

ADVICE: Final[dict[str, str]] = {
    "ambiguous_attempt": (
        "find out which attempt is this payment's, or that none is; resolve it, adopt the order"
    ),
    "unclaimed_money": (
        "somebody paid this order outside this payment: adopt it, or refund; then acknowledge"
    ),
    "attempt_claimed": (
        "another payment of the order has this attempt; resolve this one as what it is without it"
    ),
    "other_attempt": (
        "the gateway acted on another attempt of the order: check both with the bank, then resolve"
    ),
    "two_holds": (
        "the customer may have paid twice: keep one, void or refund the other, acknowledge both"
    ),
    "other_answer": (
        "the gateway answered about another order or attempt, and nothing of it was used: ask its"
        " support why, then acknowledge"
    ),
    "order_not_found": (
        "check client id, secret and environment: it may be another account's order; if they are"
        " right, ask the gateway's support, then resolve"
    ),
    "order_amount_differs": (
        "the gateway's order is not of the amount that start was given: find out which is right,"
        " refund or collect the difference, then acknowledge"
    ),
    "currency_differs": (
        "the gateway's currency is not the one that start was given: find out which is right,"
        " then acknowledge"
    ),
    "late_authorization": (
        "the money came after the failure: serve the order or give the money back, then acknowledge"
    ),
    "abandoned_and_paid": (
        "money came after the payment was abandoned: serve the order or refund it, then acknowledge"
    ),
    "contradicts_captured": (
        "the gateway takes back that the money was taken: ask its support, then acknowledge"
    ),
    "contradicts_voided": (
        "the gateway takes back that the hold was released: ask its support, then acknowledge"
    ),
    "captured_over_hold": (
        "more was captured than was held, says the gateway: compare its dashboard, then acknowledge"
    ),
    "captured_amount_changed": (
        "the captured amount is not what it was: compare the gateway's dashboard, then acknowledge"
    ),
    "amount_changed": (
        "the amount held is not what it was: compare the gateway's dashboard, then acknowledge"
    ),
    "held_not_captured": (
        "a sale is only held: look at the account's pre-authorization setting, capture or void it"
    ),
    "captured_without_hold": (
        "a hold was wanted and the money was taken: refund it or keep it, then acknowledge"
    ),
    "hold_ends_soon": "the hold lapses soon and the flow leaves it to you: capture or void it",
    "hold_lapsed": (
        "the hold is past its end and still shown: ask the gateway whether the money is there"
    ),
    "step_refused": (
        "the gateway refused what the worker sent: read why, do it by hand, then acknowledge"
    ),
    "key_too_old": (
        "too old to be repeated safely: look at the gateway's dashboard, then resolve it"
    ),
    "no_answer": (
        "the bank owes an answer for too long: ask the gateway's support, then resolve it or wait"
    ),
}
