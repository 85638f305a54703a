"""The HTML of the emulator's pages: no scripts, no external resources, all values escaped.

`fill` escapes every value that it puts into a template, so that no caller has to.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from html import escape
from string import Template

from cfflow.emulator import otp
from cfflow.emulator.clock import IST
from cfflow.emulator.customer import takes_otp
from cfflow.emulator.records import Attempt, Order, OtpPage

VIEW = "/pg/view"
OTP_DIGITS_MAX = 12

_STYLE = """
:root { color-scheme: light }
* { box-sizing: border-box }
body { margin: 0; background: #eef1f5; color: #1c2733; font: 16px/1.5 system-ui, sans-serif }
.bar { background: #7a4b00; color: #fff; padding: .5rem 1rem; text-align: center; font-size: .9rem }
main { max-width: 27rem; margin: 1.5rem auto; padding: 1.5rem; background: #fff;
  border-radius: 12px; box-shadow: 0 1px 4px #0003 }
main.wide { max-width: 62rem }
h1 { margin: 0 0 .25rem; font-size: 1.3rem }
.amount { margin: 0 0 1rem; font-size: 2rem; font-weight: 650 }
dl { display: grid; grid-template-columns: auto 1fr; gap: .35rem 1rem; margin: 0 0 1.25rem;
  padding: .9rem 0; border: solid #dde3ea; border-width: 1px 0 }
dt { color: #5a6877 }
dd { margin: 0; text-align: right; overflow-wrap: anywhere }
label { display: block; font-weight: 600; margin-bottom: .3rem }
input { width: 100%; padding: .6rem .75rem; border: 1px solid #8794a3; border-radius: 8px;
  font: 1.3rem ui-monospace, monospace; letter-spacing: .3em }
.hint { margin: .4rem 0 1rem; color: #5a6877; font-size: .9rem }
button, .go { display: block; width: 100%; margin-top: .6rem; padding: .75rem; font: inherit;
  font-weight: 600; text-align: center; text-decoration: none; cursor: pointer; color: #1c2733;
  background: #fff; border: 1px solid #b7c1cc; border-radius: 8px }
button.pay, .go { background: #14653c; border-color: #14653c; color: #fff }
button.decline { color: #a3201d; border-color: #d9a09e }
button.back { border-color: #fff; color: #425466; font-weight: 400 }
button:hover, .go:hover { filter: brightness(.94) }
:focus-visible { outline: 3px solid #2f6fed; outline-offset: 2px }
.note { margin: 0 0 1rem; padding: .6rem .8rem; border-radius: 8px; background: #fff4d6 }
.note.bad { background: #fde8e7 }
.done { font-size: 1.1rem; margin: 0 0 1rem }
.scroll { overflow-x: auto }
table { width: 100%; border-collapse: collapse; font-size: .93rem }
th, td { padding: .5rem .6rem .5rem 0; text-align: left; vertical-align: top;
  border-top: 1px solid #dde3ea }
th { border-top: 0; color: #5a6877; font-weight: 600 }
td.number { white-space: nowrap }
a { color: #1b54b8 }
.go { color: #fff }
"""

_FRAME = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="robots" content="noindex">
<title>$title</title>
<style>$style</style>
</head>
<body>
<div class="bar">This is the emulator of cfflow: no real money</div>
<main$width>
$content
</main>
</body>
</html>
""")

_HINTS = {
    "empty": "Type the one-time password first.",
    "wrong": "That one-time password is wrong.",
    "repeat": "That was counted already: a wrong one-time password uses one try.",
    "sent": "The one-time password was sent again.",
    "too_soon": f"It is sent again {otp.RESEND_AFTER_S:.0f} seconds after the last time.",
    "too_often": f"It is sent again at most {otp.RESENDS_MAX} times.",
    "gone": "This counted for nothing.",
}
_BAD_HINTS = frozenset({"wrong", "gone", "too_often"})

_OUTCOMES = {
    "SUCCESS": ("Paid", "The payment succeeded."),
    "FAILED": ("Failed", "The payment failed. Nothing was taken."),
    "USER_DROPPED": ("Cancelled", "The customer left without paying. Nothing was taken."),
    "CANCELLED": ("Closed", "The gateway closed this attempt. Nothing was taken."),
    "VOID": ("Released", "The bank gave the held money back."),
    "PENDING": ("Accepted", "The one-time password was right. The bank has yet to move the money."),
}


class Html(str):
    """Text that is already HTML."""

    __slots__ = ()


def fill(template: str, **values: object) -> Html:
    """Return the template with its `$names` filled in; values other than `Html` are escaped."""
    safe = {
        name: value if isinstance(value, Html) else escape(str(value))
        for name, value in values.items()
    }
    return Html(Template(template).substitute(safe))


def join(parts: Iterable[Html]) -> Html:
    """Return the parts, one after the other."""
    return Html("\n".join(parts))


def frame(title: str, content: Html, *, wide: bool = False) -> bytes:
    """Return a whole page."""
    width = ' class="wide"' if wide else ""
    page = _FRAME.substitute(title=escape(title), style=_STYLE, width=width, content=content)
    return page.encode()


# --- one attempt -----------------------------------------------------------------------


def decision(attempt: Attempt, page: OtpPage | None, hint: str, now_s: float) -> bytes:
    """Return the page on which a customer decides. hint: a key of `_HINTS`, shown first."""
    content = join(
        [
            _heading(attempt, _place(attempt)),
            _hint(hint),
            *_warnings(attempt, now_s),
            fill("""<form method="post">$fields</form>""", fields=_fields(attempt, page, now_s)),
        ]
    )
    return frame(f"{_place(attempt)}: {money(attempt)}", content)


def outcome(attempt: Attempt, shop: str | None) -> bytes:
    """Return the page of a decided attempt. shop: the URL of the link to the shop, if any."""
    title, text = _OUTCOMES.get(attempt.status, _OUTCOMES["PENDING"])
    if attempt.held:
        title, text = "Held", "The bank holds the money until the shop captures or releases it."
    content = join(
        [
            _heading(attempt, title),
            fill(
                """<p class="done" id="outcome" data-status="$status">$text</p>""",
                status=attempt.status,
                text=text,
            ),
            _because(attempt),
            _go(shop),
        ]
    )
    return frame(title, content)


def _because(attempt: Attempt) -> Html:
    if attempt.failure is None:
        return Html("")
    return fill("""<p class="hint">Because $why.</p>""", why=attempt.failure.description)


def left(attempt: Attempt) -> bytes:
    """Return the page for a customer who went back undecided to a shop without a page."""
    text = """<p class="done" id="outcome" data-status="PENDING">Nothing was decided: the payment
still waits. Close this page, or go on with it.</p>
<a class="go" href="?">Go on with the payment</a>"""
    return frame("Not decided", join([_heading(attempt, "Not decided"), Html(text)]))


def refusal(title: str, text: str) -> bytes:
    """Return an error page."""
    return frame(title, fill("<h1>$title</h1><p>$text</p>", title=title, text=text))


def money(record: Attempt | Order) -> str:
    """Return an amount with its currency, as text."""
    currency = record.order.currency if isinstance(record, Attempt) else record.currency
    return f"₹{record.amount:.2f}" if currency == "INR" else f"{currency} {record.amount:.2f}"


def _place(attempt: Attempt) -> str:
    """Return the name of the bank, app or provider that shows the page."""
    shown = attempt.method.shown.get(attempt.method.name, {})
    match attempt.method.name:
        case "card" | "emi":
            return str(shown.get("card_bank_name", "Bank"))
        case "netbanking":
            return str(shown.get("netbanking_bank_name", "Bank"))
        case "upi":
            return "UPI app"
        case "banktransfer":
            return "Bank transfer"
    return str(shown.get("provider", attempt.method.name)).capitalize()


def _paid_with(attempt: Attempt) -> str:
    shown = attempt.method.shown.get(attempt.method.name, {})
    match attempt.method.name:
        case "card" | "emi":
            kind = str(shown.get("card_type", "card")).replace("_", " ")
            network = str(shown.get("card_network", "")).capitalize()
            return f"{network} {kind} {str(shown.get('card_number', '')).replace('x', '•')}"
        case "upi":
            return f"UPI {shown.get('channel', '')} {shown.get('upi_id', '')}".strip()
        case "netbanking":
            return f"netbanking, code {shown.get('netbanking_bank_code', '')}"
    return attempt.method.group.replace("_", " ")


def _heading(attempt: Attempt, title: str) -> Html:
    return fill(
        """<h1>$title</h1>
<p class="amount">$amount</p>
<dl><dt>Order</dt><dd>$order_id</dd><dt>Payment</dt><dd>$payment</dd>
<dt>Method</dt><dd>$method</dd></dl>""",
        title=title,
        amount=money(attempt),
        order_id=attempt.order.order_id,
        payment=attempt.cf_payment_id,
        method=_paid_with(attempt),
    )


def _hint(hint: str) -> Html:
    if hint not in _HINTS:
        return Html("")
    kind = "note bad" if hint in _BAD_HINTS else "note"
    return fill("""<p class="$kind" role="alert">$text</p>""", kind=kind, text=_HINTS[hint])


def _warnings(attempt: Attempt, now_s: float) -> Iterable[Html]:
    """Yield warnings about the order. An attempt of such an order can still be paid."""
    warning = """<p class="note" role="status">$text</p>"""
    status = attempt.order.status(now_s)
    if status == "PAID":
        yield fill(warning, text="This order is paid already: paying here pays it twice.")
    elif status != "ACTIVE":
        text = f"This order is {status}: an attempt that began before may still pay it."
        yield fill(warning, text=text)


def _fields(attempt: Attempt, page: OtpPage | None, now_s: float) -> Html:
    if page is not None and not takes_otp(page, now_s):
        gone = """<p class="note bad" id="gone" role="status">$text</p>"""
        text = "No try is left." if otp.exhausted(page) else "This page has expired."
        text += " It takes no one-time password any more."
        return join([fill(gone, text=text), _button("cancel", "Cancel the payment"), _BACK])
    buttons = [_button("decline", "Decline"), _button("cancel", "Cancel the payment"), _BACK]
    if page is None:
        return join([*_explained(attempt), _button("pay", _pay_label(attempt)), *buttons])
    return join([_otp_field(page), _button("pay", f"Pay {money(attempt)}"), _RESEND, *buttons])


def _explained(attempt: Attempt) -> Iterable[Html]:
    mandate = attempt.method.mandate
    if mandate is not None:
        until = datetime.fromtimestamp(mandate.end_at_s, IST).strftime("%d %b %Y, %H:%M IST")
        text = f"A mandate: the amount is blocked, and the shop may take it until {until}."
        yield fill("""<p class="hint">$text</p>""", text=text)


def _pay_label(attempt: Attempt) -> str:
    if attempt.method.mandate is not None:
        return f"Approve the mandate of {money(attempt)}"
    match attempt.method.name:
        case "upi":
            return f"Approve {money(attempt)}"
        case "banktransfer":
            return f"I have transferred {money(attempt)}"
    return f"Pay {money(attempt)}"


def _otp_field(page: OtpPage) -> Html:
    tries = otp.SUBMITS_MAX - page.rejections
    return fill(
        """<label for="otp">One-time password</label>
<input id="otp" name="otp" inputmode="numeric" autocomplete="one-time-code" autofocus
 maxlength="$digits">
<input type="hidden" name="seen" value="$seen">
<p class="hint" id="tries">$tries left. Nothing was really sent: type the test OTP.</p>""",
        digits=OTP_DIGITS_MAX,
        seen=page.rejections,
        tries="1 try" if tries == 1 else f"{tries} tries",
    )


def _button(value: str, label: str) -> Html:
    template = """<button class="$value" name="decision" value="$value">$label</button>"""
    return fill(template, value=value, label=label)


_BACK = _button("back", "Back to the shop, undecided")
_RESEND = _button("resend", "Send the one-time password again")


def _go(shop: str | None) -> Html:
    if shop is None:
        return Html("")
    return fill("""<a class="go" href="$shop" rel="noreferrer">Go to the shop</a>""", shop=shop)


# --- the index -------------------------------------------------------------------------


def overview(orders: Iterable[Order], now_s: float) -> bytes:
    """Return the page of orders and attempts, with status and a link to each page."""
    rows = [row for order in orders for row in _rows(order, now_s)]
    if not rows:
        text = "No order yet. Create one with POST /pg/orders, and look again."
        return frame("Orders", fill("<h1>Orders</h1><p>$text</p>", text=text))
    head = """<tr><th>Order</th><th>Amount</th><th>Status</th><th>Payment</th><th>Method</th>
<th>Status</th><th>Page</th></tr>"""
    table = fill("<table>$head$rows</table>", head=Html(head), rows=join(rows))
    whole = """<h1>Orders</h1><p class="hint">The newest first; <a href="">reload</a>. See also:
<a href="ledger">ledger</a>, <a href="webhooks">webhooks</a>, <a href="faults">faults</a>,
<a href="clock">clock</a>.</p>
<div class="scroll">$table</div>"""
    return frame("Orders", fill(whole, table=table), wide=True)


def _rows(order: Order, now_s: float) -> Iterable[Html]:
    about = fill(
        """<td><a href="orders/$id">$id</a></td><td class="number">$amount</td><td>$status</td>""",
        id=order.order_id,
        amount=money(order),
        status=order.status(now_s),
    )
    if not order.attempts:
        yield fill("""<tr>$about<td colspan="4">not tried yet</td></tr>""", about=about)
    for attempt in order.attempts:
        yield fill("<tr>$about$cells</tr>", about=about, cells=_cells(attempt))
        about = Html("<td></td><td></td><td></td>")


def _cells(attempt: Attempt) -> Html:
    status = "SUCCESS, held" if attempt.held else attempt.status
    return fill(
        """<td>$payment</td><td>$method</td><td>$status</td><td><a href="$page">open</a></td>""",
        payment=attempt.cf_payment_id,
        method=f"{attempt.method.name} {attempt.method.channel}",
        status=status,
        page=page_path(attempt),
    )


def page_path(attempt: Attempt) -> str:
    """Return the path of this attempt's page; with native OTP that of `redirect_to_bank`."""
    kind = "redirecttobank" if attempt.method.action == "post" else "gateway"
    return f"{VIEW}/{kind}/{attempt.page_token}"
