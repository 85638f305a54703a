"""Input that must never be sent: each kind gets its own clear error of the package."""

from __future__ import annotations

import pickle
import re
from collections.abc import Awaitable, Callable
from decimal import Decimal
from typing import Any

import pytest

import cfflow
from cfflow import (
    AlreadyPaid,
    Card,
    ConfigError,
    Conflict,
    FlowError,
    IllegalStep,
    InvalidAmount,
    InvalidInput,
    PaymentNotFound,
    State,
)
from cfflow.connecting import VARIABLES
from tests.engine.shop import OTP, Shop, card, open_shop
from tests.errors_kit import payment_in


@pytest.mark.parametrize(
    "order_id", ["", "ab", "a" * 46, "with space", "ünïcode", "a.b", "a/b", "a\nb", None, 8123]
)
async def test_an_order_id_out_of_form_is_refused(shop: Shop, order_id: Any) -> None:
    """3 to 45 letters, digits, `_` and `-`: the gateway takes nothing else."""
    with pytest.raises(InvalidInput, match="order_id"):
        await shop.cashier.start("native_otp", order_id=order_id)


async def test_an_unknown_flow_is_refused_with_the_known_ones(shop: Shop) -> None:
    """The error lists the existing flows."""
    with pytest.raises(FlowError, match="native_otp, preauth"):
        await shop.cashier.start("naitve_otp", order_id="order_1")


@pytest.mark.parametrize("amount", ["-1", "0", "1.005", "NaN", "1e30", "ten", 1.5, True, ""])
async def test_an_amount_that_is_none_is_refused(shop: Shop, amount: Any) -> None:
    """Negative, zero, three decimals, floats and words never reach the store or the gateway."""
    with pytest.raises(InvalidAmount):
        await shop.cashier.start("native_otp", order_id="order_1", amount=amount)
    with pytest.raises(InvalidAmount):
        await shop.cashier.capture("order_1.1", amount)


async def test_a_missing_amount_never_takes_the_whole_hold(shop: Shop) -> None:
    """A misspelt form field gives None: refused before the store is read, nothing is sent."""
    held = await shop.held("5000.00")
    missing: Any = {"amuont": "4200"}.get("amount")
    for target in (held, held.id, "order_unknown.1"):
        with pytest.raises(InvalidAmount, match="leave the argument out"):
            await shop.cashier.capture(target, missing)
        with pytest.raises(InvalidAmount):
            await shop.cashier.capture(target, amount=missing)
    assert shop.performed("authorize") == 0
    assert (await shop.cashier.get(held)).version == held.version
    captured = await shop.cashier.capture(held)
    assert captured.captured_amount == Decimal("5000.00")


@pytest.mark.parametrize("amount", ["170.01", "1000"])
async def test_more_than_the_hold_is_refused_before_any_call(shop: Shop, amount: str) -> None:
    """The amount held is known, so no call to the gateway is needed."""
    held = await shop.held("170.00")
    with pytest.raises(InvalidAmount, match=r"170\.00 held"):
        await shop.cashier.capture(held, amount)
    assert shop.performed("authorize") == 0
    assert (await shop.cashier.get(held)).version == held.version


@pytest.mark.parametrize("otp", ["", "123", "123456789", "11100a", " 111000", "١٢٣٤٥٦", 111000])
async def test_an_otp_out_of_form_is_refused_and_not_repeated(shop: Shop, otp: Any) -> None:
    """4 to 8 digits; the error does not contain the input."""
    payment, _ = await shop.at_otp()
    with pytest.raises(InvalidInput) as refused:
        await shop.cashier.submit_otp(payment, otp)
    assert not str(otp) or str(otp) not in str(refused.value)
    assert shop.performed("authenticate") == 0


