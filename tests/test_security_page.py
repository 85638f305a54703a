"""SECURITY.md says what is true: every field that is stored, every key, every file it names."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, get_args

import msgspec
import pytest

from cfflow.core.actions import NextAction
from cfflow.core.observation import Failure
from cfflow.core.operation import Operation
from cfflow.core.order import ForeignMoney
from cfflow.core.record import Details, Entry, OtpTurn, Record, Review
from cfflow.store.codec import _Stored, encode_notification
from cfflow.store.control import Decision, Owner
from cfflow.store.protocol import Notification
from cfflow.store.redis.store import RedisStore
from tests.engine.shop import OTP, open_shop

ROOT: Final = Path(__file__).parents[1]
PAGE: Final = (ROOT / "SECURITY.md").read_text()
TABLE: Final = PAGE.partition("Everything that is stored")[2]
ROWS: Final = {
    cells[0].strip(): set(re.findall(r"`([\w:<>]+)`", cells[1]))
    for line in re.findall(r"^\| (.*) \|$", TABLE, re.MULTILINE)
    if len(cells := line.split(" | ")) == 2
}


def fields_of(*kinds: Any) -> set[str]:
    """Return the names of all fields of some structs."""
    return {field.name for kind in kinds for field in msgspec.structs.fields(kind)}


STORED: Final = {
    "an order": fields_of(_Stored, ForeignMoney),
    "each payment": fields_of(Record),
    "its open step": fields_of(Operation),
    "its OTP turn": fields_of(OtpTurn),
    "its failure": fields_of(Failure),
    "its reviews": fields_of(Review),
    "what it was paid with": fields_of(Details),
    "its history": fields_of(Entry),
    "what the customer does next": fields_of(*get_args(NextAction)),
    "a decision about the store": fields_of(Decision),
    "the feed, notifications": {
        *msgspec.msgpack.decode(encode_notification(Notification(type="T", content_id="c"), 1))
    },
}


#: Of entries about reviews and holds that end soon.
NEWS: Final = {"kind", "state", "reason", "is_open", "detail", "note"}


@pytest.mark.parametrize("row", STORED)
def test_the_page_has_every_field_that_is_stored(row: str) -> None:
    """And none that is not: a field that is added is a line that is written."""
    assert ROWS[row] == STORED[row]


def texts(replies: list[bytes]) -> set[str]:
    """Return the names of fields, from pairs of names and values."""
    return {name.decode() for name in replies[::2]}


async def test_the_page_has_what_is_kept_of_the_feed_and_of_the_store(redis_url: str) -> None:
    """As a sale and a pause leave it in Redis."""
    store = RedisStore(redis_url, owner=Owner("digest", "sandbox"), keeps_every_commit=True)
    async with open_shop(store=store) as shop:
        payment, _ = await shop.at_otp()
        await shop.cashier.submit_otp(payment, OTP)
        await shop.cashier.pause("auto", actor="asha", note="incident 4711")
        place = store.keys.partition(payment.order_id)
        entries = await store.link.command("XRANGE", store.keys.events(place), "-", "+")
        kept = {*msgspec.msgpack.decode(entries[0][1][1])}
        assert kept | NEWS == ROWS["the feed, transitions"]
        fields = texts(await store.link.command("HGETALL", store.keys.meta))
        run = texts(await store.link.command("HGETALL", store.keys.run(place)))
    known = fields | {name.replace(":auto", ":<name>") for name in run}
    assert ROWS["the store"] == known | {"accepted", "notices"}


def stored_keys() -> Iterator[str]:
    """Yield what the scripts say that they keep in Redis."""
    common = (ROOT / "cfflow" / "store" / "redis" / "common.lua").read_text()
    yield from re.findall(r"^--   NS:\{P\}:(\w+)", common, re.MULTILINE)


def test_no_kind_of_key_is_left_out() -> None:
    """A new one belongs into the table of what a reader learns."""
    assert {*stored_keys()} == {
        "o",
        "wake",
        "leases",
        "i",
        "events",
        "groups",
        "readers",
        "seen",
        "flows",
        "run",
        "budget",
    }


def test_the_page_names_tests_that_exist() -> None:
    """A promise that a test keeps names it."""
    named = re.findall(r"`(tests/[\w/.]+)`", PAGE)
    assert len(named) > 10
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_the_readme_leads_to_the_page() -> None:
    """Who looks for it begins there."""
    assert "/SECURITY.md\n" in (ROOT / "README.md").read_text()
