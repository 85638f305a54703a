"""`find`: which payments a list has, and where its next page begins.

The indexes have payments by state and by review, in the order of their creation. Every other
filter is looked up in the records, so a page reads more of them than it shows. How many it reads is
bounded: a rare payment among a million orders costs many short calls and no long one.
"""

from __future__ import annotations

import base64
import binascii
import operator
import re
from collections.abc import Iterable
from datetime import datetime
from hashlib import blake2b
from typing import Final, cast

import msgspec

from cfflow.core.arguments import check_order_id, shown_name
from cfflow.core.chart import State
from cfflow.core.order import Snapshot
from cfflow.core.record import Record
from cfflow.core.reviews import ReviewReason
from cfflow.core.times import millisecond_of, moment
from cfflow.errors import InvalidInput
from cfflow.store.orders import Orders, Page
from cfflow.store.protocol import Row
from cfflow.views.payment import Payment

#: How many records one call reads at most. It can show as many.
SCANNED_MAX: Final = 10_000

#: How many records one round trip reads at most, and at least where a filter leaves some out. To
#: decode the largest takes some 30 ms, in which this process's other tasks wait.
_BATCH_MAX: Final = 500
_BATCH_MIN: Final = 200

_AGE_MAX_S: Final = 10**10

#: The name of a payment is shorter. What else stands in an index may have any length.
_NAME_MAX: Final = 256
_CHECK_B: Final = 8
_CURSOR: Final = re.compile(r"[\w-]{16,2000}", re.ASCII)

#: A damaged index may have scores beyond any time, and infinite ones.
_TIME_MAX_MS: Final = 2**53

_encode: Final = msgspec.msgpack.Encoder().encode
_place_decoder: Final = msgspec.msgpack.Decoder(tuple[str, int | float])


class Found(list[Payment]):
    """The payments of one page, in the order of their creation; a list.

    `cursor` goes on behind them: pass it to `find` with the same arguments. It is None if all was
    looked at. `scanned_to` is up to which time of creation was looked: what was created before it
    (with `newest_first`: after it) and passes the filters is on this page or on one before.
    """

    def __init__(
        self, payments: Iterable[Payment] = (), *, scanned_to: datetime, cursor: str | None = None
    ) -> None:
        super().__init__(payments)
        self.cursor: Final = cursor
        self.scanned_to: Final = scanned_to

    @property
    def more(self) -> bool:
        """Whether something was not looked at yet. It may be that none of it passes the filters."""
        return self.cursor is not None


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """The arguments of `find`, checked. Times are milliseconds; the ends of a time belong to it.

    `review`: the reason of an open review, "" for any reason, None for no matter.
    """

    states: tuple[State, ...] = tuple(State)
    flow: str | None = None
    order_id: str | None = None
    review: str | None = None
    abandoned: bool | None = None
    age_min_ms: int | None = None
    from_at_ms: int = 0
    to_at_ms: int | None = None
    hold_ends_to_ms: int | None = None
    newest_first: bool = False

    def page(self, now_ms: int) -> Page:
        """Return what the indexes know of the question."""
        ends = [] if self.to_at_ms is None else [self.to_at_ms]
        if self.age_min_ms is not None:
            ends.append(now_ms - self.age_min_ms)
        return Page(
            states=self.states,
            review=self.review is not None,
            from_at_ms=self.from_at_ms,
            to_at_ms=min(ends, default=None),
            newest_first=self.newest_first,
        )

    @property
    def looks_into_records(self) -> bool:
        """Whether a filter leaves out some of what the indexes return."""
        by_record = (self.flow, self.abandoned, self.hold_ends_to_ms, self.review)
        return any(wanted is not None for wanted in by_record)

    def has(self, record: Record) -> bool:
        """Return whether a payment passes the filters of which there is no index."""
        ends_at_ms, to_ms = record.hold_expires_at_ms, self.hold_ends_to_ms
        reasons = [review.reason for review in record.open_reviews]
        return (
            self.flow in {None, record.flow}
            and self.abandoned in {None, record.abandoned}
            and (not self.review or self.review in reasons)
            and (to_ms is None or (ends_at_ms is not None and ends_at_ms <= to_ms))
        )


# the arguments


def question_of(
    *,
    state: object,
    flow: object,
    order_id: object,
    review: object,
    older_than: object,
    newest_first: object,
    created_from: object,
    created_before: object,
    hold_ends_before: object,
    abandoned: object,
) -> Question:
    """Return the arguments of `find`, checked. Raises `InvalidInput`."""
    if flow is not None and not isinstance(flow, str):
        raise InvalidInput("flow must be the name of a flow")
    if type(newest_first) is not bool:
        raise InvalidInput("newest_first must be True or False")
    if abandoned is not None and type(abandoned) is not bool:
        raise InvalidInput("abandoned must be True, False, or None for both")
    created_from_ms = _time("created_from", created_from)
    states, hold_ends_ms = _states(state), _time("hold_ends_before", hold_ends_before)
    if hold_ends_ms is not None:
        # Only then the money is still held: the end stays in the record of a captured payment.
        states = tuple(each for each in states if each is State.AUTHORIZED)
    return Question(
        states=states,
        flow=flow,
        order_id=None if order_id is None else check_order_id(order_id),
        review=_review(review),
        abandoned=abandoned,
        age_min_ms=_age_ms(older_than),
        from_at_ms=max(0, created_from_ms or 0),
        to_at_ms=_before(_time("created_before", created_before)),
        hold_ends_to_ms=_before(hold_ends_ms),
        newest_first=newest_first,
    )


