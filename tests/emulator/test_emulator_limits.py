"""Rate limits: what is counted, the response to a refused call, and how limits are set."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cfflow.emulator import (
    PREAUTH_CLIENT_ID,
    PREAUTH_CLIENT_SECRET,
    EmulatorProcess,
    Fault,
    create_app,
    running_emulator,
)
from cfflow.emulator.__main__ import main
from cfflow.emulator.limits import COUNTED_BY, TABLES, Admission, Limits
from tests.emulator.emulator_kit import T0, Shop, a_shop, order_body, patient

ONE_EACH = dict.fromkeys(COUNTED_BY, 1)
UNLIMITED = ("authenticate", "authorize", "simulate", "fetch_simulation")
HEADERS = tuple(f"x-ratelimit-{name}" for name in ("limit", "remaining", "retry", "type"))

callers = st.sampled_from(["a", "b", "c"])
# Around the length of the window, and down to a microsecond.
gaps_s = st.one_of(
    st.sampled_from([0.0, 1e-6, 30.0, 59.999999, 60.0, 60.000001, 61.0]),
    st.floats(0, 70, allow_nan=False),
)
traffic = st.lists(st.tuples(callers, gaps_s), max_size=60)


def admitted(limits: Limits, now: float, client_id: str = "a") -> Admission:
    """Ask the limits to admit one more fetch of one attempt."""
    texts = limits.admit("fetch_payment", client_id, "10.0.0.1", now)
    assert texts is not None
    return texts


@patient
@given(limit=st.integers(1, 5), calls=traffic)
def test_no_minute_ever_admits_more_than_the_limit(
    limit: int, calls: list[tuple[str, float]]
) -> None:
    """For each caller, a call and the one that is `limit` calls later are 60 seconds apart."""
    limits, now = Limits({"fetch_payment": limit}), T0
    times: dict[str, list[float]] = {"a": [], "b": [], "c": []}
    for caller, gap_s in calls:
        now += gap_s
        if admitted(limits, now, caller).admitted:
            times[caller].append(now)
    for own in times.values():
        pairs = zip(own, own[limit:], strict=False)
        assert all(later - earlier >= 60 for earlier, later in pairs)


@patient
@given(limit=st.integers(1, 5), calls=traffic)
def test_a_call_is_refused_only_when_its_minute_is_full(
    limit: int, calls: list[tuple[str, float]]
) -> None:
    """Each decision equals the one from counting all earlier calls."""
    limits, now = Limits({"fetch_payment": limit}), T0
    seen: list[tuple[str, float]] = []
    for caller, gap_s in calls:
        now += gap_s
        texts = admitted(limits, now, caller)
        before = sum(1 for who, at in seen if who == caller and now - at < 60)
        if before < limit:
            seen.append((caller, now))
        left = limit - before - (before < limit)
        assert (texts.admitted, texts.remaining) == (before < limit, left)


@patient
@given(limit=st.integers(1, 4), gaps=st.lists(gaps_s, max_size=20))
def test_retry_s_is_the_least_wait(limit: int, gaps: list[float]) -> None:
    """`retry_s` is the least number of whole seconds, and 0 while calls remain."""
    for lead_s, works in ((0, True), (1, False)):
        limits, now = Limits({"fetch_payment": limit}), T0
        texts = admitted(limits, now)
        for gap_s in gaps:
            now += gap_s
            texts = admitted(limits, now)
        assert (texts.retry_s == 0) is (texts.remaining > 0)
        if texts.retry_s:
            assert admitted(limits, now + texts.retry_s - lead_s).admitted is works


def test_the_memory_holds_no_more_than_the_last_minute() -> None:
    """Refused calls are not kept, and neither is a caller without calls in the last minute."""
    limits = Limits({"pay": 3})
    for number in range(1000):
        limits.admit("pay", "", f"10.0.{number % 200}.1", T0 + number / 1000)
    kept = limits._windows["pay"]
    assert (len(kept), sum(map(len, kept.values()))) == (200, 600)
    limits.admit("pay", "", "10.9.9.9", T0 + 61)
    assert list(kept) == ["10.9.9.9"]


def test_an_active_caller_keeps_no_other_in_memory() -> None:
    """A caller of one call is removed after a minute, although an older one still calls."""
    limits = Limits({"fetch_payment": 3})
    for second, caller in ((0, "stays"), (1, "leaves"), (50, "stays"), (62, "new")):
        admitted(limits, T0 + second, caller)
    assert set(limits._windows["fetch_payment"]) == {"stays", "new"}


def test_a_lowered_limit_counts_earlier_calls() -> None:
    """Three calls in the last minute fill a limit of two until the second one is a minute old."""
    limits = Limits({"fetch_payment": 5})
    for second in (0, 10, 20):
        admitted(limits, T0 + second)
    limits.set({"fetch_payment": 2})
    assert admitted(limits, T0 + 30) == Admission(
        admitted=False, limit=2, remaining=0, retry_s=40, counted_by="app_id"
    )
    assert admitted(limits, T0 + 70).admitted


@pytest.mark.parametrize(
    ("table", "numbers"),
    [("production", (200, 400, 100, 100, 130)), ("sandbox", (30, 60, 30, 30, 30))],
)
def test_a_table_has_the_gateway_s_numbers(table: str, numbers: tuple[int, ...]) -> None:
    """The order is create order, fetch order, pay, fetch all, fetch one."""
    calls = ("create_order", "fetch_order", "pay", "fetch_payments", "fetch_payment")
    assert TABLES[table] == dict(zip(calls, numbers, strict=True))


@pytest.mark.parametrize(
    "wrong", ["staging", "", {"authorize": 1}, {"pay": 0}, {"pay": 1.5}, {"pay": True}], ids=str
)
def test_invalid_limits_are_refused(wrong: Any) -> None:
    """A typing error must not remove limits unseen; the present ones stay."""
    limits = Limits({"pay": 7})
    with pytest.raises(ValueError, match="rate limit"):
        limits.set(wrong)
    assert limits.per_minute == {"pay": 7}


Call = Callable[[Shop, dict[str, Any], str], Awaitable[httpx.Response]]


async def _create(shop: Shop, order: dict[str, Any], payment: str) -> httpx.Response:
    return await shop.http.post("/orders", headers=shop.credentials, json=order_body())


CALLS: dict[str, Call] = {
    "create_order": _create,
    "fetch_order": lambda shop, order, _: shop.fetch(f"/orders/{order['order_id']}"),
    "pay": lambda shop, order, _: shop.pay(order),
    "fetch_payments": lambda shop, order, _: shop.fetch(f"/orders/{order['order_id']}/payments"),
    "fetch_payment": lambda shop, order, payment: shop.fetch(
        f"/orders/{order['order_id']}/payments/{payment}"
    ),
}


def _limit_headers(response: httpx.Response) -> tuple[str | None, ...]:
    """Return limit, remaining, type, and whether there is a wait (its seconds vary)."""
    limit, remaining, retry, kind = (response.headers.get(name) for name in HEADERS)
    waits = retry if retry in (None, "0") else str(0 < int(retry) <= 60)
    return limit, remaining, waits, kind


async def _paid(shop: Shop) -> tuple[dict[str, Any], str]:
    """Return an order and its payment, made before anything is limited."""
    order = await shop.order()
    return order, (await shop.pay(order)).json()["cf_payment_id"]


@pytest.mark.parametrize("call", CALLS)
async def test_a_call_is_refused_after_its_limit(call: str) -> None:
    """The headers count down; the refusal is a 429 in the gateway's format."""
    async with running_emulator() as emulator, a_shop(emulator) as shop:
        order, payment = await _paid(shop)
        emulator.limits.set({call: 2})
        responses = [await CALLS[call](shop, order, payment) for _ in range(3)]
    kind = "ip" if call == "pay" else "app_id"
    assert [response.status_code for response in responses] == [200, 200, 429]
    assert [_limit_headers(response) for response in responses] == [
        ("2", "1", "0", kind),
        ("2", "0", "True", kind),
        ("2", "0", "True", kind),
    ]
    assert responses[2].json() == {
        "message": "too many requests, see the headers",
        "code": "request_failed",
        "type": "rate_limit_error",
    }