@pytest.mark.parametrize("session", ["", "   ", None, "x" * 2000])
async def test_an_empty_session_is_refused(shop: Shop, session: Any) -> None:
    """No operation is stored for a pay that cannot be sent."""
    order_id, _ = await shop.order()
    payment = await shop.cashier.start("native_otp", order_id=order_id)
    with pytest.raises(InvalidInput, match="payment_session_id"):
        await shop.cashier.pay(payment, session, card())
    assert (await shop.cashier.get(payment)).version == payment.version


async def test_a_method_that_the_flow_does_not_take_is_refused(shop: Shop) -> None:
    """The flow names its methods."""
    order_id, session = await shop.order()
    payment = await shop.cashier.start("upi", order_id=order_id)
    with pytest.raises(IllegalStep, match="does not take card"):
        await shop.cashier.pay(payment, session, card())
    with pytest.raises(InvalidInput, match="method"):
        await shop.cashier.pay(payment, session, {"card": {}})  # type: ignore[arg-type]  # on purpose


@pytest.mark.parametrize(
    "payment_id", ["", "order_1", "order_1.0", "order_1.x", "a.1", None, "order_9.1"]
)
async def test_a_missing_payment_is_an_error(shop: Shop, payment_id: Any) -> None:
    """A text that is not an id, and an id without a payment, raise the same error."""
    with pytest.raises(PaymentNotFound):
        await shop.cashier.get(payment_id)


Steps = dict[str, Callable[[Shop, Any], Awaitable[Any]]]

STEPS: Steps = {
    "pay": lambda shop, payment: shop.cashier.pay(payment, "session_x", card()),
    "submit_otp": lambda shop, payment: shop.cashier.submit_otp(payment, OTP),
    "resend_otp": lambda shop, payment: shop.cashier.resend_otp(payment),
    "leave_otp": lambda shop, payment: shop.cashier.leave_otp(payment),
    "capture": lambda shop, payment: shop.cashier.capture(payment),
    "void": lambda shop, payment: shop.cashier.void(payment),
}

PERMITTED = {
    "created": {"pay"},
    "initiated": set(),
    "otp_pending": {"submit_otp", "resend_otp", "leave_otp"},
    "authorized": {"capture", "void"},
    "captured": set(),
    "voided": set(),
    "failed": set(),
}


async def reach(shop: Shop, state: str) -> cfflow.Payment:
    """Return a payment in this state."""
    if state == "created":
        order_id, _ = await shop.order()
        return await shop.cashier.start("preauth", order_id=order_id)
    if state in {"otp_pending", "initiated", "failed"}:
        payment, _ = await shop.at_otp()
        if state == "failed":
            await shop.cashier.gateway.simulate(payment.cf_payment_id or "", "FAILED")
            return await shop.cashier.refresh(payment)
        return payment if state == "otp_pending" else await shop.cashier.leave_otp(payment)
    held = await shop.held()
    if state == "captured":
        return await shop.cashier.capture(held)
    return await shop.cashier.void(held) if state == "voided" else held


@pytest.mark.parametrize("state", list(PERMITTED))
async def test_a_step_that_the_state_does_not_permit_is_not_sent(shop: Shop, state: str) -> None:
    """Every state, every step outside its own: IllegalStep, no call, no commit."""
    payment = await reach(shop, state)
    assert payment.state == state
    before = dict(shop.emulator.bank.calls)
    for name, step in STEPS.items():
        if name not in PERMITTED[state]:
            with pytest.raises(IllegalStep) as refused:
                await step(shop, payment)
            assert payment_in(refused.value).state == state
    assert dict(shop.emulator.bank.calls) == before
    assert (await shop.cashier.get(payment)).version == payment.version
    why = await shop.cashier.why(payment)
    assert (
        PERMITTED[state] - {"resend_otp"}
        <= set(why.allowed)
        <= PERMITTED[state] | {"refresh", "abandon"}
    )


