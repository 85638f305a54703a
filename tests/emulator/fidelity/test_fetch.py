"""Fetching payments: every status, the fields of a payment, and access.

gateway.md#fetch, gateway.md#proof
"""

from __future__ import annotations

from typing import get_args

import pytest

from cfflow.emulator import PREAUTH_CLIENT_ID, PREAUTH_CLIENT_SECRET
from cfflow.emulator.records import Status
from tests.emulator.emulator_kit import card, upi
from tests.emulator.fidelity.desk import INVALID, Desk, refusal

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.mark.parametrize("status", sorted(set(get_args(Status)) - {"VOID"}))
async def test_every_status_can_be_forced(desk: Desk, status: Status) -> None:
    """A program must handle the rare ones too."""
    order, cf_payment_id = await desk.attempt(card("link"))
    desk.emulator.bank.force(cf_payment_id, status, desk.now)
    assert (await desk.payment(order))["payment_status"] == status


async def test_a_hold_can_be_released_at_once(desk: Desk) -> None:
    """A forced VOID replaces the wait of seven days."""
    order = await desk.held()
    cf_payment_id = (await desk.payment(order))["cf_payment_id"]
    desk.emulator.bank.force(cf_payment_id, "VOID", desk.now)
    assert (await desk.payment(order))["payment_status"] == "VOID"
    assert (await desk.ledger(order))[-1] == "released"


@pytest.mark.parametrize("status", ["NOT_ATTEMPTED", "FLAGGED", "INCOMPLETE"])
async def test_a_status_that_is_not_final_can_still_succeed(desk: Desk, status: Status) -> None:
    """The OTP is accepted as from PENDING."""
    order, cf_payment_id = await desk.attempt()
    desk.emulator.bank.force(cf_payment_id, status, desk.now)
    await desk.submit(cf_payment_id)
    assert (await desk.payment(order))["payment_status"] == "SUCCESS"


async def test_is_captured_alone_proves_nothing(desk: Desk) -> None:
    """A FAILED payment has `is_captured: true`, as on the gateway's reference page."""
    order, _ = await desk.attempt(upi("testfailure@gocash"))
    payment = await desk.payment(order)
    assert (payment["payment_status"], payment["is_captured"]) == ("FAILED", True)
    assert "captured" not in await desk.ledger(order)


async def test_a_failed_payment_has_error_details(desk: Desk) -> None:
    """They have code, reason, source, a description, and the bank's raw codes."""
    order, cf_payment_id = await desk.attempt(upi("testfailure@gocash"))
    error = (await desk.payment(order))["error_details"]
    assert (error["error_code"], error["error_reason"]) == ("TRANSACTION_DECLINED", "auth_declined")
    assert error["error_source"] == "customer"
    assert error["error_code_raw"] and error["error_description_raw"]
    await desk.simulate(cf_payment_id, "SUCCESS")
    assert (await desk.payment(order))["error_details"] is None


async def test_times_are_indian(desk: Desk) -> None:
    """Times are ISO 8601 with +05:30; in the oldest version `action_time` has no offset."""
    order = await desk.held()
    await desk.authorize(order, action="VOID")
    times = {}
    for version in ("2022-09-01", "2023-08-01"):
        (payment,) = await desk.payments(order, version)
        assert payment["payment_time"].endswith("+05:30")
        times[version] = payment["authorization"]["action_time"]
    assert times["2023-08-01"] == f"{times['2022-09-01']}+05:30"


async def test_every_attempt_of_the_order_is_fetched(desk: Desk) -> None:
    """The oldest comes first; an order without attempts has an empty list."""
    order = await desk.order()
    assert await desk.payments(order) == []
    ids = [(await desk.pay(order)).json()["cf_payment_id"] for _ in range(3)]
    assert [payment["cf_payment_id"] for payment in await desk.payments(order)] == ids


async def test_fetch_one_and_fetch_all_agree(desk: Desk) -> None:
    """Both calls show the same payment."""
    order, cf_payment_id = await desk.attempt()
    one = await desk.fetch(f"/orders/{order['order_id']}/payments/{cf_payment_id}")
    assert one.json() == await desk.payment(order)


@pytest.mark.parametrize("cf_payment_id", ["1", "nobody", "9" * 60, "-1", "١"])
async def test_an_unknown_payment_is_not_found(desk: Desk, cf_payment_id: str) -> None:
    """The status is 404 for any form of the id."""
    order = await desk.order()
    response = await desk.fetch(f"/orders/{order['order_id']}/payments/{cf_payment_id}")
    assert refusal(response) == (404, "payment_not_found", INVALID)


async def test_a_payment_is_found_in_its_own_order_only(desk: Desk) -> None:
    """Another order of the same account does not have it."""
    _, cf_payment_id = await desk.attempt()
    other = await desk.order()
    response = await desk.fetch(f"/orders/{other['order_id']}/payments/{cf_payment_id}")
    assert refusal(response) == (404, "payment_not_found", INVALID)


@pytest.mark.parametrize("path", ["", "/payments", "/payments/1"])
async def test_an_order_of_another_account_is_not_found(desk: Desk, path: str) -> None:
    """The response is the same as for an unknown order."""
    order = await desk.order()
    other = desk.version | {
        "x-client-id": PREAUTH_CLIENT_ID,
        "x-client-secret": PREAUTH_CLIENT_SECRET,
    }
    response = await desk.http.get(f"/orders/{order['order_id']}{path}", headers=other)
    assert refusal(response) == (404, "order_not_found", INVALID)


@pytest.mark.parametrize(
    "path", ["/orders", "/orders/a/b/c/d", "/settlements", "/simulate", "/orders/x/authorization"]
)
async def test_a_path_without_a_call_is_not_found(desk: Desk, path: str) -> None:
    """The response is a 404 `request_failed`."""
    assert refusal(await desk.fetch(path)) == (404, "request_failed", INVALID)
