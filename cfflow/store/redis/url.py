"""Redis' addresses: made into clients whose behaviour they cannot change, shown without secrets."""

from __future__ import annotations

import re
from typing import Any, Final, TypeVar, cast
from urllib.parse import parse_qsl, urlencode

from redis.asyncio import Redis, RedisCluster
from redis.exceptions import RedisClusterException

from cfflow.errors import ConfigError

__all__ = ["Client", "client_of", "shown"]

_C = TypeVar("_C")

Client = Redis | RedisCluster

#: What a URL must not change: these decide whether an answer is understood, and when.
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

#: A host with or without a port and a database, or the path of a socket.
_PLACE: Final = re.compile(r"(\[[0-9a-fA-F:.%]+\]|[^:/@\[]+)(:\d+)?(/.*)?|/.*")


def client_of(kind: type[_C], url: str, options: dict[str, Any]) -> _C:
    """Return a redis-py client of this kind; raises `ConfigError` for what is no URL."""
    base, _, query = url.partition("?")
    kept = [(name, text) for name, text in parse_qsl(query) if name not in _OURS]
    try:
        made = cast("Any", kind).from_url(f"{base}?{urlencode(kept)}" if kept else base, **options)
    except (ValueError, RedisClusterException):
        # The reason repeats parts of the URL, and with them, it may be, the password.
        raise ConfigError(f"redis_url {shown(url)} is no URL of a Redis") from None
    return cast("_C", made)


def shown(url: str) -> str:
    """Return a URL without what may be a password, for messages."""
    scheme, found, rest = url.partition("://")
    if not found:
        return "..."
    place = rest.partition("?")[0].rpartition("@")[2]
    return f"{scheme}://{place}" if _PLACE.fullmatch(place) else f"{scheme}://..."