async def test_starting_twice_finds_the_same_payment(shop: Shop) -> None:
    """Idempotent per order; other terms are a Conflict; a paid order is AlreadyPaid."""
    first = await shop.cashier.start("native_otp", order_id="mine_1", amount="10")
    assert await shop.cashier.start("native_otp", order_id="mine_1", amount="10.00") == first
    assert (await shop.cashier.start("native_otp", order_id="mine_1")).id == "mine_1.1"
    for amount, currency in (("11", "INR"), ("10", "USD")):
        with pytest.raises(Conflict, match=re.compile("amount|currency")):
            await shop.cashier.start(
                "native_otp", order_id="mine_1", amount=amount, currency=currency
            )
    with pytest.raises(Conflict, match="flow"):
        await shop.cashier.start("preauth", order_id="mine_1", amount="10")
    paid = await shop.cashier.capture(await shop.held())
    with pytest.raises(AlreadyPaid) as already:
        await shop.cashier.start("preauth", order_id=paid.order_id)
    assert payment_in(already.value).id == paid.id


@pytest.mark.parametrize(
    "metadata", [{"a": object()}, {"a": "x" * 3000}, {1: "a"}], ids=["object", "large", "key"]
)
async def test_metadata_is_small_plain_data(shop: Shop, metadata: Any) -> None:
    """It is stored inside the record, so its size has a limit."""
    with pytest.raises(InvalidInput, match="metadata"):
        await shop.cashier.start("native_otp", order_id="order_1", metadata=metadata)


async def test_metadata_comes_back(shop: Shop) -> None:
    """The caller's metadata is on every payment that is read."""
    noted = {"cart": 17, "lines": ["tea", "cake"]}
    started = await shop.cashier.start("native_otp", order_id="order_1", metadata=noted)
    assert started.metadata == (await shop.cashier.get("order_1.1")).metadata == noted


async def test_an_old_version_is_a_conflict(shop: Shop) -> None:
    """A web page sends only an id: the version protects a button that is pressed twice."""
    payment, _ = await shop.at_otp()
    await shop.cashier.submit_otp(payment.id, "999999", expected_version=payment.version)
    with pytest.raises(Conflict):
        await shop.cashier.submit_otp(payment.id, OTP, expected_version=payment.version)
    assert shop.performed("authenticate") == 1


def test_missing_settings_are_all_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """One error lists all missing settings and their environment variables."""
    for variable, _ in VARIABLES.values():
        monkeypatch.delenv(variable, raising=False)
    with pytest.raises(ConfigError) as missing:
        cfflow.connect()
    for name in ("CFFLOW_REDIS_URL", "CASHFREE_CLIENT_ID", "CASHFREE_CLIENT_SECRET"):
        assert name in str(missing.value)


def test_an_unknown_setting_is_python_s_own_error() -> None:
    """A misspelt name is a TypeError that repeats it, as for any other function."""
    with pytest.raises(TypeError, match="unexpected keyword argument 'redis_ulr'"):
        cfflow.connect(redis_ulr="redis://127.0.0.1")  # type: ignore[call-arg]  # misspelt


