"""The OTP on the merchant's own page, and its limits.

gateway.md#authenticate
"""

from __future__ import annotations

import pytest

from tests.emulator.emulator_kit import NO_OTP_BIN, card
from tests.emulator.fidelity.desk import INVALID, Desk, open_desk, refusal

pytestmark = pytest.mark.asyncio(loop_scope="module")

REFUSED = (400, "request_invalid", INVALID)


async def test_a_native_otp_has_redirect_to_bank(desk: Desk) -> None:
    """`action: post` has `redirect_to_bank` and nothing else in `data`."""
    response = (await desk.pay(await desk.order())).json()
    given = {name for name, value in response["data"].items() if value is not None}
    assert response["action"] == "post" and given == {"redirect_to_bank"}


async def test_native_otp_is_best_effort(desk: Desk) -> None:
    """A bank without it gives `link` where `post` was requested."""
    order, cf_payment_id = await desk.attempt(card("post", card_number=NO_OTP_BIN))
    assert refusal(await desk.submit(cf_payment_id)) == REFUSED
    assert (await desk.payment(order))["payment_status"] == "PENDING"


async def test_a_wrong_otp_leaves_the_attempt_open(desk: Desk) -> None:
    """The response is HTTP 200 with FAILED and `otp is invalid`; the right OTP works afterwards."""
    order, cf_payment_id = await desk.attempt()
    wrong = await desk.submit(cf_payment_id, "000000")
    texts = wrong.json()
    assert (wrong.status_code, texts["authenticate_status"]) == (200, "FAILED")
    assert texts["payment_message"] == "otp is invalid"
    assert (await desk.payment(order))["payment_status"] == "PENDING"
    assert (await desk.submit(cf_payment_id)).json()["authenticate_status"] == "SUCCESS"


async def test_the_third_wrong_otp_is_the_last(desk: Desk) -> None:
    """It fails the payment; a fourth gets `Exceeded retry attempts`."""
    order, cf_payment_id = await desk.attempt()
    responses = [(await desk.submit(cf_payment_id, "000000")).json() for _ in range(3)]
    after = await desk.submit(cf_payment_id)
    assert {response["authenticate_status"] for response in responses} == {"FAILED"}
    assert refusal(after) == REFUSED and after.json()["message"] == "Exceeded retry attempts"
    assert (await desk.payment(order))["payment_status"] == "FAILED"


async def test_an_accepted_otp_is_not_money_yet() -> None:
    """SUCCESS means that the OTP was right; the payment waits for its bank."""
    async with open_desk(otp_settles_after_s=20) as desk:
        order, cf_payment_id = await desk.attempt()
        texts = (await desk.submit(cf_payment_id)).json()["authenticate_status"]
        before = (await desk.payment(order))["payment_status"]
        desk.advance(20)
        after = (await desk.payment(order))["payment_status"]
    assert (texts, before, after) == ("SUCCESS", "PENDING", "SUCCESS")


async def test_an_otp_is_taken_once(desk: Desk) -> None:
    """A second one gets `Transaction is already processed`."""
    order, cf_payment_id = await desk.attempt()
    await desk.submit(cf_payment_id)
    again = await desk.submit(cf_payment_id)
    assert refusal(again) == REFUSED
    assert again.json()["message"] == "Transaction is already processed"
    assert await desk.ledger(order) == ["attempt_created", "captured"]


@pytest.mark.parametrize("waits", [(29,), (30, 29), (30, 30, 30)])
async def test_a_resend_too_soon_or_too_often_is_refused(
    desk: Desk, waits: tuple[float, ...]
) -> None:
    """Two are permitted, each thirty seconds after the last."""
    _, cf_payment_id = await desk.attempt()
    responses = []
    for wait_s in waits:
        desk.advance(wait_s)
        responses.append(await desk.resend(cf_payment_id))
    assert [response.status_code for response in responses[:-1]] == [200] * (len(waits) - 1)
    assert refusal(responses[-1]) == REFUSED


async def test_a_resend_has_its_action(desk: Desk) -> None:
    """The action is `RESEND_OTP`, and the payment stays PENDING."""
    order, cf_payment_id = await desk.attempt()
    desk.advance(30)
    texts = (await desk.resend(cf_payment_id)).json()
    assert (texts["action"], texts["authenticate_status"]) == ("RESEND_OTP", "SUCCESS")
    assert (await desk.payment(order))["payment_status"] == "PENDING"


@pytest.mark.parametrize(("after_s", "status"), [(299, 200), (300, 400)])
async def test_the_page_expires_after_five_minutes(desk: Desk, after_s: float, status: int) -> None:
    """It takes no OTP after that; the payment stays open."""
    order, cf_payment_id = await desk.attempt()
    desk.advance(after_s)
    assert (await desk.submit(cf_payment_id)).status_code == status
    assert (await desk.payment(order))["payment_status"] in ("SUCCESS", "PENDING")


@pytest.mark.parametrize("action", ["SUBMIT", None, 7])
async def test_an_unknown_action_is_refused(desk: Desk, action: object) -> None:
    """The actions are SUBMIT_OTP and RESEND_OTP."""
    _, cf_payment_id = await desk.attempt()
    path = f"/orders/pay/authenticate/{cf_payment_id}"
    body = {"action": action, "otp": "111000"}
    assert refusal(await desk.http.post(path, headers=desk.version, json=body)) == REFUSED


async def test_a_missing_otp_uses_up_no_try(desk: Desk) -> None:
    """It is a refused request, not a wrong OTP."""
    _, cf_payment_id = await desk.attempt()
    for _ in range(4):
        assert refusal(await desk.submit(cf_payment_id, "")) == REFUSED
    assert (await desk.submit(cf_payment_id)).json()["authenticate_status"] == "SUCCESS"


async def test_an_unknown_payment_takes_no_otp(desk: Desk) -> None:
    """The status is 404 for any form of the id."""
    for cf_payment_id in ("1", "nobody", "9" * 60):
        assert refusal(await desk.submit(cf_payment_id)) == (404, "payment_not_found", INVALID)
