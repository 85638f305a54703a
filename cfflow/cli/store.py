"""The commands about the store as a whole: `status`, `pause`, `resume`, `accept-store`."""

from __future__ import annotations

from typing import Annotated

import msgspec
import typer
from rich.table import Table

from cfflow.cli.terminal import Actor, AsJson, Note, RedisUrl, cell, console, print_json, wait
from cfflow.connect import connect, open_reader
from cfflow.core.arguments import check_text
from cfflow.core.plan import Gate
from cfflow.errors import ConfigError
from cfflow.logs import silent_log
from cfflow.store.control import Decision, decision_text
from cfflow.store.redis.store import RedisStore
from cfflow.views.status import Status, StoreDecision

app = typer.Typer()

GateName = Annotated[
    Gate, typer.Argument(metavar="GATE", help="pay, auto (the worker's own steps) or resend")
]


@app.command()
def status(redis_url: RedisUrl = None, as_json: AsJson = False) -> None:
    """Show how the store is doing: what is due, what is paused, what cannot be read."""

    async def read() -> Status:
        async with open_reader(redis_url) as reader:
            return await reader.status()

    _print(wait(read()), as_json=as_json)


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
        print_json(msgspec.to_builtins(found))
        return
    grid = Table.grid(padding=(0, 2))
    lag = f"{found.due}, the oldest for {found.lag_s:.1f} s" if found.due else "0"
    grid.add_row(cell("due", style="bold"), cell(lag))
    for gate, decision in found.paused.items():
        grid.add_row(cell("PAUSED", style="bold red"), cell(f"{gate}, by {_by(decision)}"))
    if not found.paused:
        grid.add_row(cell("paused", style="bold"), cell("nothing"))
    grid.add_row(cell("unreadable", style="bold"), cell(", ".join(found.unreadable) or "nothing"))
    for decision in found.decisions:
        grid.add_row(cell("decided", style="bold"), cell(f"{decision.what}, by {_by(decision)}"))
    console().print(grid)


def _by(decision: StoreDecision) -> str:
    return f"{decision.actor}, {decision.at:%Y-%m-%d %H:%M} UTC: {decision.note}"
