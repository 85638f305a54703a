"""What a store holds, spoiled: records, next actions, order entries, feed entries, ids, flows."""

from __future__ import annotations

import tempfile
from pathlib import Path
from random import Random
from typing import Any, Final, NamedTuple

import msgspec

from cfflow.cashfree.environment import base_url_of
from cfflow.cashfree.wire import timestamp_ms, without_card_numbers
from cfflow.core.arguments import (
    check_currency,
    check_metadata,
    check_order_id,
    check_otp,
    check_session,
    check_text,
)
from cfflow.core.flow import parse
from cfflow.core.money import amount_of
from cfflow.core.record import payment_id, split_id
from cfflow.errors import CfflowError
from cfflow.feed.feed import Feed
from cfflow.logs import silent_log
from cfflow.orchestrator import Orchestrator
from cfflow.store.catalog import Catalog
from cfflow.store.protocol import (
    decode_action,
    decode_attempts,
    decode_record,
    encode_action,
    encode_record,
    snapshot_of,
)
from cfflow.testing import FakeClock, MemoryStore
from cfflow.views.reader import place_of, state_named
from tests.fuzz import corpus
from tests.fuzz.corpus import Swap
from tests.fuzz.gateway_probes import LoopProbe
from tests.fuzz.mutate import spoil_bytes, spoil_text, spoil_toml
from tests.fuzz.runner import Broken

__all__ = [
    "CatalogProbe",
    "FeedProbe",
    "FlowProbe",
    "PaymentProbe",
    "StoredProbe",
    "TextProbe",
    "spoil_packed",
]

_VALUES: Final[tuple[Any, ...]] = (
    *(None, True, False, 0, 1, -1, 2**31, 2**63, 2**64 - 1, -(2**63), 1.5, 10**15, 253402300800000),
    *(float("nan"), float("inf"), -0.0, "", "x", "captured", "authorized", "created", "failed"),
    *("otp_pending", "nothing", "NaN", "Infinity", "1e999999999", "-1", "0.001", "1" * 5_000),
    *(b"", b"\xff", b"x" * 1_000, [], {}, [[]], {"a": [1]}, {"": None}, [None] * 40, 64, 255, -64),
    *(
        msgspec.msgpack.Ext(1, b"x"),
        msgspec.msgpack.Ext(-1, b"\xff" * 12),
        "x" * 100_000,
    ),
)
_DEEP: Final = (b"\x91" * 100_000, b"\x81\xa1a" * 50_000, b"\x91" * 700 + b"\xc0")


class StoredProbe:
    """Stored bytes through their decoders: what was read can be written again."""

    def __init__(self) -> None:
        found = corpus.corpus()
        self._blobs = {
            "record": tuple(found.records),
            "action": tuple(found.actions),
            "attempts": tuple(found.attempts),
        }

    def draw(self, rng: Random) -> tuple[str, bytes]:
        """Return a spoiled blob and what it was."""
        kind = rng.choice(tuple(self._blobs))
        source = kind if rng.random() < 0.95 else rng.choice(tuple(self._blobs))
        return kind, spoil_packed(rng.choice(self._blobs[source]), rng)

    def attempt(self, given: tuple[str, bytes]) -> None:
        """Decode it, and encode what came of it."""
        kind, blob = given
        if kind == "record":
            encode_record(decode_record(blob))
        elif kind == "action":
            action = decode_action(blob)
            if action is not None:
                encode_action(action)
        else:
            msgspec.msgpack.encode(decode_attempts(blob))

    def close(self) -> None:
        """Nothing is open."""


def spoil_packed(blob: bytes, rng: Random) -> bytes:
    """Return msgpack bytes with some of their values changed, or some of their bytes."""
    chosen = rng.random()
    if chosen < 0.3:
        return spoil_bytes(blob, rng)
    if chosen < 0.31:
        at = rng.randrange(len(blob))
        return blob[:at] + rng.choice(_DEEP) + blob[at:]
    value = msgspec.msgpack.decode(blob)
    for _ in range(rng.choice((1, 1, 2, 3))):
        value = _edited(value, rng)
    return msgspec.msgpack.encode(value)


def _edited(value: Any, rng: Random) -> Any:
    if not isinstance(value, list | dict) or not value or rng.random() < 0.05:
        return rng.choice(_VALUES)
    if isinstance(value, dict):
        key = rng.choice(list(value))
        changed = dict(value)
        if rng.random() < 0.2:
            del changed[key]
        else:
            changed[key] = _edited(value[key], rng)
        return changed
    items, at, chosen = list(value), rng.randrange(len(value)), rng.random()
    if chosen < 0.8:
        items[at] = _edited(items[at], rng)
    elif chosen < 0.87:
        del items[at]
    elif chosen < 0.93:
        items.append(rng.choice(_VALUES))
    else:
        items[at : at + 1] = [items[at]] * rng.choice((2, 100))
    return items


class Kept(NamedTuple):
    """A payment as a store holds it, spoiled."""

    record: bytes
    action: bytes | None
    attempts: bytes | None
    place: str


