"""Whatever a caller passes: only errors of cfflow leave, and none of them shows what it was."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from typing import Any, Final, NoReturn

import pytest
import pytest_asyncio

import cfflow
from cfflow import Card, CfflowError, ConfigError, Conflict, FlowError, InvalidInput, Worker
from cfflow.cashfree.gateway import Gateway
from cfflow.orchestrator import Orchestrator
from tests.engine.shop import OTP, Shop, card, open_shop

pytestmark = pytest.mark.asyncio(loop_scope="module")

#: In every value that can carry it. No error may show it.
NEEDLE: Final = "987651987651"


class Hostile:
    """An object that raises whatever is done with it, and shows the needle."""

    def __repr__(self) -> str:
        return NEEDLE

    def __str__(self) -> str:
        raise RuntimeError(NEEDLE)

    def __eq__(self, _: object) -> NoReturn:
        raise RuntimeError(NEEDLE)

    def __bool__(self) -> NoReturn:
        raise RuntimeError(NEEDLE)

    def __len__(self) -> NoReturn:
        raise RuntimeError(NEEDLE)

    def __iter__(self) -> NoReturn:
        raise RuntimeError(NEEDLE)

    def __hash__(self) -> int:
        raise RuntimeError(NEEDLE)


def _nested(depth: int) -> dict[str, Any]:
    found: dict[str, Any] = {"x": NEEDLE}
    for _ in range(depth):
        found = {"x": found}
    return found


def _cyclic() -> list[Any]:
    found: list[Any] = [NEEDLE]
    found.append(found)
    return found


ODD: Final[Mapping[str, Callable[[], Any]]] = {
    "none": lambda: None,
    "true": lambda: True,
    "zero": lambda: 0,
    "negative": lambda: -1,
    "number": lambda: int(NEEDLE),
    "huge number": lambda: 10**5000,
    "float": lambda: float(NEEDLE) + 0.5,
    "nan": lambda: float("nan"),
    "infinite": lambda: float("inf"),
    "decimal": lambda: Decimal(NEEDLE),
    "huge decimal": lambda: Decimal("1E+999999"),
    "empty": str,
    "text": lambda: NEEDLE,
    "half a character": lambda: f"{NEEDLE}\ud800",
    "control characters": lambda: f"{NEEDLE}\x00\x1b[2J\r\n",
    "long text": lambda: NEEDLE * 100_000,
    "bytes": NEEDLE.encode,
    "list": lambda: [NEEDLE],
    "tuple": lambda: (NEEDLE, NEEDLE),
    "dict": lambda: {NEEDLE: NEEDLE},
    "nested": lambda: _nested(990),
    "cyclic": _cyclic,
    "generator": lambda: (NEEDLE for _ in range(1)),
    "class": lambda: Hostile,
    "hostile": Hostile,
    "function": lambda: lambda: NEEDLE,
    "card": lambda: Card(card_number=NEEDLE, card_cvv=NEEDLE),
}

#: Right arguments of every public call, by the object that has it.
CASHIER: Final[Mapping[str, Mapping[str, Any]]] = {
    "start": {
        "flow": "native_otp",
        "order_id": "order_new",
        "amount": "170.00",
        "currency": "INR",
        "metadata": {"cart": 1},
        "replace": False,
        "actor": "desk:ann",
    },
    "pay": {
        "payment": "order_created.1",
        "payment_session_id": "session_of_nobody",
        "method": card(),
        "save_instrument": False,
        "offer_id": "offer",
        "expected_version": 99,
        "actor": "desk:ann",
    },
    "submit_otp": {"payment": "at_otp", "otp": OTP, "expected_version": 99, "actor": "desk:ann"},
    "resend_otp": {"payment": "at_otp", "expected_version": 99, "actor": "desk:ann"},
    "leave_otp": {"payment": "at_otp", "expected_version": 99, "actor": "desk:ann"},
    "capture": {"payment": "held", "amount": "1.00", "expected_version": 99, "actor": "desk:ann"},
    "void": {"payment": "held", "expected_version": 99, "actor": "desk:ann"},
    "refresh": {"payment": "order_created.1"},
    "adopt": {"order_id": "order_nobody", "flow": "native_otp", "actor": "desk:ann"},
    "abandon": {"payment": "held", "expected_version": 99, "actor": "desk:ann"},
    "acknowledge": {"payment": "held", "reason": "late_pay", "actor": "ann", "note": "seen"},
    "resolve": {
        "payment": "held",
        "state": "captured",
        "amount": "1.00",
        "actor": "ann",
        "note": "seen",
    },
    "on_webhook": {"headers": {}, "body": b"{}"},
    "get": {"payment_id": "held"},
    "find": {
        "state": "authorized",
        "flow": "preauth",
        "order_id": "order_new",
        "review": False,
        "older_than": 1.0,
        "limit": 10,
        "after": None,
        "newest_first": True,
        "created_from": datetime(2026, 11, 27, tzinfo=UTC),
        "created_before": datetime(2026, 11, 28, tzinfo=UTC),
        "hold_ends_before": datetime(2026, 11, 28, tzinfo=UTC),
        "abandoned": False,
        "cursor": None,
    },
    "history": {"payment_id": "held"},
    "why": {"payment_id": "held"},
    "status": {"max_lag_s": 120.0},
    "pause": {"gate": "auto", "actor": "ann", "note": "seen"},
    "resume": {"gate": "auto", "actor": "ann", "note": "seen"},
    "events": {
        "group": "books",
        "consumer": "one",
        "start": "now",
        "lease_s": 30.0,
        "batch": 10,
        "idle_s": 0.5,
    },
}
GATEWAY: Final[Mapping[str, Mapping[str, Any]]] = {
    "pay": {
        "payment_session_id": "session_of_nobody",
        "method": card(),
        "save_instrument": False,
        "offer_id": "offer",
        "key": "key",
        "timeout_s": 5.0,
    },
    "authenticate": {"cf_payment_id": "1", "otp": OTP, "key": "key", "timeout_s": 5.0},
    "authorize": {
        "order_id": "order_nobody",
        "body": b'{"action":"VOID"}',
        "key": "key",
        "api_version": "2025-01-01",
        "timeout_s": 5.0,
    },
    "fetch_payment": {"order_id": "order_nobody", "cf_payment_id": "1", "timeout_s": 5.0},
    "fetch_payments": {"order_id": "order_nobody", "timeout_s": 5.0},
    "create_order": {
        "amount": "170.00",
        "customer": {"customer_id": "c_1", "customer_phone": "9898989898"},
        "order_id": "order_made",
        "currency": "INR",
        "order_meta": {"return_url": "https://shop.example/back"},
        "order_note": "a note",
        "key": "",
        "timeout_s": 5.0,
        "order_tags": {"a": "b"},
    },
    "fetch_order": {"order_id": "order_nobody", "timeout_s": 5.0},
    "simulate": {
        "cf_payment_id": "1",
        "payment_status": "SUCCESS",
        "payment_error_code": "X",
        "timeout_s": 5.0,
    },
    "fetch_simulation": {"simulation_id": "1", "timeout_s": 5.0},
}
CONNECT: Final[Mapping[str, Any]] = {
    "redis_url": "redis://127.0.0.1:1",
    "client_id": "id",
    "client_secret": "a-secret-of-the-tests",
    "environment": "sandbox",
    "api_version": "2025-01-01",
    "flows": [],
    "namespace": "cf",
    "partitions": 64,
    "min_replicas": 0,
    "limits": {},
    "webhook_secrets": [],
    "webhook_tolerance_s": None,
    "log": None,
    "log_level": "INFO",
    "log_target": "stderr",
    "store": None,
    "proxy": "direct",
    "transport": None,
}
WORKER: Final[Mapping[str, Any]] = {
    "concurrency": 64,
    "lease_s": 60.0,
    "idle_s": 0.25,
    "report_s": 10.0,
    "drain_s": 30.0,
    "log": None,
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shop() -> AsyncIterator[Shop]:
    """A shop with a payment in each state that matters."""
    async with open_shop() as opened:
        order_id, _ = await opened.order()
        await opened.cashier.start("native_otp", order_id=order_id)
        yield opened


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def held(shop: Shop) -> Mapping[str, str]:
    """The ids of a payment on hold and of one that waits for its OTP."""
    return {"held": (await shop.held()).id, "at_otp": (await shop.at_otp())[0].id}


def test_every_public_call_is_tried() -> None:
    """A new call, or a new argument of one, is tried too."""
    for kind, calls in ((Orchestrator, CASHIER), (Gateway, GATEWAY)):
        public = {
            name: found
            for name, found in inspect.getmembers(kind, inspect.isfunction)
            if not name.startswith("_") and name not in {"aclose", "shown", "pay_with"}
        }
        assert public.keys() == calls.keys()
        for name, found in public.items():
            takes = [p for p in inspect.signature(found).parameters if p not in {"self", "fields"}]
            assert set(takes) <= calls[name].keys(), name
    assert inspect.signature(cfflow.connect).parameters.keys() == CONNECT.keys()
    assert {"self", "orchestrator", *WORKER} == set(inspect.signature(Worker).parameters) | {"self"}


async def _raised(call: Callable[..., Any], given: Mapping[str, Any]) -> CfflowError | None:
    """Make a call; return its error if it is one of cfflow's, and fail for any other."""
    try:
        made = call(**given)
        if inspect.isawaitable(made):
            await made
    except CfflowError as error:
        return error
    return None


