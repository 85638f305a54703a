"""What a web page can make a browser send: the emulator refuses it, and changes nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
from starlette.routing import Route

from cfflow.emulator import admin, running_emulator
from cfflow.emulator.guard import SAFE, Guard, is_loopback
from cfflow.emulator.refusals import Refused
from tests.emulator.emulator_kit import Shop, order_body
from tests.emulator.pages_kit import NETBANKING, WALLET, a_page
from tests.emulator.receiver import sell

pytestmark = pytest.mark.asyncio(loop_scope="module")

FOREIGN = "https://shop.example"
EVERYWHERE = "0.0.0.0"  # noqa: S104  a host that a user may ask for
FORM = "application/x-www-form-urlencoded"


def changing() -> Iterator[tuple[str, str]]:
    """Yield every method and path of the emulator's own API that changes something."""
    for route in admin.routes():
        assert isinstance(route, Route)
        path = route.path.replace("{cf_payment_id}", "1").replace("{act}", "approve")
        yield from ((method, path) for method in sorted((route.methods or set()) - SAFE))


CHANGING = sorted(changing())


@pytest.fixture
def shop(one_shop: Shop) -> Shop:
    """The merchant of an emulator without orders."""
    one_shop.emulator.app.reset()
    return one_shop


def origin_of(shop: Shop) -> str:
    """Return the emulator's own origin."""
    return shop.emulator.base_url.removesuffix("/pg")


def contents(shop: Shop) -> object:
    """Return all that a call of the emulator's own API can change."""
    emulator = shop.emulator
    return (
        round(emulator.clock.offset_s),
        emulator.webhooks.settings,
        [len(each.attempts) for each in emulator.webhooks],
        emulator.faults.waiting(),
        emulator.faults.chaos,
        dict(emulator.limits.per_minute),
        len(emulator.bank.ledger),
    )


async def prepared(shop: Shop) -> object:
    """Give the emulator something of everything, and return its contents."""
    await sell(shop)
    await shop.admin("POST", "/faults", {"call": "pay", "kind": "html"})
    await shop.admin("PUT", "/limits", {"rate_limits": {"fetch_order": 9}})
    await shop.admin("PUT", "/webhooks/settings", {"copies": 3})
    return contents(shop)


async def test_the_list_of_what_changes_something_is_not_empty() -> None:
    """The tests below go through it."""
    assert ("POST", "/_emulator/reset") in CHANGING
    assert ("PUT", "/_emulator/webhooks/settings") in CHANGING
    assert len(CHANGING) > 10


@pytest.mark.parametrize("origin", [FOREIGN, "null", "http://127.0.0.1:1", ""])
@pytest.mark.parametrize(("method", "path"), CHANGING)
async def test_a_page_of_another_origin_changes_nothing(
    shop: Shop, method: str, path: str, origin: str
) -> None:
    """With JSON too, which a page cannot send without asking: 403 for every route."""
    before = await prepared(shop)
    url = f"{origin_of(shop)}{path}"
    response = await shop.http.request(method, url, json={}, headers={"origin": origin})
    assert response.status_code == 403 and "origin" in response.json()["message"]
    assert contents(shop) == before


@pytest.mark.parametrize("kind", [FORM, "text/plain", "multipart/form-data; boundary=x", None])
@pytest.mark.parametrize(("method", "path"), CHANGING)
async def test_a_body_that_a_form_can_send_changes_nothing(
    shop: Shop, method: str, path: str, kind: str | None
) -> None:
    """Old browsers send no origin, and a form has one of three content types: 415."""
    before = await prepared(shop)
    headers = {} if kind is None else {"content-type": kind}
    url = f"{origin_of(shop)}{path}"
    body = b'{"advance_s": 60, "copies": 2, "which": null}'
    response = await shop.http.request(method, url, content=body, headers=headers)
    assert response.status_code == 415 and "application/json" in response.json()["message"]
    assert contents(shop) == before


