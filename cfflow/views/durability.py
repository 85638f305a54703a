"""What a server can lose: commits at a power cut, and at a failover."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from cfflow.views.finding import Finding

#: A replica reports each second. One that is silent for longer has stopped, or is cut off.
_SILENT_S: Final = 5

#: What each `appendfsync` loses when the machine loses its power, or is killed, in an order in
#: which the best one comes first.
_LOSSES: Final = {
    "always": Finding(
        "good",
        "durability",
        "appendfsync always: a power cut or a kill loses nothing that was acknowledged",
    ),
    "everysec": Finding(
        "note",
        "durability",
        "appendfsync everysec: a power cut or a kill loses the commits of the last one to two"
        " seconds; with always it loses none",
    ),
    "no": Finding(
        "note",
        "durability",
        "appendfsync no: a power cut or a kill loses everything since the system last flushed its"
        " files, which is up to 30 seconds of commits and more; set appendfsync always",
    ),
}
_NO_FILE: Final = Finding(
    "bad",
    "durability",
    "no append-only file: a restart loses every payment since the last snapshot;"
    " set appendonly yes",
)
_UNKNOWN: Final = Finding(
    "note",
    "durability",
    "append-only file is on, and this user may not read appendfsync (ACL SETUSER <user>"
    " +config|get). At a power cut or a kill, no loses up to 30 seconds of commits and more,"
    " everysec one to two seconds, always nothing that was acknowledged",
)


def durability(about: Mapping[str, object], *, min_replicas: int = 0) -> list[Finding]:
    """Return which commits a server loses when it dies or fails over, from its INFO.

    `min_replicas`: so many replicas must have a step before it is sent.
    """
    return [_file(about), *_replicas(about, min_replicas)]


def _file(about: Mapping[str, object]) -> Finding:
    if not about.get("aof_enabled"):
        return _NO_FILE
    return _LOSSES.get(str(about.get("appendfsync")), _UNKNOWN)


def _replicas(about: Mapping[str, object], min_replicas: int) -> Iterator[Finding]:
    """Yield what the replicas are worth: each that is behind, and whether enough are not."""
    listed = [
        each
        for name, each in about.items()
        if name.startswith("slave") and name[5:].isdigit() and isinstance(each, Mapping)
    ]
    behind = [each for each in listed if not _keeps_up(each)]
    for each in behind:
        yield Finding("bad", "replicas", _behind(each))
    sound = len(listed) - len(behind)
    if sound < min_replicas:
        detail = (
            f"{sound} keep up, and min_replicas is {min_replicas}: every step raises"
            " StoreUnavailable and nothing is sent until more do"
        )
        yield Finding("bad", "replicas", detail)
    elif sound:
        detail = f"{sound}; a failover loses the commits that they have not received"
        yield Finding("note", "replicas", detail)


def _keeps_up(replica: Mapping[str, object]) -> bool:
    silent_s = replica.get("lag", 0)
    return replica.get("state") == "online" and isinstance(silent_s, int) and silent_s <= _SILENT_S


def _behind(replica: Mapping[str, object]) -> str:
    place = f"{replica.get('ip')}:{replica.get('port')}"
    state, lag = replica.get("state"), replica.get("lag")
    return (
        f"{place} is {state} and was last heard {lag} s ago: it has stopped, is cut off or still"
        " loads; a failover to it loses every commit since"
    )