@pytest.mark.parametrize(
    ("setting", "value", "named"),
    [
        ("environment", "sandbax", "environment"),
        ("environment", "http://gateway.example/pg", "environment"),
        ("api_version", "2019-01-01", "api_version"),
        ("client_secret", "two\nlines", "x-client-secret"),
        ("redis_url", "http://127.0.0.1", "redis_url"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(setting: str, value: str, named: str) -> None:
    """Checked when the program starts, not at the first payment; no secret is in the error."""
    given = {
        "redis_url": "redis://127.0.0.1",
        "client_id": "id",
        "client_secret": "a-secret-of-the-tests",
        "environment": "sandbox",
    } | {setting: value}
    with pytest.raises(ConfigError, match=named) as refused:
        cfflow.connect(**given)  # type: ignore[arg-type]  # settings are text
    # Only a part of it: the whole text would be shown with its line break escaped.
    assert setting != "client_secret" or "lines" not in str(refused.value)


async def test_find_refuses_what_it_cannot_find(shop: Shop) -> None:
    """An unknown state or an impossible limit is an error of the caller."""
    with pytest.raises(InvalidInput, match="states are"):
        await shop.cashier.find(state="paid")
    with pytest.raises(InvalidInput, match="limit"):
        await shop.cashier.find(limit=0)


async def test_find_narrows_and_continues(shop: Shop) -> None:
    """By state, flow, order and age; `after` continues a list, page by page."""
    for number in range(7):
        await shop.cashier.start("native_otp", order_id=f"mine_{number}")
        shop.clock.advance(1)
    held = await shop.held()
    everything = await shop.cashier.find()
    assert [p.id for p in everything[:7]] == [f"mine_{n}.1" for n in range(7)]
    assert [p.id for p in await shop.cashier.find(state="authorized")] == [held.id]
    assert len(await shop.cashier.find(flow="native_otp")) == 7
    assert len(await shop.cashier.find(older_than=4)) == 4
    assert [p.id for p in await shop.cashier.find(order_id="mine_3")] == ["mine_3.1"]
    page = await shop.cashier.find(limit=3)
    seen: list[cfflow.Payment] = []
    while page:
        seen += page
        page = await shop.cashier.find(limit=3, after=page[-1])
    assert seen == everything
    assert await shop.cashier.find(review=True) == []


async def test_a_running_payment_keeps_the_rules_it_began_with(tmp_path: Any) -> None:
    """The flow's text is in the store: a process without the file reads it there."""
    own = tmp_path / "own.toml"
    own.write_text('name = "own"\nmethods = ["card"]\n[otp]\nsubmits_max = 1\n')
    async with open_shop(flows=[own]) as shop:
        payment, _ = await shop.at_otp(flow="own")
        without_file = cfflow.connect(
            store=shop.store,
            log=shop.events,
            client_id=shop.emulator.client_id,
            client_secret=shop.emulator.client_secret,
            environment=shop.emulator.base_url,
        )
        async with without_file as cashier:
            again = await cashier.get(payment.id)
            assert again.otp is not None
            assert again.otp.submits_left == 1
            wrong = await cashier.submit_otp(again, "999999")
            assert (wrong.state, wrong.next_action) == (State.OTP_PENDING, None)


async def test_what_no_json_can_hold_is_refused_before_it_is_written_down(shop: Shop) -> None:
    """Half of a surrogate pair in a name: nothing is sent, and the payment stays free."""
    order_id, session = await shop.order()
    payment = await shop.cashier.start("native_otp", order_id=order_id)
    malformed = Card(card_number="4111111111111111", card_holder_name="A\ud800", card_cvv="123")
    with pytest.raises(InvalidInput):
        await shop.cashier.pay(payment, session, malformed)
    with pytest.raises(InvalidInput):
        await shop.cashier.pay(payment, "session_\ud800", card())
    assert (await shop.cashier.pay(payment, session, card())).state is State.OTP_PENDING


@pytest.mark.parametrize(
    "asked", [{"older_than": float("nan")}, {"older_than": "x"}, {"limit": "x"}]
)
async def test_find_refuses_arguments_of_another_kind(shop: Shop, asked: Any) -> None:
    """A mistyped filter raises an error of the package."""
    with pytest.raises(InvalidInput):
        await shop.cashier.find(**asked)


async def test_a_payment_that_was_rebuilt_still_carries_its_version(shop: Shop) -> None:
    """After pickling, a button pressed twice is still a Conflict."""
    payment, _ = await shop.at_otp()
    rebuilt = pickle.loads(pickle.dumps(payment))  # noqa: S301  our own bytes
    await shop.cashier.submit_otp(payment, "999999")
    with pytest.raises(Conflict):
        await shop.cashier.submit_otp(rebuilt, OTP)
    assert shop.performed("authenticate") == 1
