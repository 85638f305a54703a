"""Compressed answers, inflated to a limit.

cfflow asks for answers that are not compressed. One that comes all the same is read: an HTTP
library inflates it whole, and 662 bytes that were compressed twice take 300 MB.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from typing import Final

import httpx

Headers = Sequence[tuple[bytes, bytes]]

_ENCODING: Final = b"content-encoding"
_LENGTH: Final = b"content-length"

#: Whoever compresses compresses once, and a proxy before the gateway perhaps once more.
_ENCODINGS_MAX: Final = 2

#: zlib's names for the forms of its data. Some servers send deflate without zlib's own head.
_GZIP: Final = zlib.MAX_WBITS | 16
_ZLIB: Final = zlib.MAX_WBITS
_BARE: Final = -zlib.MAX_WBITS
_FORMS: Final = {"gzip": (_GZIP,), "deflate": (_ZLIB, _BARE)}


def inflated(headers: Headers, body: bytes, limit_b: int) -> tuple[Headers, bytes]:
    """Return an answer's headers and body as if it had not been compressed.

    Raises `httpx.RemoteProtocolError` for one of more than `limit_b` bytes, whichever of its
    encodings it is read from, and `httpx.DecodingError` for an encoding other than gzip and
    deflate, for too many of them, and for data that is broken, cut, or followed by more. The
    gateway has answered then and the answer is not known: its request may have had its effect.
    """
    encodings = list(_encodings(headers))
    if not encodings:
        return headers, body
    if len(encodings) > _ENCODINGS_MAX or not _FORMS.keys() >= set(encodings):
        raise httpx.DecodingError(f"An answer in the encoding {', '.join(encodings)[:60]!r}")
    dropped = {_ENCODING, _LENGTH} if body else {_ENCODING}
    # The answer to HEAD and a 204 have no body to inflate.
    for encoding in reversed(encodings) if body else ():
        body = _inflated(_FORMS[encoding], body, limit_b)
    return [pair for pair in headers if pair[0].lower() not in dropped], body


def _encodings(headers: Headers) -> Iterable[str]:
    """Yield the encodings of a body, the first that was applied first."""
    for name, value in headers:
        if name.lower() == _ENCODING:
            names = (part.strip() for part in value.decode("latin-1").lower().split(","))
            yield from (part for part in names if part not in {"", "identity"})


def _inflated(forms: Sequence[int], body: bytes, limit_b: int) -> bytes:
    """Inflate data of one of these forms."""
    for form in forms:
        data = zlib.decompressobj(form)
        try:
            found = data.decompress(body, limit_b + 1)
        except zlib.error:
            continue
        if len(found) > limit_b:
            raise httpx.RemoteProtocolError(f"Over {limit_b} bytes of answer, inflated")
        if not data.eof or data.unused_data:
            break
        return found
    raise httpx.DecodingError("The answer's compressed data is broken")
