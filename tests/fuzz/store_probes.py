"""What a store holds, spoiled: orders, next actions, feed entries, ids, flows."""

from __future__ import annotations

import io
import tempfile
import unicodedata
from collections.abc import Iterable, Sequence
from contextlib import redirect_stdout, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
from hypothesis import strategies as st

from cfflow.cashfree.environment import base_url_of
from cfflow.cashfree.texts import without_card_numbers
from cfflow.cashfree.wire import timestamp_ms
from cfflow.cli.lines import print_lines
from cfflow.cli.terminal import cell, console, print_json
from cfflow.core.arguments import (
    check_currency,
    check_metadata,
    check_order_id,
    check_otp,
    check_session,
    check_text,
)
from cfflow.core.flow import Flow, digest_of, parse
from cfflow.core.money import amount_of
from cfflow.core.observation import Failure
from cfflow.core.order import Order
from cfflow.core.printable import printable
from cfflow.core.record import Entry, EntryKind, Review, payment_id, split_id
from cfflow.errors import CfflowError, FlowError
from cfflow.feed.feed import Feed
from cfflow.logs import silent_log
from cfflow.orchestrator import Orchestrator
from cfflow.store.catalog import Catalog
from cfflow.store.codec import decode_actions, decode_order, encode_actions, encode_order
from cfflow.store.protocol import StoredOrder
from cfflow.testing import FakeClock, MemoryStore
from cfflow.testing.conformance.helpers import begin
from cfflow.views.find import state_named
from cfflow.views.reader import Reader, place_of
from tests.fuzz import corpus
from tests.fuzz.corpus import Swap
from tests.fuzz.gateway_probes import LoopProbe
from tests.fuzz.inputs import (
    mostly,
    planted_texts,
    spoiled_packed,
    spoiled_text,
    spoiled_toml,
)
from tests.fuzz.judge import Broken

__all__ = [
    "CatalogProbe",
    "FeedProbe",
    "FlowProbe",
    "PaymentProbe",
    "PrintProbe",
    "StoredFlowProbe",
    "StoredProbe",
    "TextProbe",
    "any_entry",
    "any_flow",
    "any_kept_flow",
    "any_payment",
    "any_printed",
    "any_stored",
    "any_text",
]


class StoredProbe:
    """Stored bytes through their decoders: what was read can be written again."""

    def attempt(self, given: tuple[str, bytes]) -> None:
        """Decode it, and encode what came of it."""
        kind, blob = given
        if kind == "order":
            order = _decoded(blob)
            records = tuple(payment.record for payment in order.all_payments)
            again = _decoded(encode_order(msgspec.structs.replace(order, payments=records)))
            if tuple(payment.record for payment in again.all_payments) != records:
                raise Broken("an order is another one when it is read again")
        else:
            encode_actions(decode_actions(blob))

    def close(self) -> None:
        """Nothing is open."""


def _decoded(blob: bytes, actions: bytes = b"", order_id: str = "order_01") -> Order:
    return decode_order(StoredOrder(order_id, "s" * 8, "t" * 8, blob, actions))


def any_stored() -> st.SearchStrategy[tuple[str, bytes]]:
    """Return spoiled blobs and what each of them was, or is taken for."""
    found = corpus.corpus()
    blobs = {"order": _packed(found.orders), "actions": _packed(found.actions)}
    right = st.sampled_from(list(blobs)).flatmap(lambda kind: st.tuples(st.just(kind), blobs[kind]))
    return mostly(right, st.tuples(st.sampled_from(list(blobs)), st.one_of(*blobs.values())))


def _packed(blobs: Iterable[bytes]) -> st.SearchStrategy[bytes]:
    spoiled = {blob: spoiled_packed(blob) for blob in blobs}
    return st.sampled_from(list(spoiled)).flatmap(spoiled.__getitem__)


class Kept(NamedTuple):
    """An order as a store holds it, spoiled, and the id of one of its payments."""

    record: bytes
    actions: bytes
    place: str


