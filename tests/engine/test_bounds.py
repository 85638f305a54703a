"""Whatever the gateway sends, and however much of it: a stored order stays small."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cfflow import (
    ApproveInApp,
    AskOtp,
    CfflowError,
    GatewayUnavailable,
    OutcomeUnknown,
    Payment,
    Redirect,
    State,
    SubmitForm,
)
from cfflow.core import bounds
from cfflow.core.actions import NextAction
from cfflow.logs import silent_log
from cfflow.orchestrator import Orchestrator
from cfflow.testing import FakeClock, MemoryStore
from tests.engine.shop import card
from tests.ports.bounds_kit import over_bounds
from tests.ports.gateway_kit import SESSION, RawGateway, a_client, a_gateway, answer
from tests.ports.test_wire import DECLINED, PAID, TAKEN

ORDER: Final = "order_8123"
POSTED: Final = PAID | {"cf_payment_id": 12376123, "action": "post", "channel": "post"}
FETCHED: Final = {
    "cf_order_id": "2149460581",
    "order_id": ORDER,
    "order_status": "ACTIVE",
    "order_amount": 10.01,
    "order_currency": "INR",
}
ANSWERS: Final[tuple[Any, ...]] = (POSTED, PAID, TAKEN, DECLINED, [TAKEN, DECLINED], FETCHED)


class Desk:
    """One payment, and a gateway over real HTTP that answers with what it is given."""

    def __init__(self, gateway: RawGateway) -> None:
        self.gateway = gateway
        self.clock = FakeClock()
        self.store = MemoryStore(self.clock)
        client = a_client(gateway.base_url, log=silent_log())
        self.cashier = Orchestrator(self.store, client, log=silent_log())
        self.orders = 0

    async def paid(self, body: Any, order_id: str = ORDER) -> Payment:
        """Return a payment after a pay that was answered with this."""
        payment = await self.cashier.start("preauth", order_id=order_id)
        self.gateway.reply = answer(200, body)
        return await self.cashier.pay(payment, SESSION, card())

    async def over(self, order_id: str = ORDER) -> list[str]:
        """Return what is larger in the store than it may be."""
        (stored,) = await self.store.read([order_id])
        return over_bounds(stored, self.store.events)


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    """A loop for the examples of a property."""
    with asyncio.Runner() as made:
        yield made


texts = st.builds(
    lambda piece, count: piece * count,
    st.sampled_from(["x", "1", "1.", "₹", "\U0001f600", "\x1b[2J", "\n", "a b", "https://x/"]),
    st.sampled_from([1, 9, 49, 65, 201, 501, 9_000, 40_000]),
)
numbers = st.sampled_from([0, 10.01, 1, 10**11]) | st.sampled_from(["10.005" + "0" * 50_000])
large = texts | numbers | st.dictionaries(texts, texts, max_size=3) | st.lists(texts, max_size=2)


def paths_of(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the way to every value inside another one."""
    items = dict(enumerate(value)) if isinstance(value, list) else value
    for key, item in items.items() if isinstance(items, dict) else ():
        yield (*path, key)
        yield from paths_of(item, (*path, key))


def with_changes(value: Any, changes: list[tuple[tuple[Any, ...], Any]]) -> Any:
    """Return a copy of a JSON value with other values at these places."""
    copy = json.loads(json.dumps(value))
    for path, new in changes:
        place = copy
        try:
            for key in path[:-1]:
                place = place[key]
            place[path[-1]] = new
        except (TypeError, KeyError, IndexError):
            # Another change has replaced what was on the way.
            continue
    return copy


def grown(body: Any) -> st.SearchStrategy[Any]:
    """Return an answer with some of its values replaced by large ones."""
    change = st.tuples(st.sampled_from(list(paths_of(body))), large)
    return st.lists(change, max_size=4).map(lambda changes: with_changes(body, changes))


any_answer = st.sampled_from(ANSWERS).flatmap(grown)
courses = st.tuples(grown(POSTED) | grown(PAID), st.lists(any_answer, max_size=4))


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(course=courses)
def test_a_stored_order_stays_small_whatever_the_gateway_sends(
    runner: asyncio.Runner, course: tuple[Any, list[Any]]
) -> None:
    """A pay, and inquiries and an adoption after it, each with an answer of any size."""

    async def go() -> list[str]:
        paying, inquiries = course
        async with a_gateway(answer(200, paying)) as gateway:
            desk = Desk(gateway)
            async with desk.cashier:
                await tolerant(desk.paid(paying))
                for body in inquiries:
                    desk.clock.advance(40)
                    gateway.reply = answer(200, body)
                    await tolerant(desk.cashier.refresh(f"{ORDER}.1"))
                    await tolerant(desk.cashier.adopt(ORDER, flow=["preauth", "upi"]))
                    await desk.cashier.why(f"{ORDER}.1")
                return await desk.over()

    assert runner.run(go()) == []


