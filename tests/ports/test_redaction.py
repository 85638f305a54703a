"""No secret leaves the process but to the gateway (gateway.md#secrets).

Secrets that occur nowhere else are planted in whole payments, good ones and broken ones;
then everything that a payment leaves behind is searched for them: log events, the standard
library's loggers, Redis and its files, reprs, error texts, tracebacks with all locals as
three formatters print them, and the last words of a process that dies while it pays.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import logging
import os
import pickle
import re
import signal
import sys
import textwrap
import traceback
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import structlog
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from rich.pretty import pretty_repr
from structlog.tracebacks import extract

import cfflow
from cfflow import (
    Card,
    CfflowError,
    ConfigError,
    GatewayUnavailable,
    IllegalStep,
    InvalidInput,
    Orchestrator,
    OtpLimit,
    Payment,
    State,
    StoreUnavailable,
)
from cfflow.connecting import settings_of
from cfflow.core.sealed import Sealed
from cfflow.emulator import (
    PREAUTH_CLIENT_ID,
    PREAUTH_CLIENT_SECRET,
    BankOptions,
    RunningEmulator,
    running_emulator,
)
from cfflow.store.embedded import EmbeddedStore
from cfflow.store.protocol import Store
from cfflow.testing import MemoryStore
from tests.ports.gateway_kit import RawGateway, Reply, Sent, a_gateway, answer, hang, reset

#: Where the tests' own code is. The checkout may lie in a folder of the same name.
TESTS = f"{Path(__file__).parents[1]}{os.sep}"
CFFLOW = f"{Path(cfflow.__file__).parent}{os.sep}"
NUMBER = "4576238912771450"
CVV = "8642"
OTP = "91827364"
WRONG_OTP = "73645182"
CRYPTOGRAM = "CrYpToGrAm0pLaNtEd00111222="
SECRET = "cfsk_planted_5f1c0b9ad2"
SESSION = "session_planted_Qm9vRmFy_0123"
PLANTED = (NUMBER, CVV, OTP, WRONG_OTP, CRYPTOGRAM, SECRET, SESSION)
CUSTOMER = {"customer_id": "cust_1", "customer_phone": "9898989898"}

FLOW = """
name = "quick_otp"
summary = "Native OTP with a short time limit."
capture = "automatic"
methods = ["card"]
[pay]
timeout_s = 0.4
"""


def a_card() -> Card:
    """A card whose every secret is planted."""
    return Card(
        card_number=NUMBER,
        card_holder_name="Asha Rao",
        card_expiry_mm="12",
        card_expiry_yy="31",
        card_cvv=CVV,
        cryptogram=CRYPTOGRAM,
        token_requestor_id="40010030273",
        card_display="1450",
    )


_UUID = re.compile("[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def leaks(where: str, found: str | bytes, *more: str) -> list[tuple[str, str]]:
    """The planted secrets in a text. A short number counts only where it stands alone."""
    text = found if isinstance(found, str) else found.decode("latin-1")
    # Four digits of a random key can be those of the CVV.
    text = _UUID.sub("", text)
    seen = []
    for secret in (*PLANTED, *more):
        alone = rf"(?<![\w.]){re.escape(secret)}(?!\w)" if len(secret) < 6 else re.escape(secret)
        seen += [
            (where, text[max(0, hit.start() - 60) : hit.end() + 20])
            for hit in re.finditer(alone, text)
        ]
    return seen


class Output:
    """Everything that a program writes: cfflow's own events, and every logger at DEBUG."""

    def __init__(self) -> None:
        self.events = io.BytesIO()
        self.standard = io.StringIO()
        self.log = structlog.wrap_logger(
            structlog.BytesLogger(self.events),
            processors=[
                structlog.processors.add_log_level,
                structlog.processors.JSONRenderer(serializer=lambda e, **_: repr(e).encode()),
            ],
        )

    def leaks(self, *more: str) -> list[tuple[str, str]]:
        """The planted secrets in it."""
        return [
            *leaks("events", self.events.getvalue(), *more),
            *leaks("logging", self.standard.getvalue(), *more),
        ]


@pytest.fixture
def output() -> Iterator[Output]:
    """The output of one test, with all loggers wide open."""
    made = Output()
    handler = logging.StreamHandler(made.standard)
    handler.setFormatter(logging.Formatter("%(name)s %(message)s"))
    names = (None, "httpx", "asyncio", "redis", "transitions", "transitions.core")
    loggers = [logging.getLogger(name) for name in names]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.DEBUG)
    loggers[0].addHandler(handler)
    yield made
    loggers[0].removeHandler(handler)
    for logger, level in zip(loggers, before, strict=True):
        logger.setLevel(level)