class PaymentProbe(LoopProbe):
    """A spoiled payment behind the names that users type: shown, or an error of the tree."""

    def __init__(self) -> None:
        super().__init__()
        self._gateway = Swap()
        self._gateway.body = corpus.corpus().answers[3]

    def attempt(self, given: Kept) -> None:
        """Decode it as a store does, and show it as a reader does."""
        snapshot = _decoded(given.record, given.actions).payment(1)
        cashier = Orchestrator(
            _Shelf(given), corpus.client(self._gateway), catalog=corpus.CATALOG, log=silent_log()
        )
        for call in (cashier.get, cashier.history, cashier.why):
            self.run(call(given.place if given.place != "order_01.1" else snapshot.id))
        # The gateway's answer is one about another payment.
        with suppress(CfflowError):
            self.run(cashier.refresh(snapshot.id))


#: A payment with a text in every place that shows one.
_TOLD: Final = msgspec.structs.replace(
    corpus.RECORD,
    digest=corpus.CATALOG.named("upi").digest,
    failure=Failure("code", "reason", "source", "description"),
    history=tuple(Entry(1, kind, 0, 0, "it was shown") for kind in EntryKind),
    reviews=(
        Review("amount_changed", 1, "detail"),
        Review("no_answer", 1, "detail", "asha", "asked the bank", 2),
    ),
)


class PrintProbe(LoopProbe):
    """A spoiled payment on the terminal: nothing in it acts, and no text makes a line."""

    def attempt(self, given: Kept) -> None:
        """Print it in every way that the command line does."""
        snapshot = _decoded(given.record, given.actions).payment(1)
        reader = Reader(_Shelf(given), corpus.CATALOG)
        payment = self.run(reader.get(snapshot.id))
        why = self.run(reader.why(snapshot.id))
        printed = io.StringIO()
        with redirect_stdout(printed):
            for value in payment.as_dict().values():
                console().print(cell(value))
            print_lines(*str(why).split("\n"), payment.money, repr(payment))
            print_json(payment.as_dict())
        if acting := [char for char in printed.getvalue() if char != "\n" and _acts(char)]:
            raise Broken(f"{acting[0]!a} reaches the terminal")
        lines = 4 + len(why.timeline) + 2 * len(why.reviews) + len(why.settled)
        lines += (why.failure is not None) + (why.last_inquiry is not None)
        if len(str(why).splitlines()) != lines:
            raise Broken("a text has made a line of its own")


def any_printed() -> st.SearchStrategy[Kept]:
    """Return payments in which others have planted texts, and some that are spoiled otherwise."""
    found = corpus.corpus()
    told = encode_order(Order(id="order_01", payments=(_TOLD,)))
    planted = {blob: planted_texts(blob) for blob in (told, *found.orders, *found.actions)}
    place = st.just("order_01.1")
    orders = st.sampled_from([told, *found.orders]).flatmap(planted.__getitem__)
    actions = st.sampled_from(found.actions).flatmap(planted.__getitem__)
    return mostly(st.builds(Kept, orders, st.just(b"") | actions, place), any_payment())


def _acts(char: str) -> bool:
    return unicodedata.category(char) in {"Cc", "Cf", "Cs", "Zl", "Zp"}


def any_payment() -> st.SearchStrategy[Kept]:
    """Return payments of which one part is spoiled."""
    found = corpus.corpus()
    orders, place = st.sampled_from(found.orders), st.just("order_01.1")
    shown = st.just(b"") | st.sampled_from(found.actions)
    return st.one_of(
        *[st.builds(Kept, _packed(found.orders), shown, place)] * 4,
        st.builds(Kept, orders, _packed(found.actions), place),
        st.builds(Kept, orders, shown, spoiled_text("order_01.1")),
    )


class _Shelf(MemoryStore):
    """A store that holds one spoiled order, whatever it is asked for."""

    def __init__(self, given: Kept) -> None:
        super().__init__(FakeClock(corpus.NOW_MS + 60_000))
        self._given = given

    async def read(self, order_ids: Sequence[str]) -> Sequence[StoredOrder]:
        """Return the order's bytes under any name."""
        given = self._given
        return [
            StoredOrder(name, "s" * 8, "t" * 8, given.record, given.actions) for name in order_ids
        ]


