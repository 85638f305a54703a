"""Faults: the effect of each kind on a call, and which calls a rule strikes."""

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
    """The merchant, without any fault rule."""
    one_shop.emulator.faults.clear()
    one_shop.emulator.faults.struck.clear()
    return one_shop


def struck(faults: Faults, calls: int, call: str = "pay") -> list[int]:
    """Return which of `calls` calls a fault strikes, counted from 0."""
    return [number for number in range(calls) if faults.take(call, None) is not None]


async def _add(shop: Shop, **fault: object) -> None:
    response = await shop.http.post(f"{shop.emulator.admin_url}/faults", json=fault)
    assert response.status_code == 200, response.text


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(("kind", "captured"), [("lost_before", 0), ("lost_after", 1)])
async def test_a_lost_response_drops_the_connection(shop: Shop, kind: str, captured: int) -> None:
    """The client gets no byte of a response, whether the capture was done or not."""
    order = await shop.held()
    await _add(shop, call="authorize", kind=kind)
    with pytest.raises((httpx.NetworkError, httpx.RemoteProtocolError)):
        await shop.authorize(order, action="CAPTURE", amount=1)
    assert (await shop.ledger(order)).count("captured") == captured


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(("kind", "captured"), [("status_before", 0), ("status_after", 1)])
async def test_an_error_status_hides_the_effect(shop: Shop, kind: str, captured: int) -> None:
    """The 503 is the same, whether the capture was done or not."""
    order = await shop.held()
    await _add(shop, call="authorize", kind=kind, status=503)
    response = await shop.authorize(order, action="CAPTURE", amount=1)
    assert (response.status_code, response.json()["type"]) == (503, "api_error")
    assert (await shop.ledger(order)).count("captured") == captured


@pytest.mark.asyncio(loop_scope="module")
async def test_a_stored_error_blocks_its_key(shop: Shop) -> None:
    """The key replays the 500 and nothing is done; another key works."""
    order = await shop.held()
    await _add(shop, call="authorize", kind="status_stored")
    responses = [
        await shop.authorize(order, key=key, action="CAPTURE", amount=1)
        for key in ("blocked", "blocked", "fresh")
    ]
    assert [response.status_code for response in responses] == [500, 500, 200]
    assert (await shop.ledger(order)).count("captured") == 1


@pytest.mark.asyncio(loop_scope="module")
async def test_an_error_after_the_effect_stores_the_real_response(shop: Shop) -> None:
    """A retry with the same key gets the real result."""
    order = await shop.held()
    await _add(shop, call="authorize", kind="status_after")
    responses = [
        await shop.authorize(order, key="k1", action="CAPTURE", amount=1) for _ in range(2)
    ]
    assert [response.status_code for response in responses] == [500, 200]
    assert (await shop.ledger(order)).count("captured") == 1


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("kind", ["html", "garbage"])
async def test_a_response_can_be_unreadable(shop: Shop, kind: str) -> None:
    """The status is 200, the body is no JSON, and the call is done."""
    order = await shop.held()
    await _add(shop, call="authorize", kind=kind)
    response = await shop.authorize(order, action="VOID")
    assert response.status_code == 200
    with pytest.raises(ValueError, match=r"Expecting|Invalid|Unterminated"):
        response.json()
    assert "voided" in await shop.ledger(order)


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("kind", ["delay_before", "delay_after"])
async def test_a_delayed_call_is_done_although_the_client_disconnected(
    shop: Shop, kind: str
) -> None:
    """A client that times out does not undo the call."""
    order = await shop.held()
    await _add(shop, call="authorize", kind=kind, delay_s=0.3)
    body, path = {"action": "VOID"}, f"/orders/{order['order_id']}/authorization"
    with pytest.raises(httpx.ReadTimeout):
        await shop.http.post(path, headers=shop.credentials, json=body, timeout=0.1)
    early = "voided" in await shop.ledger(order)
    assert early is (kind == "delay_after")
    deadline = time.monotonic() + 5
    while "voided" not in await shop.ledger(order):
        assert time.monotonic() < deadline, "the delayed void never happened"


