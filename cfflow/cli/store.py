"""The commands about the store as a whole: `status`, `pause`, `resume`, `accept-store`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated

import typer
from rich.table import Table

from cfflow.cli.terminal import (
    Actor,
    AsJson,
    Note,
    RedisUrl,
    cell,
    console,
    print_error,
    print_json,
    wait,
)
from cfflow.connecting import connect, open_reader
from cfflow.core.arguments import check_text
from cfflow.core.plan import Gate
from cfflow.errors import CfflowError, ConfigError
from cfflow.logs import silent_log
from cfflow.store.control import Decision, decision_text
from cfflow.store.redis.store import RedisStore
from cfflow.views.health import MAX_LAG_S
from cfflow.views.status import Status, StoreDecision

app = typer.Typer()

GateName = Annotated[
    Gate, typer.Argument(metavar="GATE", help="pay, auto (the worker's own steps) or resend")
]


@app.command()
def status(
    max_lag: Annotated[
        float,
        typer.Option(min=0, metavar="SECONDS", help="How long an order may be due."),
    ] = MAX_LAG_S,
    redis_url: RedisUrl = None,
    as_json: AsJson = False,
) -> None:
    """Show how all of it is doing. Exit status 1: a person must look; 2: no connection."""

    async def read() -> Status:
        async with open_reader(redis_url) as reader:
            return await reader.status(max_lag_s=max_lag)

    try:
        found = wait(read())
    except CfflowError as error:
        # Not 1: that nothing can be seen is another thing than that something is wrong.
        print_error(error)
        raise typer.Exit(2) from None
    _print(found, as_json=as_json)
    if not found.is_healthy:
        raise typer.Exit(1)


@app.command()
def pause(
    gate: GateName, actor: Actor, note: Note, redis_url: RedisUrl = None, as_json: AsJson = False
) -> None:
    """Stop one kind of step for all orders. What is on its way ends as usual."""

    async def work() -> Status:
        async with open_reader(redis_url) as reader:
            return await reader.pause(gate, actor=actor, note=note)

    _print(wait(work()), as_json=as_json)


@app.command()
def resume(
    gate: GateName, actor: Actor, note: Note, redis_url: RedisUrl = None, as_json: AsJson = False
) -> None:
    """Let a kind of step go on that was paused."""

    async def work() -> Status:
        async with open_reader(redis_url) as reader:
            return await reader.resume(gate, actor=actor, note=note)

    _print(wait(work()), as_json=as_json)


@app.command(name="accept-store")
def accept_store(
    actor: Actor, note: Note, redis_url: RedisUrl = None, as_json: AsJson = False
) -> None:
    """Use this store for this account and environment, after it was replaced or lost its data.

    Orders that were lost are not back: `cfflow adopt` rebuilds each from the gateway.
    """

    async def work() -> Status:
        orchestrator = connect(redis_url=redis_url, log=silent_log())
        store = orchestrator.store
        if not isinstance(store, RedisStore):
            raise ConfigError("accept-store is for a store in Redis")
        async with orchestrator:
            decision = Decision(
                what="accept-store",
                actor=check_text("actor", actor),
                note=check_text("note", note),
                at_ms=store.now_ms(),
            )
            await store.control.accept(decision_text(decision))
            return await orchestrator.status()

    _print(wait(work()), as_json=as_json)


def _print(found: Status, *, as_json: bool) -> None:
    if as_json:
        print_json(found.as_dict())
        return
    grid = Table.grid(padding=(0, 2))
    for name, text in _rows(found):
        grid.add_row(cell(name, style="bold"), cell(text))
    for concern in found.attention:
        grid.add_row(cell("LOOK", style="bold red"), cell(f"{concern.about}: {concern.detail}"))
        grid.add_row(cell(""), cell(f"next: {concern.advice}"))
    if found.is_healthy:
        grid.add_row(cell("well", style="green"), cell("nothing needs a person"))
    console().print(grid)


def _rows(found: Status) -> Iterator[tuple[str, str]]:
    """Yield what is there, in the order in which a person reads it."""
    store = found.store
    yield (
        "store",
        f"{store.name}, {store.environment or 'no environment'}" if store.name else "none",
    )
    yield "payments", _counts(found.payments)
    late = f", the oldest for {found.lag_s:.1f} s" if found.due + found.put_back else ""
    yield "due", f"{found.due}, and {found.put_back} put back{late}"
    yield "reviews", _counts(found.reviews)
    for inquiry in found.failing:
        times = f"{inquiry.times} times since {inquiry.since:%Y-%m-%d %H:%M:%S} UTC"
        yield "failing", f"{inquiry.call}: {inquiry.error}, {times}, in {inquiry.worker}"
    yield from _worker_rows(found)
    yield from _budget_rows(found)
    for gate in Gate:
        decision = found.paused.get(gate)
        yield "gate", f"{gate}, by {_by(decision)}" if decision else f"{gate}: open"
    yield "unreadable", ", ".join(found.unreadable) or "nothing"
    for decision in found.decisions:
        yield "decided", f"{decision.what}, by {_by(decision)}"


def _worker_rows(found: Status) -> Iterator[tuple[str, str]]:
    if not found.knows_workers:
        yield "workers", "not known: this store keeps no signs of life"
    elif not found.workers:
        yield "workers", "none in the last day"
    for worker in found.workers:
        did = f"{worker.leased} leased, {worker.progressed} progressed, {worker.errors} errors"
        yield "worker", f"{worker.name} {worker.state}, seen {worker.seen_s:.0f} s ago: {did}"


def _budget_rows(found: Status) -> Iterator[tuple[str, str]]:
    for call, use in found.budget.items():
        until = f", blocked until {use.blocked_until:%H:%M:%S} UTC" if use.blocked_until else ""
        of = "" if use.limit is None else f" of {use.limit}"
        if use.used or until:
            yield "budget", f"{call}: {use.used}{of} in the last minute{until}"


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items() if count) or "none"


def _by(decision: StoreDecision) -> str:
    return f"{decision.actor}, {decision.at:%Y-%m-%d %H:%M} UTC: {decision.note}"
