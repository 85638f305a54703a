"""The checkout's pages: plain HTML, no script, nothing that a customer typed is shown again."""

from __future__ import annotations

from html import escape

from cfflow import Payment, show

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
    note, waits = NOTES.get(name, ""), isinstance(shown.customer_view, show.Wait)
    return page(f"<p>{note}</p>{next_step(shown)}", refresh=waits)


def next_step(shown: Payment) -> str:
    """What the customer has to do next, or what became of it."""
    view = shown.customer_view
    match view:
        case show.EnterOtp():
            return otp_page(shown, view) + another_way(shown)
        case show.GoToBank():
            link = f'<p><a href="{escape(view.url)}">Go on at your bank</a></p>'
            return link + another_way(shown)
        case show.SubmitForm():
            fields = "".join(
                f'<input type="hidden" name="{escape(name)}" value="{escape(str(value))}">'
                for name, value in view.fields.items()
            )
            return form(escape(view.url), "Go on at your bank", fields) + another_way(shown)
        case show.ApproveInApp():
            return "<p>Please approve the payment in your app.</p>" + another_way(shown)
        case show.StartAgain(replace=True):
            return "<p>This attempt is over.</p>" + button(shown, "again", "Try again")
        case show.StartAgain():
            return button(shown, "card", f"Pay {shown.money}", CARD)
        case _:
            return result(shown)


def result(shown: Payment) -> str:
    """Where the payment is, when there is nothing to do for the customer, or only to pay again."""
    view = shown.customer_view
    match view:
        case show.Wait():
            return f"<p>{view.why}</p>" + another_way(shown)
        case show.Paid():
            return "<p>Paid. Thank you!</p>"
        case show.OnHold():
            return "<p>Your bank has set the money aside.</p>"
        case show.RefundedLater():
            return "<p>Cancelled: your bank shows the money again within some days.</p>"
        case show.Failed():
            return f"<p>{escape(view.customer)}</p>" + button(shown, "again", "Try again")
        case _:
            return ""


def another_way(shown: Payment) -> str:
    """Let the customer begin once more, where the bank owes nothing."""
    may = getattr(shown.customer_view, "may_start_again", False)
    return button(shown, "again", "Pay another way") if may else ""


def otp_page(shown: Payment, view: show.EnterOtp) -> str:
    """The OTP, and the two ways out: another one, and the bank's own page."""
    parts = [f"<p>{view.submits_left} tries left</p>", button(shown, "otp", "Confirm", OTP)]
    if view.resends_left:
        parts.append(button(shown, "resend", "Send it again"))
    if view.can_leave:
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
