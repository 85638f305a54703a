"""The blocking face: the same calls, from any thread, and nothing left behind."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import inspect
import os
import signal
import socket
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

import cfflow
import cfflow.sync
from cfflow import Card, Conflict, FeedEvent, State
from cfflow.cashfree.gateway import Gateway
from cfflow.emulator import EmulatorProcess
from cfflow.logs import silent_log
from cfflow.testing import MemoryStore
from tests.errors_kit import payment_in
from tests.faces.faces_kit import CUSTOMER, card

#: What the async face has for its own modules, and what ends it there.
INNER = {"aclose", "flow_of", "of_order", "shown", "snapshot"}
VERSIONS: dict[type, type] = {
    cfflow.Orchestrator: cfflow.sync.Orchestrator,
    Gateway: cfflow.sync.Gateway,
    cfflow.Feed: cfflow.sync.Feed,
    cfflow.Worker: cfflow.sync.Worker,
}


def calls_of(kind: type) -> list[str]:
    """The names of a class's public methods and properties."""
    found = inspect.getmembers(kind, lambda part: callable(part) or isinstance(part, property))
    return [name for name, _ in found if not name.startswith("_") and name not in INNER]


def connect(bank: EmulatorProcess | str, **settings: Any) -> cfflow.sync.Orchestrator:
    """An orchestrator at this gateway, without a log, on its own store unless one is named."""
    where = bank if isinstance(bank, str) else bank.base_url
    if not {"redis_url", "store"} & set(settings):
        settings["store"] = MemoryStore()
    settings.setdefault("log", silent_log())
    return cfflow.sync.connect(
        environment=where,
        client_id="cfflow-test-id",
        client_secret="cfflow-test-secret",
        **settings,
    )


def order_of(cashier: cfflow.sync.Orchestrator) -> tuple[str, str]:
    """Create an order; its id and its session."""
    order = cashier.gateway.create_order("170.00", CUSTOMER)
    return order.order_id, order.payment_session_id


def to_otp(cashier: cfflow.sync.Orchestrator) -> cfflow.Payment:
    """A payment whose customer is asked for the OTP."""
    order_id, session = order_of(cashier)
    payment = cashier.start("native_otp", order_id=order_id, amount="170.00")
    return cashier.pay(payment, session, card())


