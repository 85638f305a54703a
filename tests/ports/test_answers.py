"""Answers as bytes: whole, in pieces, cut off, malformed, endless, and with something behind them.

The reader has no socket, so each position of an answer is tried.
"""

from __future__ import annotations

from typing import Final

import httpx
import pytest

from cfflow.cashfree.answers import HEAD_BYTES_MAX, HEADERS_MAX, AnswerReader

LIMIT_B: Final = 1000

HINTS: Final = b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n"

#: Answers of every framing, and what is read of them.
WHOLE: Final = {
    "length": (b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ntext", 200, b"text"),
    "empty": (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 200, b""),
    "chunked": (
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nte\r\n2;a=b\r\nxt\r\n0\r\n\r\n",
        200,
        b"text",
    ),
    "trailers": (
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\ntext\r\n0\r\nx: y\r\n\r\n",
        200,
        b"text",
    ),
    "no content": (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b""),
    "not modified": (b"HTTP/1.1 304 Not Modified\r\ncontent-length: 9\r\n\r\n", 304, b""),
    "early hints": (
        HINTS + b"HTTP/1.1 400 Bad\r\ncontent-length: 4\r\n\r\ntext",
        400,
        b"text",
    ),
    "close": (
        b"HTTP/1.1 500 Bad\r\nconnection: close\r\ncontent-length: 4\r\n\r\ntext",
        500,
        b"text",
    ),
    "http/1.0": (b"HTTP/1.0 200 OK\r\ncontent-length: 4\r\n\r\ntext", 200, b"text"),
}
#: A body of these ends with its connection.
UNTIL_CLOSE: Final = {
    "no length": b"HTTP/1.1 200 OK\r\n\r\ntext",
    "http/1.0": b"HTTP/1.0 200 OK\r\nserver: x\r\n\r\ntext",
}
CLOSED: Final = {"close", "http/1.0"}

HEAD: Final = b"HTTP/1.1 200 OK\r\n"
#: What is no answer, or could be understood in two ways.
MALFORMED: Final = {
    "another protocol": b"SSH-2.0-OpenSSH\r\n\r\n",
    "a request": b"POST / HTTP/1.1\r\n\r\n",
    "rtsp": b"RTSP/1.0 200 OK\r\ncontent-length: 0\r\n\r\n",
    "http/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "http/2 in words": b"HTTP/2.0 200 OK\r\ncontent-length: 0\r\n\r\n",
    "http/1.7": b"HTTP/1.7 200 OK\r\ncontent-length: 0\r\n\r\n",
    "an empty line first": b"\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
    "a short status": b"HTTP/1.1 20 OK\r\n\r\n",
    "a long status": b"HTTP/1.1 2000 OK\r\n\r\n",
    "status zero": b"HTTP/1.1 000 OK\r\ncontent-length: 0\r\n\r\n",
    "switching protocols": b"HTTP/1.1 101 X\r\nupgrade: h2c\r\nconnection: upgrade\r\n\r\n",
    "bare line feeds": b"HTTP/1.1 200 OK\ncontent-length: 0\n\n",
    "a bare line feed": HEAD + b"a: b\ncontent-length: 0\r\n\r\n",
    "a folded header": HEAD + b"a: b\r\n c\r\ncontent-length: 0\r\n\r\n",
    "a space before the colon": HEAD + b"content-length : 1\r\n\r\na",
    "no colon": HEAD + b"content-length\r\n\r\na",
    "no name": HEAD + b": 1\r\n\r\na",
    "a NUL in a value": HEAD + b"a: \x00\r\n\r\na",
    "a NUL in a name": HEAD + b"a\x00: b\r\n\r\na",
    "two lengths": HEAD + b"content-length: 1\r\ncontent-length: 2\r\n\r\nab",
    "length and chunks": HEAD + b"content-length: 1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks and length": HEAD + b"transfer-encoding: chunked\r\ncontent-length: 1\r\n\r\n0\r\n\r\n",
    "gzip as transfer": HEAD + b"transfer-encoding: gzip\r\n\r\n0\r\n\r\n",
    "gzip and chunks": HEAD + b"transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "chunked twice": HEAD
    + b"transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n",
    "a negative length": HEAD + b"content-length: -1\r\n\r\n",
    "a length with a sign": HEAD + b"content-length: +1\r\n\r\na",
    "no digits in a length": HEAD + b"content-length: x\r\n\r\na",
    "an endless length": HEAD + b"content-length: " + b"9" * 40 + b"\r\n\r\n",
    "a chunk without a size": HEAD + b"transfer-encoding: chunked\r\n\r\nx\r\n",
    "an endless chunk": HEAD + b"transfer-encoding: chunked\r\n\r\n" + b"f" * 30 + b"\r\n",
    "a chunk that is longer": HEAD + b"transfer-encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n",
}
#: More than an answer may have; each is met in one piece and byte by byte.
TOO_MUCH: Final = {
    "body": HEAD + b"content-length: 1001\r\n\r\n" + b"x" * 1001,
    "announced body": HEAD + b"content-length: 1001\r\n\r\n",
    "chunks": HEAD
    + b"transfer-encoding: chunked\r\n\r\n64\r\n"
    + b"x" * 100
    + b"\r\n3e8\r\n"
    + b"x" * 1000,
    "until the end": HEAD + b"\r\n" + b"x" * 1001,
    "header": HEAD + b"a: " + b"x" * HEAD_BYTES_MAX,
    "whole header": HEAD + b"a: " + b"x" * HEAD_BYTES_MAX + b"\r\n\r\n",
    "name": HEAD + b"x" * (HEAD_BYTES_MAX + 1),
    "headers": HEAD + b"a: b\r\n" * (HEADERS_MAX + 1) + b"\r\n",
    "reason": b"HTTP/1.1 200 " + b"x" * HEAD_BYTES_MAX + b"xxxxx",
    "hints": b"HTTP/1.1 103 Hint\r\n\r\n" * (HEAD_BYTES_MAX // 21 + 2),
    "trailers": HEAD + b"transfer-encoding: chunked\r\n\r\n0\r\n" + b"a: b\r\n" * 13_000,
    "chunk extension": HEAD + b"transfer-encoding: chunked\r\n\r\n1;" + b"x" * 80_000,
}


def read(*parts: bytes, to_head: bool = False) -> AnswerReader:
    """A reader that got these pieces."""
    reader = AnswerReader(LIMIT_B, to_head=to_head)
    for part in parts:
        reader.feed(part)
    return reader


@pytest.mark.parametrize("name", WHOLE)
def test_an_answer_is_the_same_however_it_is_cut(name: str) -> None:
    """In two pieces at each position, and byte by byte."""
    wire, status, body = WHOLE[name]
    cuts = [(wire[:n], wire[n:]) for n in range(1, len(wire))]
    for parts in ((wire,), *cuts, tuple(wire[n : n + 1] for n in range(len(wire)))):
        reader = read(*parts)
        assert (reader.is_complete, reader.has_more) == (True, False)
        assert (reader.status, reader.body) == (status, body)
        assert reader.keeps_alive is (name not in CLOSED)
        assert b"link" not in dict(reader.pairs)


@pytest.mark.parametrize("name", WHOLE)
def test_an_answer_that_ends_early_is_no_answer(name: str) -> None:
    """At each position: incomplete, and an error when the connection ends there."""
    wire = WHOLE[name][0]
    for n in range(len(wire)):
        reader = read(*[wire[:n]] * bool(n))
        assert not reader.is_complete
        with pytest.raises(httpx.RemoteProtocolError):
            reader.end()
        assert not reader.is_complete


@pytest.mark.parametrize("name", UNTIL_CLOSE)
def test_a_body_without_a_length_ends_with_its_connection(name: str) -> None:
    """Within the head the end is an error; behind it, it is the end. Never kept."""
    wire = UNTIL_CLOSE[name]
    body_at = wire.index(b"\r\n\r\n") + 4
    for n in range(1, len(wire) + 1):
        reader = read(wire[:n])
        assert not reader.is_complete
        if n < body_at:
            with pytest.raises(httpx.RemoteProtocolError):
                reader.end()
        else:
            reader.end()
            assert (reader.is_complete, reader.keeps_alive) == (True, False)
            assert reader.body == wire[body_at:n]


@pytest.mark.parametrize("behind", [b"x", HEAD, HEAD + b"\r\n", b"\0"])
@pytest.mark.parametrize("name", WHOLE)
def test_bytes_behind_an_answer_are_seen_and_change_nothing(name: str, behind: bytes) -> None:
    """In the same piece as its end, or in the next."""
    wire, status, body = WHOLE[name]
    for parts in ((wire + behind,), (wire, behind), (wire[:-1], wire[-1:] + behind)):
        reader = read(*parts)
        assert (reader.is_complete, reader.has_more) == (True, True)
        assert (reader.status, reader.body) == (status, body)
        assert len(reader.pairs) <= 2


def test_an_empty_line_behind_an_answer_is_not_taken_for_the_next() -> None:
    """llhttp skips it, so it may go unseen; the next answer cannot begin with one."""
    reader = read(WHOLE["length"][0] + b"\r\n")
    assert reader.body == b"text"
    with pytest.raises(httpx.RemoteProtocolError):
        read(b"\r\n" + WHOLE["length"][0])


@pytest.mark.parametrize("name", MALFORMED)
def test_what_is_malformed_is_refused(name: str) -> None:
    """In one piece and byte by byte; the error is of the other side and quotes nothing."""
    wire = MALFORMED[name]
    for parts in ((wire,), tuple(wire[n : n + 1] for n in range(len(wire)))):
        with pytest.raises(httpx.RemoteProtocolError) as caught:
            read(*parts)
        assert "OpenSSH" not in str(caught.value)


@pytest.mark.parametrize("name", TOO_MUCH)
def test_what_is_too_much_is_refused(name: str) -> None:
    """Bodies, heads, hints, trailers and framing; in one piece and in small ones."""
    wire = TOO_MUCH[name]
    for size in (len(wire), 7):
        with pytest.raises(httpx.RemoteProtocolError):
            read(*[wire[n : n + size] for n in range(0, len(wire), size)])


def test_the_limits_are_not_one_too_low() -> None:
    """An answer at each limit is read."""
    assert len(read(HEAD + b"content-length: 1000\r\n\r\n" + b"x" * 1000).body) == LIMIT_B
    headers = b"a: b\r\n" * (HEADERS_MAX - 1)
    assert len(read(HEAD + headers + b"content-length: 0\r\n\r\n").pairs) == HEADERS_MAX
    one_by_one = b"1\r\nx\r\n" * LIMIT_B + b"0\r\n\r\n"
    assert len(read(HEAD + b"transfer-encoding: chunked\r\n\r\n" + one_by_one).body) == LIMIT_B


@pytest.mark.parametrize("length", [b"content-length: 4\r\n", b"content-length: 999999\r\n", b""])
def test_the_answer_to_head_has_no_body(length: bytes) -> None:
    """It is complete with its head, and its connection is not kept: the parser waits for more."""
    reader = read(HEAD + length + b"\r\n", to_head=True)
    assert (reader.is_complete, reader.body, reader.keeps_alive) == (True, b"", False)