@pytest.mark.asyncio(loop_scope="module")
async def test_a_fault_strikes_its_count_and_only_its_order(shop: Shop) -> None:
    """Calls for other orders pass, and the rule is removed when it is used up."""
    mine, other = await shop.held(), await shop.held()
    order_id = mine["order_id"]
    await _add(shop, call="fetch_payments", kind="status_before", count=2, order_id=order_id)
    seen = [
        (await shop.fetch(f"/orders/{order['order_id']}/payments")).status_code
        for order in (other, mine, mine, mine)
    ]
    assert seen == [200, 500, 500, 200]


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("call", ["create_order", "pay", "authenticate", "simulate"])
async def test_a_fault_finds_the_order_of_every_call(shop: Shop, call: str) -> None:
    """A rule for an order also strikes calls whose path has no order id."""
    order = await shop.order(order_id=f"order_of_{call}")
    paid = (await shop.pay(order)).json()["cf_payment_id"]
    await _add(shop, call=call, kind="status_before", status=502, order_id=order["order_id"])
    forced = {"payment_status": "PENDING"}
    simulate = {"entity": "PAYMENTS", "entity_id": paid, "entity_simulation": forced}
    responses = {
        "create_order": lambda: shop.http.post("/orders", headers=shop.credentials, json=order),
        "pay": lambda: shop.pay(order),
        "authenticate": lambda: shop.submit(paid),
        "simulate": lambda: shop.http.post("/simulate", headers=shop.credentials, json=simulate),
    }
    assert (await responses[call]()).status_code == 502


@pytest.mark.asyncio(loop_scope="module")
async def test_faults_can_be_listed_and_removed(shop: Shop) -> None:
    """Another process does this over HTTP."""
    url = f"{shop.emulator.admin_url}/faults"
    await _add(shop, call="any", kind="html", count=3)
    listed = (await shop.http.get(url)).json()["faults"]
    assert listed == [{"call": "any", "kind": "html", "count": 3}]
    assert (await shop.http.delete(url)).json()["faults"] == []


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    "body", [{"call": "pay"}, {"call": "pay", "kind": "magic"}, {"call": "x", "kind": "html"}]
)
async def test_an_invalid_rule_is_refused(shop: Shop, body: dict[str, str]) -> None:
    """The response has the wrong field."""
    response = await shop.http.post(f"{shop.emulator.admin_url}/faults", json=body)
    assert response.status_code == 400 and response.json()["message"]


@pytest.mark.asyncio(loop_scope="module")
async def test_in_process_a_lost_response_is_an_exception() -> None:
    """There is no connection to drop, so the call raises `ConnectionDropped`."""
    faults = Faults()
    faults.add(Fault(call="fetch_order", kind="lost_before"))
    transport = httpx.ASGITransport(app=create_app(faults=faults))
    headers = {
        "x-api-version": "2025-01-01",
        "x-client-id": "cfflow-test-id",
        "x-client-secret": "cfflow-test-secret",
    }
    async with httpx.AsyncClient(transport=transport, base_url="http://emulator") as http:
        with pytest.raises(ConnectionDropped):
            await http.get("/pg/orders/any", headers=headers)


# --- the rarer kinds, and which calls a rule strikes ---------------------------------------


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(("kind", "captured"), [("reset_before", 0), ("reset_after", 1)])
async def test_a_reset_ends_the_connection_at_once(shop: Shop, kind: Any, captured: int) -> None:
    """The client gets a TCP reset and at most half a response."""
    order = await shop.held()
    shop.emulator.faults.add(Fault(call="authorize", kind=kind))
    with pytest.raises(httpx.ReadError):
        await shop.authorize(order, action="CAPTURE", amount=1)
    assert (await shop.ledger(order)).count("captured") == captured


@pytest.mark.asyncio(loop_scope="module")
async def test_a_reset_after_the_effect_comes_amid_the_response(shop: Shop) -> None:
    """The client gets the status and part of the body, and then the reset."""
    order = await shop.order()
    shop.emulator.faults.add(Fault(call="fetch_order", kind="reset_after"))
    path, pieces = f"/orders/{order['order_id']}", [0, 0]

    async def read() -> None:
        async with shop.http.stream("GET", path, headers=shop.credentials) as response:
            pieces[0] = int(response.headers["content-length"])
            async for piece in response.aiter_raw():
                pieces[1] += len(piece)

    with pytest.raises(httpx.ReadError):
        await read()
    promised, came = pieces
    assert 0 < came < promised


@pytest.mark.asyncio(loop_scope="module")
async def test_a_slow_body_sends_the_headers_at_once(shop: Shop) -> None:
    """Each pause is short, so only a limit on the whole call ends it."""
    order = await shop.order()
    shop.emulator.faults.add(Fault(call="fetch_order", kind="slow_body", delay_s=0.3))
    begun = time.monotonic()
    path = f"/orders/{order['order_id']}"
    timeout = httpx.Timeout(5, read=0.2)
    async with shop.http.stream("GET", path, headers=shop.credentials, timeout=timeout) as response:
        prompt_s = time.monotonic() - begun
        whole = await response.aread()
    assert prompt_s < 0.25 < time.monotonic() - begun
    assert order["order_id"].encode() in whole


