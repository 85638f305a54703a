"""Reads one answer of HTTP/1.1 out of bytes: pure, without a socket or a clock.

The parser is llhttp, the one of Node.js and uvicorn (httptools), with none of its leniencies. What
it leaves open is decided here: how large an answer may be, when one is complete that ends with
its connection, and what becomes of bytes behind it.
"""

from __future__ import annotations

from typing import Final

import httptools
import httpx

from cfflow.cashfree.sending import Pairs

__all__ = ["AnswerReader"]

#: A gateway's head has about 1 KiB; 1xx answers and trailers count too.
HEAD_BYTES_MAX: Final = 64 * 1024
HEADERS_MAX: Final = 200

#: In chunks of one byte an answer is six times as long as its body; extensions make it longer.
_WIRE_FACTOR: Final = 8

_BEGINNING: Final = b"HTTP/1."
_INTERIM: Final = 100
_FINAL: Final = 200
_SWITCHING: Final = 101
_VERSIONS: Final = frozenset({"1.0", "1.1"})


class AnswerReader:
    """Takes the bytes of one answer, in whatever pieces they come.

    `to_head`: the request was HEAD, so that its answer has no body. `body_bytes_max` limits the
    body as it comes, before it is inflated. One reader reads one answer: nothing of it can get
    into the next.
    """

    __slots__ = (
        "_body_bytes",
        "_body_bytes_max",
        "_codings",
        "_has_length",
        "_head_bytes",
        "_in_body",
        "_parser",
        "_parts",
        "_to_head",
        "_trouble",
        "_wire_bytes",
        "has_more",
        "is_complete",
        "is_encoded",
        "keeps_alive",
        "pairs",
        "status",
    )

    def __init__(self, body_bytes_max: int, *, to_head: bool = False) -> None:
        self.status = 0
        self.pairs: Pairs = []
        #: Whether the answer was read to its end.
        self.is_complete = False
        #: Whether bytes came behind it. Its connection must not be used again.
        self.has_more = False
        #: Whether the other side keeps the connection open.
        self.keeps_alive = False
        #: Whether the body is compressed.
        self.is_encoded = False
        self._body_bytes_max = body_bytes_max
        self._to_head = to_head
        self._parts: list[bytes] = []
        self._body_bytes = self._head_bytes = self._wire_bytes = 0
        self._codings: list[bytes] = []
        self._has_length = self._in_body = False
        self._trouble = ""
        self._parser = httptools.HttpResponseParser(self)

    @property
    def body(self) -> bytes:
        """The body as it came."""
        return self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)

    def feed(self, data: bytes) -> None:
        """Read further bytes; raises `httpx.RemoteProtocolError` for what is no answer."""
        if self.is_complete:
            self.has_more = True
            return
        if self._wire_bytes < len(_BEGINNING):
            self._check_beginning(data)
        self._wire_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            # Behind a whole answer anything may come: it only costs the connection.
            if not self.is_complete:
                raise httpx.RemoteProtocolError(self._trouble or _text(error)) from None
            self.has_more = True
        self._check_limits()

    def end(self) -> None:
        """The connection has ended: a body that ends with it is complete.

        Raises `httpx.RemoteProtocolError` for an answer that is cut off.
        """
        if self.is_complete:
            return
        if not self._wire_bytes:
            raise httpx.RemoteProtocolError("Server disconnected without sending a response.")
        if not self._in_body or self._has_length or self._codings:
            raise httpx.RemoteProtocolError("The connection ended within the answer")
        self.is_complete = True

    def _check_beginning(self, data: bytes) -> None:
        """Refuse what is not HTTP/1.x from its first byte.

        llhttp skips empty lines, and reads RTSP and ICE. An empty line here belongs to something
        that was sent before.
        """
        rest = _BEGINNING[self._wire_bytes :]
        if not data.startswith(rest[: len(data)]):
            raise httpx.RemoteProtocolError("The answer does not begin with HTTP/1.")

    def _check_limits(self) -> None:
        if self._trouble:
            raise httpx.RemoteProtocolError(self._trouble)
        if self.is_complete:
            return
        # The parser keeps a header to itself until it is whole.
        if not self._in_body and self._wire_bytes > HEAD_BYTES_MAX:
            raise httpx.RemoteProtocolError(f"Over {HEAD_BYTES_MAX} bytes of head")
        if self._wire_bytes > _WIRE_FACTOR * self._body_bytes_max + HEAD_BYTES_MAX:
            raise httpx.RemoteProtocolError("The answer's framing is far longer than its body")

    # What httptools calls. Bytes behind the answer get here too and change nothing.

    def on_message_begin(self) -> None:
        """The first byte of an answer; after the last one, of what must not be there."""
        self.has_more = self.is_complete

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header is whole, or a trailer."""
        if self.is_complete:
            return
        self._head_bytes += len(name) + len(value)
        if self._head_bytes > HEAD_BYTES_MAX or len(self.pairs) >= HEADERS_MAX:
            self._trouble = f"Over {HEAD_BYTES_MAX} bytes or {HEADERS_MAX} headers of head"
        elif not self._in_body:
            self.pairs.append((name, value))
            # Of most headers the length is enough to know that it is none of these.
            if len(name) in _FRAMING:
                self._read_framing(name.lower(), value)

    def _read_framing(self, name: bytes, value: bytes) -> None:
        if name == b"content-length":
            self._has_length = True
            if not self._to_head and int(value) > self._body_bytes_max:
                self._trouble = f"Over {self._body_bytes_max} bytes of answer"
        elif name == b"transfer-encoding":
            self._codings.append(value.lower())
        elif name == b"content-encoding":
            self.is_encoded = True

    def on_headers_complete(self) -> None:
        """The head is whole: of an answer, or of a 1xx before it."""
        if self.is_complete:
            return
        status = self._parser.get_status_code()
        is_known = self._parser.get_http_version() in _VERSIONS and status >= _INTERIM
        if not is_known or status == _SWITCHING:
            self._trouble = "An answer of another protocol than HTTP/1.1"
        elif self._codings and self._codings != [b"chunked"]:
            self._trouble = "A transfer encoding other than chunked"
        elif status >= _FINAL:
            self.status, self._in_body = status, True
            # httptools cannot be told of HEAD: it would wait for the body.
            self.is_complete = self._to_head

    def on_body(self, data: bytes) -> None:
        """A part of the body."""
        if self.is_complete:
            return
        self._body_bytes += len(data)
        if self._body_bytes > self._body_bytes_max:
            self._trouble = f"Over {self._body_bytes_max} bytes of answer"
        else:
            self._parts.append(data)

    def on_message_complete(self) -> None:
        """The end of an answer, or of a 1xx before it."""
        if self._in_body and not self.is_complete:
            self.keeps_alive = self._parser.should_keep_alive()
            self.is_complete = True
        elif not self._in_body:
            self.pairs.clear()
            self._codings.clear()
            self._has_length = self.is_encoded = False


#: The lengths of the names of headers that frame a body.
_FRAMING: Final = frozenset(
    map(len, (b"content-length", b"transfer-encoding", b"content-encoding"))
)


def _text(error: Exception) -> str:
    """Return llhttp's own words, which never quote the answer."""
    return f"Not an answer of HTTP/1.1: {error}"[:200]