@asynccontextmanager
async def a_cashier(
    base_url: str,
    folder: Path,
    log: Any,
    *,
    client_id: str = "id",
    embedded: bool = False,
    store: Store | None = None,
) -> AsyncIterator[Orchestrator]:
    """An orchestrator as `connect` makes it, with the planted client secret."""
    flow = folder / "quick_otp.toml"
    flow.write_text(FLOW)
    place: dict[str, Any] = (
        {"redis_url": f"embedded:{folder}/db"} if embedded else {"store": store or MemoryStore()}
    )
    async with cfflow.connect(
        client_id=client_id,
        client_secret=SECRET,
        environment=base_url,
        flows=[flow],
        log=log,
        **place,
    ) as cashier:
        yield cashier


async def order(cashier: Orchestrator, order_id: str, **more: Any) -> str:
    """Create an order at the emulator; its session."""
    made = await cashier.gateway.create_order(170, CUSTOMER, order_id=order_id, **more)
    return str(made.payment_session_id)


async def everything_in_redis(socket: Path) -> str:
    """Every key of the server with its whole value."""
    client = Redis(unix_socket_path=str(socket), retry=Retry(NoBackoff(), 0))
    read: dict[bytes, Any] = {
        b"hash": client.hgetall,
        b"string": client.get,
        b"set": client.smembers,
        b"zset": lambda key: client.zrange(key, 0, -1, withscores=True),
        b"list": lambda key: client.lrange(key, 0, -1),
        b"stream": client.xrange,
    }
    found = []
    async for key in client.scan_iter(count=1000):
        kind: Any = await client.type(key)
        value = await read[kind](key)
        found.append(f"{key.decode('latin-1')} {_plain(value)}")
    await client.aclose()
    return "\n".join(found)


def _plain(value: Any) -> str:
    """A value of Redis as text, without escapes that could hide something."""
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if isinstance(value, dict):
        return " ".join(_plain(part) for pair in value.items() for part in pair)
    if isinstance(value, list | tuple | set):
        return " ".join(_plain(part) for part in value)
    return str(value)


