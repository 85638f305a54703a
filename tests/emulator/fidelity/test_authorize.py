"""Holds on cards, one-time UPI mandates, and the one action on each.

gateway.md#authorize, gateway.md#holds
"""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from cfflow.emulator import PREAUTH_CLIENT_ID, PREAUTH_CLIENT_SECRET
from tests.emulator.emulator_kit import DAY_S, card, upi
from tests.emulator.fidelity.desk import INVALID, Desk, open_desk, refusal

pytestmark = pytest.mark.asyncio(loop_scope="module")

IST = timezone(timedelta(hours=5, minutes=30))


def at(desk: Desk, after_s: float) -> str:
    """Return the time `after_s` seconds from now in the gateway's format."""
    return datetime.fromtimestamp(desk.now + after_s, IST).isoformat(timespec="seconds")


def mandate(upi_id: str = "testsuccess@gocash", **times: str) -> dict[str, Any]:
    """Return a one-time mandate with these times."""
    return upi(upi_id, authorize_only=True, authorization=times)


async def test_a_hold_is_a_success_that_is_not_captured(desk: Desk) -> None:
    """The status is SUCCESS without `is_captured`, and the order is PAID."""
    order = await desk.held()
    payment = await desk.payment(order)
    assert (payment["payment_status"], payment["is_captured"]) == ("SUCCESS", False)
    assert payment["authorization"] is None
    assert await desk.status(order) == "PAID"


async def test_an_account_can_hold_every_card_payment(desk: Desk) -> None:
    """The account with pre-authorization needs no tag on the order."""
    desk_of_holds = Desk(desk.http, desk.emulator)
    desk_of_holds.credentials = desk.version | {
        "x-client-id": PREAUTH_CLIENT_ID,
        "x-client-secret": PREAUTH_CLIENT_SECRET,
    }
    order, cf_payment_id = await desk_of_holds.attempt()
    await desk_of_holds.submit(cf_payment_id)
    assert await desk.ledger(order) == ["attempt_created", "authorized"]


@pytest.mark.parametrize(
    ("action", "amount", "captured", "effect"),
    [
        ("CAPTURE", 170, 170, "captured"),
        ("CAPTURE", 0.5, 0.5, "captured"),
        ("VOID", None, None, "voided"),
        ("VOID", 20, None, "voided"),
    ],
)
async def test_one_action_ends_a_hold(
    desk: Desk, action: str, amount: float | None, captured: float | None, effect: str
) -> None:
    """The response is the payment; a capture may be partial, a void is always whole."""
    order = await desk.held()
    entity = (await desk.authorize(order, action=action, amount=amount)).json()
    assert entity == await desk.payment(order)
    done = entity["authorization"]
    assert (done["action"], done["captured_amount"]) == (action, captured)
    assert entity["is_captured"] is (action == "CAPTURE")
    assert await desk.ledger(order) == ["attempt_created", "authorized", effect]


async def test_a_hold_takes_one_action(desk: Desk) -> None:
    """A second action is refused and moves no money."""
    for first in ("CAPTURE", "VOID"):
        order = await desk.held()
        await desk.authorize(order, action=first, amount=100)
        for second in ("CAPTURE", "VOID"):
            again = await desk.authorize(order, action=second, amount=70)
            assert refusal(again) == (400, "request_invalid", INVALID)
        assert len(await desk.ledger(order)) == 3


@pytest.mark.parametrize(("action", "status"), [("CAPTURE", "SUCCESS"), ("VOID", "VOID")])
async def test_the_bank_confirms_an_action_later(action: str, status: str) -> None:
    """`authorization.status` is PENDING until then; only then a void shows."""
    async with open_desk(confirm_after_s=60) as desk:
        order = await desk.held()
        entity = (await desk.authorize(order, action=action, amount=170)).json()
        desk.advance(60)
        later = await desk.payment(order)
    assert entity["payment_status"] == "SUCCESS"
    assert entity["authorization"]["status"] == "PENDING"
    assert (later["payment_status"], later["authorization"]["status"]) == (status, "SUCCESS")


@pytest.mark.parametrize("amount", [170.01, 0, -1, 1.001, "10", None, True])
async def test_an_invalid_capture_is_refused(desk: Desk, amount: object) -> None:
    """It is over the hold, zero, negative, has three decimals, or is no number."""
    order = await desk.held()
    response = await desk.authorize(order, action="CAPTURE", amount=amount)
    assert refusal(response) == (400, "order_amount_invalid", INVALID)
    assert await desk.ledger(order) == ["attempt_created", "authorized"]


async def test_an_order_without_a_hold_takes_no_action(desk: Desk) -> None:
    """The same holds for an unknown action and an unknown order."""
    order = await desk.order()
    for action in ("CAPTURE", "VOID", "REFUND", None):
        response = await desk.authorize(order, action=action, amount=1)
        assert refusal(response) == (400, "request_invalid", INVALID)
    nobody = await desk.authorize({"order_id": "nobody"}, action="VOID")
    assert refusal(nobody) == (404, "order_not_found", INVALID)


async def test_a_card_hold_lasts_seven_days() -> None:
    """Then the bank releases it."""
    async with open_desk() as desk:
        order = await desk.held()
        desk.advance(7 * DAY_S - 5)
        before = (await desk.payment(order))["payment_status"]
        desk.advance(5)
        payment = await desk.payment(order)
        late = await desk.authorize(order, action="CAPTURE", amount=170)
        ledger = await desk.ledger(order)
    assert (before, payment["payment_status"], payment["is_captured"]) == ("SUCCESS", "VOID", False)
    assert refusal(late) == (400, "request_invalid", INVALID)
    assert ledger == ["attempt_created", "authorized", "released"]