@pytest.mark.asyncio(loop_scope="module")
async def test_a_429_is_like_the_gateway_s(shop: Shop) -> None:
    """It has the type and headers of the gateway's, and the call is not done."""
    order = await shop.held()
    rule = Fault(call="authorize", kind="status_before", status=429, retry_s=7)
    shop.emulator.faults.add(rule)
    response = await shop.authorize(order, action="VOID")
    assert (response.status_code, response.json()["type"]) == (429, "rate_limit_error")
    texts = {n: response.headers[f"x-ratelimit-{n}"] for n in ("remaining", "retry", "type")}
    assert texts == {"remaining": "0", "retry": "7", "type": "app_id"}
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
async def test_an_error_may_have_another_code_and_type(
    shop: Shop, status: int, code: str, type_: str
) -> None:
    """A rule can use those that no call of the emulator gives by itself."""
    order = await shop.held()
    rule = Fault(call="authorize", kind="status_before", status=status, code=code, type=type_)
    shop.emulator.faults.add(rule)
    response = await shop.authorize(order, action="VOID")
    texts = response.json()
    assert (response.status_code, texts["code"], texts["type"]) == (status, code, type_)


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
    response = await shop.http.post("/orders", headers=shop.credentials, json={})
    assert (response.status_code, response.json()["code"]) == (status, code)


@pytest.mark.parametrize("kind", KINDS)
async def test_every_kind_strikes_in_process_too(kind: Any) -> None:
    """An app without a server responds, or raises where it would break the connection."""
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
    """With `after: 2` and two counts, only the third and the fourth call are struck."""
    faults = Faults()
    faults.add(Fault(call="pay", kind="html", after=2, count=2))
    assert struck(faults, 6) == [2, 3]


def test_a_rule_may_have_no_count() -> None:
    """Then it strikes every call."""
    faults = Faults()
    faults.add(Fault(call="any", kind="html", count=None))
    assert struck(faults, 100) == list(range(100))


def test_a_chance_is_drawn_from_the_seed() -> None:
    """The same seed strikes the same calls, about as many as the probability gives."""
    seen = []
    for seed in (1, 1, 2):
        faults = Faults(seed)
        faults.add(Fault(call="pay", kind="html", count=None, probability=0.3))
        seen.append(struck(faults, 1000))
    assert seen[0] == seen[1] != seen[2]
    assert all(250 < len(calls) < 350 for calls in seen)


def test_clearing_restarts_the_random_choices() -> None:
    """A test that clears first does not depend on the tests before it."""
    faults, seen = Faults(5), []
    for _ in range(2):
        faults.clear()
        faults.add(Fault(call="pay", kind="html", count=None, probability=0.5))
        seen.append(struck(faults, 50))
    assert seen[0] == seen[1]


def test_chaos_strikes_by_its_seed() -> None:
    """Calls and kinds repeat with the seed, and every kind occurs."""
    seen = []
    for seed in (1, 1, 2):
        faults = Faults()
        faults.chaos = Chaos(seed=seed, probability=0.5)
        seen.append([faults.take("pay", None) for _ in range(400)])
    assert seen[0] == seen[1] != seen[2]
    assert {fault.kind for fault in seen[0] if fault} == set(KINDS)
    assert 150 < sum(fault is not None for fault in seen[0]) < 250


def test_chaos_keeps_to_its_calls_and_kinds() -> None:
    """It strikes no other call and with no other kind."""
    faults = Faults()
    faults.chaos = Chaos(probability=1, kinds=("html",), calls=("pay",))
    assert struck(faults, 3, "authorize") == []
    assert struck(faults, 3, "pay") == [0, 1, 2]
    assert faults.struck == {"html": 3}


def test_a_rule_comes_before_chaos() -> None:
    """A rule takes precedence over random faults."""
    faults = Faults()
    faults.chaos = Chaos(probability=1, kinds=("garbage",))
    faults.add(Fault(call="pay", kind="html"))
    kinds = [fault.kind for _ in range(2) if (fault := faults.take("pay", None))]
    assert kinds == ["html", "garbage"]


def test_a_probability_of_zero_is_no_chaos() -> None:
    """Then no call is inspected."""
    faults = Faults()
    faults.chaos = Chaos(probability=0)
    assert faults.empty


@pytest.mark.asyncio(loop_scope="module")
async def test_chaos_is_set_over_http(shop: Shop) -> None:
    """It is set, shown, counted and removed at the path of the rules."""
    url = f"{shop.emulator.admin_url}/faults"
    body = {"kind": "chaos", "probability": 1, "kinds": ["html"], "calls": ["create_order"]}
    assert (await shop.http.post(url, json=body)).json()["chaos"]["probability"] == 1
    response = await shop.http.post("/orders", headers=shop.credentials, json={})
    assert response.headers["content-type"] == "text/html"
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
async def test_invalid_chaos_is_refused(shop: Shop, body: object) -> None:
    """The response has the reason, and no rule is added."""
    response = await shop.http.post(f"{shop.emulator.admin_url}/faults", json=body)
    assert response.status_code == 400 and response.json()["message"]
    assert shop.emulator.faults.empty
