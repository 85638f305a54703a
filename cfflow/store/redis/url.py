"""Redis URLs: makes clients from them, and shows them without secrets."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final, TypeVar, cast
from urllib.parse import parse_qsl, urlencode

from redis.asyncio import Redis, RedisCluster
from redis.exceptions import RedisClusterException

from cfflow.core.sealed import Sealed
from cfflow.errors import ConfigError

_C = TypeVar("_C")

Client = Redis | RedisCluster

#: Options that a URL must not change: with other values the link would misread replies, or wait
#: longer than its deadline.
_OURS: Final = frozenset(
    {
        "decode_responses",
        "encoding",
        "max_connections",
        "protocol",
        "retry_on_error",
        "retry_on_timeout",
        "socket_connect_timeout",
        "socket_timeout",
        "timeout",
    }
)

#: Options that name a file, which the connection to a TLS server needs.
_FILES: Final = frozenset({"ssl_ca_certs", "ssl_certfile", "ssl_keyfile"})
#: A host with or without a port and a database, or the path of a socket.
_PLACE: Final = re.compile(r"(\[[0-9a-fA-F:.%]+\]|[^:/@\[]+)(:\d+)?(/.*)?|/.*")
#: What a parameter is called that has a secret: `password`, `ssl_password`, a webhook's `token`.
_SECRET: Final = re.compile("passw|secret|token", re.IGNORECASE)


def client_of(kind: type[_C], url: Sealed[str], options: dict[str, Any]) -> _C:
    """Return a redis-py client of this kind. Raises `ConfigError` for an invalid URL."""
    missing = _missing_file(url)
    if missing:
        # Later it would look like a server that cannot be reached, and be tried again and again.
        raise ConfigError(f"redis_url {shown(url.reveal())}: there is no file {missing}")
    made = _made(kind, url, options)
    if made is None:
        raise ConfigError(f"redis_url {shown(url.reveal())} is not a Redis URL")
    return made


def _missing_file(url: Sealed[str]) -> str:
    """Return the file that an option of the URL names and that is not there, "" for none."""
    for name, text in parse_qsl(url.reveal().partition("?")[2]):
        if name in _FILES and not Path(text).is_file():
            return f"{text!r} ({name})"
    return ""


def _made(kind: type[_C], url: Sealed[str], options: dict[str, Any]) -> _C | None:
    """Return a client, None for an invalid URL: an error's frames would show its password."""
    base, _, query = url.reveal().partition("?")
    kept = [(name, text) for name, text in parse_qsl(query) if name not in _OURS]
    try:
        made = cast("Any", kind).from_url(f"{base}?{urlencode(kept)}" if kept else base, **options)
    except (ValueError, RedisClusterException):
        return None
    return cast("_C", made)


def has_secret(url: str) -> bool:
    """Return whether a URL has a password or a token in it.

    True also for some that only look so: a password with a slash in it stands where a path would.
    """
    rest = url.partition("://")[2]
    names = [name for name, _ in parse_qsl(rest.partition("?")[2], keep_blank_values=True)]
    return ":" in rest.rpartition("@")[0] or any(_SECRET.search(name) for name in names)


def shown(url: str) -> str:
    """Return a URL for messages, without any part that may be a password."""
    scheme, found, rest = url.partition("://")
    if not found:
        return "..."
    place = rest.partition("?")[0].rpartition("@")[2]
    return f"{scheme}://{place}" if _PLACE.fullmatch(place) else f"{scheme}://..."
