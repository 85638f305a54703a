"""The commands with which a person steps in: `adopt`, `abandon`, `acknowledge`, `resolve`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated

import typer

from cfflow.cli.terminal import (
    Actor,
    AsJson,
    FlowFiles,
    Note,
    PaymentId,
    RedisUrl,
    cell,
    console,
    print_json,
    wait,
)
from cfflow.connecting import connect
from cfflow.core.arguments import LEFT_OUT
from cfflow.logs import silent_log
from cfflow.orchestrator import Orchestrator
from cfflow.views.payment import Payment

app = typer.Typer()

OwnName = Annotated[str | None, typer.Option("--actor", help="Who wants it; kept in the history.")]


@app.command()
def adopt(
    order_id: Annotated[str, typer.Argument(metavar="ORDER", help="An order's id, order_8123")],
    flow: Annotated[
        list[str],
        typer.Option(help="A flow for attempts that no payment owns; one for each method."),
    ],
    flows: FlowFiles = None,
    actor: OwnName = None,
    redis_url: RedisUrl = None,
    as_json: AsJson = False,
) -> None:
    """Rebuild an order's payments from the gateway, after Redis was lost or rolled back."""

    async def work() -> list[Payment]:
        async with connect(
            redis_url=redis_url, flows=flows or (), log=silent_log()
        ) as orchestrator:
            return await orchestrator.adopt(order_id, flow=flow, actor=actor)

    payments = wait(work())
    if as_json:
        print_json([payment.as_dict() for payment in payments])
    for payment in () if as_json else payments:
        _print(payment)
    if not (payments or as_json):
        console().print(cell(f"The gateway has no attempt of {order_id}."))


@app.command()
def abandon(
    payment_id: PaymentId,
    actor: OwnName = None,
    redis_url: RedisUrl = None,
    as_json: AsJson = False,
) -> None:
    """Free the order for another payment. Workers watch this one to its end."""
    _decide(
        redis_url,
        lambda orchestrator: orchestrator.abandon(payment_id, actor=actor),
        as_json=as_json,
    )


@app.command()
def acknowledge(
    payment_id: PaymentId,
    reason: Annotated[str, typer.Argument(metavar="REASON", help="The review's name.")],
    actor: Actor,
    note: Note,
    redis_url: RedisUrl = None,
    as_json: AsJson = False,
) -> None:
    """Close one open review by name; the payment stays as it is."""
    _decide(
        redis_url,
        lambda orchestrator: orchestrator.acknowledge(payment_id, reason, actor=actor, note=note),
        as_json=as_json,
    )


@app.command()
def resolve(
    payment_id: PaymentId,
    state: Annotated[
        str, typer.Argument(metavar="STATE", help="The state in which the payment is.")
    ],
    actor: Actor,
    note: Note,
    amount: Annotated[
        str | None, typer.Option(help="What was captured, in rupees; left out: the whole hold.")
    ] = None,
    redis_url: RedisUrl = None,
    as_json: AsJson = False,
) -> None:
    """State where a payment is, while a review is open on it. Moves no money."""
    _decide(
        redis_url,
        lambda orchestrator: orchestrator.resolve(
            payment_id,
            state,
            amount=LEFT_OUT if amount is None else amount,
            actor=actor,
            note=note,
        ),
        as_json=as_json,
    )


def _decide(
    redis_url: str | None,
    decision: Callable[[Orchestrator], Awaitable[Payment]],
    *,
    as_json: bool,
) -> None:
    async def work() -> Payment:
        async with connect(redis_url=redis_url, log=silent_log()) as orchestrator:
            return await decision(orchestrator)

    payment = wait(work())
    if as_json:
        print_json(payment.as_dict())
    else:
        _print(payment)


def _print(payment: Payment) -> None:
    parts = [payment.id, "is", payment.state.value]
    if payment.money:
        parts.append(payment.money)
    if payment.review:
        parts.append(f"(review: {', '.join(payment.review)})")
    console().print(cell(" ".join(parts)))