def files_below(folder: Path) -> str:
    """Everything that the server wrote to disk."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return "\n".join(path.read_bytes().decode("latin-1") for path in files)


def shown_by(error: BaseException) -> dict[str, str]:
    """An error as crash reports print it, without the frames of the tests themselves."""
    plain = traceback.TracebackException.from_exception(error, capture_locals=True)
    _drop_test_frames(plain, set())
    trace = extract(
        type(error),
        error,
        error.__traceback__,
        show_locals=True,
        locals_max_length=10_000,
        locals_max_string=1_000_000,
    )
    frames = [frame for stack in trace.stacks for frame in stack.frames]
    ours = [frame for frame in frames if not frame.filename.startswith(TESTS)]
    return {
        "traceback": "".join(plain.format()),
        "structlog and rich": "\n".join(f"{frame.name} {frame.locals}" for frame in ours),
        "texts": f"{error!r} {error} {error.args} {vars(error)}",
    }


def _drop_test_frames(trace: traceback.TracebackException | None, seen: set[int]) -> None:
    if trace is None or id(trace) in seen:
        return
    seen.add(id(trace))
    kept = [frame for frame in trace.stack if not frame.filename.startswith(TESTS)]
    trace.stack[:] = kept
    for inner in (trace.__cause__, trace.__context__, *(trace.exceptions or ())):
        _drop_test_frames(inner, seen)


def leaks_of(error: BaseException, *more: str) -> list[tuple[str, str]]:
    """The planted secrets in all that can be printed of an error."""
    return [leak for where, text in shown_by(error).items() for leak in leaks(where, text, *more)]


def leaks_of_objects(*objects: object) -> list[tuple[str, str]]:
    """The planted secrets in what objects show of themselves."""
    shows = (repr, str, pretty_repr)
    return [leak for one in objects for show in shows for leak in leaks(repr(type(one)), show(one))]


# whole payments

#: A card's own fields are data to whoever holds it; what it shows of itself is asked for.
_DATA = {*Card.__struct_fields__, "body"}


async def pay_by_otp(cashier: Orchestrator) -> tuple[list[object], str]:
    """A native OTP payment with everything that can go wrong for a customer; what it showed."""
    session = await order(cashier, "order_otp")
    started = await cashier.start("native_otp", order_id="order_otp")
    paid = await cashier.pay(started, session, a_card())
    assert paid.state is State.OTP_PENDING
    wrong = await cashier.submit_otp(paid, WRONG_OTP)
    with pytest.raises(OtpLimit):
        await cashier.resend_otp(wrong)
    captured = await cashier.submit_otp(wrong, OTP)
    assert captured.state is State.CAPTURED
    with pytest.raises(IllegalStep):
        await cashier.submit_otp(captured, OTP)
    why, history = await cashier.why(captured), await cashier.history(captured)
    entity = await cashier.gateway.fetch_payments("order_otp")
    fetched = await cashier.gateway.fetch_order("order_otp")
    return [started, paid, wrong, captured, why, history, entity, fetched], session


async def hold_and_capture(cashier: Orchestrator) -> tuple[list[object], str]:
    """A hold that is captured in part."""
    session = await order(cashier, "order_hold")
    started = await cashier.start("preauth", order_id="order_hold")
    paid = await cashier.pay(started, session, a_card(), save_instrument=True)
    held = await cashier.submit_otp(paid, OTP)
    assert held.state is State.AUTHORIZED
    taken = await cashier.capture(held, "100.00")
    assert taken.state is State.CAPTURED
    return [started, paid, held, taken, await cashier.why(taken)], session


@asynccontextmanager
async def an_emulator(client_id: str) -> AsyncIterator[RunningEmulator]:
    """An emulator whose credentials and OTP are planted."""
    options = BankOptions(otp=OTP)
    async with running_emulator(
        client_id=client_id, client_secret=SECRET, options=options
    ) as emulator:
        yield emulator


async def test_a_whole_payment_leaves_no_secret_behind(output: Output, tmp_path: Path) -> None:
    """Not in an event, a debug log, a repr, a key of Redis, or a file of its folder."""
    asyncio.get_running_loop().set_debug(True)
    async with (
        an_emulator("id") as emulator,
        a_cashier(emulator.base_url, tmp_path, output.log, embedded=True) as cashier,
    ):
        shown, session = await pay_by_otp(cashier)
        for part in (cashier, cashier.gateway, cashier.flows, a_card()):
            shown += [part, *(getattr(part, name) for name in dir(part) if name not in _DATA)]
        stored = await everything_in_redis(tmp_path / "db" / "valkey.sock")
    asyncio.get_running_loop().set_debug(False)
    on_disk = files_below(tmp_path / "db")
    assert b"payment.transition" in output.events.getvalue()
    # The machine of transitions says nothing where this process has walked all edges before.
    assert "asyncio" in output.standard.getvalue()
    assert "order_otp" in stored
    assert "order_otp" in on_disk
    assert output.leaks(session) == []
    assert leaks("redis", stored, session) == []
    assert leaks("disk", on_disk, session) == []
    assert leaks_of_objects(*shown) == []


async def test_a_hold_leaves_no_secret_behind(
    output: Output, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the request of a capture is frozen into the record."""
    monkeypatch.setitem(globals(), "SECRET", PREAUTH_CLIENT_SECRET)
    async with (
        running_emulator(options=BankOptions(otp=OTP)) as emulator,
        a_cashier(
            emulator.base_url, tmp_path, output.log, client_id=PREAUTH_CLIENT_ID, embedded=True
        ) as cashier,
    ):
        shown, session = await hold_and_capture(cashier)
        stored = await everything_in_redis(tmp_path / "db" / "valkey.sock")
    found = stored + files_below(tmp_path / "db")
    assert "order_hold" in found
    assert leaks("store", found, session, PREAUTH_CLIENT_SECRET) == []
    assert output.leaks(session, PREAUTH_CLIENT_SECRET) == []
    assert leaks_of_objects(*shown) == []


# broken payments


def echo(status: int, shape: str = "{message}") -> Reply:
    """An answer that repeats the request, body and secret header, in every field it has."""

    async def reply(writer: asyncio.StreamWriter, sent: Sent) -> None:
        echoed = f"{sent.body.decode()} {sent.headers.get('x-client-secret', '')}"
        words = re.findall(r'"(?:otp|card_cvv|card_number|payment_session_id)":"(.*?)"', echoed)
        error = {"message": echoed, "code": " ".join(words), "type": echoed}
        body = {"{message}": json.dumps(error), "{id}": json.dumps({"cf_payment_id": [echoed]})}
        content = body.get(shape, f'{{"cf_payment_id": "{echoed}')
        # A 429 that asks for no pause: the next trouble of the same test must be sent too.
        await answer(status, content.encode(), x_ratelimit_retry="0")(writer, sent)

    return reply


