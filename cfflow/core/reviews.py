"""Why a person must look at a payment: each reason with its advice and its consequences.

Reasons are stored and are typed by users (`acknowledge`), so a name never changes. The advice is
one sentence, in the order of docs/guides/recovery.md, which has a section for every reason; a test
keeps the two together. A new reason is one member here and the place that opens it.
"""

from __future__ import annotations

from enum import Flag, StrEnum
from typing import Final, Self


class Effect(Flag):
    """What an open review prevents, until a person closes it."""

    NOTHING = 0
    #: The worker leaves the payment's hold alone: it neither captures nor voids it.
    HANDS_OFF = 1
    #: Besides, no step that can take money is sent for the whole order: the customer may have paid
    #: by another attempt, and would pay twice.
    BLOCKS_PAY = 2 | HANDS_OFF


class ReviewReason(StrEnum):
    """A reason; `advice` is what a person does about it, `effect` what it prevents meanwhile."""

    advice: str
    effect: Effect

    def __new__(cls, name: str, advice: str, effect: Effect = Effect.NOTHING) -> Self:
        """Make a member from its stored name, its advice and its effect."""
        reason = str.__new__(cls, name)
        reason._value_, reason.advice, reason.effect = name, advice, effect
        return reason

    AMBIGUOUS_ATTEMPT = (
        "ambiguous_attempt",
        "find out which attempt is this payment's, or that none is; resolve it, adopt the order",
        Effect.BLOCKS_PAY,
    )
    UNCLAIMED_MONEY = (
        "unclaimed_money",
        "the order was paid outside this payment: adopt it, or refund; then acknowledge",
        Effect.BLOCKS_PAY,
    )
    ATTEMPT_CLAIMED = (
        "attempt_claimed",
        "another payment of the order owns this attempt; resolve this one as what it is without it",
        Effect.HANDS_OFF,
    )
    OTHER_ATTEMPT = (
        "other_attempt",
        "the gateway acted on another attempt of the order: check both with the bank, then resolve",
        Effect.HANDS_OFF,
    )
    TWO_HOLDS = (
        "two_holds",
        "the customer may have paid twice: keep one, void or refund the other, acknowledge both",
        Effect.BLOCKS_PAY,
    )
    OTHER_ANSWER = (
        "other_answer",
        (
            "the gateway answered about another order or attempt, and nothing of it was used:"
            " ask its support why, then acknowledge"
        ),
    )
    ORDER_NOT_FOUND = (
        "order_not_found",
        (
            "check client id, secret and environment: it may be another account's order; if they"
            " are right, ask the gateway's support, then resolve"
        ),
    )
    ORDER_AMOUNT_DIFFERS = (
        "order_amount_differs",
        (
            "the gateway's order is not of the amount that start was given: find out which is"
            " right, refund or collect the difference, then acknowledge"
        ),
        Effect.HANDS_OFF,
    )
    CURRENCY_DIFFERS = (
        "currency_differs",
        (
            "the gateway's currency is not the one that start was given: find out which is right,"
            " then acknowledge"
        ),
        Effect.HANDS_OFF,
    )
    LATE_AUTHORIZATION = (
        "late_authorization",
        (
            "the money came after the failure: serve the order or give the money back, then"
            " acknowledge"
        ),
    )
    ABANDONED_AND_PAID = (
        "abandoned_and_paid",
        (
            "money came after the payment was abandoned: serve the order or refund it, then"
            " acknowledge"
        ),
    )
    CONTRADICTS_CAPTURED = (
        "contradicts_captured",
        "the gateway takes back that the money was taken: ask its support, then acknowledge",
    )
    CONTRADICTS_VOIDED = (
        "contradicts_voided",
        "the gateway takes back that the hold was released: ask its support, then acknowledge",
    )
    CAPTURED_OVER_HOLD = (
        "captured_over_hold",
        "the gateway shows more captured than was held: compare its dashboard, then acknowledge",
        Effect.HANDS_OFF,
    )
    CAPTURED_AMOUNT_CHANGED = (
        "captured_amount_changed",
        "the captured amount is not what it was: compare the gateway's dashboard, then acknowledge",
    )
    AMOUNT_CHANGED = (
        "amount_changed",
        "the amount held is not what it was: compare the gateway's dashboard, then acknowledge",
    )
    HELD_NOT_CAPTURED = (
        "held_not_captured",
        "a sale is only held: look at the account's pre-authorization setting, capture or void it",
    )
    CAPTURED_WITHOUT_HOLD = (
        "captured_without_hold",
        "a hold was wanted and the money was taken: refund it or keep it, then acknowledge",
    )
    HOLD_ENDS_SOON = (
        "hold_ends_soon",
        "the hold lapses soon and the flow leaves it to you: capture or void it",
        Effect.HANDS_OFF,
    )
    HOLD_LAPSED = (
        "hold_lapsed",
        "the hold is past its end and still shown: ask the gateway whether the money is there",
    )
    STEP_REFUSED = (
        "step_refused",
        "the gateway refused what the worker sent: read why, do it by hand, then acknowledge",
        Effect.HANDS_OFF,
    )
    KEY_TOO_OLD = (
        "key_too_old",
        "too old to be repeated safely: look at the gateway's dashboard, then resolve it",
        Effect.HANDS_OFF,
    )
    GIVEN_UP_STEP_ACTED = (
        "given_up_step_acted",
        (
            "a lost capture or void took effect after another step had taken its place: serve or"
            " refund as that end demands, then acknowledge"
        ),
    )
    NO_ANSWER = (
        "no_answer",
        "the bank owes an answer for too long: ask the gateway's support, then resolve it or wait",
    )


_BY_NAME: Final = {reason.value: reason for reason in ReviewReason}


def reason_named(name: str) -> ReviewReason | None:
    """Return the reason of a stored name, None for one that only a newer version has."""
    return _BY_NAME.get(name)


def effect_of(name: str) -> Effect:
    """Return what an open review of this stored name prevents; an unknown one prevents nothing."""
    reason = reason_named(name)
    return Effect.NOTHING if reason is None else reason.effect
