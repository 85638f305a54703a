"""The checkout's pages: plain HTML, no script, nothing that a customer typed is shown again."""

from __future__ import annotations

from html import escape

from cfflow import AskOtp, Payment, Redirect, State

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
STATES = {
    State.CREATED: "Please choose how to pay.",
    State.INITIATED: "Your bank is working on it. Please wait.",
    State.OTP_PENDING: "The time for the OTP is over. We are asking your bank.",
    State.AUTHORIZED: "Your bank has set the money aside.",
    State.CAPTURED: "Paid. Thank you!",
    State.VOIDED: "Cancelled: nothing was taken.",
    State.FAILED: "The bank declined; no money was taken.",
}
ASKING = "We are asking your bank whether it went through. Please do not pay again."
FINAL = {State.CAPTURED, State.VOIDED}

CARD = """
<label>Card number <input name="card_number" autocomplete="cc-number" inputmode="numeric"></label>
<label>Name <input name="card_holder_name" autocomplete="cc-name"></label>
<label>Month <input name="card_expiry_mm" autocomplete="cc-exp-month" size="2"></label>
<label>Year <input name="card_expiry_yy" autocomplete="cc-exp-year" size="2"></label>
<label>CVV <input name="card_cvv" type="password" autocomplete="cc-csc" size="4"></label>
"""
OTP = '<label>OTP <input name="otp" autocomplete="one-time-code" inputmode="numeric"></label>'


def basket(price: str) -> str:
    """The page before there is an order."""
    return page(f"<p>A teapot, {price} INR</p>{form('/orders', 'Buy it')}")


def note(name: str) -> str:
    """A page with nothing but a note."""
    return page(f"<p>{NOTES.get(name, 'That did not work.')}</p>")


def payment(shown: Payment, name: str) -> str:
    """Return the page of a payment. It reloads itself while the bank has to act."""
    note, body = NOTES.get(name, ""), next_step(shown)
    waits = "<form" not in body and shown.state not in FINAL
    return page(f"<p>{note}</p>{body}", refresh=waits)


def next_step(shown: Payment) -> str:
    """What the customer has to do next, or what became of it."""
    action = shown.next_action
    if shown.operation is not None:
        return f"<p>{ASKING}</p>"
    if isinstance(action, AskOtp):
        return otp_page(shown, action)
    if isinstance(action, Redirect):
        return f'<p><a href="{escape(action.url)}">Go on at your bank</a></p>'
    text = f"<p>{STATES[shown.state]}</p>"
    if shown.state is State.CREATED:
        return text + button(shown, "card", f"Pay {shown.money}", CARD)
    if shown.state is State.FAILED:
        return text + button(shown, "again", "Try again")
    return text


def otp_page(shown: Payment, action: AskOtp) -> str:
    """The OTP, and the two ways out: another one, and the bank's own page."""
    left = shown.otp.submits_left if shown.otp else 0
    parts = [f"<p>{left} tries left</p>", button(shown, "otp", "Confirm", OTP)]
    if shown.otp and shown.otp.resends_left:
        parts.append(button(shown, "resend", "Send it again"))
    if action.redirect_to_bank:
        parts.append(button(shown, "bank", "Use my bank's page instead"))
    return "".join(parts)


def button(shown: Payment, step: str, text: str, fields: str = "") -> str:
    """A form that names the payment and the version that the customer has seen."""
    number = shown.id.rpartition(".")[2]
    seen = (
        f'<input type="hidden" name="n" value="{number}">'
        f'<input type="hidden" name="version" value="{shown.version}">'
    )
    return form(f"/orders/{shown.order_id}/{step}", text, seen + fields)


def form(where: str, text: str, fields: str = "") -> str:
    """A form with one button."""
    return f'<form method="post" action="{where}">{fields}<button>{text}</button></form>'


def page(body: str, *, refresh: bool = False) -> str:
    """A whole page."""
    again = '<meta http-equiv="refresh" content="2">' if refresh else ""
    return f'<!doctype html><html lang="en"><title>Checkout</title>{again}<h1>Checkout</h1>{body}'
