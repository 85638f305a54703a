"""The pages on which a customer decides an attempt, and the index of all attempts.

Each button's response is a redirect, so that a reload does not press it again. An attempt is
never decided twice. The pages need no credentials: the token in their URL is the secret.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, quote, urlsplit

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from cfflow.emulator import guard, otp, pages_html
from cfflow.emulator.asgi import read_body
from cfflow.emulator.bank import Bank
from cfflow.emulator.customer import Customer, takes_otp
from cfflow.emulator.pages_html import VIEW
from cfflow.emulator.records import Attempt, OtpPage
from cfflow.emulator.refusals import Refused
from cfflow.emulator.wire import FORM

INDEX = "/_emulator/"
_COUNTS = frozenset(str(count) for count in range(otp.SUBMITS_MAX))
ORDERS_SHOWN = 50

_HEADERS = {
    "cache-control": "no-store",
    # The URL has the attempt's secret, which must not reach the shop's page.
    "referrer-policy": "no-referrer",
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'",
    "x-content-type-options": "nosniff",
}


@dataclass(frozen=True, slots=True)
class _Visit:
    """One request for an attempt's page."""

    path: str
    customer: Customer
    attempt: Attempt
    now_s: float

    @property
    def otp_page(self) -> OtpPage | None:
        return self.customer.otp_page(self.attempt, self.now_s)


def routes() -> list[Route]:
    """Return the routes of the pages of attempts and of the index."""
    return [
        Route(INDEX, index),
        Route(f"{VIEW}/gateway/{{token}}", gateway, methods=["GET", "POST"]),
        Route(f"{VIEW}/redirecttobank/{{token}}", redirect_to_bank, methods=["GET", "POST"]),
    ]


async def index(request: Request) -> Response:
    """Respond with the newest orders, their attempts, and a link to each page."""
    bank: Bank = request.app.state.bank
    now_s = request.app.state.clock.now()
    bank.advance(now_s)
    return _html(pages_html.overview(bank.latest_orders(ORDERS_SHOWN), now_s))


async def gateway(request: Request) -> Response:
    """Serve the page of an attempt with the action `link`, `form` or `custom`."""
    return await _visit(request, native=False)


async def redirect_to_bank(request: Request) -> Response:
    """Serve the bank's own page of an attempt with native OTP."""
    return await _visit(request, native=True)


async def _visit(request: Request, *, native: bool) -> Response:
    try:
        fields = await _read_form(request) if request.method == "POST" else None
        if fields is not None and "decision" in fields:
            guard.check_press(request.headers)
    except Refused as refusal:
        title = "Too long" if refusal.status == 413 else "Not from this page"
        return _html(pages_html.refusal(title, refusal.message), refusal.status)
    bank: Bank = request.app.state.bank
    now_s = request.app.state.clock.now()
    bank.advance(now_s)
    attempt = bank.customer.find(request.path_params["token"])
    if attempt is None or (attempt.method.action == "post") is not native:
        return _no_page()
    visit = _Visit(request.url.path, bank.customer, attempt, now_s)
    if fields is None:
        return _show(visit, request.query_params.get("note", ""))
    return _pressed(visit, fields) if "decision" in fields else _arrived(visit, fields)


async def _read_form(request: Request) -> Mapping[str, str]:
    """Return the fields of a posted form; none for a body of another content type."""
    raw = await read_body(request.receive)
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != FORM:
        return {}
    return dict(parse_qsl(raw.decode("utf-8", "replace"), keep_blank_values=True))


def _arrived(visit: _Visit, fields: Mapping[str, str]) -> Response:
    """Show the page to a customer whom the shop sent by POST; a `form` must have its token."""
    token = fields.get("PaReq")
    if visit.attempt.method.action == "form" and token != visit.attempt.page_token:
        return _no_page()
    return _show(visit, "")


def _show(visit: _Visit, hint: str) -> Response:
    attempt = visit.attempt
    if not visit.customer.is_open(attempt):
        return _html(pages_html.outcome(attempt, return_url(attempt)))
    if hint == "left":
        return _html(pages_html.left(attempt))
    return _html(pages_html.decision(attempt, visit.otp_page, hint, visit.now_s))


def _pressed(visit: _Visit, fields: Mapping[str, str]) -> Response:
    """Handle a pressed button. On a decided attempt it only redirects."""
    customer, attempt, now_s = visit.customer, visit.attempt, visit.now_s
    if not customer.is_open(attempt):
        return _onward(visit)
    match fields["decision"]:
        case "pay" if visit.otp_page is not None:
            return _submit_otp(visit, visit.otp_page, fields)
        case "resend" if visit.otp_page is not None:
            return _resend_otp(visit, visit.otp_page)
        case "pay":
            customer.pay(attempt, now_s)
        case "decline":
            customer.decline(attempt, now_s)
        case "cancel":
            customer.leave(attempt, now_s)
        case "back":
            return _redirect(return_url(attempt) or f"{visit.path}?note=left")
        case _:
            text = "This page has no such button."
            return _html(pages_html.refusal("No such button", text), 400)
    return _onward(visit)


def _submit_otp(visit: _Visit, page: OtpPage, fields: Mapping[str, str]) -> Response:
    code, seen = fields.get("otp", "").strip(), fields.get("seen", "")
    if not code:
        return _again(visit, "empty")
    if not takes_otp(page, visit.now_s):
        return _again(visit, "gone")
    if visit.customer.repeats(page, code, int(seen) if seen in _COUNTS else None):
        return _again(visit, "repeat")
    visit.customer.submit_otp(visit.attempt, page, code, visit.now_s)
    return _again(visit, "wrong") if visit.customer.is_open(visit.attempt) else _onward(visit)


def _resend_otp(visit: _Visit, page: OtpPage) -> Response:
    try:
        otp.resend(page, visit.now_s)
    except Refused:
        if not takes_otp(page, visit.now_s):
            return _again(visit, "gone")
        return _again(visit, "too_often" if page.resends >= otp.RESENDS_MAX else "too_soon")
    return _again(visit, "sent")


def return_url(attempt: Attempt) -> str | None:
    """Return the URL of the shop's page after the payment, or None if it has no valid one."""
    meta: Mapping[str, Any] = attempt.order.meta or {}
    url = meta.get("return_url")
    if not isinstance(url, str):
        return None
    url = url.replace("{order_id}", quote(attempt.order.order_id, safe=""))
    try:
        parts = urlsplit(url)
    except ValueError:
        return None
    return url if parts.scheme in ("http", "https") and parts.netloc else None


def _onward(visit: _Visit) -> Response:
    return _redirect(return_url(visit.attempt) or visit.path)


def _again(visit: _Visit, hint: str) -> Response:
    return _redirect(f"{visit.path}?note={hint}")


def _redirect(url: str) -> Response:
    return RedirectResponse(url, 303, headers=_HEADERS)


def _no_page() -> Response:
    text = "No payment has this page. Its address comes with the answer to a pay."
    return _html(pages_html.refusal("No such page", text), 404)


def _html(page: bytes, status: int = 200) -> Response:
    return Response(page, status, headers=_HEADERS, media_type="text/html")