def _assert_hides(error: CfflowError) -> None:
    shown = (str(error), repr(error), repr(error.args), "".join(traceback.format_exception(error)))
    assert not any(NEEDLE in text for text in shown), shown[0]


def _sent(shop: Shop) -> int:
    return sum(shop.emulator.app.state.received.values())


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("name", CASHIER)
async def test_a_call_of_the_orchestrator(
    shop: Shop, held: Mapping[str, str], name: str, odd: str
) -> None:
    """Each argument in turn is odd; the others are right."""
    for argument in CASHIER[name]:
        given = {
            key: held.get(value, value) if isinstance(value, str) else value
            for key, value in CASHIER[name].items()
        }
        given[argument] = ODD[odd]()
        before = _sent(shop)
        error = await _raised(getattr(shop.cashier, name), given)
        # The amount of a payment that is open is no secret.
        if error is not None and not (isinstance(error, Conflict) and argument == "amount"):
            _assert_hides(error)
        if isinstance(error, (InvalidInput, ConfigError)):
            assert _sent(shop) == before
            assert not error.money_may_have_moved


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("name", GATEWAY)
async def test_a_call_of_the_gateway(shop: Shop, name: str, odd: str) -> None:
    """The same for the gateway's own calls."""
    for argument in GATEWAY[name]:
        given = {**GATEWAY[name], argument: ODD[odd]()}
        before = _sent(shop)
        error = await _raised(getattr(shop.cashier.gateway, name), given)
        if error is not None:
            _assert_hides(error)
        if isinstance(error, (InvalidInput, ConfigError)):
            assert _sent(shop) == before


@pytest.mark.parametrize("odd", ODD)
async def test_the_settings(odd: str) -> None:
    """What cannot be a setting is a `ConfigError`."""
    for argument in CONNECT:
        given = {**CONNECT, argument: ODD[odd]()}
        error = await _raised(cfflow.connect, given)
        # A file that cannot be read is named: a path is no secret.
        if error is not None and not isinstance(error, FlowError):
            _assert_hides(error)


@pytest.mark.parametrize("odd", ODD)
async def test_the_settings_of_a_worker(shop: Shop, odd: str) -> None:
    """A worker is refused where it is made, not when it runs."""
    for argument in WORKER:
        given = {**WORKER, argument: ODD[odd]()}
        error = await _raised(partial(Worker, shop.cashier), given)
        if error is not None:
            _assert_hides(error)
