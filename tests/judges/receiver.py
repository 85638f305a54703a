"""A webhook's receiver on a socket, which keeps what comes and answers 200."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from queue import SimpleQueue
from threading import Thread
from typing import Any, NamedTuple


class Received(NamedTuple):
    """One webhook: its headers by their names in small letters, and its raw body."""

    headers: dict[str, str]
    body: bytes


class Receiver(HTTPServer):
    """Keeps what comes: `next()` waits for it."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.kept: SimpleQueue[Received] = SimpleQueue()
        self.url = f"http://127.0.0.1:{self.server_port}/hook"

    def next(self) -> Received:
        """The next webhook; it comes within ten seconds."""
        return self.kept.get(timeout=10)


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        """Keep it."""
        headers = {name.lower(): value for name, value in self.headers.items()}
        body = self.rfile.read(int(headers["content-length"]))
        self.server.kept.put(Received(headers, body))
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the base class's name
        """Stay silent."""


@contextmanager
def receiving() -> Iterator[Receiver]:
    """A receiver in a thread of its own."""
    with Receiver() as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