@pytest.fixture
def deaf() -> Iterator[str]:
    """A gateway that takes every request and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/pg"


@contextmanager
def interrupted(after_s: float = 0.1, number: int = signal.SIGINT) -> Iterator[None]:
    """Send this process a signal while the block waits."""
    timer = threading.Timer(after_s, os.kill, (os.getpid(), number))
    timer.start()
    try:
        yield
    finally:
        timer.join()


def open_descriptors() -> int:
    """How many files and sockets this process has."""
    return len(list(Path("/dev/fd").iterdir()))


@contextmanager
def leaving_nothing() -> Iterator[None]:
    """Fail if the block leaves a thread, a descriptor or an object that is not closed."""
    gc.collect()
    threads, descriptors = set(threading.enumerate()), open_descriptors()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
        gc.collect()
    assert [str(found.message) for found in caught] == []
    assert set(threading.enumerate()) == threads
    assert open_descriptors() == descriptors


@pytest.mark.parametrize("kind", VERSIONS, ids=lambda kind: kind.__name__)
def test_every_public_call_has_its_blocking_twin(kind: type) -> None:
    """The same names, arguments and defaults; a name that is new there is missed here."""
    for name in calls_of(kind):
        theirs, ours = getattr(kind, name), getattr(VERSIONS[kind], name)
        assert not inspect.iscoroutinefunction(ours), name
        assert inspect.getdoc(ours), name
        if not isinstance(theirs, property):
            assert (
                str(inspect.signature(ours)).split(" -> ")[0]
                == (str(inspect.signature(theirs)).split(" -> ")[0])
            ), name


def test_connect_takes_what_the_async_one_takes() -> None:
    """Every setting by its name, checked at once and before anything is connected."""
    ours, theirs = inspect.signature(cfflow.sync.connect), inspect.signature(cfflow.connect)
    assert ours.parameters == theirs.parameters
    with pytest.raises(TypeError, match="unexpected keyword argument 'colour'"):
        connect("sandbox", colour="red")


def test_a_sale_goes_from_the_order_to_the_money(bank: EmulatorProcess, redis_url: str) -> None:
    """A wrong OTP, then the right one, on a real store, without a single await."""
    with connect(bank, redis_url=redis_url) as cashier:
        payment = to_otp(cashier)
        payment = cashier.submit_otp(payment, "999999", expected_version=payment.version)
        assert payment.otp is not None
        assert payment.otp.submits_left == 2
        payment = cashier.submit_otp(payment, "111000")
        assert payment.state is State.CAPTURED
        assert [found.id for found in cashier.find(state="captured")] == [payment.id]
        assert "captured" in str(cashier.why(payment))


def test_a_missing_amount_is_refused_and_one_left_out_is_the_whole_hold(
    bank: EmulatorProcess, redis_url: str
) -> None:
    """A form's None takes nothing, in blocking code too."""
    missing: Any = {"amuont": "170"}.get("amount")
    with connect(bank, redis_url=redis_url) as cashier:
        tags = {"cfflow_preauth": "true"}
        order = cashier.gateway.create_order("170.00", CUSTOMER, order_tags=tags)
        payment = cashier.start("preauth", order_id=order.order_id)
        payment = cashier.pay(payment, order.payment_session_id, card())
        payment = cashier.submit_otp(payment, "111000")
        with pytest.raises(cfflow.InvalidAmount):
            cashier.capture(payment, missing)
        assert cashier.capture(payment).captured_amount == Decimal("170.00")


def test_an_error_is_the_one_that_the_call_raised(bank: EmulatorProcess) -> None:
    """Its type, its payment, and a traceback from the caller's line down to the engine."""
    with connect(bank) as cashier:
        payment = to_otp(cashier)
        cashier.submit_otp(payment, "111000")
        with pytest.raises(Conflict) as caught:
            cashier.submit_otp(payment, "111000", expected_version=payment.version)
    assert payment_in(caught.value).state is State.CAPTURED
    frames = traceback.extract_tb(caught.value.__traceback__)
    assert frames[0].filename == __file__
    assert frames[-1].filename.endswith("engine.py")


def test_an_error_s_traceback_shows_no_secret(bank: EmulatorProcess) -> None:
    """Local variables of every frame between the caller and the gateway included."""
    plain: Card = card("4576238912771450")
    with connect(bank) as cashier:
        payment = to_otp(cashier)
        with pytest.raises(cfflow.InvalidInput) as bad_otp:
            cashier.submit_otp(payment, "91827364x")
        with pytest.raises(cfflow.IllegalStep) as bad_step:
            cashier.pay(payment, "session_planted", plain)
    for caught, secret in ((bad_otp, "91827364x"), (bad_step, "session_planted")):
        found = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
        found.stack[:] = [frame for frame in found.stack if frame.filename != __file__]
        assert secret not in "".join(found.format())
        assert "4576238912771450" not in "".join(found.format())


def test_log_events_carry_what_the_calling_thread_has_bound(bank: EmulatorProcess) -> None:
    """Context variables, such as a request's id, are seen on the other thread."""
    request = contextvars.ContextVar("request", default="none")
    seen: list[str] = []

    class Recording:
        def info(self, event: str, **fields: Any) -> None:
            seen.append(f"{event} {request.get()} {len(fields)}")

        warning = info

    with connect(bank, log=Recording()) as cashier:
        request.set("req-1")
        order_of(cashier)
    assert seen == ["gateway.call req-1 5"]