async def test_a_mandate_has_its_own_end(desk: Desk) -> None:
    """`authorization.end_time` replaces the seven days, and shows before any action."""
    end = at(desk, 3600)
    order, _ = await desk.attempt(mandate(end_time=end))
    held = await desk.payment(order)
    desk.advance(3600)
    ended = await desk.payment(order)
    assert (held["payment_status"], held["authorization"]["end_time"]) == ("SUCCESS", end)
    assert (held["authorization"]["action"], held["authorization"]["status"]) == (None, None)
    assert ended["payment_status"] == "VOID"
    assert await desk.ledger(order) == ["attempt_created", "authorized", "released"]


MANDATES = {
    "collect": upi("anyone@bank", authorize_only=True),
    "link": {"upi": {"channel": "link", "authorize_only": True}},
    "qrcode": {"upi": {"channel": "qrcode", "authorize_only": True}},
}


@pytest.mark.parametrize("channel", MANDATES)
@pytest.mark.parametrize(
    ("action", "amount", "effect"), [("CAPTURE", 100, "captured"), ("VOID", None, "voided")]
)
async def test_a_mandate_is_made_over_each_channel_of_upi(
    desk: Desk, channel: str, action: str, amount: int | None, effect: str
) -> None:
    """Nothing is held before the customer approves; then it takes one action."""
    order, cf_payment_id = await desk.attempt(MANDATES[channel])
    waiting = await desk.payment(order)
    early = await desk.authorize(order, action=action, amount=amount)
    await desk.simulate(cf_payment_id, "SUCCESS")
    held = await desk.payment(order)
    done = await desk.authorize(order, action=action, amount=amount)
    assert (waiting["payment_status"], waiting["authorization"]["action"]) == ("PENDING", None)
    assert refusal(early) == (400, "request_invalid", INVALID)
    assert (held["payment_status"], held["is_captured"]) == ("SUCCESS", False)
    assert held["payment_method"]["upi"]["channel"] == channel
    assert held["authorization"]["end_time"] is not None
    assert done.json()["authorization"]["action"] == action
    assert await desk.ledger(order) == ["attempt_created", "authorized", effect]


@pytest.mark.parametrize("channel", MANDATES)
async def test_without_authorize_only_upi_is_a_sale(desk: Desk, channel: str) -> None:
    """Every channel makes a sale without the flag."""
    fields = MANDATES[channel]["upi"] | {"authorize_only": False}
    order, cf_payment_id = await desk.attempt({"upi": fields})
    await desk.simulate(cf_payment_id, "SUCCESS")
    assert await desk.ledger(order) == ["attempt_created", "captured"]


@pytest.mark.parametrize("channel", ["link", "post"])
@pytest.mark.parametrize(
    ("note", "effect"),
    [("preauth_transaction", "authorized"), ("preauth", "captured"), (None, "captured")],
)
async def test_the_sandbox_s_order_note_makes_card_payments_holds(
    desk: Desk, channel: str, note: str | None, effect: str
) -> None:
    """The sandbox has this `order_note`, and not the emulator's tag."""
    order, cf_payment_id = await desk.attempt(card(channel), order_note=note)
    await desk.simulate(cf_payment_id, "SUCCESS")
    assert await desk.ledger(order) == ["attempt_created", effect]


async def test_the_sandbox_s_order_note_holds_only_cards(desk: Desk) -> None:
    """A UPI payment of such an order is a sale, unless it is a mandate."""
    order, _ = await desk.attempt(upi(), order_note="preauth_transaction")
    assert await desk.ledger(order) == ["attempt_created", "captured"]


async def test_a_mandate_is_captured_in_part_and_once(desk: Desk) -> None:
    """It is captured like a card's hold, in an account without pre-authorization."""
    order, _ = await desk.attempt(mandate())
    entity = (await desk.authorize(order, action="CAPTURE", amount=100)).json()
    again = await desk.authorize(order, action="VOID")
    assert (entity["payment_group"], entity["authorization"]["captured_amount"]) == ("upi", 100)
    assert refusal(again) == (400, "request_invalid", INVALID)


async def test_a_mandate_is_not_captured_before_it_begins(desk: Desk) -> None:
    """It can be voided before that."""
    order, _ = await desk.attempt(mandate(start_time=at(desk, 600)))
    early = await desk.authorize(order, action="CAPTURE", amount=1)
    desk.advance(600)
    then = await desk.authorize(order, action="CAPTURE", amount=1)
    assert refusal(early) == (400, "request_invalid", INVALID)
    assert then.status_code == 200


@pytest.mark.parametrize(("after_s", "status"), [(899, "PENDING"), (900, "FAILED")])
async def test_an_unapproved_mandate_fails(desk: Desk, after_s: float, status: str) -> None:
    """At `approve_by` the payment fails, and nothing is held."""
    order, _ = await desk.attempt(mandate("anyone@bank", approve_by=at(desk, 901)))
    desk.advance(after_s + 1)
    assert (await desk.payment(order))["payment_status"] == status
    assert "authorized" not in await desk.ledger(order)


async def test_authorize_takes_the_latest_of_two_holds(desk: Desk) -> None:
    """The call names only the order."""
    order = await desk.order(order_tags={"cfflow_preauth": "true"})
    ids = [(await desk.pay(order)).json()["cf_payment_id"] for _ in range(2)]
    for cf_payment_id in ids:
        await desk.submit(cf_payment_id)
    entity = (await desk.authorize(order, action="CAPTURE", amount=170)).json()
    assert entity["cf_payment_id"] == ids[1]
