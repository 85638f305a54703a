"""The record of a payment: all that is stored of it, as one array-like msgpack array.

The position of a field is its name on disk: fields are only ever appended, each with a
default, and the order's `SCHEMA` rises with them (`order.py`).

The payment's id is not in the record: it is the order's id and the record's place in it.
Card numbers, CVVs, OTPs and session ids are in no field (gateway.md#secrets).
"""

from __future__ import annotations

from decimal import Decimal
from enum import IntEnum
from typing import Any, Final

import msgspec
from transitions import MachineError

from cfflow.core.authors import CAUSES, Author
from cfflow.core.bounds import HISTORY_TEXT_MAX
from cfflow.core.chart import State, Trigger, fire
from cfflow.core.observation import Call, Failure
from cfflow.core.operation import Operation, Step
from cfflow.core.reviews import Effect, effect_of

HISTORY_MAX: Final = 64

#: History stores positions in these lists, so they only ever grow at the end.
TRIGGERS: Final = tuple(Trigger)
STEPS: Final = tuple(Step)
CALLS: Final = tuple(Call)


#: How a lost capture or void ended that had no effect when another step took its place.
GIVEN_UP: Final = "given up: no effect was seen"

#: Texts that occur often in histories; stored as positions here, so append only.
WORDS: Final = (
    "",
    "done",
    "success",
    "failed",
    "post",
    "link",
    "form",
    "custom",
    "SUCCESS",
    "FAILED",
    "SUCCESS captured",
    "SUCCESS captured CAPTURE+SUCCESS",
    "SUCCESS captured CAPTURE+PENDING",
    "VOID VOID+SUCCESS",
    "SUCCESS VOID+PENDING",
    "USER_DROPPED",
    "CANCELLED",
    "found by inquiry",
    "no attempt found by two inquiries",
    "sent again",
    "answer lost, counted as used",
    "inferred from channel=post",
    "the customer took redirect_to_bank",
    "card",
    "emi",
    "upi",
    "netbanking",
    "app",
    "cardless_emi",
    "paylater",
    "banktransfer",
    "collect",
    "qrcode",
    "credit_card",
    "debit_card",
    "prepaid_card",
    "net_banking",
    "wallet",
    GIVEN_UP,
)

_WORD_NUMBERS: Final = {word: number for number, word in enumerate(WORDS)}

_UUID_B: Final = 16
_UUID_LENGTH: Final = 36
_HYPHENS, _HEX, _TEXT = b"u", b"h", b"t"


class EntryKind(IntEnum):
    """What an entry of the history is about."""

    TRANSITION = 0
    OPERATION = 1
    REVIEW = 2
    NOTE = 3


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """One line of the history, packed small: codes are positions in the lists above.

    For a transition `code` is the trigger and `by` the call whose answer proved it (-1: a
    local decision); for an operation `code` is the step and `by` its sequence number; a
    note is a person's decision or an adoption. `cause` (a position in `authors.CAUSES`) and
    `actor` are who caused it. `request` is the gateway's id of the call that proved
    it (`packed_request_id`); of several edges that one answer proved, the last one has it.
    """

    offset_ms: int
    kind: int
    code: int
    by: int
    word: int | str
    cause: int = 0
    actor: str = ""
    request: bytes | None = None

    @property
    def text(self) -> str:
        """What proved it, how it ended, or which review it is. A newer version's text is "?"."""
        return text_of(self.word) or ""

    @property
    def request_id(self) -> str:
        """The gateway's id of the call that proved it, "" where there is none."""
        return request_id_of(self.request)


def word_of(text: str) -> int | str:
    """Return a text as it is stored: by its number where it is a common one."""
    return _WORD_NUMBERS.get(text, text)


def text_of(word: int | str | None) -> str | None:
    """Return a stored text; that of a number which only a newer version has is "?"."""
    if word is None or isinstance(word, str):
        return word
    return WORDS[word] if 0 <= word < len(WORDS) else "?"


def packed_request_id(request_id: str) -> bytes | None:
    """Return a request id as it is stored: the first byte is its form.

    A UUID, with its hyphens or without, takes 17 bytes instead of 36.
    """
    if not request_id:
        return None
    text = request_id.replace("-", "") if len(request_id) == _UUID_LENGTH else request_id
    try:
        packed = bytes.fromhex(text)
    except ValueError:
        packed = b""
    if len(packed) == _UUID_B and packed.hex() == text:
        if text is request_id:
            return _HEX + packed
        if request_id == hyphened(text):
            return _HYPHENS + packed
    return _TEXT + request_id.encode(errors="replace")


def hyphened(text: str) -> str:
    """Return the 32 digits of a UUID with its hyphens."""
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def request_id_of(request: bytes | None) -> str:
    """Return a stored request id as it came, "" for none, "?" for a form of a newer version."""
    if not request:
        return ""
    form, packed = request[:1], request[1:]
    if form == _TEXT:
        return packed.decode(errors="replace")
    if form not in {_HYPHENS, _HEX} or len(packed) != _UUID_B:
        return "?"
    return hyphened(packed.hex()) if form == _HYPHENS else packed.hex()


def entry(
    offset_ms: int,
    kind: EntryKind,
    code: int,
    by: int,
    text: str,
    author: Author,
    request: bytes | None = None,
) -> Entry:
    """Return an entry of the history, its text by number where it is a common one."""
    word = word_of(text[:HISTORY_TEXT_MAX])
    cause = CAUSES.index(author.cause)
    return Entry(offset_ms, kind, code, by, word, cause, author.actor, request)