@pytest.mark.parametrize(("method", "path"), CHANGING)
async def test_a_body_over_1_mib_is_refused(shop: Shop, method: str, path: str) -> None:
    """413 for every route, also for those that need no body."""
    before = await prepared(shop)

    async def body() -> AsyncIterator[bytes]:
        for _ in range(17):
            yield b" " * (1 << 16)

    response = await shop.http.request(
        method,
        f"{origin_of(shop)}{path}",
        content=body(),
        headers={"content-type": "application/json"},
    )
    assert response.status_code == 413 and response.json()["message"]
    assert contents(shop) == before


async def test_json_from_a_program_or_the_own_origin_is_taken(shop: Shop) -> None:
    """In any case, with a charset, and without a body where none is needed."""
    url = f"{shop.emulator.admin_url}/clock"
    for kind in ("application/json", "Application/JSON; charset=utf-8"):
        headers = {"content-type": kind, "origin": origin_of(shop)}
        response = await shop.http.post(url, content=b'{"advance_s": 1}', headers=headers)
        assert response.status_code == 200, response.text
    assert (await shop.http.post(f"{shop.emulator.admin_url}/webhooks/hold")).status_code == 200


async def test_a_body_of_brackets_is_refused(shop: Shop) -> None:
    """Thousands of them are no JSON that somebody means, and no crash."""
    for path in ("faults", "webhooks/send", "webhooks/settings"):
        deep = b'{"type": "X", "data": ' + b'{"a": ' * 90_000
        method = "PUT" if path.endswith("settings") else "POST"
        url = f"{shop.emulator.admin_url}/{path}"
        headers = {"content-type": "application/json"}
        response = await shop.http.request(method, url, content=deep, headers=headers)
        assert response.status_code == 400 and response.json()["message"]


# --- the host: DNS rebinding ------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    [
        "shop.example",
        "localhost.shop.example",
        "127.0.0.1.shop.example",
        "192.0.2.7",
        f"{EVERYWHERE}:80",
    ],
)
async def test_a_request_for_another_host_is_refused(shop: Shop, host: str) -> None:
    """Reading too: a page whose name leads here could read all orders. 403 for every path."""
    await sell(shop)
    page = await a_page(shop, WALLET)
    headers = shop.credentials | {"host": host}
    for method, url, body in (
        ("GET", f"{shop.emulator.admin_url}/", None),
        ("GET", f"{shop.emulator.admin_url}/ledger", None),
        ("POST", f"{shop.emulator.admin_url}/reset", None),
        ("GET", page.url, None),
        ("POST", f"{shop.emulator.base_url}/orders", order_body()),
        ("GET", f"{shop.emulator.base_url}/orders/{page.order['order_id']}", None),
    ):
        response = await shop.http.request(method, url, json=body, headers=headers)
        assert response.status_code == 403 and "--allow-host" in response.json()["message"]
    assert len(shop.emulator.bank.latest_orders(9)) == 2


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:1", "a.localhost", "127.9.9.9", "[::1]:9"]
)
async def test_every_name_of_this_machine_works(shop: Shop, host: str) -> None:
    """No DNS server decides where they lead."""
    url = f"{shop.emulator.admin_url}/health"
    assert (await shop.http.get(url, headers={"host": host})).status_code == 200


@pytest.mark.parametrize(
    ("bound", "host", "permitted"),
    [
        ("127.0.0.1", "127.0.0.1:8040", True),
        ("192.0.2.7", "192.0.2.7:8040", True),
        ("192.0.2.7", "192.0.2.8:8040", False),
        ("::1", "[::1]:8040", True),
        ("2001:db8::1", "[2001:DB8:0::1]:8040", True),
        (EVERYWHERE, "192.0.2.7:8040", True),
        ("::", "[2001:db8::1]:8040", True),
        ("", "192.0.2.7", True),
        (EVERYWHERE, "shop.example", False),
        (EVERYWHERE, "shop.example:8040", False),
        ("emulator", "emulator:8040", True),
        ("Emulator:8040", "emulator", True),
        ("emulator", "emulator.shop.example", False),
        ("emulator", "user@emulator", False),
        ("emulator", "emulator:http", False),
        ("emulator", "", False),
        ("127.0.0.1", "localhost.", True),
    ],
)
async def test_which_hosts_are_permitted(bound: str, host: str, permitted: bool) -> None:
    """Loopback, where it listens, and what is allowed; on all interfaces every address."""
    guard = Guard([bound])
    if permitted:
        guard.check_host(host)
        return
    with pytest.raises(Refused, match="403"):
        guard.check_host(host)