OTP_PAGE = answer(
    200,
    {
        "cf_payment_id": "77",
        "action": "post",
        "channel": "post",
        "payment_method": "card",
        "payment_amount": 170.00,
        "data": {"redirect_to_bank": "https://bank.example/3ds"},
    },
)
TROUBLES: dict[str, Reply] = {
    "timeout": hang,
    "reset": reset,
    "refusal that echoes": echo(400),
    "bad key that echoes": echo(401),
    "conflict that echoes": echo(409),
    "rate limit that echoes": echo(429),
    "server error that echoes": echo(500),
    "undecodable answer that echoes": echo(200, "{id}"),
    "cut answer that echoes": echo(200, "cut"),
    "an answer without content": answer(200, {"action": None, "new": "field"}),
}


async def broken(
    cashier: Orchestrator, gateway: RawGateway, step: str, trouble: Reply, order_id: str
) -> BaseException:
    """Drive one payment into trouble at this step, and return what was raised."""
    started = await before(cashier, gateway, step, order_id)
    gateway.reply = trouble
    with pytest.raises(CfflowError) as caught:
        await step_of(cashier, step, started)
    return caught.value


async def before(
    cashier: Orchestrator, gateway: RawGateway, step: str, order_id: str = "order_1"
) -> Payment:
    """Return a payment whose next step is this one."""
    started = await cashier.start("quick_otp", order_id=order_id)
    if step == "pay":
        return started
    gateway.reply = OTP_PAGE
    paying = await cashier.pay(started, SESSION, a_card())
    assert paying.state is State.OTP_PENDING
    return paying


async def step_of(cashier: Orchestrator, step: str, payment: Payment) -> Payment:
    """Make the step, with planted secrets."""
    if step == "submit":
        return await cashier.submit_otp(payment, OTP)
    return await cashier.pay(payment, SESSION, a_card())


@pytest.mark.parametrize("trouble", TROUBLES)
@pytest.mark.parametrize("step", ["pay", "submit"])
async def test_a_step_that_fails_shows_no_secret(
    step: str, trouble: str, output: Output, tmp_path: Path
) -> None:
    """Not in its error, in any local variable of any frame below the caller, or in a log."""
    async with (
        a_gateway(hang) as gateway,
        a_cashier(gateway.base_url, tmp_path, output.log) as cashier,
    ):
        error = await broken(cashier, gateway, step, TROUBLES[trouble], "order_1")
        assert "cfflow/engine.py" in shown_by(error)["traceback"]
        assert "snapshot" in shown_by(error)["structlog and rich"]
        assert leaks_of(error) == []
        assert output.leaks() == []
        assert leaks_of_objects(*await cashier.history("order_1.1")) == []


@pytest.mark.parametrize("step", ["pay", "submit"])
async def test_a_step_that_is_cancelled_shows_no_secret(
    step: str, output: Output, tmp_path: Path
) -> None:
    """A customer who hangs up leaves a traceback through every frame of the call."""
    async with (
        a_gateway(OTP_PAGE) as gateway,
        a_cashier(gateway.base_url, tmp_path, output.log) as cashier,
    ):
        payment = await before(cashier, gateway, step)
        gateway.reply = hang
        gateway.asked.clear()
        task = asyncio.create_task(step_of(cashier, step, payment))
        await gateway.asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError) as caught:
            await task
        assert "cfflow/cashfree/client.py" in shown_by(caught.value)["traceback"]
        assert leaks_of(caught.value) == []
        assert output.leaks() == []
        assert leaks("task", repr(task)) == []


@pytest.mark.parametrize("step", ["pay", "submit"])
async def test_a_step_on_a_closed_orchestrator_shows_no_secret(
    step: str, output: Output, tmp_path: Path
) -> None:
    """httpx's own error for this comes out of frames that hold the request."""
    async with (
        a_gateway(OTP_PAGE) as gateway,
        a_cashier(gateway.base_url, tmp_path, output.log) as cashier,
    ):
        payment = await before(cashier, gateway, step)
        await cashier.gateway.aclose()
        with pytest.raises(GatewayUnavailable) as caught:
            await step_of(cashier, step, payment)
        assert leaks_of(caught.value) == []


