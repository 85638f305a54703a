"""Simulate: forcing the status of an attempt in the sandbox.

gateway.md#calls
"""

from __future__ import annotations

from typing import Any

import pytest

from cfflow.emulator import PREAUTH_CLIENT_ID, PREAUTH_CLIENT_SECRET
from tests.emulator.emulator_kit import card, upi
from tests.emulator.fidelity.desk import INVALID, PHONE, Desk, refusal

pytestmark = pytest.mark.asyncio(loop_scope="module")

EVERY_METHOD = [
    card("link"),
    card("post"),
    upi("anyone@bank"),
    {"upi": {"channel": "qrcode"}},
    {"netbanking": {"channel": "link", "netbanking_bank_code": 3333}},
    {"netbanking": {"channel": "link", "netbanking_bank_name": "TESTR"}},
    {"app": {"channel": "link", "provider": "paytm", "phone": PHONE}},
    {"banktransfer": {"channel": "link"}},
]


@pytest.mark.parametrize("method", EVERY_METHOD)
@pytest.mark.parametrize("status", ["SUCCESS", "FAILED", "PENDING", "USER_DROPPED"])
async def test_an_attempt_takes_the_simulated_status(
    desk: Desk, method: dict[str, Any], status: str
) -> None:
    """Simulate works for every method."""
    order, cf_payment_id = await desk.attempt(method)
    assert (await desk.simulate(cf_payment_id, status)).status_code == 200
    assert (await desk.payment(order))["payment_status"] == status


async def test_a_simulation_can_be_fetched(desk: Desk) -> None:
    """It has the forced status, and only this account can fetch it."""
    _, cf_payment_id = await desk.attempt(card("link"))
    done = (await desk.simulate(cf_payment_id, "FAILED", "ISSUER_NOT_AVAILABLE")).json()
    path = f"/simulate/{done['simulation_id']}"
    other = desk.version | {
        "x-client-id": PREAUTH_CLIENT_ID,
        "x-client-secret": PREAUTH_CLIENT_SECRET,
    }
    assert (await desk.fetch(path)).json() == done
    assert (done["entity"], done["entity_id"]) == ("PAYMENTS", cf_payment_id)
    unknown = await desk.http.get(path, headers=other)
    assert refusal(unknown) == (404, "simulation_not_found", INVALID)


async def test_a_simulated_failure_has_its_code(desk: Desk) -> None:
    """The code is in the payment's `error_details`."""
    order, cf_payment_id = await desk.attempt(card("link"))
    await desk.simulate(cf_payment_id, "FAILED", "ISSUER_NOT_AVAILABLE")
    error = (await desk.payment(order))["error_details"]
    assert error["error_code"] == "ISSUER_NOT_AVAILABLE"


@pytest.mark.parametrize("status", ["VOID", "CANCELLED", "FLAGGED", "", None, ["SUCCESS"]])
async def test_only_four_statuses_can_be_simulated(desk: Desk, status: Any) -> None:
    """The others are refused and change nothing."""
    order, cf_payment_id = await desk.attempt(card("link"))
    assert refusal(await desk.simulate(cf_payment_id, status)) == (400, "request_invalid", INVALID)
    assert (await desk.payment(order))["payment_status"] == "PENDING"


@pytest.mark.parametrize("status", ["FAILED", "PENDING", "USER_DROPPED"])
async def test_a_simulation_undoes_no_money(desk: Desk, status: str) -> None:
    """A payment that took or holds money keeps its status."""
    taken, cf_payment_id = await desk.attempt(upi())
    held = await desk.held()
    holding = (await desk.payment(held))["cf_payment_id"]
    for payment in (cf_payment_id, holding):
        refused = await desk.simulate(payment, status)
        assert refusal(refused) == (400, "request_invalid", INVALID)
    assert [await desk.ledger(order) for order in (taken, held)] == [
        ["attempt_created", "captured"],
        ["attempt_created", "authorized"],
    ]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"entity": "SUBS_PAYMENTS", "entity_id": "1", "entity_simulation": {}},
        {"entity": "PAYMENTS", "entity_id": "1"},
        {"entity": "PAYMENTS", "entity_id": "1", "entity_simulation": "SUCCESS"},
    ],
)
async def test_only_a_payment_can_be_simulated(desk: Desk, body: dict[str, Any]) -> None:
    """Anything else is a 400."""
    response = await desk.http.post("/simulate", headers=desk.credentials, json=body)
    assert refusal(response) == (400, "request_invalid", INVALID)


async def test_an_unknown_payment_is_not_simulated(desk: Desk) -> None:
    """The status is 404, as for a payment of another account."""
    assert refusal(await desk.simulate("1", "SUCCESS")) == (404, "payment_not_found", INVALID)