async def test_without_the_option_nothing_is_limited() -> None:
    """There are no rate limit headers either."""
    async with running_emulator() as emulator, a_shop(emulator) as shop:
        responses = [await _create(shop, {}, "") for _ in range(250)]
        limits = (await shop.http.get(f"{emulator.admin_url}/limits")).json()
    assert {response.status_code for response in responses} == {200}
    assert {_limit_headers(response) for response in responses} == {(None, None, None, None)}
    assert limits["rate_limits"] == {}


async def test_steps_on_a_payment_and_simulations_have_no_limit() -> None:
    """Authenticate, authorize and simulate have no rate limit headers."""
    async with running_emulator() as emulator, a_shop(emulator) as shop:
        order = await shop.order(order_tags={"cfflow_preauth": "true"})
        payment = (await shop.pay(order)).json()["cf_payment_id"]
        emulator.limits.set(ONE_EACH)
        forced = {"payment_status": "PENDING"}
        body = {"entity": "PAYMENTS", "entity_id": payment, "entity_simulation": forced}
        responses = [
            response
            for _ in range(5)
            for response in (
                await shop.submit(payment),
                await shop.authorize(order, action="VOID"),
                await shop.http.post("/simulate", headers=shop.credentials, json=body),
                await shop.fetch("/simulate/none"),
            )
        ]
        assert set(emulator.app.state.received) >= set(UNLIMITED)
    assert 429 not in {response.status_code for response in responses}
    assert {_limit_headers(response) for response in responses} == {(None, None, None, None)}


