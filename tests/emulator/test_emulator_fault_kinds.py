"""The rarer faults, and which calls a rule strikes: by number, by chance, by seed."""

from __future__ import annotations

import time
from typing import Any

import httpx
import pytest

from cfflow.emulator import Chaos, ConnectionDropped, Fault, Faults, create_app
from cfflow.emulator.faults import KINDS
from tests.emulator.emulator_kit import Shop

HEADERS = {
    "x-api-version": "2025-01-01",
    "x-client-id": "cfflow-test-id",
    "x-client-secret": "cfflow-test-secret",
}


@pytest.fixture
def shop(one_shop: Shop) -> Shop:
    """The merchant, with no fault waiting."""
    one_shop.emulator.faults.clear()
    one_shop.emulator.faults.struck.clear()
    return one_shop


def struck(faults: Faults, calls: int, call: str = "pay") -> list[int]:
    """Which of so many calls meet a fault, counted from 0."""
    return [number for number in range(calls) if faults.take(call, None) is not None]


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(("kind", "captured"), [("reset_before", 0), ("reset_after", 1)])
async def test_a_reset_ends_the_connection_at_once(shop: Shop, kind: Any, captured: int) -> None:
    """A TCP reset: no orderly end, and half an answer at the most."""
    order = await shop.held()
    shop.emulator.faults.add(Fault(call="authorize", kind=kind))
    with pytest.raises(httpx.ReadError):
        await shop.authorize(order, action="CAPTURE", amount=1)
    assert (await shop.ledger(order)).count("captured") == captured


@pytest.mark.asyncio(loop_scope="module")
async def test_a_reset_after_the_effect_comes_amid_the_answer(shop: Shop) -> None:
    """Status and some of the body were there, the rest never comes."""
    order = await shop.order()
    shop.emulator.faults.add(Fault(call="fetch_order", kind="reset_after"))
    path, pieces = f"/orders/{order['order_id']}", [0, 0]

    async def read() -> None:
        async with shop.http.stream("GET", path, headers=shop.credentials) as answer:
            pieces[0] = int(answer.headers["content-length"])
            async for piece in answer.aiter_raw():
                pieces[1] += len(piece)

    with pytest.raises(httpx.ReadError):
        await read()
    promised, came = pieces
    assert 0 < came < promised


@pytest.mark.asyncio(loop_scope="module")
async def test_a_slow_body_keeps_the_headers_prompt(shop: Shop) -> None:
    """Every wait is a short one, so only a limit on the whole call notices."""
    order = await shop.order()
    shop.emulator.faults.add(Fault(call="fetch_order", kind="slow_body", delay_s=0.3))
    begun = time.monotonic()
    path = f"/orders/{order['order_id']}"
    timeout = httpx.Timeout(5, read=0.2)
    async with shop.http.stream("GET", path, headers=shop.credentials, timeout=timeout) as answer:
        prompt_s = time.monotonic() - begun
        whole = await answer.aread()
    assert prompt_s < 0.25 < time.monotonic() - begun
    assert order["order_id"].encode() in whole


@pytest.mark.asyncio(loop_scope="module")
async def test_a_429_is_the_gateway_s_own(shop: Shop) -> None:
    """With its type and its headers, and nothing was done."""
    order = await shop.held()
    rule = Fault(call="authorize", kind="status_before", status=429, retry_s=7)
    shop.emulator.faults.add(rule)
    answer = await shop.authorize(order, action="VOID")
    assert (answer.status_code, answer.json()["type"]) == (429, "rate_limit_error")
    said = {n: answer.headers[f"x-ratelimit-{n}"] for n in ("remaining", "retry", "type")}
    assert said == {"remaining": "0", "retry": "7", "type": "app_id"}
    assert "voided" not in await shop.ledger(order)


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    ("status", "code", "type_"),
    [
        (400, "request_failed", "validation_error"),
        (502, "bad_gateway", "bad_gateway_error"),
        (503, "request_failed", "api_connection_error"),
    ],
)
async def test_an_error_may_have_other_words(
    shop: Shop, status: int, code: str, type_: str
) -> None:
    """The types that the gateway knows and no call of the emulator gives by itself."""
    order = await shop.held()
    rule = Fault(call="authorize", kind="status_before", status=status, code=code, type=type_)
    shop.emulator.faults.add(rule)
    answer = await shop.authorize(order, action="VOID")
    said = answer.json()
    assert (answer.status_code, said["code"], said["type"]) == (status, code, type_)


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("kind", ["status_before", "status_after"])
@pytest.mark.parametrize(
    ("status", "code"), [(500, "internal_error"), (502, "bank_processing_failure")]
)
async def test_an_error_has_the_gateway_s_code(
    shop: Shop, kind: Any, status: int, code: str
) -> None:
    """A 502 comes from the bank, a 500 from the gateway."""
    shop.emulator.faults.add(Fault(call="create_order", kind=kind, status=status))
    answer = await shop.http.post("/orders", headers=shop.credentials, json={})
    assert (answer.status_code, answer.json()["code"]) == (status, code)


