"""Processes that end as by SIGKILL: after that nothing that their tasks do has any effect."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextvars import ContextVar, copy_context
from dataclasses import dataclass, field
from typing import Any, TypeVar

from tests.sim.loop import VirtualLoop
from tests.sim.story import Story

_T = TypeVar("_T")

#: The process that runs the current task.
OWNER: ContextVar[Process | None] = ContextVar("OWNER", default=None)


class Died(BaseException):
    """The process is dead: every call that its tasks still try raises this."""


#: The name of a worker's actions, which no merchant's call began.
WORKER = "worker"

#: How the names of processes begin that serve no merchant's calls.
WORKERS = ("worker", "rescue")


@dataclass(slots=True, eq=False)
class Action:
    """One call on an orchestrator, and the steps that it sent."""

    number: int
    name: str
    about: str
    sent: list[Any] = field(default_factory=list)


#: The call on whose behalf the current task runs.
ACTION: ContextVar[Action | None] = ContextVar("ACTION", default=None)


class Process:
    """A group of tasks that end together; `skew_ms` is how far its clock is wrong."""

    def __init__(self, name: str, loop: VirtualLoop, story: Story, skew_ms: int = 0) -> None:
        self.name = name
        self.alive = True
        self.skew_ms = skew_ms
        self._loop = loop
        self._story = story
        # A dict, not a set: the order of tasks must not depend on their addresses in memory.
        self._tasks: dict[asyncio.Task[Any], None] = {}
        self._over = asyncio.Event()

    def run(self, work: Coroutine[Any, Any, _T]) -> asyncio.Task[_T]:
        """Start a task of this process; the tasks that it starts belong to it too."""
        context = copy_context()
        context.run(OWNER.set, self)
        return context.run(self._loop.create_task, work)

    def adopt(self, task: asyncio.Task[Any]) -> None:
        """Take a task that was started inside; a task of a dead process never begins."""
        self._tasks[task] = None
        task.add_done_callback(self._forget)
        if not self.alive:
            task.cancel()

    def die(self, where: str) -> None:
        """Kill it. Store and network refuse the calls of its tasks while they are cancelled."""
        if self.alive:
            self.alive = False
            self._over.set()
            self._story.add(self.name, f"KILLED {where}")
            for task in list(self._tasks):
                task.cancel()

    def check(self) -> None:
        """Raise `Died` in a dead process."""
        if not self.alive:
            raise Died(self.name)

    async def wait(self, outcome: asyncio.Future[_T]) -> _T:
        """Wait for a result from outside; a dead process never gets it."""
        self.check()
        result = await outcome
        self.check()
        return result

    async def ended(self) -> None:
        """Wait until it is dead or has nothing left to do."""
        await self._over.wait()

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._tasks.pop(task, None)
        if not self._tasks:
            self._over.set()
        if task.cancelled():
            return
        error = task.exception()
        if error is not None and not isinstance(error, Died):
            self._loop.on_error(f"a task of {self.name} ended in {error!r}")


def adopt(task: asyncio.Task[Any]) -> None:
    """Give a new task to the process whose task started it."""
    owner = OWNER.get()
    if owner is not None:
        owner.adopt(task)