async def test_trouble_leaves_no_secret_in_the_store(output: Output, tmp_path: Path) -> None:
    """Every trouble at every step on a real server: its keys and its append-only file."""
    async with (
        a_gateway(hang) as gateway,
        a_cashier(gateway.base_url, tmp_path, output.log, embedded=True) as cashier,
    ):
        for number, (name, trouble) in enumerate(TROUBLES.items()):
            if name != "timeout":
                await broken(cashier, gateway, "pay", trouble, f"order_{number}")
        await broken(cashier, gateway, "submit", TROUBLES["refusal that echoes"], "order_otp")
        stored = await everything_in_redis(tmp_path / "db" / "valkey.sock")
    found = stored + files_below(tmp_path / "db")
    assert "order_otp" in stored
    assert leaks("store", found) == []
    assert output.leaks() == []


async def test_a_store_that_goes_down_under_a_pay_shows_no_secret(
    output: Output, tmp_path: Path
) -> None:
    """The gateway has answered, the outcome cannot be written: the loudest error of all."""
    folder = tmp_path / "db"

    async def die_and_answer(writer: asyncio.StreamWriter, sent: Sent) -> None:
        client = Redis(unix_socket_path=str(folder / "valkey.sock"), retry=Retry(NoBackoff(), 0))
        with contextlib.suppress(Exception):
            await client.shutdown(nosave=True)
        await client.aclose()
        await OTP_PAGE(writer, sent)

    store = EmbeddedStore(folder, deadline_s=0.5)
    async with (
        a_gateway(die_and_answer) as gateway,
        a_cashier(gateway.base_url, tmp_path, output.log, store=store) as cashier,
    ):
        # The server needs a moment to end; that is not to be the call's time limit.
        payment = await cashier.start("native_otp", order_id="order_1")
        with pytest.raises(StoreUnavailable) as caught:
            await cashier.pay(payment, SESSION, a_card())
        assert caught.value.money_may_have_moved
        assert "redis/link.py" in shown_by(caught.value)["traceback"]
        assert leaks_of(caught.value) == []
        assert output.leaks() == []


# through the standard library's logging