async def test_an_address_like_loopback_is_not_loopback() -> None:
    """A name may begin or end like one."""
    names = ("127.0.0.1.example", "notlocalhost", "localhost.example", "128.0.0.1", "::2", "")
    assert not [name for name in names if is_loopback(name)]


async def test_an_emulator_for_the_network_takes_its_names(shop: Shop) -> None:
    """A name must be allowed, an address need not."""
    hosts = ("cashfree",)
    async with running_emulator(host=EVERYWHERE, allowed_hosts=hosts) as emulator:
        url = f"{emulator.admin_url}/health"
        seen = {
            host: (await shop.http.get(url, headers={"host": host})).status_code
            for host in ("cashfree:8040", "192.0.2.7", "shop.example", "localhost")
        }
    assert seen == {"cashfree:8040": 200, "192.0.2.7": 200, "shop.example": 403, "localhost": 200}


# --- the gateway's calls and the pages --------------------------------------------


async def test_a_gateway_call_of_another_origin_is_refused(shop: Shop) -> None:
    """In the gateway's form; a fetch changes nothing and is answered."""
    order = await shop.order()
    headers = shop.credentials | {"origin": FOREIGN}
    response = await shop.http.post("/orders", headers=headers, json=order_body())
    assert (response.status_code, response.json()["code"]) == (403, "request_failed")
    assert len(shop.emulator.bank.latest_orders(9)) == 1
    fetched = await shop.http.get(f"/orders/{order['order_id']}", headers=headers)
    assert fetched.status_code == 200


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        ({}, 303),
        ({"origin": "OWN"}, 303),
        ({"origin": "null"}, 303),
        ({"origin": "null", "sec-fetch-site": "same-origin"}, 303),
        ({"origin": "null", "sec-fetch-site": "cross-site"}, 403),
        ({"origin": "null", "sec-fetch-site": "same-site"}, 403),
        ({"origin": FOREIGN}, 403),
        ({"origin": "http://127.0.0.1:1"}, 403),
    ],
    ids=str,
)
async def test_only_the_page_itself_presses_its_buttons(
    shop: Shop, sent: dict[str, str], status: int
) -> None:
    """Its browser names its origin `null`, because it sends no referrer."""
    page = await a_page(shop, WALLET)
    headers = {name: origin_of(shop) if text == "OWN" else text for name, text in sent.items()}
    response = await shop.http.post(page.url, data={"decision": "pay"}, headers=headers)
    assert response.status_code == status
    assert await page.status() == ("SUCCESS" if status == 303 else "PENDING")


async def test_a_shop_s_form_opens_the_page(shop: Shop) -> None:
    """It comes from the shop's origin, and decides nothing."""
    page = await a_page(shop, NETBANKING)
    payload = page.paid["data"]["payload"] or {}
    headers = {"origin": FOREIGN, "sec-fetch-site": "cross-site"}
    response = await shop.http.post(page.url, data=payload, headers=headers)
    assert response.status_code == 200 and "<button" in response.text
    assert await page.status() == "PENDING"


# --- where webhooks go ------------------------------------------------------------


async def test_a_webhook_is_sent_again_to_known_receivers_only(shop: Shop) -> None:
    """One that is set, or an order's own; any other must be set first."""
    own, other = "http://127.0.0.1:1/own", "http://127.0.0.1:1/set"
    order = await sell(shop, order_meta={"notify_url": own})
    again = {"which": order["order_id"]}
    refused = await shop.admin("POST", "/webhooks/resend", again | {"url": other}, 400)
    assert "webhooks/settings" in refused["message"]
    assert all(each.url == own for each in shop.emulator.webhooks)
    await shop.admin("POST", "/webhooks/resend", again | {"url": own})
    await shop.admin("PUT", "/webhooks/settings", {"url": other})
    shown = await shop.admin("POST", "/webhooks/resend", again | {"url": other})
    assert [each["url"] for each in shown["webhooks"]] == [other]