async def test_a_refused_call_has_no_effect_and_is_counted() -> None:
    """It does not reach the bank; the Python object and the admin API count it."""
    async with (
        running_emulator(rate_limits={"pay": 1}) as emulator,
        a_shop(emulator) as shop,
    ):
        order = await shop.order()
        for _ in range(4):
            await shop.pay(order)
        assert await shop.ledger(order) == ["attempt_created"]
        assert (emulator.bank.calls["pay"], emulator.app.state.limits.refused["pay"]) == (1, 3)
        shown = (await shop.http.get(f"{emulator.admin_url}/limits")).json()
    assert shown == {
        "rate_limits": {"pay": 1},
        "refused": dict.fromkeys(COUNTED_BY, 0) | {"pay": 3},
    }


async def test_a_refusal_uses_up_no_fault_and_no_idempotency_key() -> None:
    """Fault and key stay for the next admitted call."""
    async with (
        running_emulator(rate_limits={"create_order": 1}) as emulator,
        a_shop(emulator) as shop,
    ):
        await shop.order()
        emulator.faults.add(Fault(call="create_order", kind="status_before", status=503))
        headers, body = shop.credentials | {"x-idempotency-key": "k"}, order_body()
        seen = []
        for _ in range(3):
            response = await shop.http.post("/orders", headers=headers, json=body)
            seen.append((response.status_code, response.headers["x-ratelimit-limit"]))
            emulator.clock.advance(60)
    assert seen == [(429, "1"), (503, "1"), (200, "1")]


async def test_a_call_that_is_not_authenticated_is_not_counted() -> None:
    """A caller with a wrong secret cannot use up the account's calls."""
    async with (
        running_emulator(rate_limits={"create_order": 1}) as emulator,
        a_shop(emulator) as shop,
    ):
        wrong = shop.credentials | {"x-client-secret": "guessed"}
        stranger = await shop.http.post("/orders", headers=wrong, json=order_body())
        assert (stranger.status_code, *_limit_headers(stranger)) == (401, None, None, None, None)
        assert (await _create(shop, {}, "")).status_code == 200


async def test_an_invalid_call_is_counted() -> None:
    """A body is validated only after its call was admitted."""
    async with (
        running_emulator(rate_limits={"create_order": 1}) as emulator,
        a_shop(emulator) as shop,
    ):
        response = await shop.http.post("/orders", headers=shop.credentials, content=b"{")
        assert (response.status_code, _limit_headers(response)) == (
            400,
            ("1", "0", "True", "app_id"),
        )
        assert (await _create(shop, {}, "")).status_code == 429


async def test_accounts_and_addresses_are_counted_apart() -> None:
    """Orders are counted by client id, pays by address."""
    async with (
        running_emulator(rate_limits=ONE_EACH) as emulator,
        a_shop(emulator) as shop,
    ):
        other = shop.credentials | {
            "x-client-id": PREAUTH_CLIENT_ID,
            "x-client-secret": PREAUTH_CLIENT_SECRET,
        }
        mine = await shop.http.post("/orders", headers=shop.credentials, json=order_body())
        theirs = await shop.http.post("/orders", headers=other, json=order_body())
        paid = [(await shop.pay(order.json())).status_code for order in (mine, theirs)]
    assert (mine.status_code, theirs.status_code, paid) == (200, 200, [200, 429])


async def test_each_address_has_pays_of_its_own() -> None:
    """Pays from one address do not use up those of another."""
    app = create_app(rate_limits={"pay": 1})
    headers = {"x-api-version": "2025-01-01"}

    async def pay_from(address: str) -> int:
        transport = httpx.ASGITransport(app=app, client=(address, 4711))
        async with httpx.AsyncClient(transport=transport, base_url="http://emulator") as http:
            response = await http.post("/pg/orders/sessions", headers=headers, json={})
        return response.status_code

    seen = [await pay_from(address) for address in ("10.0.0.1", "10.0.0.1", "10.0.0.2")]
    assert [status == 429 for status in seen] == [False, True, False]


