"""`SharedConnection`: one connection to a Redis server that all callers of a process share.

What is asked within one turn of the loop is written at once, and replies come in the order of the
commands. So many callers pay for one system call, where each would pay for its own with a
connection of its own. A caller that gives up does not end it: its reply is read and dropped.

Nothing that blocks its connection may be asked here (WAIT), and nothing whose reply is long: the
replies of others wait behind it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, cast

import hiredis
from redis.asyncio.connection import AbstractConnection as Connection
from redis.exceptions import (
    ConnectionError,  # noqa: A004  redis-py's own name
    TimeoutError,  # noqa: A004  redis-py's own name
)

__all__ = ["Command", "SharedConnection"]

Command = tuple[Any, ...]

#: What hiredis returns while a reply is not complete; no reply is ever this.
_INCOMPLETE: Final = object()


class SharedConnection:
    """Opens a connection with the first command, and another one when that has ended.

    `make` returns a connection that is not open yet. `deadline_s`: how long a caller waits for a
    reply. If the server has said nothing at all for half of it then, the connection is closed.
    """

    def __init__(self, make: Callable[[], Connection], deadline_s: float) -> None:
        self._make = make
        self._deadline_s = deadline_s
        self._line: _Line | None = None
        #: Those that still owe a reply, the present one among them.
        self._lines: set[_Line] = set()

    def ask(self, command: Command) -> asyncio.Future[Any]:
        """Send a command; return a future of its reply. An error is its result, not raised.

        A connection that ends is the error of every command that it leaves without a reply: the
        server may have run it.
        """
        line = self._line
        if line is None or not line.is_open:
            line = self._line = _Line(self._make(), self._deadline_s, self._lines)
        return line.ask(command)

    async def replies(self, commands: Sequence[Command]) -> list[Any]:
        """Return the replies to several commands, an error in the place of its reply."""
        waiting = [self.ask(command) for command in commands]
        return [await reply for reply in waiting]

    def retire(self, opened_before_s: float) -> None:
        """Use no connection any more that was opened before this time of the loop's clock.

        It leads to a server that is no primary now. What was asked there gets its replies.
        """
        line = self._line
        if line is not None and line.opened_at_s < opened_before_s:
            line.retire()
            self._line = None

    async def aclose(self) -> None:
        """Close the connections; whatever waits for a reply gets an error."""
        lines = [*self._lines]
        for line in lines:
            line.end(ConnectionError("the connection was closed"))
        await asyncio.gather(*(line.opening for line in lines), return_exceptions=True)


class _Line(asyncio.Protocol):
    """One connection from its beginning to its end.

    redis-py opens it (TLS, login, database). From then on its transport calls this protocol: a
    reply costs one call, where redis-py's stream reader would wake a task first.
    """

    def __init__(self, connection: Connection, deadline_s: float, lines: set[_Line]) -> None:
        self._deadline_s: Final = deadline_s
        self._loop: Final = asyncio.get_running_loop()
        self._connection: Final = connection
        self._transport: asyncio.Transport | None = None
        self._replies: Final = hiredis.Reader(
            replyError=_parser_of(connection), notEnoughData=_INCOMPLETE
        )
        self._unsent: list[bytes] = []
        self._will_write = False
        #: What gets each reply, in order, and when it was asked for.
        self._asked: deque[tuple[asyncio.Future[Any], float]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        #: Since when the server owes a reply, or the last one came.
        self._owes_since_s = 0.0
        self._is_retired = False
        self._lines: Final = lines
        self.opened_at_s: Final = self._loop.time()
        self.is_open = True
        lines.add(self)
        self.opening: Final = asyncio.create_task(self._open())

    def ask(self, command: Command) -> asyncio.Future[Any]:
        """Write a command with all others of this turn of the loop; return what gets its reply."""
        now_s = self._loop.time()
        if not self._asked:
            self._owes_since_s = now_s
        if self._timer is None:
            self._timer = self._loop.call_at(now_s + self._deadline_s, self._ring)
        self._unsent.append(hiredis.pack_command(command))
        reply: asyncio.Future[Any] = self._loop.create_future()
        self._asked.append((reply, now_s))
        if not self._will_write and self._transport is not None:
            self._will_write = True
            self._loop.call_soon(self._write)
        return reply

    def _ring(self) -> None:
        """Give whoever has waited too long an error; one timer serves call after call."""
        self._timer, now_s = None, self._loop.time()
        for reply, asked_at_s in self._asked:
            if asked_at_s + self._deadline_s > now_s:
                self._timer = self._loop.call_at(asked_at_s + self._deadline_s, self._ring)
                break
            # It stays in its place: its reply may still come.
            if not reply.done():
                reply.set_result(TimeoutError("no reply in time"))
        if self._asked and now_s - self._owes_since_s > self._deadline_s / 2:
            self.end(ConnectionError("the server says nothing"))

    def retire(self) -> None:
        """Take no more commands, and end once every reply has come."""
        self._is_retired, self.is_open = True, False
        if not self._asked:
            self.end(ConnectionError("the connection was retired"))

    def end(self, error: Exception) -> None:
        """Close the connection: all that wait for a reply get this error as theirs."""
        self.is_open = False
        self._lines.discard(self)
        self.opening.cancel()
        if self._timer is not None:
            self._timer.cancel()
        asked, self._asked = self._asked, deque()
        for reply, _ in asked:
            if not reply.done():
                reply.set_result(error)
        if self._transport is not None:
            self._transport.abort()
            _let_go(self._connection)

    async def _open(self) -> None:
        try:
            await cast("Any", self._connection).connect()
        except Exception as problem:  # noqa: BLE001  every caller must get it
            self.end(problem)
            return
        self._transport = _transport_of(self._connection)
        if self._transport is None:
            self.end(ConnectionError("the connection ended at once"))
            return
        self._transport.set_protocol(self)
        self._write()

    def _write(self) -> None:
        self._will_write = False
        unsent, self._unsent = self._unsent, []
        if self._transport is not None and unsent:
            self._transport.write(b"".join(unsent))

    def data_received(self, data: bytes) -> None:
        """Give each reply to whoever asked first."""
        self._replies.feed(data)
        try:
            while (reply := self._replies.gets()) is not _INCOMPLETE:
                waiter, _ = self._asked.popleft()
                if not waiter.done():
                    waiter.set_result(reply)
        except (hiredis.HiredisError, IndexError) as problem:
            # No Redis, or a reply to nothing that was asked: the next one could be another's.
            self.end(ConnectionError(f"the server sent what is no reply: {problem}"))
            return
        self._owes_since_s = self._loop.time()
        if self._is_retired and not self._asked:
            self.end(ConnectionError("the connection was retired"))

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended; what was asked may have arrived."""
        self.end(ConnectionError(f"the connection ended: {exc or 'by the server'}"))


# redis-py has no public way to these. What it opens is an asyncio stream, also over TLS.


def _parser_of(connection: Any) -> Callable[[str], Exception]:
    """Return what makes redis-py's exception of an error reply."""
    return cast("Callable[[str], Exception]", connection._parser.parse_error)  # noqa: SLF001  no public way


def _transport_of(connection: Any) -> asyncio.Transport | None:
    """Return the transport of an open connection, None if it has ended already."""
    transport: asyncio.Transport = connection._writer.transport  # noqa: SLF001  no public way
    has_ended = connection._reader.at_eof() or transport.is_closing()  # noqa: SLF001  no public way
    return None if has_ended else transport


def _let_go(connection: Any) -> None:
    """Note that a connection is closed: redis-py would warn of it."""
    connection._reader = connection._writer = None  # noqa: SLF001  no public way
