"""The inputs against code with one promise taken out: each time one of them finds it."""

from __future__ import annotations

import tomllib
import zlib
from typing import Any, Final, NamedTuple

import msgspec
import pytest
from hypothesis import Phase

from cfflow.core.actions import NextAction
from cfflow.core.flow import Flow
from tests.fuzz.judge import Broken
from tests.fuzz.targets import TARGETS
from tests.fuzz.test_fuzz import tried


class Mutation(NamedTuple):
    """A name of the code, what it becomes, and which target finds what."""

    name: str
    becomes: Any
    target: str
    found: str


def _as_it_is(body: Any, request: Any = None) -> Any:
    return body


def _without_header(headers: Any, body: bytes, now_ms: int) -> Any:
    raise KeyError("x-webhook-signature")


def _inflated_whole(forms: Any, body: bytes, limit_b: int) -> bytes:
    return zlib.decompressobj(forms[0]).decompress(body)


class _Any(str):
    """A digest that every text has."""

    __slots__ = ()

    def __ne__(self, other: object) -> bool:
        return False

    __eq__ = str.__eq__
    __hash__ = str.__hash__


MUTATIONS: Final = {
    "signatures are not compared": Mutation(
        "cfflow.webhooks.Verifier._signed", lambda *_: True, "notifications", "not signed"
    ),
    "a missing header is a KeyError": Mutation(
        "cfflow.webhooks.Verifier.read",
        lambda *_: _without_header(*_[1:]),
        "notifications",
        "KeyError",
    ),
    "errors repeat what the gateway echoes": Mutation(
        "cfflow.cashfree.failures._without_secrets", _as_it_is, "answers", "shows"
    ),
    "an answer that does not decode is let through": Mutation(
        "cfflow.cashfree.client.undecodable",
        lambda call, _: UnicodeError(f"{call}"),
        "answers",
        "Error",
    ),
    "an answer is inflated whole": Mutation(
        "cfflow.cashfree.inflate._inflated", _inflated_whole, "compressed", "inflated to|error"
    ),
    "any text is an attempt's id": Mutation(
        "cfflow.cashfree.wire._check_id", _as_it_is, "steps", "the id"
    ),
    "a text reaches the terminal as it is": Mutation(
        "cfflow.cli.terminal.printable", str, "printed", "reaches the terminal"
    ),
    "a text makes a line of its own": Mutation(
        "cfflow.views.why.printable", str, "printed", "line of its own"
    ),
    "a stored flow is not compared with its digest": Mutation(
        "cfflow.store.catalog.digest_of", lambda _: _Any(""), "kept flows", "not begin with"
    ),
    "stored bytes are decoded bare": Mutation(
        "tests.fuzz.store_probes.decode_actions",
        msgspec.msgpack.Decoder(dict[int, NextAction]).decode,
        "stored",
        "ValidationError",
    ),
    "a flow is read without a net": Mutation(
        "tests.fuzz.store_probes.parse",
        lambda text, **_: msgspec.convert(tomllib.loads(text.decode()), Flow),
        "flows",
        "TOMLDecodeError|is not what its text",
    ),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_promise_that_is_taken_out_is_missed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Inputs that never find anything may reach nothing."""
    mutation = MUTATIONS[name]
    monkeypatch.setattr(mutation.name, mutation.becomes)
    with pytest.raises(Broken, match=mutation.found):
        tried(TARGETS[mutation.target], Phase.generate, inputs=2_000)
