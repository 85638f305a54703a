"""A headless checkout with FastAPI: card and OTP on your own pages, webhook, status.

README.md beside it has the commands to run it. Nothing is kept here: payments live in Redis, and an
order's session is asked for when it is needed. Card and OTP are read from the form, handed on
and forgotten. A real shop also asks whose order it is: here its id is the secret.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from urllib.parse import parse_qsl

import pages
from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse

import cfflow
from cfflow import Card, Payment, show

#: Where customers and the gateway reach this shop.
SHOP_URL = os.environ.get("SHOP_URL", "http://127.0.0.1:8080")
PRICE = "170.00"
CUSTOMER = {"customer_id": "asha_rao", "customer_phone": "9898989898"}


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Open the orchestrator with the app, and let a worker tend what is due beside it."""
    async with cfflow.connect() as app.state.cashier:
        worker = cfflow.Worker(app.state.cashier)
        working = asyncio.create_task(worker.run(signals=False))
        yield
        worker.stop()
        await working


app = FastAPI(lifespan=lifespan)


def cashier(request: Request) -> cfflow.Orchestrator:
    """The orchestrator of this process."""
    found: cfflow.Orchestrator = request.app.state.cashier
    return found


@app.exception_handler(cfflow.CfflowError)
async def trouble(_: Request, error: Exception) -> HTMLResponse:
    """What has no page of its own: 503 when the same may work in a moment."""
    again = isinstance(error, cfflow.CfflowError) and error.safe_to_retry
    return HTMLResponse(pages.note(type(error).__name__), 503 if again else 400)


@app.get("/")
async def basket() -> HTMLResponse:
    """One thing to buy."""
    return HTMLResponse(pages.basket(PRICE))


@app.post("/orders")
async def order(request: Request) -> RedirectResponse:
    """Create the order at the gateway, and its payment here."""
    order_id = f"order_{secrets.token_hex(12)}"
    await cashier(request).gateway.create_order(
        PRICE,
        CUSTOMER,
        order_id=order_id,
        order_meta={
            "return_url": f"{SHOP_URL}/orders/{order_id}/back",
            "notify_url": f"{SHOP_URL}/webhooks/cashfree",
        },
    )
    await cashier(request).start("native_otp", order_id=order_id, amount=PRICE)
    return RedirectResponse(f"/orders/{order_id}", 303)


async def newest(request: Request, order_id: str) -> Payment:
    """The order's newest payment: after one that failed there may be another."""
    found = await cashier(request).find(order_id=order_id)
    if not found:
        raise HTTPException(404)
    return found[-1]


@app.get("/orders/{order_id}")
async def look(request: Request, order_id: str, note: str = "") -> HTMLResponse:
    """The one page of an order: what the customer has to do next, or what became of it."""
    return HTMLResponse(pages.payment(await newest(request, order_id), note))


@app.get("/orders/{order_id}/back")
async def back(request: Request, order_id: str) -> RedirectResponse:
    """The customer comes back from the bank, which proves nothing: ask."""
    with suppress(cfflow.CfflowError):
        await cashier(request).refresh(await newest(request, order_id))
    return RedirectResponse(f"/orders/{order_id}", 303)


@app.get("/orders/{order_id}/status")
async def status(request: Request, order_id: str) -> dict[str, str | bool]:
    """The same for programs."""
    payment = await newest(request, order_id)
    return {"order_id": order_id, "state": payment.state, "paid": payment.state == "captured"}


@app.post("/orders/{order_id}/{button}")
async def press(request: Request, order_id: str, button: str) -> RedirectResponse:
    """A button was pressed: take its step on the payment that the page has shown, or none."""
    given = dict(parse_qsl((await request.body()).decode(errors="replace")))
    place = f"/orders/{order_id}"
    try:
        payment = await take(cashier(request), order_id, button, given)
    except cfflow.CfflowError as error:
        return RedirectResponse(f"{place}?note={type(error).__name__}", 303)
    view = payment.customer_view
    if isinstance(view, show.GoToBank):
        return RedirectResponse(view.url, 303)
    wrong = button == "otp" and isinstance(view, show.EnterOtp)
    return RedirectResponse(f"{place}?note=WrongOtp" if wrong else place, 303)


async def take(
    desk: cfflow.Orchestrator, order_id: str, button: str, given: dict[str, str]
) -> Payment:
    """Take a step. If the payment has changed since the page was shown, it is a `Conflict`."""
    payment_id = f"{order_id}.{given.get('n')}"
    seen = int(given["version"]) if given.get("version", "").isdecimal() else 0
    match button:
        case "again":
            # The page offers it only where the bank owes nothing; else it is a `Conflict`.
            return await desk.start("native_otp", order_id=order_id, amount=PRICE, replace=True)
        case "card":
            order = await desk.gateway.fetch_order(order_id)
            session = order.payment_session_id
            if session is None:
                raise HTTPException(404)  # the order takes no payment any more
            return await desk.pay(payment_id, session, card(given), expected_version=seen)
        case "otp":
            return await desk.submit_otp(payment_id, given.get("otp", ""), expected_version=seen)
        case "resend":
            return await desk.resend_otp(payment_id, expected_version=seen)
        case "bank":
            return await desk.leave_otp(payment_id, expected_version=seen)
    raise HTTPException(404)


def card(given: dict[str, str]) -> Card:
    """Return the card as it was typed. The gateway checks it."""
    return Card(
        card_number=given.get("card_number", "").replace(" ", ""),
        card_holder_name=given.get("card_holder_name", ""),
        card_expiry_mm=given.get("card_expiry_mm", ""),
        card_expiry_yy=given.get("card_expiry_yy", ""),
        card_cvv=given.get("card_cvv", ""),
    )


@app.post("/webhooks/cashfree")
async def webhook(request: Request) -> Response:
    """Hand on the raw body: its bytes are what the gateway has signed."""
    try:
        await cashier(request).on_webhook(request.headers, await request.body())
    except cfflow.InvalidSignature:
        return Response(status_code=400)
    except cfflow.StoreUnavailable:
        return Response(status_code=503)
    return Response(status_code=200)
