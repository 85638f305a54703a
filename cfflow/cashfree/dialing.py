"""Opens sockets: to the gateway, or through a proxy to it. Nothing of a call is sent here."""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Sequence
from ipaddress import ip_address
from itertools import chain, zip_longest
from typing import Any, Final

import httpx

from cfflow.cashfree.proxy import Proxy

__all__ = ["open_socket"]

#: RFC 8305: after so long without a connection the next address is tried beside it.
_NEXT_ADDRESS_S: Final = 0.25
_ADDRESSES_MAX: Final = 8

#: A proxy answers CONNECT with a status and a few headers.
_PROXY_HEAD_MAX: Final = 16 * 1024

_Address = tuple[Any, ...]


async def open_socket(host: str, port: int, proxy: Proxy | None) -> socket.socket:
    """Return a connected socket; through `proxy` it leads to the host as well.

    Raises OSError, and `httpx.ConnectError` for a proxy that refuses.
    """
    if proxy is None:
        return await _connected(host, port)
    opened = await _connected(proxy.host, proxy.port)
    try:
        await _tunnel(opened, host, port, proxy)
    except BaseException:
        opened.close()
        raise
    return opened


async def _tunnel(opened: socket.socket, host: str, port: int, proxy: Proxy) -> None:
    """Ask a proxy for a tunnel, and read its answer to the last byte but not beyond."""
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(opened, proxy.connect_request(host, port))
    head = b""
    while b"\r\n\r\n" not in head:
        part = await loop.sock_recv(opened, 4096)
        head += part
        if not part or len(head) > _PROXY_HEAD_MAX:
            raise httpx.ConnectError(f"The proxy {proxy} gave no answer")
    status = head[9:12]
    if not head.startswith(b"HTTP/1.") or not status.isdigit():
        raise httpx.ConnectError(f"The proxy {proxy} does not answer as one")
    if not status.startswith(b"2"):
        raise httpx.ConnectError(f"The proxy {proxy} refused: {status.decode()}")
    if head.index(b"\r\n\r\n") + 4 < len(head):
        # Nobody was asked yet, so these bytes are no answer.
        raise httpx.ConnectError(f"The proxy {proxy} sent bytes before a request")


async def _connected(host: str, port: int) -> socket.socket:
    """Return a socket to one of the host's addresses: the first that can be connected."""
    addresses = _mixed(_literal(host, port) or await _resolved(host, port))
    if len(addresses) == 1:
        return await _connect(*addresses[0])
    return await _first_connected(addresses)


def _literal(host: str, port: int) -> list[tuple[int, _Address]]:
    """Return an address that is written out: it needs no thread to ask a name server."""
    try:
        version = ip_address(host).version
    except ValueError:
        return []
    return [(socket.AF_INET if version == 4 else socket.AF_INET6, (host, port))]


async def _resolved(host: str, port: int) -> list[tuple[int, _Address]]:
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [(family, address) for family, _, _, _, address in found]


def _mixed(found: Sequence[tuple[int, _Address]]) -> list[tuple[int, _Address]]:
    """Return the addresses, both families in turns: one without a route then costs little."""
    first = [each for each in found if each[0] == found[0][0]]
    others = [each for each in found if each[0] != found[0][0]]
    turns = chain.from_iterable(zip_longest(first, others))
    return [each for each in turns if each is not None][:_ADDRESSES_MAX]


async def _first_connected(addresses: Sequence[tuple[int, _Address]]) -> socket.socket:
    waiting, attempts = deque(addresses), set[asyncio.Task[socket.socket]]()
    error: BaseException | None = None
    try:
        while waiting or attempts:
            if waiting:
                attempts.add(asyncio.create_task(_connect(*waiting.popleft())))
            done, _ = await asyncio.wait(
                attempts,
                timeout=_NEXT_ADDRESS_S if waiting else None,
                return_when=asyncio.FIRST_COMPLETED,
            )
            for attempt in done:
                attempts.discard(attempt)
                error = attempt.exception()
                if error is None:
                    return attempt.result()
        raise error or OSError("The name has no address")
    finally:
        # One of them may have been connected too, or is about to be.
        for attempt in attempts:
            attempt.cancel()
            attempt.add_done_callback(_close)


def _close(attempt: asyncio.Task[socket.socket]) -> None:
    if not attempt.cancelled() and attempt.exception() is None:
        attempt.result().close()


async def _connect(family: int, address: _Address) -> socket.socket:
    opened = socket.socket(family, socket.SOCK_STREAM)
    try:
        opened.setblocking(False)
        # A request must not wait until the answer to something else was acknowledged.
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.get_running_loop().sock_connect(opened, address)
    except BaseException:
        opened.close()
        raise
    return opened
