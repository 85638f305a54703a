"""GATEWAY 2, authenticate: the OTP on the merchant's own page, and its limits."""

from __future__ import annotations

import pytest

from tests.emulator.emulator_kit import NO_OTP_BIN, card
from tests.emulator.fidelity.desk import INVALID, Desk, open_desk, refusal

pytestmark = pytest.mark.asyncio(loop_scope="module")

REFUSED = (400, "request_invalid", INVALID)


async def test_a_native_otp_offers_the_way_out_to_the_bank(desk: Desk) -> None:
    """`action: post` with `redirect_to_bank` and nothing else in `data`."""
    answer = (await desk.pay(await desk.order())).json()
    given = {name for name, value in answer["data"].items() if value is not None}
    assert answer["action"] == "post" and given == {"redirect_to_bank"}


async def test_native_otp_is_best_effort(desk: Desk) -> None:
    """`link` is also the answer where `post` was asked of a bank that does not do it."""
    order, cf_payment_id = await desk.attempt(card("post", card_number=NO_OTP_BIN))
    assert refusal(await desk.submit(cf_payment_id)) == REFUSED
    assert (await desk.payment(order))["payment_status"] == "PENDING"


async def test_a_wrong_otp_leaves_the_attempt_alive(desk: Desk) -> None:
    """HTTP 200 with FAILED and `otp is invalid`; the right one is taken afterwards."""
    order, cf_payment_id = await desk.attempt()
    wrong = await desk.submit(cf_payment_id, "000000")
    said = wrong.json()
    assert (wrong.status_code, said["authenticate_status"]) == (200, "FAILED")
    assert said["payment_message"] == "otp is invalid"
    assert (await desk.payment(order))["payment_status"] == "PENDING"
    assert (await desk.submit(cf_payment_id)).json()["authenticate_status"] == "SUCCESS"


async def test_the_third_wrong_otp_is_the_last(desk: Desk) -> None:
    """It is answered like the others, and fails the payment; then `Exceeded retry attempts`."""
    order, cf_payment_id = await desk.attempt()
    answers = [(await desk.submit(cf_payment_id, "000000")).json() for _ in range(3)]
    after = await desk.submit(cf_payment_id)
    assert {answer["authenticate_status"] for answer in answers} == {"FAILED"}
    assert refusal(after) == REFUSED and after.json()["message"] == "Exceeded retry attempts"
    assert (await desk.payment(order))["payment_status"] == "FAILED"


async def test_an_accepted_otp_is_not_money_yet() -> None:
    """SUCCESS says that the OTP was right; the payment waits for the bank behind it."""
    async with open_desk(otp_settles_after_s=20) as desk:
        order, cf_payment_id = await desk.attempt()
        said = (await desk.submit(cf_payment_id)).json()["authenticate_status"]
        before = (await desk.payment(order))["payment_status"]
        desk.advance(20)
        after = (await desk.payment(order))["payment_status"]
    assert (said, before, after) == ("SUCCESS", "PENDING", "SUCCESS")


async def test_an_otp_is_taken_once(desk: Desk) -> None:
    """The second is `Transaction is already processed`, and takes nothing."""
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
    """Two at the most, each thirty seconds after the last."""
    _, cf_payment_id = await desk.attempt()
    answers = []
    for wait_s in waits:
        desk.advance(wait_s)
        answers.append(await desk.resend(cf_payment_id))
    assert [answer.status_code for answer in answers[:-1]] == [200] * (len(waits) - 1)
    assert refusal(answers[-1]) == REFUSED


async def test_a_resend_says_what_it_did(desk: Desk) -> None:
    """`RESEND_OTP`, accepted; the payment goes on waiting."""
    order, cf_payment_id = await desk.attempt()
    desk.advance(30)
    said = (await desk.resend(cf_payment_id)).json()
    assert (said["action"], said["authenticate_status"]) == ("RESEND_OTP", "SUCCESS")
    assert (await desk.payment(order))["payment_status"] == "PENDING"


@pytest.mark.parametrize(("after_s", "status"), [(299, 200), (300, 400)])
async def test_the_page_lives_five_minutes(desk: Desk, after_s: float, status: int) -> None:
    """No OTP after that; the payment itself lives on."""
    order, cf_payment_id = await desk.attempt()
    desk.advance(after_s)
    assert (await desk.submit(cf_payment_id)).status_code == status
    assert (await desk.payment(order))["payment_status"] in ("SUCCESS", "PENDING")


@pytest.mark.parametrize("action", ["SUBMIT", None, 7])
async def test_an_unknown_action_is_refused(desk: Desk, action: object) -> None:
    """Only SUBMIT_OTP and RESEND_OTP are known."""
    _, cf_payment_id = await desk.attempt()
    path = f"/orders/pay/authenticate/{cf_payment_id}"
    body = {"action": action, "otp": "111000"}
    assert refusal(await desk.http.post(path, headers=desk.version, json=body)) == REFUSED


async def test_no_otp_at_all_uses_up_no_try(desk: Desk) -> None:
    """It is a refused request, not a wrong OTP."""
    _, cf_payment_id = await desk.attempt()
    for _ in range(4):
        assert refusal(await desk.submit(cf_payment_id, "")) == REFUSED
    assert (await desk.submit(cf_payment_id)).json()["authenticate_status"] == "SUCCESS"


async def test_an_unknown_payment_takes_no_otp(desk: Desk) -> None:
    """404, whatever the id looks like."""
    for cf_payment_id in ("1", "nobody", "9" * 60):
        assert refusal(await desk.submit(cf_payment_id)) == (404, "payment_not_found", INVALID)