class OtpTurn(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """The customer's turn on the OTP page; the limits are the flow's.

    `inferred`: the OTP page was assumed from the channel, no answer proved it. `unsure`: the
    answer to the last OTP was lost, so it may have been right and the bank may owe the outcome.
    """

    expires_at_ms: int
    sent_at_ms: int
    submits_used: int = 0
    resends_used: int = 0
    accepted: bool = False
    inferred: bool = False
    unsure: bool = False


class Review(msgspec.Struct, frozen=True, array_like=True):
    """A reason why a person must look at this payment, open until it is acknowledged by name.

    `reason` is a name of `ReviewReason`, or of a newer version's. `at_ms` is when it was opened.
    """

    reason: str
    at_ms: int
    detail: str = ""
    actor: str = ""
    note: str = ""
    acknowledged_at_ms: int | None = None


class Details(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """What a receipt and a support call need of an attempt, as the gateway showed it.

    The first three are texts or their numbers (`text_of`). `masked` is the card as `xxxxxx1111`,
    or the UPI id shortened. The times are counted from the payment's creation; None before.
    """

    method: int | str | None = None
    channel: int | str | None = None
    payment_group: int | str | None = None
    masked: str | None = None
    bank_reference: str | None = None
    auth_id: str | None = None
    authorized_after_ms: int | None = None
    captured_after_ms: int | None = None


class Sibling(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """The leading fields of a payment's record: what the order's other payments need of it.

    A commit about one payment decodes only these of the others, and writes their bytes back as
    they were read. `version` rises, and `token` becomes that of the commit, when the payment
    changes in a way that a caller can see (`draft.VERSIONED`).
    """

    version: int = 1
    token: str = ""
    state: State = State.CREATED
    created_at_ms: int
    wake_at_ms: int | None = None
    cf_payment_id: str | None = None
    abandoned: bool = False
    pay_given_up_at_ms: int | None = None
    operation: Operation | None = None
    reviews: tuple[Review, ...] = ()

    @property
    def open_reviews(self) -> tuple[Review, ...]:
        """The reviews that are not acknowledged yet."""
        if not self.reviews:
            return ()
        return tuple(review for review in self.reviews if review.acknowledged_at_ms is None)

    @property
    def blocks_pay(self) -> bool:
        """Whether an open review keeps the order from a new pay until a person closes it."""
        return self.has_effect(Effect.BLOCKS_PAY)

    def has_effect(self, effect: Effect) -> bool:
        """Whether an open review has this effect."""
        return any(effect in effect_of(review.reason) for review in self.open_reviews)


class Record(Sibling, frozen=True, array_like=True, kw_only=True):
    """One payment.

    `moved_at_ms` is when the present state was entered. `asked_at_ms` is when the last inquiry was
    asked that answered for this payment. `since_at_ms` is when the wait began that the schedule
    counts from (`schedule.py`). `hold_began_at_ms`: the hold's end was calculated from then by
    the flow; None where the gateway named the end.
    """

    flow: str
    digest: str
    nonce: str
    currency: str
    updated_at_ms: int
    moved_at_ms: int = 0
    asked_at_ms: int = 0
    since_at_ms: int = 0
    sequence: int = 0
    amount: Decimal | None = None
    amount_held: Decimal | None = None
    captured_amount: Decimal | None = None
    otp: OtpTurn | None = None
    hold_expires_at_ms: int | None = None
    hold_began_at_ms: int | None = None
    order_expires_at_ms: int | None = None
    failure: Failure | None = None
    history: tuple[Entry, ...] = ()
    history_from: State | None = None
    metadata: dict[str, Any] | None = None
    confirming: bool = False
    details: Details | None = None


def payment_id(order_id: str, n: int) -> str:
    """Return the id of an order's n-th payment: deterministic, so starting twice finds it."""
    return f"{order_id}.{n}"


def split_id(text: str) -> tuple[str, int] | None:
    """Return (order_id, n) of a payment id, None where the text is not one."""
    order_id, dot, n = text.rpartition(".")
    if not (dot and order_id and n.isascii() and n.isdigit() and len(n) < 10) or n.startswith("0"):
        return None
    return order_id, int(n)


def reached(state: State, code: int) -> State:
    """Return where this edge leads; an edge that the chart lacks leaves the state as it was.

    A newer version may have walked it. A history that cannot be read must not hide a payment.
    """
    try:
        return fire(state, TRIGGERS[code]) if code >= 0 else state
    except (IndexError, MachineError):
        return state


def appended(record: Record, entries: tuple[Entry, ...]) -> tuple[tuple[Entry, ...], State | None]:
    """Return the history with these entries added, and where it begins if not in `created`.

    At most 64 stay. Operations go first, the oldest before the others; a transition goes
    only when nothing else is left, and then the history begins in the state it led to.
    """
    history = [*record.history, *entries]
    begins = record.history_from or State.CREATED
    while len(history) > HISTORY_MAX:
        kinds = [line.kind for line in history]
        if EntryKind.OPERATION in kinds:
            history.pop(kinds.index(EntryKind.OPERATION))
            continue
        gone = history.pop(0)
        if gone.kind == EntryKind.TRANSITION:
            begins = reached(begins, gone.code)
    return tuple(history), None if begins is State.CREATED else begins
