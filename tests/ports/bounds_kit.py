"""What a stored order may hold at most: its size, and the length of each text in it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any, Final

import msgspec

from cfflow.cashfree import facts
from cfflow.core import bounds
from cfflow.core.order import Snapshot
from cfflow.store.codec import decode_order
from cfflow.store.protocol import StoredOrder

#: Ids, digests and tokens of ours, and the words of charts, steps and reviews.
_OURS_MAX: Final = 64
#: An entry of the feed: five words of the gateway's with their names, and short fields.
EVENT_MAX_B: Final = 4_096


def over_bounds(stored: StoredOrder, events: Iterable[bytes] = ()) -> list[str]:
    """Return what is larger than it may be, of an order without a person's texts and metadata."""
    order = decode_order(stored)
    most_b = bounds.PAYMENT_MAX_B * max(1, len(order.payments))
    found = [f"a record of {len(stored.record)} bytes"] if len(stored.record) > most_b else []
    found += [f"an action of {size} bytes" for size in _actions_over(stored)]
    found += [f"an event of {len(e)} bytes" for e in events if len(e) > EVENT_MAX_B]
    for payment in order.all_payments:
        for name, text, most in _texts(payment):
            if text is not None and len(text) > most:
                found.append(f"{name} of {len(text)} characters")
    ids = [*order.seen_attempt_ids, *(foreign.cf_payment_id for foreign in order.foreign_money)]
    ids += [one.cf_payment_id for one in order.siblings.values() if one.cf_payment_id is not None]
    return [*found, *(f"the id {name[:80]!r}" for name in ids if not _is_id(name))]


def _is_id(name: str) -> bool:
    return re.fullmatch(facts.CF_PAYMENT_ID_PATTERN, name) is not None


def _actions_over(stored: StoredOrder) -> list[int]:
    actions: dict[int, Any] = msgspec.msgpack.decode(stored.actions or b"\x80")
    sizes = [len(msgspec.msgpack.encode(action)) for action in actions.values()]
    return [size for size in sizes if size > bounds.ACTION_MAX_B]


def _texts(payment: Snapshot) -> Iterator[tuple[str, str | None, int]]:
    """Yield every text of a payment that others may have written: name, text, most characters."""
    record = payment.record
    yield "currency", record.currency, bounds.CURRENCY_MAX
    for name, amount in (("held", record.amount_held), ("captured", record.captured_amount)):
        yield name, None if amount is None else str(amount), 20
    for part in msgspec.structs.astuple(record.failure) if record.failure else ():
        yield "failure", part, bounds.TEXT_MAX
    for entry in record.history:
        yield "history", entry.text, bounds.HISTORY_TEXT_MAX
    for review in record.reviews:
        yield "detail", review.detail, bounds.DETAIL_MAX
        yield "reason", review.reason, _OURS_MAX
    for name in record.operation.known_attempt_ids if record.operation else ():
        yield "known id", name, _OURS_MAX
    action: Any = payment.next_action
    yield "url", getattr(action, "url", None), bounds.URL_MAX
    yield "page", getattr(action, "redirect_to_bank", None), bounds.URL_MAX
    for name in ("method", "content_type", "channel"):
        yield name, getattr(action, name, None), bounds.WORD_MAX
