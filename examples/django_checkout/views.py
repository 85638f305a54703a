"""A headless checkout with Django: card and OTP on your own pages, webhook, status.

README.md beside it has the commands to run it. Nothing is kept here: payments live in Redis, and an
order's session is asked for when it is needed. Card and OTP are read from the form, handed on
and forgotten. A real shop also asks whose order it is: here its id is the secret.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from contextlib import suppress

from django.conf import settings
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect, JsonResponse
from django.shortcuts import render
from django.urls import path
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_GET, require_POST

import cfflow.sync
from cfflow import Card, Payment, show

PRICE = "170.00"
CUSTOMER = {"customer_id": "asha_rao", "customer_phone": "9898989898"}

#: One for all threads. It connects with the first call of each process, also of a forked one,
#: and closes when the process ends.
cashier = cfflow.sync.connect()

#: The text of a page after a step failed, by the error's name.
NOTES = {
    "Conflict": "That page was out of date. Here is where your payment is now.",
    "GatewayRejected": "The bank did not accept this. Please check what you typed.",
    "GatewayUnavailable": "The bank cannot be reached. Nothing was taken: please try again.",
    "IllegalStep": "That is not possible any more. Here is where your payment is now.",
    "InvalidInput": "Please check what you typed.",
    "OtpLimit": "Not yet: please wait for the OTP that is on its way.",
    "RateLimited": "Too many customers at once. Nothing was taken: please try again.",
    "StoreUnavailable": "We cannot look at your payment now. Please come back in a moment.",
    "WrongOtp": "That OTP was not right.",
}


class Trouble:
    """What has no page of its own: 503 when the same may work in a moment."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        """Pass the request on."""
        return self.get_response(request)

    def process_exception(self, request: HttpRequest, error: Exception) -> HttpResponse | None:
        """Answer for cfflow's errors, and leave all others to Django."""
        if not isinstance(error, cfflow.CfflowError):
            return None
        note = NOTES.get(type(error).__name__, "That did not work.")
        status = 503 if error.safe_to_retry else 400
        return render(request, "checkout.html", {"note": note}, status=status)


def basket(request: HttpRequest) -> HttpResponse:
    """One thing to buy."""
    return render(request, "checkout.html", {"price": PRICE})


def order(_: HttpRequest) -> HttpResponse:
    """Create the order at the gateway, and its payment here."""
    order_id = f"order_{secrets.token_hex(12)}"
    cashier.gateway.create_order(
        PRICE,
        CUSTOMER,
        order_id=order_id,
        order_meta={
            "return_url": f"{settings.SHOP_URL}/orders/{order_id}/back",
            "notify_url": f"{settings.SHOP_URL}/webhooks/cashfree",
        },
    )
    cashier.start("native_otp", order_id=order_id, amount=PRICE)
    return HttpResponseRedirect(f"/orders/{order_id}")


def newest(order_id: str) -> Payment:
    """The order's newest payment: after one that failed there may be another."""
    found = cashier.find(order_id=order_id)
    if not found:
        raise Http404
    return found[-1]


def look(request: HttpRequest, order_id: str) -> HttpResponse:
    """The one page of an order: what the customer has to do next, or what became of it."""
    payment = newest(order_id)
    note = NOTES.get(request.GET.get("note", ""), "")
    shown = {
        "payment": payment,
        "view": payment.as_dict()["customer_view"],
        "n": payment.id.rpartition(".")[2],
        "note": note,
    }
    return render(request, "checkout.html", shown)


def back(_: HttpRequest, order_id: str) -> HttpResponse:
    """The customer comes back from the bank, which proves nothing: ask."""
    with suppress(cfflow.CfflowError):
        cashier.refresh(newest(order_id))
    return HttpResponseRedirect(f"/orders/{order_id}")


def status(_: HttpRequest, order_id: str) -> HttpResponse:
    """The same for programs."""
    state = newest(order_id).state
    return JsonResponse({"order_id": order_id, "state": state, "paid": state == "captured"})


def press(request: HttpRequest, order_id: str, button: str) -> HttpResponse:
    """A button was pressed: take its step on the payment that the page has shown, or none."""
    place = f"/orders/{order_id}"
    try:
        payment = take(order_id, button, request.POST)
    except cfflow.CfflowError as error:
        return HttpResponseRedirect(f"{place}?note={type(error).__name__}")
    view = payment.customer_view
    if isinstance(view, show.GoToBank):
        return HttpResponseRedirect(view.url)
    wrong = button == "otp" and isinstance(view, show.EnterOtp)
    return HttpResponseRedirect(f"{place}?note=WrongOtp" if wrong else place)


def take(order_id: str, button: str, given: Mapping[str, str]) -> Payment:
    """Take a step. If the payment has changed since the page was shown, it is a `Conflict`."""
    payment_id = f"{order_id}.{given.get('n')}"
    seen = int(given["version"]) if given.get("version", "").isdecimal() else 0
    match button:
        case "again":
            # The page offers it only where the bank owes nothing; else it is a `Conflict`.
            return cashier.start("native_otp", order_id=order_id, amount=PRICE, replace=True)
        case "card":
            session = cashier.gateway.fetch_order(order_id).payment_session_id
            if session is None:
                raise Http404  # the order takes no payment any more
            return cashier.pay(payment_id, session, card(given), expected_version=seen)
        case "otp":
            return cashier.submit_otp(payment_id, given.get("otp", ""), expected_version=seen)
        case "resend":
            return cashier.resend_otp(payment_id, expected_version=seen)
        case "bank":
            return cashier.leave_otp(payment_id, expected_version=seen)
    raise Http404


def card(given: Mapping[str, str]) -> Card:
    """Return the card as it was typed. The gateway checks it."""
    return Card(
        card_number=given.get("card_number", "").replace(" ", ""),
        card_holder_name=given.get("card_holder_name", ""),
        card_expiry_mm=given.get("card_expiry_mm", ""),
        card_expiry_yy=given.get("card_expiry_yy", ""),
        card_cvv=given.get("card_cvv", ""),
    )


def webhook(request: HttpRequest) -> HttpResponse:
    """Hand on the raw body: its bytes are what the gateway has signed."""
    try:
        cashier.on_webhook(request.headers, request.body)
    except cfflow.InvalidSignature:
        return HttpResponse(status=400)
    except cfflow.StoreUnavailable:
        return HttpResponse(status=503)
    return HttpResponse(status=200)


urlpatterns = [
    path("", require_GET(basket)),
    path("orders", require_POST(order)),
    path("orders/<slug:order_id>", require_GET(look)),
    path("orders/<slug:order_id>/back", require_GET(back)),
    path("orders/<slug:order_id>/status", require_GET(status)),
    # Django's crash reports leave out what was posted here.
    path("orders/<slug:order_id>/<slug:button>", sensitive_post_parameters()(require_POST(press))),
    # The gateway has no CSRF token; it signs.
    path("webhooks/cashfree", csrf_exempt(require_POST(webhook))),
]