def state_named(state: object) -> State:
    """Return a state by its name; raises `InvalidInput` for an unknown name."""
    try:
        return State(state if isinstance(state, str) else "")
    except ValueError:
        known = ", ".join(State)
        text = f"there is no state {shown_name(state)}; the states are {known}"
        raise InvalidInput(text) from None


def _states(state: object) -> tuple[State, ...]:
    if state is None:
        return tuple(State)
    if not isinstance(state, (list, tuple, set, frozenset)):
        return (state_named(state),)
    named = {state_named(each) for each in state}
    if not named:
        raise InvalidInput("state names none; leave it out to mean every state")
    return tuple(each for each in State if each in named)


def _review(review: object) -> str | None:
    if isinstance(review, str):
        if review not in set(ReviewReason):
            known = ", ".join(ReviewReason)
            raise InvalidInput(f"there is no review {shown_name(review)}; the reasons are {known}")
        return str(review)
    if type(review) is not bool:
        raise InvalidInput("review must be True (an open review), False, or the name of a reason")
    return "" if review else None


def is_age(value: object) -> bool:
    """Whether this is a number of seconds that can be an age."""
    return type(value) in {int, float} and 0 <= cast("float", value) < _AGE_MAX_S


def _age_ms(older_than: object) -> int | None:
    if older_than is None:
        return None
    if not is_age(older_than):
        raise InvalidInput("older_than must be an age in seconds")
    return round(cast("float", older_than) * 1000)


def _time(name: str, when: object) -> int | None:
    """Return the first millisecond that is not before a time, None where none is given."""
    if when is None:
        return None
    if not isinstance(when, datetime) or when.utcoffset() is None:
        # A guess would be wrong by hours on a server whose clock is not in India.
        raise InvalidInput(f"{name} must be a datetime with a time zone")
    return millisecond_of(when)


def _before(at_ms: int | None) -> int | None:
    return None if at_ms is None else at_ms - 1


# the pages


class Scan(msgspec.Struct, frozen=True):
    """What one call has looked at: the payments to show, and the row to go on behind, if any."""

    payments: list[Snapshot]
    next_after: Row | None


async def scan(
    orders: Orders, question: Question, page: Page, limit: int, after: Row | None
) -> Scan:
    """Read pages until enough payments pass the filters, all was read, or `SCANNED_MAX` rows."""
    if not page.states:
        return Scan([], None)
    found: list[Snapshot] = []
    left = SCANNED_MAX
    least = _BATCH_MIN if question.looks_into_records else 1
    while True:
        batch = min(left, _BATCH_MAX, max(limit - len(found), least))
        least *= 2
        read = await orders.list(msgspec.structs.replace(page, limit=batch, after=after))
        for row, payment in read.found:
            if question.has(payment.record):
                found.append(payment)
                if len(found) == limit:
                    is_last = read.next_after is None and row == read.found[-1][0]
                    return Scan(found, None if is_last else row)
        left, after = left - batch, read.next_after
        if after is None or left <= 0:
            return Scan(found, after)


async def scan_order(
    orders: Orders, question: Question, page: Page, limit: int, after: Row | None
) -> Scan:
    """Look at the payments of one order: there are few, and no index is needed."""
    order = await orders.load(question.order_id or "")
    payments = [
        payment
        for payment in (order.all_payments if order else ())
        if page.has(payment.record) and question.has(payment.record)
    ]
    payments.sort(key=_place, reverse=page.newest_first)
    if after is not None:
        end = after[::-1]
        is_behind = operator.lt if page.newest_first else operator.gt
        payments = [payment for payment in payments if is_behind(_place(payment), end)]
    shown = payments[:limit]
    return Scan(shown, row_of(shown[-1]) if len(payments) > limit else None)


def row_of(payment: Snapshot) -> Row:
    """Return the row that a payment has in the indexes."""
    return payment.id, payment.record.created_at_ms


def _place(payment: Snapshot) -> tuple[int, str]:
    return payment.record.created_at_ms, payment.id


def scanned_to(page: Page, after: Row | None, now_ms: int) -> datetime:
    """Return up to which time of creation was looked, if the next page begins behind this row."""
    if after is not None:
        return moment(round(min(max(after[1], 0), _TIME_MAX_MS)))
    if page.newest_first:
        return moment(page.from_at_ms)
    return moment(now_ms if page.to_at_ms is None else page.to_at_ms + 1)


# the cursor


def cursor_of(question: Question, after: Row) -> str:
    """Return the text that goes on behind this row, for the same question only."""
    return _text(question, _encode((after[0][:_NAME_MAX], after[1])))


def row_in(cursor: object, question: Question) -> Row:
    """Return the row behind which a cursor goes on.

    Raises `InvalidInput` for a text that `find` has not returned for this question: a list that
    went on elsewhere would leave payments out without a word.
    """
    if isinstance(cursor, str) and _CURSOR.fullmatch(cursor):
        try:
            packed = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
        except binascii.Error:
            packed = b""
        place = packed[_CHECK_B:]
        # Compared as text: the last character of some has bits that decode to nothing.
        if cursor == _text(question, place):
            return _place_decoder.decode(place)
    raise InvalidInput(
        "cursor is none that find has returned for these arguments: pass the same ones again, only"
        " limit may differ"
    )


def _text(question: Question, place: bytes) -> str:
    """Return a place with what tells it from a garbled one and from those of other questions."""
    # As text, which every name of a flow has: an encoder would refuse half a character.
    asked = repr(msgspec.structs.astuple(question)).encode()
    check = blake2b(asked + place, digest_size=_CHECK_B, person=b"cfflow.find").digest()
    return base64.urlsafe_b64encode(check + place).decode().rstrip("=")
