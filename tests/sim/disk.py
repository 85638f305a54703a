"""A process's connection to the store, with the delays and losses that Redis can have.

A command that was sent is carried out, even if its sender dies or cancels it then. A command
without a reply is handled as `RedisStore` does: the same bytes are sent again, or it raises
`StoreUnavailable`. It may have had its effect, may have none, or may still have it later.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any

from cfflow.errors import StoreUnavailable
from cfflow.testing import MemoryStore
from tests.sim.loop import VirtualLoop
from tests.sim.network import at_once
from tests.sim.process import ACTION, Action, Process
from tests.sim.story import Story
from tests.sim.weather import Weather

#: After so many seconds `RedisStore` gives a command up.
_DEADLINE_S = 3.0
_SLOW_S = 2.9

#: The commands that write nothing.
READS = frozenset({"read", "find", "flow_text", "gates", "overdue", "count"})

#: An idle worker asks whether something is due so seldom; a run must not be filled with that.
_IDLE_S = 20.0


@dataclass(slots=True, eq=False)
class Command:
    """One command of one process, and the call on whose behalf it was sent."""

    process: Process
    action: Action | None
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
        if name in READS and fault not in {"", "slow"}:
            fault = "lost_before"
        command = Command(self._process, ACTION.get(), name, args, kwargs, fault)
        result: asyncio.Future[Any] = self._loop.create_future()
        up_s = self._weather.pause_s() / 4
        if fault == "slow":
            up_s += self._rng.uniform(0.5, _SLOW_S)
        if fault in {"lost_before", "lost_after", "late"}:
            self._loop.call_later(_DEADLINE_S, self._fail, command, result)
        if fault == "late":
            up_s = _DEADLINE_S + self._rng.uniform(0, 2)
        if fault != "lost_before":
            carry_out = self._carry_out
            if name == "lease" and not fault:
                carry_out = partial(self._when_due, self._loop.time() + _IDLE_S)
            self._loop.call_later(up_s, carry_out, command, result)
        if self._weather.strikes():
            self._process.die(f"after it sent {name} to the store")
        self._process.check()
        return result

    def _when_due(self, until_s: float, command: Command, result: asyncio.Future[Any]) -> None:
        """Carry out a lease once an order is due: idle workers must not fill a run."""
        wait_ms = min(self._store._wakes.values(), default=2**60) - self._store.now_ms()
        wait_s = min(wait_ms / 1000, _SLOW_S, until_s - self._loop.time())
        if wait_s <= 0 or not self._process.alive:
            self._carry_out(command, result)
        else:
            self._loop.call_later(wait_s, self._when_due, until_s, command, result)

    def _carry_out(self, command: Command, result: asyncio.Future[Any]) -> None:
        """Run it in the store, which is one process: no other command comes in between."""
        done, error = self._do(command)
        if command.fault == "resent":
            # The reply was lost. Its connection is broken, and the same bytes are sent again.
            again_s = self._rng.uniform(0.05, 2.5)
            self._loop.call_later(again_s, self._send_again, command, result)
        elif command.fault in {"", "slow"}:
            self._reply(result, done, error)
        if self._weather.strikes():
            self._process.die(f"when the store had carried out its {command.name}")

    def _send_again(self, command: Command, result: asyncio.Future[Any]) -> None:
        self._reply(result, *self._do(command))

    def _do(self, command: Command) -> tuple[object, Exception | None]:
        """Carry out a command once; return its result, or the error that the store raised."""
        work = getattr(self._store, command.name)(*command.args, **command.kwargs)
        try:
            done = at_once(work)
        except Exception as error:  # noqa: BLE001  whatever the store raises is the command's result
            return None, error
        self._watch(command, done)
        return done, None

    def _reply(self, result: asyncio.Future[Any], done: object, error: Exception | None) -> None:
        down_s = self._weather.pause_s() / 4
        if error is None:
            self._loop.call_later(down_s, self._answer, result, done)
        else:
            self._loop.call_later(down_s, self._raise, result, error)

    def _answer(self, result: asyncio.Future[Any], done: object) -> None:
        if not result.done() and self._process.alive:
            result.set_result(done)

    def _fail(self, command: Command, result: asyncio.Future[Any]) -> None:
        self._story.add(command.process.name, f"gives up its {command.name} ({command.fault})")
        self._raise(result, StoreUnavailable(f"simulated: {command.fault}"))

    def _raise(self, result: asyncio.Future[Any], error: Exception) -> None:
        if not result.done() and self._process.alive:
            result.set_exception(error)
