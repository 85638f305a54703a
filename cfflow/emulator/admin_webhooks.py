"""The emulator's own API for webhooks: list, configure, hold, release, resend, send."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, get_args

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from cfflow.emulator import admin_http
from cfflow.emulator.admin_http import Body, json_response
from cfflow.emulator.webhook_outbox import Delivery, Sequence, Status
from cfflow.emulator.webhook_requests import Alteration
from cfflow.emulator.webhooks import Webhooks

PREFIX = f"{admin_http.PREFIX}/webhooks"


class Release(msgspec.Struct, forbid_unknown_fields=True):
    """The body of POST /_emulator/webhooks/release."""

    which: str | None = None
    sequence: Sequence | None = None


class Resend(msgspec.Struct, forbid_unknown_fields=True):
    """The body of POST /_emulator/webhooks/resend; which: the id of a delivery or an order.

    url: one that is set, or to which a delivery goes.
    """

    which: str
    alter: Alteration | None = None
    url: str | None = None


class Send(msgspec.Struct, forbid_unknown_fields=True):
    """The body of POST /_emulator/webhooks/send: an event of any type."""

    type: str
    data: dict[str, Any]


def routes() -> list[Route]:
    """Return the routes for webhooks; fixed names come before ids, as the first match wins."""
    return [
        Route(PREFIX, deliveries, methods=["GET", "DELETE"]),
        Route(f"{PREFIX}/settings", settings, methods=["GET", "PUT"]),
        Route(f"{PREFIX}/hold", hold, methods=["POST"]),
        Route(f"{PREFIX}/release", release, methods=["POST"]),
        Route(f"{PREFIX}/resend", resend, methods=["POST"]),
        Route(f"{PREFIX}/send", send, methods=["POST"]),
        Route(f"{PREFIX}/{{delivery_id}}", one, methods=["GET"]),
    ]


async def deliveries(request: Request) -> Response:
    """Respond with the deliveries that match the query, or remove them all."""
    webhooks: Webhooks = request.app.state.webhooks
    order_id = request.query_params.get("order_id")
    try:
        status = admin_http.chosen(request, "status", get_args(Status))
    except ValueError as error:
        return admin_http.error_response(error)
    if request.method == "DELETE":
        webhooks.clear()
    _catch_up(request)
    found = [
        each
        for each in webhooks
        if order_id in (None, each.order_id) and status in (None, each.status)
    ]
    return _listed(found)


async def one(request: Request) -> Response:
    """Respond with one delivery and the text of its body."""
    _catch_up(request)
    delivery_id = request.path_params["delivery_id"]
    found = request.app.state.webhooks.outbox.deliveries.get(delivery_id)
    if found is None:
        return admin_http.error_response(LookupError(f"no webhook has the id {delivery_id}"), 404)
    return json_response(admin_http.delivery_json(found, body=True))


async def settings(request: Request) -> Response:
    """Respond with the settings; a PUT first changes those that it names."""
    webhooks: Webhooks = request.app.state.webhooks
    if request.method == "PUT":
        try:
            webhooks.configure(**await admin_http.read_json(request, dict[str, Any]))
        except ValueError as error:
            return admin_http.error_response(error)
    return json_response(msgspec.structs.asdict(webhooks.settings))


async def hold(request: Request) -> Response:
    """Hold every webhook until it is released."""
    webhooks: Webhooks = request.app.state.webhooks
    webhooks.hold()
    return json_response(msgspec.structs.asdict(webhooks.settings))


async def release(request: Request) -> Response:
    """Release held webhooks, and respond when they have been attempted."""
    webhooks: Webhooks = request.app.state.webhooks
    return await _change_and_deliver(
        request, Release, lambda body: webhooks.release(body.which, body.sequence)
    )


async def resend(request: Request) -> Response:
    """Send a webhook, or those of an order, again, and respond when they have been attempted."""
    return await _change_and_deliver(
        request, Resend, lambda body: _resend(request.app.state.webhooks, body)
    )


def _resend(webhooks: Webhooks, body: Resend) -> Iterable[Delivery]:
    # Every webhook goes to an address that somebody configured; this call must be no way around.
    if body.url is not None:
        webhooks.outbox.check_receiver(body.url)
    return webhooks.resend(body.which, alter=body.alter, url=body.url)


async def send(request: Request) -> Response:
    """Send an event with the caller's data, and respond when it has been attempted."""
    webhooks: Webhooks = request.app.state.webhooks
    return await _change_and_deliver(
        request, Send, lambda body: webhooks.send(body.type, body.data)
    )


async def _change_and_deliver(
    request: Request, kind: type[Body], change: Callable[[Body], Iterable[Delivery]]
) -> Response:
    """Read the body, let `change` queue deliveries, and respond when they have been attempted."""
    try:
        changed = change(await admin_http.read_json(request, kind))
    except LookupError as error:
        return admin_http.error_response(error, 404)
    except ValueError as error:
        return admin_http.error_response(error)
    await request.app.state.webhooks.deliver()
    return _listed(changed)


def _catch_up(request: Request) -> None:
    state = request.app.state
    state.bank.advance(state.clock.now())


def _listed(found: Iterable[Delivery]) -> Response:
    return json_response({"webhooks": [admin_http.delivery_json(each) for each in found]})
