"""`Connection`: one socket, which writes a request at most once and reads its answer.

The loop calls it when something happens (`asyncio.Protocol`), and the task of the call waits on
one future. So whatever comes between two calls is seen too: an end, or bytes that belong to no
request. Either ends the connection.
"""

from __future__ import annotations

import asyncio
import select
import ssl
from collections.abc import Callable
from typing import Final, NamedTuple, cast

import httpx

from cfflow.cashfree.answers import AnswerReader

__all__ = ["Connection", "TimeLimits"]


class TimeLimits(NamedTuple):
    """How long a call may take, in seconds; None for no limit.

    The first four are httpx's: the wait for a free connection, to connect, to write the request,
    and each wait for a piece of the answer. `ends_at` is the loop's time at which the call ends
    whatever it does then.
    """

    pool_s: float | None = None
    connect_s: float | None = None
    write_s: float | None = None
    read_s: float | None = None
    ends_at: float | None = None

    def at(self, now: float, limit_s: float | None) -> float | None:
        """Return when a part of the call that begins now must be over."""
        if limit_s is None:
            return self.ends_at
        return now + limit_s if self.ends_at is None else min(now + limit_s, self.ends_at)


_NO_LIMITS: Final = TimeLimits()


class Connection(asyncio.Protocol):
    """One socket to the gateway. `on_lost` is called with it once it is closed."""

    def __init__(self, on_lost: Callable[[Connection], None]) -> None:
        self.idle_since_s = 0.0
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        #: The socket's own transport, which is below that of TLS.
        self._below: asyncio.Transport | None = None
        self._has_something_to_read: Callable[[], bool] = bool
        #: The call under way; both are None between two calls.
        self._reader: AnswerReader | None = None
        self._done: asyncio.Future[None] | None = None
        self._limits = _NO_LIMITS
        self._limit_at: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        #: The other side has ended, or has sent what nobody asked for: never to be used again.
        self._is_over = False

    def is_usable(self) -> bool:
        """Whether a request may be written.

        It looks at the socket too: an end, or bytes, that came while this process did something
        else have not been given to `eof_received` or `data_received` yet.
        """
        transport = self._transport
        if self._is_over or transport is None or transport.is_closing():
            return False
        return not self._has_something_to_read()

    async def exchange(
        self, request: bytes, reader: AnswerReader, limits: TimeLimits
    ) -> AnswerReader:
        """Write a request and wait until `reader` has its answer.

        Raises `httpx.ConnectError` if the connection has ended already, with nothing written. Any
        other error leaves open whether the request arrived. After an error, a cancellation too,
        the connection is closed: the rest of the answer must not meet another request.
        """
        transport = self._transport
        if self._is_over or transport is None or transport.is_closing():
            self.abort()
            raise httpx.ConnectError("The connection ended before a request was written")
        self._reader, self._limits = reader, limits
        self._done = done = self._loop.create_future()
        try:
            transport.write(request)
            self._limit(limits.write_s if self._is_writing() else limits.read_s)
            await done
        except BaseException:
            self.abort()
            raise
        finally:
            self._reader = self._done = self._limit_at = None
        return reader

    def is_clean(self, reader: AnswerReader) -> bool:
        """Whether the next request may follow: the answer ended, and nothing is left over."""
        return (
            reader.keeps_alive
            and not reader.has_more
            # An answer to half a request: the rest of it would be read as the next one.
            and not self._is_writing()
            and not self._is_over
        )

    def _is_writing(self) -> bool:
        """Whether a part of the request has not got to the kernel yet."""
        transport, below = self._transport, self._below
        if transport is not None and transport.get_write_buffer_size():
            return True
        return below is not None and below.get_write_buffer_size() > 0

    def fail(self, error: Exception) -> None:
        """End the call under way with an error, and close the socket."""
        if self._done is not None and not self._done.done():
            self._done.set_exception(error)
        self.abort()

    def abort(self) -> None:
        """Close the socket, without a wait. What was not written yet is dropped."""
        self._is_over = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._transport is not None:
            self._transport.abort()

    # What the loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is open."""
        self._transport = transport = cast("asyncio.Transport", transport)
        # So that a request counts as written only when the kernel has all of it.
        transport.set_write_buffer_limits(high=0)
        self._has_something_to_read = _poller(transport.get_extra_info("socket").fileno())

    def tls_made(self, transport: asyncio.Transport, below: asyncio.Transport) -> None:
        """TLS is established over the socket of `below`."""
        self.connection_made(transport)
        self._below = below

    def data_received(self, data: bytes) -> None:
        """Read on; bytes that came without a request end the connection."""
        reader, done = self._reader, self._done
        if reader is None or done is None:
            self.abort()
            return
        try:
            reader.feed(data)
        except httpx.RemoteProtocolError as error:
            self.fail(error)
            return
        if reader.is_complete:
            if not done.done():
                done.set_result(None)
        elif self._limits.read_s is not None and not self._is_writing():
            self._limit(self._limits.read_s)

    def eof_received(self) -> None:
        """The other side sends no more."""
        self._is_over = True
        if self._reader is None or self._done is None:
            return
        try:
            # Anybody on the way can end a TLS connection: without a goodbye it was cut off.
            if self._has_goodbye():
                self._reader.end()
            elif not self._reader.is_complete:
                raise httpx.RemoteProtocolError("The connection was cut off within the answer")
        except httpx.RemoteProtocolError as error:
            self.fail(error)
            return
        if not self._done.done():
            self._done.set_result(None)

    def _has_goodbye(self) -> bool:
        """Whether the end is the other side's own; asyncio reports both kinds the same way."""
        tls = None if self._transport is None else self._transport.get_extra_info("ssl_object")
        try:
            return tls is None or not tls.read(1)
        except ssl.SSLError as error:
            return isinstance(error, ssl.SSLZeroReturnError)

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is closed. Over TLS this may be the first that is heard of its end."""
        if self._done is not None and not self._done.done():
            self._done.set_exception(self._lost(exc))
        self.abort()
        self._on_lost(self)

    def _lost(self, error: Exception | None) -> httpx.TransportError:
        if error is None:
            return httpx.RemoteProtocolError("The connection ended within the answer")
        kind = httpx.WriteError if isinstance(error, BrokenPipeError) else httpx.ReadError
        return kind(f"{type(error).__name__}: {error}")

    def resume_writing(self) -> None:
        """The kernel has all of the request now: the wait for the answer begins."""
        if self._done is not None:
            self._limit(self._limits.read_s)

    # The time limit. One timer serves call after call: it is set anew only when it rings.

    def _limit(self, limit_s: float | None) -> None:
        """Limit the part of the call that begins now."""
        at = self._limit_at = self._limits.at(self._loop.time(), limit_s)
        if at is not None and (self._timer is None or self._timer_at > at):
            self._set_timer(at)

    def _set_timer(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = at
        self._timer = self._loop.call_at(at, self._ring)

    def _ring(self) -> None:
        self._timer = None
        at, done = self._limit_at, self._done
        if at is None or done is None or done.done():
            return
        if self._loop.time() < at:
            self._set_timer(at)
        elif self._is_writing():
            self.fail(httpx.WriteTimeout("The request was not written in time"))
        else:
            self.fail(httpx.ReadTimeout("The answer did not come in time"))


def _poller(descriptor: int) -> Callable[[], bool]:
    """Return what asks the kernel whether a socket has bytes or its end to read."""
    if not hasattr(select, "poll"):
        # Windows. Its select has no limit on the number of a socket.
        return lambda: bool(select.select([descriptor], [], [], 0)[0])
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return lambda: bool(poll.poll(0))
