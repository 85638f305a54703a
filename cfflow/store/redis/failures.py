"""What errors of Redis mean: whether to try again, what a person must change, and how to say it."""

from __future__ import annotations

import re
import ssl
from typing import Final

from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    ClusterError,
    ConnectionError,  # noqa: A004  redis-py's own name
    MasterDownError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisClusterException,
    ResponseError,
    TimeoutError,  # noqa: A004  redis-py's own name
    TryAgainError,
)

from cfflow.store.redis.url import shown

__all__ = [
    "REFUSALS",
    "TEMPORARY",
    "is_no_right",
    "is_temporary",
    "not_permitted",
    "refusal_word",
    "tls_problem",
]

#: Errors that may be over in a moment: a restart, a failover, a broken connection.
TEMPORARY: Final = (
    ConnectionError,
    TimeoutError,
    BusyLoadingError,
    # The cluster is down, or its nodes disagree who has a slot; redis-py follows that only so far.
    ClusterError,
    MasterDownError,
    TryAgainError,
    RedisClusterException,
    OSError,
)
#: A server that ends in the middle of a TLS connection: it may be back in a moment.
_CUT: Final = (ssl.SSLEOFError, ssl.SSLZeroReturnError)
#: OpenSSL's numbers for a certificate whose issuer is not among the trusted authorities.
_UNKNOWN_ISSUER: Final = frozenset({18, 19, 20, 21})
_OWN_AUTHORITY: Final = "; if it is the right one, name its authority: ?ssl_ca_certs=FILE"
#: Words with which a server refuses a command that it would accept at another time. Redis 6.2
#: wraps them into the script's error, so they are searched for in the whole text.
REFUSALS: Final = {
    "READONLY": "is read-only: a replica, or a failover under way",
    "OOM": "is out of memory and refuses writes",
    "BUSY": "is busy with another client's script",
    "MISCONF": "cannot write to its disk and refuses writes",
    "NOREPLICAS": "has too few replicas and refuses writes",
}
_REFUSED: Final = re.compile(rf"\b({'|'.join(REFUSALS)})\b")

#: What a server replies to a user who may not do something; inside a script it is an `ERR`.
_NO_RIGHT: Final = re.compile(
    r"NOPERM|no permissions|ACL failure in script|The user executing the script can't",
    re.IGNORECASE,
)

#: Where a person reads which rights cfflow needs.
_RIGHTS_PAGE: Final = "docs/guides/redis-user.md"


def is_temporary(error: Exception) -> bool:
    """Return whether the same command may succeed in a moment."""
    if isinstance(error, AuthenticationError) or tls_problem(error):
        return False
    return isinstance(error, TEMPORARY) or refusal_word(error) in {"READONLY", "BUSY"}


def is_no_right(error: Exception) -> bool:
    """Return whether the user of Redis lacks a right."""
    return isinstance(error, NoPermissionError) or bool(_NO_RIGHT.search(str(error)))


def not_permitted(url: str, commands: str, error: Exception | None = None) -> str:
    """Return the text for a user of Redis who may not run commands, or reach their keys."""
    what = f"to run {commands}" if commands else "this"
    reply = f" ({str(error)[:160]})" if error else ""
    return (
        f"the Redis at {shown(url)} does not permit its user {what}{reply};"
        f" {_RIGHTS_PAGE} has the ACL line that cfflow needs"
    )


def tls_problem(error: Exception) -> str | None:
    """Return why no TLS connection can be made until a person acts; None for any other error.

    redis-py hides the cause behind an error of its own, and a certificate stays refused however
    often the connection is tried.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            advice = _OWN_AUTHORITY if cause.verify_code in _UNKNOWN_ISSUER else ""
            return f"its certificate is refused: {cause.verify_message}{advice}"
        if isinstance(cause, ssl.SSLError) and not isinstance(cause, _CUT):
            return f"TLS fails: {cause.reason or cause}"
        cause = cause.__cause__ or cause.__context__
    return None


def refusal_word(error: Exception) -> str | None:
    """Return the word of a temporary refusal, None for another error; redis-py drops some words."""
    if isinstance(error, ReadOnlyError):
        return "READONLY"
    if isinstance(error, OutOfMemoryError):
        return "OOM"
    found = _REFUSED.search(str(error)) if isinstance(error, ResponseError) else None
    return found[0] if found else None