def test_threads_share_one_orchestrator(bank: EmulatorProcess, redis_url: str) -> None:
    """Twelve sales in eight threads: each is captured, on one thread of ours."""
    with connect(bank, redis_url=redis_url) as cashier, ThreadPoolExecutor(8) as pool:
        sales = pool.map(lambda _: cashier.submit_otp(to_otp(cashier), "111000").state, range(12))
        assert list(sales) == [State.CAPTURED] * 12
        assert [t.name for t in threading.enumerate()].count("cfflow") == 1


def test_a_button_pressed_by_many_threads_submits_once(bank: EmulatorProcess) -> None:
    """One call reaches the gateway; the others get a conflict."""
    with connect(bank) as cashier, ThreadPoolExecutor(8) as pool:
        payment = to_otp(cashier)

        def press(_: int) -> str:
            try:
                return cashier.submit_otp(payment, "111000").state
            except Conflict:
                return "conflict"

        assert sorted(pool.map(press, range(8))) == ["captured"] + ["conflict"] * 7


async def test_a_running_event_loop_is_never_blocked(bank: EmulatorProcess) -> None:
    """A call inside one is refused, with the name of what to use instead."""
    cashier = connect(bank)
    for call in (lambda: cashier.get("order_1.1"), cashier.__enter__, lambda: cashier.events("g")):
        with pytest.raises(cfflow.ConfigError, match=r"async with cfflow\.connect"):
            call()
    payment = await asyncio.to_thread(cashier.start, "upi", order_id="order_1")
    assert payment.state is State.CREATED
    await asyncio.to_thread(cashier.close)


def test_an_interrupted_call_leaves_its_operation_open(deaf: str) -> None:
    """Ctrl-C is a crash like any other: it passes at once, and an inquiry decides later."""
    with connect(deaf) as cashier:
        payment = cashier.start("native_otp", order_id="order_1")
        with interrupted(), pytest.raises(KeyboardInterrupt):
            cashier.pay(payment, "session_1", card())
        held = cashier.get(payment)
        assert held.operation is not None
        assert held.operation.step == "pay"


def test_closing_waits_for_calls_in_hand(deaf: str) -> None:
    """A call that ends within the limit ends as it would have, and then all is closed."""
    cashier, raised = connect(deaf), []

    def ask() -> None:
        try:
            cashier.gateway.fetch_order("order_1", timeout_s=0.2)
        except cfflow.CfflowError as error:
            raised.append(type(error))

    with leaving_nothing():
        with cashier:
            asking = threading.Thread(target=ask)
            asking.start()
            time.sleep(0.05)
        asking.join()
    assert raised == [cfflow.GatewayUnavailable]


def test_closing_cuts_off_what_takes_too_long(deaf: str) -> None:
    """Past its limit the call is cancelled, and its caller gets OutcomeUnknown."""
    cashier, raised = connect(deaf), []

    def pay() -> None:
        try:
            cashier.pay(cashier.start("native_otp", order_id="order_1"), "session_1", card())
        except cfflow.CfflowError as error:
            raised.append(type(error))

    with leaving_nothing():
        paying = threading.Thread(target=pay)
        paying.start()
        time.sleep(0.1)
        began = time.monotonic()
        cashier.close(limit_s=0.05)
        paying.join()
    assert raised == [cfflow.OutcomeUnknown]
    # Far below the 30 s that close waits by default, far above what a busy machine needs.
    assert time.monotonic() - began < 15


def test_nothing_is_left_after_the_block(bank: EmulatorProcess, redis_url: str) -> None:
    """No thread, no socket, no warning; a second close is none; a call is refused."""
    with leaving_nothing():
        with connect(bank, redis_url=redis_url) as cashier:
            to_otp(cashier)
        cashier.close()
        with pytest.raises(cfflow.ConfigError, match="was closed"):
            cashier.get("order_1.1")
        del cashier


