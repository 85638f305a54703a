"""Channels: a flow's permitted channels are enforced, and its first one is the default."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

import cfflow
from cfflow import AskOtp, Card, CardEMI, IllegalStep, PaymentMethod, Redirect, SavedCard, State
from tests.engine.shop import Shop, card, open_shop

PLAIN: dict[str, Any] = {
    "card_number": "4111111111111111",
    "card_expiry_mm": "12",
    "card_expiry_yy": "31",
    "card_cvv": "123",
}
EMI = CardEMI(emi_tenure=3, card_bank_name="hdfc", **PLAIN)


async def paid(shop: Shop, flow: str, method: PaymentMethod) -> cfflow.Payment:
    """Start and pay a new order."""
    order_id, session = await shop.order(hold=flow == "preauth")
    payment = await shop.cashier.start(flow, order_id=order_id)
    return await shop.cashier.pay(payment, session, method)


@pytest.mark.parametrize(
    ("flow", "method", "channel"),
    [
        ("native_otp", Card(**PLAIN), "post"),
        ("preauth", Card(**PLAIN), "post"),
        ("redirect", Card(**PLAIN), "link"),
        ("redirect", EMI, "link"),
        ("native_otp", Card(channel="link", **PLAIN), "link"),
        ("preauth", Card(channel="link", **PLAIN), "link"),
    ],
)
async def test_a_pay_goes_over_the_channel_of_its_flow(
    shop: Shop, flow: str, method: PaymentMethod, channel: str
) -> None:
    """The gateway gets it, the operation keeps it, and the customer's next step fits it."""
    payment = await paid(shop, flow, method)
    (attempt,) = shop.emulator.bank.attempts_of(payment.order_id)
    assert attempt.method.channel == channel
    step = AskOtp if channel == "post" else Redirect
    assert isinstance(payment.next_action, step)


@pytest.mark.parametrize(
    "method", [Card(channel="post", **PLAIN), msgspec.structs.replace(EMI, channel="post")]
)
@pytest.mark.parametrize("by_id", [False, True])
async def test_a_channel_that_the_flow_does_not_permit_is_refused(
    shop: Shop, method: PaymentMethod, by_id: bool
) -> None:
    """No request is sent and no change is stored; the same payment can still be paid."""
    order_id, session = await shop.order()
    payment = await shop.cashier.start("redirect", order_id=order_id)
    with pytest.raises(IllegalStep, match="over post, only over link") as refused:
        await shop.cashier.pay(payment.id if by_id else payment, session, method)
    assert refused.value.payment is not None
    assert refused.value.payment.id == payment.id
    assert shop.performed("pay") == 0
    assert (await shop.cashier.get(payment)).version == payment.version
    assert "pay" in (await shop.cashier.why(payment)).allowed
    again = await shop.cashier.pay(payment, session, card(channel="link"))
    assert again.state is State.INITIATED


@pytest.mark.parametrize("channel", ["app", "", "POST", 7])
async def test_a_channel_unknown_to_the_gateway_is_refused(shop: Shop, channel: Any) -> None:
    """A misspelt or empty channel is an IllegalStep too; the flow's default does not replace it."""
    with pytest.raises(IllegalStep, match=f"over {channel}, only over post, link"):
        await paid(shop, "native_otp", Card(channel=channel, **PLAIN))
    assert shop.performed("pay") == 0


async def test_a_saved_card_goes_over_the_channel_of_its_flow(shop: Shop) -> None:
    """The flow's channel is sent, and a lost answer is searched for with it."""
    order_id, session = await shop.order()
    payment = await shop.cashier.start("redirect", order_id=order_id)
    shop.fault("pay", "lost_before")
    with pytest.raises(cfflow.OutcomeUnknown):
        await shop.cashier.pay(payment, session, SavedCard(instrument_id="i-1", card_cvv="123"))
    operation = (await shop.cashier.orders.payment(order_id, 1)).record.operation
    assert operation is not None
    assert (operation.method, operation.channel) == ("card", "link")


async def test_the_gateways_own_client_uses_no_flow(shop: Shop) -> None:
    """A card without a channel is sent as post, as before."""
    order_id, session = await shop.order()
    answer = await shop.cashier.gateway.pay(session, Card(**PLAIN))
    assert (answer.channel, answer.action) == ("post", "post")
    assert len(shop.emulator.bank.attempts_of(order_id)) == 1


async def test_a_merchants_own_flow_orders_its_channels(tmp_path: Path) -> None:
    """The first one listed is the default."""
    text = 'name = "mine"\nmethods = ["card"]\n[channels]\ncard = ["link", "post"]\n'
    file = tmp_path / "mine.toml"
    file.write_text(text, encoding="utf-8")
    async with open_shop(flows=[file]) as shop:
        assert (await paid(shop, "mine", Card(**PLAIN))).state is State.INITIATED
        assert (await paid(shop, "mine", card())).state is State.OTP_PENDING


async def test_a_payment_keeps_the_channels_that_it_began_with(tmp_path: Path) -> None:
    """The flow text of an older version has no channels; its payments go on as they were."""
    file = tmp_path / "redirect.toml"
    file.write_text('name = "redirect"\nmethods = ["card"]\n', encoding="utf-8")
    async with open_shop(flows=[file]) as shop:
        order_id, session = await shop.order()
        old = await shop.cashier.start("redirect", order_id=order_id)
        newer = cfflow.connect(
            store=shop.store,
            client_id=shop.emulator.client_id,
            client_secret=shop.emulator.client_secret,
            environment=shop.emulator.base_url,
        )
        async with newer as cashier:
            assert cashier.flows.named("redirect").channels_of("card") == ("link",)
            payment = await cashier.pay(old.id, session, Card(**PLAIN))
            assert payment.state is State.OTP_PENDING
