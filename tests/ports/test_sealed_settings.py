"""Whatever is wrong with the settings: no frame of the error shows a secret."""

from __future__ import annotations

import pickle
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import FunctionType, ModuleType
from typing import Any

import msgspec
import pytest
import structlog

import cfflow
from cfflow import Card, CfflowError, ConfigError, FlowError, InvalidInput
from cfflow.core.sealed import Sealed
from cfflow.sync import connect as connect_blocking
from cfflow.testing import MemoryStore
from tests.ports.gateway_kit import a_client, a_gateway, answer
from tests.ports.test_redaction import CRYPTOGRAM, CVV, NUMBER, SECRET, a_card, leaks_of

PASSWORD = "correct-horse-battery"
OLD_SECRET = "the-old-webhook-secret"
GOOD: dict[str, Any] = {
    "redis_url": f"redis://user:{PASSWORD}@127.0.0.1:1/0?password={PASSWORD}",
    "client_id": "id",
    "client_secret": SECRET,
    "environment": "sandbox",
    "webhook_secrets": [OLD_SECRET],
}

#: One thing that is wrong with the settings.
WRONG: dict[str, dict[str, Any]] = {
    "the scheme": {"redis_url": f"http://user:{PASSWORD}@127.0.0.1"},
    "no URL": {"redis_url": f"redis://user:{PASSWORD}@[::1"},
    "a port": {"redis_url": f"redis://user:{PASSWORD}@127.0.0.1:port"},
    "an option": {"redis_url": f"redis://user:{PASSWORD}@127.0.0.1:1?no=1"},
    "embedded replicas": {"redis_url": f"embedded:/{PASSWORD}", "min_replicas": 1},
    "the environment": {"environment": "sandbax"},
    "a number": {"client_id": 7},
    "a secret that is short": {"client_secret": "short"},
    "a secret of bytes": {"client_secret": SECRET.encode()},
    "a secret with a line break": {"client_secret": f"{SECRET}\n{SECRET}"},
    "one text as secrets": {"webhook_secrets": OLD_SECRET},
    "bytes as secrets": {"webhook_secrets": OLD_SECRET.encode()},
    "an empty secret": {"webhook_secrets": [OLD_SECRET, ""]},
    "a short secret": {"webhook_secrets": [OLD_SECRET, "fifteen-letters"]},
    "the version": {"api_version": "2019-01-01"},
    "the partitions": {"partitions": 0},
    "the namespace": {"namespace": "a{b}"},
    "the replicas": {"min_replicas": -1},
    "the limits": {"limits": {"pay": 0}},
    "the tolerance": {"webhook_tolerance_s": 0},
    "the flows": {"flows": "flow.toml"},
    "no flows": {"flows": None},
    "the log": {"log": "stderr"},
    "the store": {"store": "redis"},
}


async def _open(settings: dict[str, Any]) -> None:
    """Make an orchestrator and open it: some URLs are read only then."""
    async with cfflow.connect(**settings):
        pass


def _open_blocking(settings: dict[str, Any]) -> None:
    with connect_blocking(**settings):
        pass


@pytest.mark.parametrize("wrong", WRONG)
async def test_a_wrong_setting_shows_no_secret(wrong: str) -> None:
    """Neither the client's, nor the webhooks', nor the password of Redis."""
    with pytest.raises((ConfigError, FlowError)) as refused:
        await _open(GOOD | WRONG[wrong])
    assert leaks_of(refused.value, PASSWORD, OLD_SECRET) == []


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_setting_of_the_blocking_face_shows_no_secret(wrong: str) -> None:
    """Its frames are others."""
    with pytest.raises((ConfigError, FlowError)) as refused:
        _open_blocking(GOOD | WRONG[wrong])
    assert leaks_of(refused.value, PASSWORD, OLD_SECRET) == []


def test_each_character_of_a_text_is_no_secret() -> None:
    """`webhook_secrets="abc"` would let `a` sign whatever it wants."""
    with pytest.raises(ConfigError, match="must be a list"):
        cfflow.connect(**GOOD | {"webhook_secrets": OLD_SECRET})