@pytest.mark.parametrize("kind", KINDS)
async def test_every_kind_strikes_in_process_too(kind: Any) -> None:
    """An app without a server answers, or raises where there is no connection to break."""
    faults = Faults()
    faults.add(Fault(call="fetch_order", kind=kind, delay_s=0.01))
    transport = httpx.ASGITransport(app=create_app(faults=faults))
    async with httpx.AsyncClient(transport=transport, base_url="http://emulator") as http:
        if kind.startswith(("lost", "reset")):
            with pytest.raises(ConnectionDropped):
                await http.get("/pg/orders/any", headers=HEADERS)
        else:
            assert (await http.get("/pg/orders/any", headers=HEADERS)).status_code
    assert faults.struck == {kind: 1}


def test_the_first_calls_may_pass() -> None:
    """`after`: the third and the fourth are struck, the fifth not."""
    faults = Faults()
    faults.add(Fault(call="pay", kind="html", after=2, count=2))
    assert struck(faults, 6) == [2, 3]


def test_a_rule_may_stay_for_ever() -> None:
    """Without a count it is never used up."""
    faults = Faults()
    faults.add(Fault(call="any", kind="html", count=None))
    assert struck(faults, 100) == list(range(100))


def test_a_chance_is_drawn_from_the_seed() -> None:
    """The same seed strikes the same calls, another one others; all about as often as told."""
    seen = []
    for seed in (1, 1, 2):
        faults = Faults(seed)
        faults.add(Fault(call="pay", kind="html", count=None, probability=0.3))
        seen.append(struck(faults, 1000))
    assert seen[0] == seen[1] != seen[2]
    assert all(250 < len(calls) < 350 for calls in seen)


def test_clearing_begins_the_chances_anew() -> None:
    """So a test that clears first is the same wherever it stands."""
    faults, seen = Faults(5), []
    for _ in range(2):
        faults.clear()
        faults.add(Fault(call="pay", kind="html", count=None, probability=0.5))
        seen.append(struck(faults, 50))
    assert seen[0] == seen[1]


def test_chaos_strikes_by_its_seed() -> None:
    """Calls and kinds repeat with the seed, and every kind comes."""
    seen = []
    for seed in (1, 1, 2):
        faults = Faults()
        faults.chaos = Chaos(seed=seed, probability=0.5)
        seen.append([faults.take("pay", None) for _ in range(400)])
    assert seen[0] == seen[1] != seen[2]
    assert {fault.kind for fault in seen[0] if fault} == set(KINDS)
    assert 150 < sum(fault is not None for fault in seen[0]) < 250


def test_chaos_keeps_to_its_calls_and_kinds() -> None:
    """What it was not told of is never struck."""
    faults = Faults()
    faults.chaos = Chaos(probability=1, kinds=("html",), calls=("pay",))
    assert struck(faults, 3, "authorize") == []
    assert struck(faults, 3, "pay") == [0, 1, 2]
    assert faults.struck == {"html": 3}


def test_a_rule_comes_before_chaos() -> None:
    """What was asked for by name happens first."""
    faults = Faults()
    faults.chaos = Chaos(probability=1, kinds=("garbage",))
    faults.add(Fault(call="pay", kind="html"))
    kinds = [fault.kind for _ in range(2) if (fault := faults.take("pay", None))]
    assert kinds == ["html", "garbage"]


def test_no_chance_is_no_chaos() -> None:
    """Then no call need be looked at."""
    faults = Faults()
    faults.chaos = Chaos(probability=0)
    assert faults.empty


@pytest.mark.asyncio(loop_scope="module")
async def test_chaos_is_steered_over_http(shop: Shop) -> None:
    """The same address as the rules: set, shown, counted, and forgotten with them."""
    url = f"{shop.emulator.admin_url}/faults"
    body = {"kind": "chaos", "probability": 1, "kinds": ["html"], "calls": ["create_order"]}
    assert (await shop.http.post(url, json=body)).json()["chaos"]["probability"] == 1
    answer = await shop.http.post("/orders", headers=shop.credentials, json={})
    assert answer.headers["content-type"] == "text/html"
    assert (await shop.http.get(url)).json()["struck"] == {"html": 1}
    assert (await shop.http.delete(url)).json()["chaos"] is None


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    "body",
    [
        {"kind": "chaos"},
        {"kind": "chaos", "probability": 2},
        {"kind": "chaos", "probability": 1, "kinds": []},
        {"kind": "chaos", "probability": 1, "kinds": ["magic"]},
        {"call": "pay", "kind": "html", "probability": -1},
        {"call": "pay", "kind": "html", "after": -1},
        {"call": "pay", "kind": "html", "count": 0},
        [],
        None,
    ],
)
async def test_a_chance_that_makes_no_sense_is_refused(shop: Shop, body: object) -> None:
    """With a reason, and nothing waits."""
    answer = await shop.http.post(f"{shop.emulator.admin_url}/faults", json=body)
    assert answer.status_code == 400 and answer.json()["message"]
    assert shop.emulator.faults.empty
