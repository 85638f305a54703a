"""What a caller passes, spoiled: every argument of every public call, and metadata."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final, NamedTuple

from hypothesis import strategies as st

import cfflow
from cfflow.errors import CfflowError
from cfflow.logs import silent_log
from cfflow.testing import MemoryStore
from tests.engine.test_any_argument import CASHIER, CONNECT, GATEWAY, NEEDLE, Hostile
from tests.fuzz.gateway_probes import LoopProbe
from tests.fuzz.judge import Broken

__all__ = ["ArgumentProbe", "MetadataProbe", "Passed", "any_metadata", "any_passed"]

#: Nothing listens there: a call that is sent after all is refused at once.
_NOWHERE: Final = "http://127.0.0.1:9/pg"

_TABLES: Final[Mapping[str, Mapping[str, Mapping[str, Any]]]] = {
    "cashier": CASHIER,
    "gateway": GATEWAY,
    "connect": {"connect": CONNECT},
}


class Passed(NamedTuple):
    """One call with one argument that is not as it should be."""

    place: str
    call: str
    argument: str
    value: Any


def _leaves() -> st.SearchStrategy[Any]:
    return st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.decimals(),
        st.binary(max_size=40),
        st.text(max_size=40),
        st.text(st.characters(), max_size=5).map(lambda text: f"{NEEDLE}{text}"),
        st.sampled_from([10**4000, "\ud800", NEEDLE * 10_000, datetime(2026, 1, 1, tzinfo=UTC)]),
        st.builds(Hostile),
        st.just(Decimal("1E+999999")),
    )


def _values() -> st.SearchStrategy[Any]:
    return st.recursive(
        _leaves(),
        lambda inner: st.one_of(
            st.lists(inner, max_size=4),
            st.dictionaries(st.text(max_size=8), inner, max_size=4),
            st.tuples(inner, inner),
            st.frozensets(st.integers(), max_size=3),
        ),
        max_leaves=12,
    )


@st.composite
def any_passed(draw: st.DrawFn) -> Passed:
    """Draw a call, one of its arguments, and what is passed in its place."""
    place = draw(st.sampled_from(sorted(_TABLES)))
    call = draw(st.sampled_from(sorted(name for name, given in _TABLES[place].items() if given)))
    # A flow's file that cannot be read is named in the error: a path is no secret.
    arguments = sorted(_TABLES[place][call].keys() - {"flows"})
    argument = draw(st.sampled_from(arguments))
    return Passed(place, call, argument, draw(_values()))


def any_metadata() -> st.SearchStrategy[Any]:
    """Draw metadata: plain data, data that is not, very deep and very wide ones."""
    plain = st.dictionaries(
        st.text(max_size=8),
        st.recursive(
            st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(max_size=20),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner),
            max_leaves=10,
        ),
        max_size=4,
    )
    deep = st.integers(1, 2000).map(_nested)
    wide = st.integers(1, 60).map(_shared)
    return st.one_of(plain, plain, st.dictionaries(st.text(max_size=8), _values()), deep, wide)


def _nested(depth: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for _ in range(depth):
        found = {"in": found}
    return found


def _shared(depth: int) -> dict[str, Any]:
    """Return a small object that is huge when each of its parts is copied."""
    found: list[Any] = [1]
    for _ in range(depth):
        found = [found, found]
    return {"wide": found}


class ArgumentProbe(LoopProbe):
    """An orchestrator with one payment, whose gateway is not there."""

    def __init__(self) -> None:
        super().__init__()
        self._cashier = cfflow.connect(
            store=MemoryStore(),
            client_id="id",
            client_secret="a-secret-of-the-tests",
            environment=_NOWHERE,
            log=silent_log(),
        )
        self.run(self._cashier.start("native_otp", order_id="order_created"))

    def attempt(self, given: Passed) -> None:
        """Make the call."""
        calls = {"cashier": self._cashier, "gateway": self._cashier.gateway, "connect": cfflow}
        right = _TABLES[given.place][given.call]
        made = getattr(calls[given.place], given.call)(**{**right, given.argument: given.value})
        if inspect.isawaitable(made):
            self.run(made)

    def close(self) -> None:
        """Close it."""
        with suppress(CfflowError):
            self.run(self._cashier.aclose())
        super().close()


class MetadataProbe(ArgumentProbe):
    """What is stored must be read again, and be nobody else's."""

    def attempt(self, given: Any) -> None:
        """Start a payment with it, change what was passed and what came back, and read it."""
        started = self.run(self._cashier.start("native_otp", order_id="order_data", metadata=given))
        kept = repr(started.metadata)
        started.metadata.clear()
        given.clear()
        read = self.run(self._cashier.get("order_data.1"))
        if repr(read.metadata) != kept:
            raise Broken("the metadata is not as it was stored")