class PaymentProbe(LoopProbe):
    """A spoiled payment behind the names that users type: shown, or an error of the tree."""

    def __init__(self) -> None:
        super().__init__()
        self._found = corpus.corpus()
        self._gateway = Swap()
        self._gateway.body = corpus.corpus().answers[3]

    def draw(self, rng: Random) -> Kept:
        """Return a payment of which one part is spoiled."""
        record = rng.choice(self._found.records)
        action = rng.choice((None, *self._found.actions))
        attempts, place = rng.choice(self._found.attempts), "order_01.1"
        spoiled = rng.random()
        if spoiled < 0.7:
            record = spoil_packed(record, rng)
        elif spoiled < 0.8:
            action = spoil_packed(rng.choice(self._found.actions), rng)
        elif spoiled < 0.95:
            attempts = spoil_packed(attempts, rng)
        else:
            place = spoil_text(place, rng)
        return Kept(record, action, attempts, place)

    def attempt(self, given: Kept) -> None:
        """Decode it as a store does, and show it as a reader does."""
        snapshot = snapshot_of(given.place, given.record, given.action, given.attempts)
        store = _Shelf(given)
        cashier = Orchestrator(store, corpus.client(self._gateway), log=silent_log())
        for call in (cashier.get, cashier.history, cashier.why, cashier.refresh):
            self.run(call(snapshot.id))


class _Shelf(MemoryStore):
    """A store that holds one spoiled payment, whatever it is asked for."""

    def __init__(self, given: Kept) -> None:
        super().__init__(FakeClock(corpus.NOW_MS + 60_000))
        self._given = given

    async def load(self, order_id: str, n: int) -> Any:
        """Return the payment, read anew from its bytes."""
        given = self._given
        return snapshot_of(f"{order_id}.{n}", given.record, given.action, given.attempts)


class FeedProbe(LoopProbe):
    """Spoiled entries of the feed: an event, a gap, or nothing; reading goes on."""

    def __init__(self) -> None:
        super().__init__()
        self._events = tuple(corpus.corpus().events)

    def draw(self, rng: Random) -> bytes:
        """Return a spoiled entry."""
        return spoil_packed(rng.choice(self._events), rng)

    def attempt(self, given: bytes) -> None:
        """Write it between two reads."""
        self.run(self._read(given))

    async def _read(self, given: bytes) -> None:
        store = MemoryStore(FakeClock(corpus.NOW_MS))
        store.feed().append("order_01", [given, self._events[0]])
        found = []
        async with Feed(store, "fuzz") as feed:
            while (event := await feed.poll()) is not None:
                found.append(event)
                await feed.ack(event)
        if not 1 <= len(found) <= 2:
            raise Broken(f"{len(found)} entries came for a spoiled and a good one")


class FlowProbe:
    """TOML through the loader: a flow within its limits, or a `FlowError` that names the file."""

    def __init__(self) -> None:
        self._texts = tuple(corpus.corpus().flows)
        self._known = Catalog()

    def draw(self, rng: Random) -> bytes:
        """Return a spoiled flow."""
        return spoil_toml(rng.choice(self._texts), rng)

    def attempt(self, given: bytes) -> None:
        """Load it, and take it back out of a store."""
        flow = parse(given, file="mine.toml")
        if not 0.05 <= flow.pay.timeout_s <= 60:
            raise Broken("a time limit that is none was accepted")
        if flow.source != given or flow != parse(given, file="stored", stored=True):
            raise Broken("a flow is not what its text says")

    def close(self) -> None:
        """Nothing is open."""


class CatalogProbe(FlowProbe):
    """The same through a file."""

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory()
        self._file = Path(self._folder.name) / "mine.toml"

    def attempt(self, given: bytes) -> None:
        """Load a file."""
        self._file.write_bytes(given)
        tuple(Catalog([self._file]))

    def close(self) -> None:
        """Remove the file."""
        self._folder.cleanup()


_TEXTS: Final = (
    *("order_8123.1", "order_8123.999999999", "a-b_C.12", "order_8123", "INR", "111000", "170.00"),
    *("2021-07-23T12:15:06+05:30", "2022-08-03T16:09:51", "4111111111111111", "captured"),
    *("1e999999999", "0001-01-01T00:00:00", "9999-12-31T23:59:59-23:59", "4111 1111-1111 1111 x"),
    *("https://pay.example.com:8443/pg", "http://127.0.0.1:8000/pg", "http://[::1]:8000/pg"),
)


class TextProbe:
    """Short texts through everything that reads one: ids, times, amounts, addresses."""

    def draw(self, rng: Random) -> str:
        """Return a spoiled text."""
        return spoil_text(rng.choice(_TEXTS), rng)

    def attempt(self, given: str) -> None:
        """Read it as each of these; the first refusal comes out last."""
        place = split_id(given)
        if place is not None and payment_id(*place) != given:
            raise Broken("an id that is read is another one when it is written")
        at_ms = timestamp_ms(given)
        if at_ms is not None and not 0 < at_ms < 253_402_300_800_000:
            raise Broken("a time that no calendar has")
        if corpus.CARD_NUMBER in without_card_numbers(f"{given} {corpus.CARD_NUMBER}"):
            raise Broken("a card number is still there")
        refusals = [refusal for read in _READERS if (refusal := _refusal(read, given))]
        if refusals:
            raise refusals[0]

    def close(self) -> None:
        """Nothing is open."""


_READERS: Final[tuple[Any, ...]] = (
    amount_of,
    base_url_of,
    check_currency,
    check_order_id,
    check_otp,
    check_session,
    place_of,
    state_named,
    lambda text: check_text("note", text),
    lambda text: check_metadata({text: text}),
)


def _refusal(read: Any, text: str) -> Exception | None:
    try:
        read(text)
    except CfflowError as refusal:
        return refusal
    return None