async def tolerant(call: Any) -> None:
    """Make a call that may raise an error of the tree."""
    try:
        await call
    except CfflowError:
        return


IDS: Final = ["9" * 65, "1" * 700_000, "../orders", "a b", "a\n", "12\x1b[2J", "٣", 10**80]


@pytest.mark.parametrize("given_id", IDS, ids=lambda given_id: ascii(given_id)[:12])
async def test_a_pay_answered_with_an_impossible_id_has_an_unknown_outcome(given_id: Any) -> None:
    """An attempt may exist, and nothing of the answer is kept."""
    async with a_gateway(answer(200, {})) as gateway:
        desk = Desk(gateway)
        async with desk.cashier:
            with pytest.raises(OutcomeUnknown):
                await desk.paid(POSTED | {"cf_payment_id": given_id})
            found = await desk.cashier.get(f"{ORDER}.1")
            assert (found.state, found.cf_payment_id) == (State.CREATED, None)
            assert found.operation is not None
            assert await desk.over() == []


@pytest.mark.parametrize("given_id", IDS, ids=lambda given_id: ascii(given_id)[:12])
async def test_an_inquiry_answered_with_an_impossible_id_changes_nothing(given_id: Any) -> None:
    """Alone and in a list: it might be ours, so the list does not prove that ours is missing."""
    async with a_gateway(answer(200, {})) as gateway:
        desk = Desk(gateway)
        async with desk.cashier:
            payment = await desk.paid(POSTED)
            taken = TAKEN | {"cf_payment_id": given_id}
            gateway.reply = answer(200, taken)
            with pytest.raises(GatewayUnavailable):
                await desk.cashier.refresh(payment)
            gateway.reply = answer(200, [TAKEN, taken])
            with pytest.raises(GatewayUnavailable):
                await desk.cashier.adopt(ORDER, flow="preauth")
            assert (await desk.cashier.get(payment)).version == payment.version


URL: Final = "https://bank.example/"
LONG: Final = URL + "x" * bounds.URL_MAX
FORM: Final = {"url": URL, "payload": {"a": "b"}, "method": "post", "content_type": "text/plain"}


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({"action": "link", "data": {"url": LONG[: bounds.URL_MAX]}}, Redirect),
        ({"action": "link", "data": {"url": LONG}}, None),
        ({"action": "link", "data": {"url": f"{URL}\r\nset-cookie: a=b"}}, None),
        ({"action": "post", "data": {"redirect_to_bank": LONG}}, AskOtp),
        ({"action": "form", "data": FORM}, SubmitForm),
        ({"action": "form", "data": FORM | {"payload": {"a": "x" * 60_000}}}, SubmitForm),
        ({"action": "form", "data": FORM | {"payload": {"a": "x" * 70_000}}}, None),
        ({"action": "form", "data": FORM | {"url": LONG}}, None),
        ({"action": "custom", "data": {"payload": {"qrcode": "x" * 60_000}}}, ApproveInApp),
        ({"action": "custom", "data": {"payload": {"qrcode": "x" * 70_000}}}, None),
        ({"action": "custom", "data": {"payload": {str(n): n for n in range(20_000)}}}, None),
    ],
    ids=range(11),
)
async def test_a_next_action_that_is_too_large_is_not_passed_on(
    changes: dict[str, Any], shown: type[NextAction] | None
) -> None:
    """The attempt is kept. A customer without a page pays anew, after the payment is abandoned."""
    async with a_gateway(answer(200, {})) as gateway:
        desk = Desk(gateway)
        async with desk.cashier:
            payment = await desk.paid(POSTED | changes)
            assert payment.cf_payment_id == "12376123"
            kind = None if payment.next_action is None else type(payment.next_action)
            assert kind is shown
            assert payment.next_action == (await desk.cashier.get(payment.id)).next_action
            assert await desk.over() == []
            if isinstance(payment.next_action, AskOtp):
                assert payment.next_action.redirect_to_bank is None
                return
            await desk.cashier.abandon(payment)
            again = await desk.cashier.start("preauth", order_id=ORDER)
            assert (again.id, again.state) == (f"{ORDER}.2", State.CREATED)
