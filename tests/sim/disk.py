"""A process's connection to the store, with the delays and losses that Redis can have.

A command that was sent is carried out, even if its sender dies or cancels it then. A command
without a result is handled as `RedisStore` does: it is sent again under its token, or raises
`StoreUnavailable`. It may have had its effect, may have none, or may still have it later.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

from cfflow.errors import StoreUnavailable
from cfflow.store.protocol import Committed, Outcome, Started
from cfflow.testing import MemoryStore
from tests.sim.loop import VirtualLoop
from tests.sim.network import at_once
from tests.sim.process import Process
from tests.sim.story import Story
from tests.sim.weather import Weather

#: After so many seconds `RedisStore` gives a command up.
_DEADLINE_S = 3.0
_SLOW_S = 2.9

_READS = frozenset({"load", "list", "flow_text"})


@dataclass(slots=True, eq=False)
class Command:
    """One command of one process."""

    process: Process
    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    fault: str


class Disk:
    """The `Store` that a process sees; it wraps every coroutine method."""

    def __init__(
        self,
        process: Process,
        store: MemoryStore,
        *,
        loop: VirtualLoop,
        weather: Weather,
        rng: Random,
        story: Story,
        watch: Callable[[Command, object], None],
    ) -> None:
        self._process = process
        self._store = store
        self._loop = loop
        self._weather = weather
        self._rng = rng
        self._story = story
        self._watch = watch

    def now_ms(self) -> int:
        return self._store.now_ms() + self._process.skew_ms

    async def open(self) -> None:
        """Do nothing: there is no connection."""

    async def aclose(self) -> None:
        """Do nothing: there is no connection."""

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._store, name)
        if not inspect.iscoroutinefunction(found):
            return found

        async def call(*args: Any, **kwargs: Any) -> Any:
            return await self._process.wait(self._send(name, args, kwargs))

        self.__dict__[name] = call
        return call

    def _send(
        self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> asyncio.Future[Any]:
        self._process.check()
        fault = self._weather.disk_fault()
        if name in _READS and fault not in {"", "slow"}:
            fault = "lost_before"
        command = Command(self._process, name, args, kwargs, fault)
        result: asyncio.Future[Any] = self._loop.create_future()
        up_s = self._weather.pause_s() / 4
        if fault == "slow":
            up_s += self._rng.uniform(0.5, _SLOW_S)
        if name == "lease":
            up_s += self._idle_s()
        if fault in {"lost_before", "lost_after", "late"}:
            self._loop.call_later(_DEADLINE_S, self._fail, command, result)
        if fault == "late":
            up_s = _DEADLINE_S + self._rng.uniform(0, 2)
        if fault != "lost_before":
            self._loop.call_later(up_s, self._carry_out, command, result)
        if self._weather.strikes():
            self._process.die(f"after it sent {name} to the store")
        self._process.check()
        return result

    def _idle_s(self) -> float:
        """Return how long a lease without due payments waits: idle workers must not fill a run."""
        wait_ms = min(self._store._wakes.values(), default=2**60) - self._store.now_ms()
        return min(max(wait_ms / 1000, 0.0), _SLOW_S)

    def _carry_out(self, command: Command, result: asyncio.Future[Any]) -> None:
        """Run it in the store, which is one process: no other command comes in between."""
        try:
            done = self._do(command)
        except Exception as error:  # noqa: BLE001  whatever the store raises is the command's result
            self._loop.call_later(self._weather.pause_s() / 4, self._raise, result, error)
            return
        down_s = self._weather.pause_s() / 4
        if command.fault == "resent":
            again_s = self._rng.uniform(0.05, 2.5)
            self._loop.call_later(again_s, self._send_again, command, result, done)
        elif command.fault in {"", "slow"}:
            self._loop.call_later(down_s, self._answer, result, done)
        if self._weather.strikes():
            self._process.die(f"when the store had carried out its {command.name}")

    def _do(self, command: Command) -> Any:
        work = getattr(self._store, command.name)(*command.args, **command.kwargs)
        done = at_once(work)
        self._watch(command, done)
        return done

    def _send_again(self, command: Command, result: asyncio.Future[Any], first: Any) -> None:
        """The result was lost; send the command once more, under the same token."""
        again = self._again(command, first)
        self._loop.call_later(self._weather.pause_s() / 4, self._answer, result, again)

    def _again(self, command: Command, first: Any) -> Any:
        if isinstance(first, Started):
            applied, snapshot = first.outcome == "ok", first.snapshot
        elif isinstance(first, Committed) and first.snapshot is not None:
            applied, snapshot = first.outcome is Outcome.OK, first.snapshot
        else:
            return first
        newest = at_once(self._store.load(snapshot.order_id, snapshot.n))
        if applied and newest is not None and newest.record.token == snapshot.record.token:
            if isinstance(first, Committed):
                return Committed(Outcome.OK, self._store.now_ms(), snapshot)
            return first
        return self._do(command)

    def _answer(self, result: asyncio.Future[Any], done: Any) -> None:
        if not result.done() and self._process.alive:
            result.set_result(done)

    def _fail(self, command: Command, result: asyncio.Future[Any]) -> None:
        self._story.add(command.process.name, f"gives up its {command.name} ({command.fault})")
        self._raise(result, StoreUnavailable(f"simulated: {command.fault}"))

    def _raise(self, result: asyncio.Future[Any], error: Exception) -> None:
        if not result.done() and self._process.alive:
            result.set_exception(error)