class _Exposing(logging.Handler):
    """A handler that writes all it can get at: extra fields, errors, and the frames around it.

    Error trackers do so: they take `sys.exc_info()` and the locals of the whole stack, whatever a
    record brings along.
    """

    def __init__(self) -> None:
        super().__init__()
        self.text = io.StringIO()
        form = "%(name)s %(message)s %(args)s %(exc_info)s %(exc_text)s %(stack_info)s"
        self.setFormatter(logging.Formatter(form))

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, its attributes, the error that is handled now, and the stack."""
        print(self.format(record), vars(record), pickle.dumps(vars(record)), file=self.text)
        error = sys.exc_info()[1]
        for text in () if error is None else shown_by(error).values():
            print(text, file=self.text)
        frame = sys._getframe()
        while frame := frame.f_back:  # type: ignore[assignment]  # None ends the loop
            if frame.f_code.co_filename.startswith(CFFLOW):
                found = dict(frame.f_locals)
                print(frame.f_code.co_qualname, repr(found), pretty_repr(found), file=self.text)


@pytest.fixture
def exposing() -> Iterator[_Exposing]:
    """The handler on the logger `cfflow`, with its level open, for one test."""
    logger, handler = logging.getLogger("cfflow"), _Exposing()
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(before)


@pytest.fixture
def through_logging(exposing: _Exposing) -> Iterator[_Exposing]:
    """The same, with all orchestrators of the test sent there."""
    cfflow.log_to("logging")
    yield exposing
    cfflow.log_to(None)


async def test_a_payment_through_logging_shows_no_secret(
    through_logging: _Exposing, output: Output, tmp_path: Path
) -> None:
    """Not in a record, its fields, or a frame that a handler can see."""
    async with (
        an_emulator("id") as emulator,
        a_cashier(emulator.base_url, tmp_path, None) as cashier,
    ):
        _, session = await pay_by_otp(cashier)
        with pytest.raises(cfflow.InvalidSignature):
            await cashier.on_webhook({}, b"{}")
    text = through_logging.text.getvalue()
    for event in ("payment.transition", "gateway.call", "webhook.refused"):
        assert f"cfflow {event} {{" in text
    assert "GatewayClient._exchange" in text
    assert leaks("handler", text, session) == []
    assert output.leaks(session) == []


@pytest.mark.parametrize("trouble", [*TROUBLES, "nobody listens"])
@pytest.mark.parametrize("step", ["pay", "submit"])
async def test_a_failure_through_logging_shows_no_secret(
    step: str, trouble: str, through_logging: _Exposing, output: Output, tmp_path: Path
) -> None:
    """Also where an error is being handled while the record is written."""
    async with (
        a_gateway(hang) as gateway,
        a_cashier(gateway.base_url, tmp_path, None) as cashier,
    ):
        if trouble == "nobody listens":
            gateway.reply = reset
            cashier.gateway.base_url = "http://127.0.0.1:9/pg"
            payment = await cashier.start("quick_otp", order_id="order_1")
            with pytest.raises(CfflowError):
                await cashier.pay(payment, SESSION, a_card())
        else:
            await broken(cashier, gateway, step, TROUBLES[trouble], "order_1")
            with contextlib.suppress(CfflowError):
                await cashier.refresh("order_1.1")
        await cfflow.Worker(cashier).run_once()
    text = through_logging.text.getvalue()
    assert "cfflow gateway." in text
    assert leaks("handler", text) == []
    assert output.leaks() == []


async def test_an_outcome_that_cannot_be_stored_shows_no_secret_through_logging(
    through_logging: _Exposing, tmp_path: Path
) -> None:
    """`payment.unsettled` is written while the store's error is handled."""

    class Failing(MemoryStore):
        writes = 0

        async def commit(self, commit: Any) -> Any:
            self.writes += 1
            if self.writes == 3:
                raise StoreUnavailable("gone")
            return await super().commit(commit)

    async with (
        a_gateway(echo(400)) as gateway,
        a_cashier(gateway.base_url, tmp_path, None, store=Failing()) as cashier,
    ):
        payment = await cashier.start("quick_otp", order_id="order_1")
        with pytest.raises(CfflowError):
            await cashier.pay(payment, SESSION, a_card())
    text = through_logging.text.getvalue()
    assert "payment.unsettled" in text
    assert "StoreUnavailable('gone'" in text
    assert leaks("handler", text) == []


# what is refused before anything is sent


async def refused_inputs(cashier: Orchestrator, payment: Payment) -> list[BaseException]:
    """Steps whose arguments are secrets out of form."""
    calls = [
        cashier.submit_otp(payment, f"{OTP}9"),
        cashier.pay(payment, SESSION * 50, a_card()),
        cashier.pay(payment, SESSION, {"card": {"card_number": NUMBER}}),  # type: ignore[arg-type]  # on purpose
    ]
    return [
        error
        for error in await asyncio.gather(*calls, return_exceptions=True)
        if isinstance(error, BaseException)
    ]


async def test_an_argument_out_of_form_is_not_repeated(output: Output, tmp_path: Path) -> None:
    """The error's own text names the argument, never its value."""
    async with a_cashier("http://127.0.0.1:9/pg", tmp_path, output.log) as cashier:
        payment = await cashier.start("quick_otp", order_id="order_1")
        errors = await refused_inputs(cashier, payment)
    assert [type(error) for error in errors] == [InvalidInput] * 3
    assert [leak for error in errors for leak in leaks("text", shown_by(error)["texts"])] == []


async def test_an_argument_out_of_form_is_in_no_frame(output: Output, tmp_path: Path) -> None:
    """Nor is it a local variable of a cfflow frame that a crash report prints."""
    async with a_cashier("http://127.0.0.1:9/pg", tmp_path, output.log) as cashier:
        payment = await cashier.start("quick_otp", order_id="order_1")
        errors = await refused_inputs(cashier, payment)
    assert [leak for error in errors for leak in leaks_of(error)] == []


def refused_secret() -> BaseException:
    """The error for a client secret with a newline at its end, from `connect`."""
    with pytest.raises(ConfigError) as caught:
        cfflow.connect(
            store=MemoryStore(),
            client_id="id",
            client_secret=f"{SECRET}\n",
            environment="sandbox",
        )
    return caught.value


