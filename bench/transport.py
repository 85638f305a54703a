"""Measures ways to send a request: `python -m bench.transport`.

`httpx` is its client on its own transport; `cfflow, httpx` the same client on ours; `cfflow` is
ours as the gateway client uses it; `aiohttp` its session with retries off, bare; `pyreqwest` is
left out where it is not installed.

A server in a process of its own answers every POST with 400 bytes of JSON over loopback. They take
turns within each round, so a slow moment of the machine meets all of them, and the medians over
the rounds are printed. CPU is that of the client's process. Time and count are bounded: a run ends
after `--seconds`, or with its `REQUESTS_MAX`th request.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import timedelta
from importlib.util import find_spec
from typing import Any, NamedTuple

import aiohttp
import httpx
from httpx_aiohttp import AiohttpTransport

from cfflow.cashfree.sending import GatewayRequest
from cfflow.cashfree.transport import GatewaySockets, GatewayTransport
from cfflow.core.observation import Call

CONCURRENCIES = (1, 16, 64)
REQUESTS_MAX = 50_000
ANSWER = b'{"cf_payment_id":"1","filler":"' + b"x" * 367 + b'"}'

CONNECTIONS_MAX = 100
BODY = b'{"amount":1}'

#: Sends one POST and returns the body of its answer.
Post = Callable[[], Awaitable[bytes]]
Contender = Callable[[str], AbstractAsyncContextManager[Post]]


@asynccontextmanager
async def _over_httpx(transport: httpx.AsyncBaseTransport, url: str) -> AsyncIterator[Post]:
    async with httpx.AsyncClient(transport=transport, base_url=url, timeout=30) as client:

        async def post() -> bytes:
            return (await client.post("/pay", content=BODY)).content

        yield post


@asynccontextmanager
async def _cfflow(url: str) -> AsyncIterator[Post]:
    sockets = GatewaySockets(url, max_connections=CONNECTIONS_MAX)
    headers = {"user-agent": "cfflow", "accept": "application/json"}

    async def post() -> bytes:
        request = GatewayRequest(
            Call.PAY,
            verb="POST",
            origin=url,
            target="/pay",
            headers=headers,
            body=BODY,
            limit_s=30.0,
        )
        return (await sockets.send(request)).body

    yield post
    await sockets.aclose()


@asynccontextmanager
async def _aiohttp(url: str) -> AsyncIterator[Post]:
    connector = aiohttp.TCPConnector(limit=CONNECTIONS_MAX)
    limit = aiohttp.ClientTimeout(total=30)
    async with aiohttp.ClientSession(connector=connector, timeout=limit) as session:
        session._retry_connection = False  # noqa: SLF001  it has no public switch

        async def post() -> bytes:
            async with session.post(f"{url}/pay", data=BODY) as response:
                return await response.read()

        yield post


@asynccontextmanager
async def _pyreqwest(url: str) -> AsyncIterator[Post]:
    from pyreqwest.client import ClientBuilder

    builder = ClientBuilder().no_proxy().timeout(timedelta(seconds=30)).follow_redirects(False)
    async with builder.max_connections(CONNECTIONS_MAX).build() as client:

        async def post() -> bytes:
            response = await client.post(f"{url}/pay").body_bytes(BODY).build().send()
            return bytes(await response.bytes())

        yield post


# Each with at most 100 connections; httpx keeps its own default of 20 idle ones, which suits
# it better than 100.
CONTENDERS: dict[str, Contender] = {
    "httpx": lambda url: _over_httpx(httpx.AsyncHTTPTransport(), url),
    "cfflow, httpx": lambda url: _over_httpx(
        GatewayTransport(url, max_connections=CONNECTIONS_MAX), url
    ),
    "cfflow": _cfflow,
    "httpx-aiohttp": lambda url: _over_httpx(AiohttpTransport(), url),
    "aiohttp": _aiohttp,
}
if find_spec("pyreqwest") is not None:
    CONTENDERS["pyreqwest"] = _pyreqwest


class Run(NamedTuple):
    """What one transport did at one concurrency in one round."""

    requests_per_s: float
    p50_ms: float
    p99_ms: float
    cpu_us: float


async def answer(
    scope: dict[str, Any],
    receive: Callable[[], Awaitable[dict[str, Any]]],
    send: Callable[[dict[str, Any]], Awaitable[None]],
) -> None:
    """The server: reads the request, answers it, keeps the connection."""
    if scope["type"] != "http":
        return
    while (await receive()).get("more_body"):
        pass
    headers = [(b"content-type", b"application/json"), (b"content-length", b"400")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": ANSWER})


async def measure(contender: Contender, url: str, concurrency: int, seconds: float) -> Run:
    """Keep `concurrency` requests under way for `seconds`, after a short warm-up."""
    async with contender(url) as post:
        await load(post, concurrency, seconds / 5)
        cpu_s, began_s = time.process_time(), time.perf_counter()
        latencies_s = sorted(await load(post, concurrency, seconds))
        cpu_s, took_s = time.process_time() - cpu_s, time.perf_counter() - began_s
    count = len(latencies_s)
    return Run(
        count / took_s,
        latencies_s[count // 2] * 1e3,
        latencies_s[count * 99 // 100] * 1e3,
        cpu_s / count * 1e6,
    )


async def load(post: Post, concurrency: int, seconds: float) -> list[float]:
    """Return the latency of each request, in seconds."""
    latencies_s: list[float] = []
    ends_s = time.perf_counter() + seconds

    async def one_after_the_other() -> None:
        while (began_s := time.perf_counter()) < ends_s and len(latencies_s) < REQUESTS_MAX:
            if len(await post()) != len(ANSWER):
                raise RuntimeError("The server's answer was cut")
            latencies_s.append(time.perf_counter() - began_s)

    await asyncio.gather(*(one_after_the_other() for _ in range(concurrency)))
    return latencies_s


@contextlib.contextmanager
def serving() -> Any:
    """Run the server on a free port of the loopback interface; yield its URL."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "uvicorn", "bench.transport:answer", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--log-level", "error", "--no-access-log"]
    command += ["--loop", "uvloop", "--http", "httptools", "--lifespan", "off"]
    server = subprocess.Popen(command)
    try:
        for _ in range(600):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(10)


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.transport")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.5, help="of each measured run")
    parser.add_argument("--uvloop", action="store_true", help="run the client on uvloop")
    options = parser.parse_args()
    factory: Callable[[], asyncio.AbstractEventLoop] | None = None
    if options.uvloop:
        import uvloop

        factory = uvloop.new_event_loop

    runs: dict[tuple[int, str], list[Run]] = {}
    with serving() as url:
        for _ in range(options.rounds):
            for concurrency in CONCURRENCIES:
                for name, contender in CONTENDERS.items():
                    with asyncio.Runner(loop_factory=factory) as runner:
                        run = runner.run(measure(contender, url, concurrency, options.seconds))
                    runs.setdefault((concurrency, name), []).append(run)

    loop = "uvloop" if options.uvloop else "asyncio"
    version = ".".join(map(str, sys.version_info[:3]))
    print(f"Python {version}, {loop}, {os.cpu_count()} cores, httpx {httpx.__version__}; ", end="")
    print(f"medians of {options.rounds} rounds of {options.seconds} s")
    print(f"{'at once':>7}  {'transport':<14}{'requests/s':>11}{'x httpx':>9}", end="")
    print(f"{'p50 ms':>9}{'p99 ms':>9}{'CPU us':>9}")
    stock = 1.0
    for (concurrency, name), repeated in runs.items():
        median = Run(*(statistics.median(values) for values in zip(*repeated, strict=True)))
        if name == "httpx":
            stock = median.requests_per_s
        print(f"{concurrency:>7}  {name:<14}{median.requests_per_s:>11,.0f}", end="")
        print(f"{median.requests_per_s / stock:>9.2f}{median.p50_ms:>9.2f}", end="")
        print(f"{median.p99_ms:>9.2f}{median.cpu_us:>9.0f}")


if __name__ == "__main__":
    main()