WRITES: dict[str, Callable[[Any], Any]] = {
    "pickle": pickle.dumps,
    "JSON": msgspec.json.encode,
    "MessagePack": msgspec.msgpack.encode,
    "plain data": msgspec.to_builtins,
    "a dict": lambda card: repr(msgspec.structs.asdict(card)),
    "a tuple": lambda card: repr(msgspec.structs.astuple(card)),
    "JSON with a hook": lambda card: msgspec.json.encode(card, enc_hook=str),
    "structlog": lambda card: structlog.processors.JSONRenderer()(
        None, "info", {"event": "paying", "method": card}
    ),
    "a format": lambda card: f"{card} {card!r}",
}


@pytest.mark.parametrize("way", WRITES)
def test_a_card_is_written_nowhere(way: str) -> None:
    """It refuses, or it writes that it is sealed."""
    try:
        written = WRITES[way](a_card())
    except TypeError as refused:
        written = str(refused)
    shown = written if isinstance(written, str) else repr(written)
    for secret in (NUMBER, CVV, CRYPTOGRAM, "Asha Rao"):
        assert secret not in shown


async def test_a_card_is_no_metadata() -> None:
    """Metadata is stored."""
    async with cfflow.connect(**GOOD, store=MemoryStore()) as cashier:
        metadata: dict[str, Any] = {"method": a_card()}
        with pytest.raises(InvalidInput) as refused:
            await cashier.start("native_otp", order_id="order_1", metadata=metadata)
    assert leaks_of(refused.value) == []


def test_a_sealed_text_may_be_passed() -> None:
    """A program that seals its card early need not open it for cfflow."""
    card = Card(card_number=Sealed(NUMBER), card_cvv=Sealed(CVV))
    assert card == Card(card_number=NUMBER, card_cvv=CVV)
    assert card.last_four() == NUMBER[-4:]


async def test_an_orchestrator_that_is_not_open_says_what_to_write() -> None:
    """A `ConfigError`, for it is the program that is wrong and not the store."""
    cashier = cfflow.connect(**GOOD)
    for call in (
        cashier.start("native_otp", order_id="order_1"),
        cashier.get("order_1.1"),
        cashier.find(),
        cashier.refresh("order_1.1"),
        cfflow.Worker(cashier).run_once(),
    ):
        with pytest.raises(CfflowError, match=r"async with cfflow\.connect") as refused:
            await call
        assert isinstance(refused.value, ConfigError)


def _reachable(value: object, depth: int = 7) -> Iterator[object]:
    """Yield what a crash report that follows attributes finds, short of what is sealed."""
    yield value
    if depth == 0 or isinstance(value, (Sealed, type, ModuleType, FunctionType, str, bytes)):
        return
    inside: Iterable[object] = ()
    if isinstance(value, Mapping):
        inside = [*value.keys(), *value.values()]
    elif isinstance(value, (list, tuple, set, frozenset)):
        inside = value
    else:
        names = {*getattr(type(value), "__slots__", ()), *getattr(value, "__dict__", ())}
        names |= {"content", "request", "stream"}
        inside = [getattr(value, name, None) for name in names]
    for part in inside:
        yield from _reachable(part, depth - 1)


@pytest.mark.parametrize("status", [400, 401, 429, 500, 302, 200])
async def test_no_frame_of_an_error_of_pay_leads_to_the_card(status: int) -> None:
    """Not by the answer, whose request has the body."""
    body = {"message": "no", "code": "c", "type": "t"} if status != 200 else ["garbage"]
    async with a_gateway(answer(status, body)) as gateway, a_client(gateway.base_url) as client:
        with pytest.raises(CfflowError) as failed:
            await client.pay("session_1", a_card())
        assert NUMBER.encode() in gateway.sent.body
    frames = traceback.walk_tb(failed.value.__traceback__)
    ours = [frame for frame, _ in frames if "/cfflow/cashfree/" in frame.f_code.co_filename]
    assert ours
    for frame in ours:
        found = [held for name, held in frame.f_locals.items() if name != "self"]
        texts = [repr(part) for held in found for part in _reachable(held)]
        assert not any(NUMBER in text or CVV in text for text in texts), frame.f_code.co_qualname