def test_a_client_secret_out_of_form_is_not_repeated() -> None:
    """Not in the text, and not in the frames of the gateway's client."""
    error = refused_secret()
    assert leaks("text", shown_by(error)["texts"]) == []
    plain = traceback.TracebackException.from_exception(error, capture_locals=True)
    plain.stack[:] = [
        frame for frame in plain.stack if frame.filename.endswith("cashfree/client.py")
    ]
    assert "__init__" in "".join(plain.format())
    assert leaks("frames", "".join(plain.format())) == []


def test_a_client_secret_out_of_form_is_in_no_frame() -> None:
    """Nor is it a local variable of any cfflow frame."""
    assert leaks_of(refused_secret()) == []


SETTINGS = settings_of(
    redis_url="x", client_id="x", client_secret=Sealed(SECRET), environment="sandbox"
)


def test_settings_do_not_show_the_client_secret() -> None:
    """repr, as tracebacks and logs use it."""
    assert leaks("repr", repr(SETTINGS)) == []


def test_settings_do_not_show_the_client_secret_to_rich() -> None:
    """rich asks msgspec's `__rich_repr__`, which shows every field."""
    assert leaks("rich", pretty_repr(SETTINGS)) == []


def test_a_sealed_value_is_written_nowhere() -> None:
    """Not by repr, str, format, rich, pickle or a copy."""
    import copy
    import pickle

    sealed = Sealed(SECRET)
    assert {repr(sealed), str(sealed), f"{sealed}", pretty_repr(sealed)} == {"<sealed>"}
    for write in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="not written anywhere"):
            write(sealed)
    assert sealed.reveal() == SECRET


# a process that dies

DYING = """
import asyncio, faulthandler, logging, signal, sys
from pathlib import Path
import cfflow

# A shell that starts the tests in the background lets them ignore it.
signal.signal(signal.SIGINT, signal.default_int_handler)

faulthandler.enable(all_threads=True)
logging.basicConfig(level=logging.DEBUG, stream=sys.stderr)
secrets = dict(line.split("=", 1) for line in sys.stdin.read().splitlines())

async def main():
    async with cfflow.connect(
        redis_url="embedded:" + sys.argv[2],
        client_id="id",
        client_secret=secrets["secret"],
        environment=sys.argv[1],
    ) as cashier:
        payment = await cashier.start("native_otp", order_id="order_1")
        card = cfflow.Card(
            card_number=secrets["number"],
            card_cvv=secrets["cvv"],
            cryptogram=secrets["cryptogram"],
            card_expiry_mm="12",
            card_expiry_yy="31",
        )
        await cashier.pay(payment, secrets["session"], card)

asyncio.run(main(), debug=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize("last", [signal.SIGABRT, signal.SIGINT])
async def test_a_process_that_dies_in_the_middle_of_a_pay_shows_no_secret(
    last: signal.Signals, tmp_path: Path
) -> None:
    """faulthandler's dump, Python's traceback, asyncio's debug log, and the store it leaves."""
    script = tmp_path / "dying.py"
    script.write_text(textwrap.dedent(DYING))
    given = {
        "number": NUMBER,
        "cvv": CVV,
        "cryptogram": CRYPTOGRAM,
        "session": SESSION,
        "secret": SECRET,
    }
    async with a_gateway(hang) as gateway:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(script),
            gateway.base_url,
            str(tmp_path / "db"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        assert process.stdin is not None
        process.stdin.write("\n".join(f"{k}={v}" for k, v in given.items()).encode())
        process.stdin.close()
        async with asyncio.timeout(30):
            await gateway.asked.wait()
        assert NUMBER in gateway.sent.body.decode()
        process.send_signal(last)
        assert process.stdout is not None
        printed = (await process.stdout.read()).decode()
        await process.wait()
    if last is signal.SIGABRT:
        assert "Fatal Python error: Aborted" in printed
    if last is signal.SIGINT:
        assert "KeyboardInterrupt" in printed
    assert "DEBUG:asyncio" in printed
    assert leaks("printed", printed) == []
    on_disk = await stop_server(tmp_path / "db")
    assert "order_1" in on_disk
    assert leaks("disk", on_disk) == []


async def stop_server(folder: Path) -> str:
    """End the server that a dead process left; everything that it wrote."""
    client = Redis(unix_socket_path=str(folder / "valkey.sock"), retry=Retry(NoBackoff(), 0))
    found = ""
    with contextlib.suppress(Exception):
        found = await everything_in_redis(folder / "valkey.sock")
        await client.shutdown(nosave=True)
    await client.aclose()
    return found + files_below(folder)