async def test_the_address_is_that_of_the_socket() -> None:
    """A forwarding header does not change the address that is counted."""
    async with (
        running_emulator(rate_limits={"pay": 1}) as emulator,
        httpx.AsyncClient(base_url=emulator.base_url) as http,
    ):
        seen = []
        for number in range(3):
            headers = {"x-api-version": "2025-01-01", "x-forwarded-for": f"10.0.0.{number}"}
            seen.append((await http.post("/orders/sessions", headers=headers, json={})).status_code)
    assert [status == 429 for status in seen] == [False, True, True]


async def test_a_skip_of_a_minute_frees_the_limit() -> None:
    """After a skip of 30 seconds the call is still refused."""
    async with (
        running_emulator(rate_limits={"create_order": 1}) as emulator,
        a_shop(emulator) as shop,
    ):
        clock, seen = f"{emulator.admin_url}/clock", []
        for skipped_s in (0, 30, 30):
            await shop.http.post(clock, json={"advance_s": skipped_s})
            seen.append((await _create(shop, {}, "")).status_code)
    assert seen == [200, 429, 200]


@pytest.mark.parametrize("method", ["PUT", "POST"])
async def test_limits_are_set_and_switched_off_over_http(method: str) -> None:
    """They are set by the name of a table or by call, and removed."""
    async with running_emulator() as emulator, a_shop(emulator) as shop:
        url = f"{emulator.admin_url}/limits"
        named = await shop.http.request(method, url, json={"rate_limits": "sandbox"})
        assert named.json()["rate_limits"] == TABLES["sandbox"]
        own = await shop.http.request(method, url, json={"rate_limits": {"create_order": 1}})
        assert own.json()["rate_limits"] == {"create_order": 1}
        limited = [(await _create(shop, {}, "")).status_code for _ in range(2)]
        off = (await shop.http.delete(url)).json()
        assert (off["rate_limits"], off["refused"]["create_order"]) == ({}, 1)
        free = [(await _create(shop, {}, "")).status_code for _ in range(2)]
        await shop.http.request(method, url, json={"rate_limits": {"create_order": 1}})
        assert (await _create(shop, {}, "")).status_code == 200
    assert (limited, free) == ([200, 429], [200, 200])


@pytest.mark.parametrize(
    "body", [{}, {"rate_limits": "staging"}, {"rate_limits": {"pay": 0}}, {"limits": "sandbox"}]
)
async def test_invalid_limits_are_refused_over_http(body: dict[str, Any]) -> None:
    """The response is a 400 with the reason; the present limits stay."""
    async with running_emulator(rate_limits={"pay": 7}) as emulator, httpx.AsyncClient() as http:
        response = await http.put(f"{emulator.admin_url}/limits", json=body)
        assert response.status_code == 400 and response.json()["message"]
        assert emulator.limits.per_minute == {"pay": 7}


@pytest.mark.parametrize("rate_limits", ["production", {"pay": 3, "fetch_order": 9}], ids=str)
def test_a_process_takes_rate_limits(rate_limits: Any) -> None:
    """It takes the name of a table, or limits by call."""
    wanted = TABLES.get(rate_limits, {}) if isinstance(rate_limits, str) else rate_limits
    with EmulatorProcess(rate_limits=rate_limits) as process:
        shown = httpx.get(f"{process.admin_url}/limits").json()
    assert shown["rate_limits"] == wanted


@pytest.mark.parametrize("module", ["cfflow", "cfflow.emulator"])
@pytest.mark.parametrize("table", ["production", "sandbox"])
def test_the_command_line_takes_a_table_of_rate_limits(module: str, table: str) -> None:
    """The command and the module have the option `--rate-limits`."""
    command = [sys.executable, "-m", module, *(["emulator"] if module == "cfflow" else [])]
    command += ["--json", "--rate-limits", table]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            texts = ""
            while not texts.endswith("}\n"):
                texts += process.stdout.readline()
            url = json.loads(texts)["base_url"].removesuffix("/pg") + "/_emulator/limits"
            shown = httpx.get(url, trust_env=False).json()
        finally:
            process.terminate()
    assert shown["rate_limits"] == TABLES[table]


@pytest.mark.parametrize("wrong", ["staging", '{"pay": 0}', '{"pay": "many"}', "{"])
def test_invalid_rate_limits_are_wrong_usage(
    wrong: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The exit status is 2, and the error has the name of the option."""
    with pytest.raises(SystemExit, match="2"):
        main(["--rate-limits", wrong])
    assert "--rate-limits" in capsys.readouterr().err.splitlines()[-1]
