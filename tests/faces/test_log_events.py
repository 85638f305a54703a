"""docs/reference/log-events.md has every event that the code emits, with its fields, and no other.

The events are found twice: in the source, at every line that emits one, and in what whole flows
write.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import msgspec
import pytest

from cfflow import Receipt, Report
from cfflow.errors import CfflowError, InvalidSignature
from cfflow.worker import Worker
from tests.engine.shop import OTP, Events, Shop, open_shop
from tests.engine.signing import event as webhook
from tests.engine.signing import signed
from tests.faces.faces_kit import ROOT

PAGE = (ROOT / "docs" / "reference" / "log-events.md").read_text()
LEVELS = ("info", "warning")

#: Fields that a line passes as `**struct`, by event; `**fields` of `Worker._trouble` are found.
STRUCTS: dict[str, type[msgspec.Struct]] = {
    "webhook.accepted": Receipt,
    "worker.report": Report,
    "worker.stopped": Report,
}


def documented() -> Iterator[tuple[str, tuple[str, frozenset[str]]]]:
    """Yield each event of the page with its level and its fields."""
    for name, text in re.findall(r"(?ms)^### `([\w.]+)`\n(.*?)(?=^#|\Z)", PAGE):
        level = text.split()[0].rstrip(".").lower()
        cells = re.findall(r"^\| (`.*?`) \|", text, re.MULTILINE)
        yield name, (level, frozenset(re.findall(r"`(\w+)`", " ".join(cells))))


def calls() -> Iterator[ast.Call]:
    """Yield every call of a method in the package, the emulator's own left out."""
    for path in sorted((ROOT / "cfflow").rglob("*.py")):
        if "emulator" not in path.relative_to(ROOT).parts:
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                    yield node


def named(call: ast.Call) -> set[str]:
    """Return the names of the arguments of a call; "" stands for `**`."""
    return {keyword.arg or "" for keyword in call.keywords}


def emitted() -> dict[str, tuple[str, frozenset[str]]]:
    """Return each event that a line of the package emits, with its level and its fields."""
    found: dict[str, tuple[str, frozenset[str]]] = {}
    for call in calls():
        method, first = getattr(call.func, "attr", ""), call.args[0] if call.args else None
        if method not in LEVELS or not isinstance(first, ast.Constant):
            continue
        event, fields = str(first.value), named(call)
        # `self._logger.info("%s %s", ...)` hands an event on.
        if "%" not in event:
            if "" in fields:
                fields = fields - {""} | starred(event)
            _, before = found.get(event, (method, frozenset()))
            found[event] = (method, before | fields)
    return found


def starred(event: str) -> set[str]:
    """Return the names of the fields that an event's line passes as `**`."""
    if event == "worker.failed":
        troubles = [call for call in calls() if getattr(call.func, "attr", "") == "_trouble"]
        return set().union(*map(named, troubles))
    return {*STRUCTS[event].__struct_fields__}


def test_the_page_is_what_the_code_emits() -> None:
    """Every event with its level and its fields, and none that no line emits."""
    assert dict(documented()) == emitted()
    assert len(emitted()) > 10


def test_the_events_of_the_page_are_listed_once() -> None:
    """A second section of the same name would hide the first."""
    names = [name for name, _ in documented()]
    assert sorted(names) == sorted({*names})


def test_no_event_has_a_name_that_is_made_up_at_run_time() -> None:
    """Who looks for an event in the source finds the line; so does this test."""
    computed = [
        ast.unparse(call)
        for call in calls()
        if getattr(call.func, "attr", "") in LEVELS
        and not isinstance(call.args[0], ast.Constant)
        and "_log" in ast.unparse(call.func)
        and "_logger" not in ast.unparse(call.func)
    ]
    assert computed == []


async def sale_and_hold(shop: Shop) -> None:
    """A sale with a wrong OTP, a hold that is captured."""
    payment, _ = await shop.at_otp()
    payment = await shop.cashier.submit_otp(payment, "999999")
    await shop.cashier.submit_otp(payment, OTP)
    await shop.cashier.capture(await shop.held())


async def lost_pay(shop: Shop) -> None:
    """An answer that is lost, and a worker that finds out."""
    shop.fault("pay", "lost_after")
    with pytest.raises(CfflowError):
        await shop.at_otp()
    shop.pass_time(60)
    await Worker(shop.cashier, log=shop.events).run_once()


async def webhooks(shop: Shop) -> None:
    """One that is ours and one that is forged."""
    body = webhook("order_1", "1")
    now_ms = shop.store.now_ms()
    await shop.cashier.on_webhook(signed(body, now_ms), body)
    with pytest.raises(InvalidSignature):
        await shop.cashier.on_webhook(signed(body, now_ms, secret="another-secret-0123"), body)


async def closed(shop: Shop) -> None:
    """A client that is closed sends nothing."""
    await shop.cashier.gateway.aclose()
    with pytest.raises(CfflowError):
        await shop.order()


@pytest.mark.parametrize("flow", [sale_and_hold, lost_pay, webhooks, closed])
async def test_what_a_flow_writes_is_on_the_page(flow: object) -> None:
    """The same events, each with fields that the page has, and all of them but of failures."""
    events, page = Events(), dict(documented())
    async with open_shop(log=events) as shop:
        shop.events = events
        assert callable(flow)
        await flow(shop)
    assert events.kept
    for name, fields in events.kept:
        wanted = page[name][1]
        # A worker's failure is about a payment or an order.
        assert fields.keys() == wanted or (name == "worker.failed" and fields.keys() <= wanted)