def test_nothing_is_left_where_connecting_failed(bank: EmulatorProcess, redis_url: str) -> None:
    """The error is the store's, once from the block and once from a first call."""
    with leaving_nothing():
        refused = redis_url.replace("redis://", "redis://unknown:wrong@")
        with pytest.raises(cfflow.ConfigError, match="password"), connect(bank, redis_url=refused):
            pass
        lazy = connect(bank, redis_url=refused)
        with pytest.raises(cfflow.ConfigError, match="password"):
            lazy.get("order_1.1")
        lazy.close()


def test_a_store_that_comes_up_later_is_found(bank: EmulatorProcess) -> None:
    """An application that started before its Redis needs no restart."""

    class Late(MemoryStore):
        opened = 0

        async def open(self) -> None:
            self.opened += 1
            if self.opened == 1:
                raise cfflow.StoreUnavailable("not yet")

    cashier = connect(bank, store=Late())
    with pytest.raises(cfflow.StoreUnavailable, match="not yet"):
        cashier.start("upi", order_id="order_1")
    assert cashier.start("upi", order_id="order_1").state is State.CREATED
    cashier.close()


def test_a_feed_is_read_with_for(bank: EmulatorProcess, redis_url: str) -> None:
    """In order, each acknowledged; `poll` returns None at the end."""
    with connect(bank, redis_url=redis_url) as cashier:
        cashier.submit_otp(to_otp(cashier), "111000")
        found: list[cfflow.FeedItem] = []
        with cashier.events("mailer", consumer="one") as feed:
            for event in feed:
                found.append(event)
                feed.ack(event)
                if isinstance(event, FeedEvent) and event.to_state == "captured":
                    break
            assert feed.poll() is None
            assert (feed.group, feed.consumer, feed.consumers) == ("mailer", "one", ("one",))
    assert [event.to_state for event in found if isinstance(event, FeedEvent)] == [
        "initiated",
        "otp_pending",
        "authorized",
        "captured",
    ]


def test_an_interrupted_reader_misses_nothing(bank: EmulatorProcess) -> None:
    """After Ctrl-C in `for` the same feed goes on with the event that came next."""
    with connect(bank) as cashier, cashier.events("mailer", idle_s=0.01) as feed:
        with interrupted(), pytest.raises(KeyboardInterrupt):
            next(feed)
        to_otp(cashier)
        first = next(feed)
        assert isinstance(first, FeedEvent)
        assert first.to_state == "initiated"


def test_closing_ends_the_loop_over_a_feed(bank: EmulatorProcess) -> None:
    """A thread that waits for events does not keep the program from ending."""
    cashier, raised = connect(bank), []

    def read() -> None:
        try:
            with cashier.events("mailer") as feed:
                next(feed)
        except cfflow.ConfigError as error:
            raised.append(str(error))

    reader = threading.Thread(target=read)
    reader.start()
    time.sleep(0.1)
    began = time.monotonic()
    cashier.close()
    reader.join()
    assert raised == ["this orchestrator was closed: connect again"]
    assert time.monotonic() - began < 3


@pytest.mark.parametrize("ender", ["stop", "SIGTERM", "close"])
def test_a_worker_runs_until_it_is_told_to_stop(ender: str, bank: EmulatorProcess) -> None:
    """By `stop`, by a signal as a management command gets it, or by closing the orchestrator."""
    cashier = connect(bank)
    worker = cfflow.sync.Worker(cashier, concurrency=4)
    assert worker.run_once().leased == 0
    ends: dict[str, Callable[[], object]] = {
        "stop": worker.stop,
        "SIGTERM": lambda: os.kill(os.getpid(), signal.SIGTERM),
        "close": cashier.close,
    }
    before = signal.getsignal(signal.SIGTERM)
    timer = threading.Timer(0.1, ends[ender])
    timer.start()
    assert worker.run().errors == 0
    timer.join()
    cashier.close()
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_worker_s_options_are_the_async_one_s() -> None:
    """They are checked as there."""
    cashier = connect("sandbox")
    with pytest.raises(cfflow.ConfigError, match="concurrency"):
        cfflow.sync.Worker(cashier, concurrency=0)
    cashier.close()