class FeedProbe(LoopProbe):
    """Spoiled entries of the feed: an event, a gap, or nothing; reading goes on."""

    def attempt(self, given: bytes) -> None:
        """Write it between two reads."""
        self.run(self._read(given))

    async def _read(self, given: bytes) -> None:
        store = MemoryStore(FakeClock(corpus.NOW_MS))
        store.feed().append("order_01", [given, corpus.corpus().events[0]])
        found = []
        async with Feed(store, "fuzz") as feed:
            while (event := await feed.poll()) is not None:
                found.append(event)
                await feed.ack(event)
        if not 1 <= len(found) <= 2:
            raise Broken(f"{len(found)} entries came for a spoiled and a good one")


def any_entry() -> st.SearchStrategy[bytes]:
    """Return spoiled entries of the feed."""
    return _packed(corpus.corpus().events)


class FlowProbe:
    """TOML through the loader: a flow within its limits, or a `FlowError` that names the file."""

    def attempt(self, given: bytes) -> None:
        """Load it, and take it back out of a store."""
        flow = parse(given, file="mine.toml")
        if not 0.05 <= flow.pay.timeout_s <= 60:
            raise Broken("a time limit that makes no sense was read")
        if any(later <= earlier for earlier, later in pairwise((0, *flow.poll.after_s))):
            raise Broken("a schedule that does not go forward was read")
        if flow.source != given or flow != parse(given, file="stored", stored=True):
            raise Broken("a flow is not what its text states")

    def close(self) -> None:
        """Nothing is open."""


def any_flow() -> st.SearchStrategy[bytes]:
    """Return spoiled texts of the shipped flows."""
    spoiled = {text: spoiled_toml(text) for text in corpus.corpus().flows}
    return st.sampled_from(list(spoiled)).flatmap(spoiled.__getitem__)


class StoredFlowProbe(LoopProbe):
    """A spoiled text in the store, under its own digest or another: its rules, or no rules."""

    def attempt(self, given: tuple[bytes, bool]) -> None:
        """Read the flow of a payment that began with it, or with another text."""
        text, is_its_own = given
        digest = digest_of(text if is_its_own else b"#" + text)
        record = msgspec.structs.replace(corpus.RECORD, digest=digest)
        order = Order(id="order_01", payments=(record,))
        try:
            flow = self.run(self._flow(order, {digest: text}))
        except FlowError as refused:
            if "order_01.1" not in str(refused):
                raise Broken("the refusal does not name the payment") from None
            raise
        if not is_its_own or flow.source != text:
            raise Broken("a payment got rules that it did not begin with")

    async def _flow(self, order: Order, flows: dict[str, bytes]) -> Flow:
        store = MemoryStore(FakeClock(corpus.NOW_MS))
        await begin(store, order.id, flows=flows)
        return await Catalog().flow_of(order.payment(1), store)


def any_kept_flow() -> st.SearchStrategy[tuple[bytes, bool]]:
    """Return spoiled texts of flows, and whether each is under its own digest."""
    return st.tuples(any_flow(), st.booleans())


class CatalogProbe:
    """The same through a file."""

    def __init__(self) -> None:
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
        gap = "".join(char for char in given[:3] if not char.isalnum())
        if corpus.CARD_NUMBER[:6] in without_card_numbers(gap.join(corpus.CARD_NUMBER)):
            raise Broken("a card number with something between its digits is still there")
        if any(map(_acts, printable(given))):
            raise Broken("a text acts on the terminal")
        refusals = [refusal for read in _READERS if (refusal := _refusal(read, given))]
        if refusals:
            raise refusals[0]

    def close(self) -> None:
        """Nothing is open."""


def any_text() -> st.SearchStrategy[str]:
    """Return spoiled ids, times, amounts and addresses."""
    return st.sampled_from(_TEXTS).flatmap(spoiled_text)


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
