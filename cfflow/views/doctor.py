"""What `cfflow doctor` examines: extras, the store, the gateway, and what could be lost."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Mapping
from typing import Literal

import msgspec

from cfflow.cashfree.gateway import Gateway
from cfflow.errors import GatewayAuthError, GatewayRejected
from cfflow.limits.budget import limits_of
from cfflow.store.redis.store import RedisStore
from cfflow.store.redis.url import shown
from cfflow.views.status import Status, status_of

_CLOCK_OFF_MS = 2_000

_BLIND = (
    "this user may not run the command INFO: cfflow cannot see a restart that lost commits, nor"
    " whether this server evicts keys; permit it (ACL SETUSER <user> +info)"
)

#: The error codes of a wrong address: the gateway's own, and "" from a server that is no gateway.
_BAD_ADDRESS = frozenset({"", "request_failed"})


class Finding(msgspec.Struct, frozen=True):
    """One thing that was examined: `good`, worth a `note`, or `bad`."""

    verdict: Literal["good", "note", "bad"]
    subject: str
    detail: str


def missing_extras() -> list[Finding]:
    """Return a note for each package that would make cfflow faster and is not installed."""
    wanted = {
        "hiredis": "faster Redis replies: pip install 'cfflow[fast]'",
        "uvloop": "a faster event loop: pip install 'cfflow[fast]'",
    }
    return [
        Finding("note", name, f"not installed; {gain}")
        for name, gain in wanted.items()
        if importlib.util.find_spec(name) is None
    ]


async def examine_store(store: RedisStore) -> list[Finding]:
    """Connect to a store, return the findings about it, and close it.

    Raises `CfflowError` when it cannot be used.
    """
    await store.open()
    try:
        about = await store.link.about()
        clock = _clock(store.now_ms())
        condition = _condition(await status_of(store))
    finally:
        await store.aclose()
    name = f"Valkey {about['valkey_version']}" if "valkey_version" in about else "Redis"
    version = "" if "valkey_version" in about else f" {about.get('redis_version', '')}"
    kind = "cluster" if store.link.is_cluster else "one server"
    place = f"{name}{version}, {kind}, at {shown(store.link.url)}"
    found = [Finding("good", "store", place), clock, *condition]
    if "run_id" not in about:
        return [*found, Finding("note", "restarts", _BLIND)]
    return [*found, *_memory(about), *_durability(about)]


def _condition(status: Status) -> list[Finding]:
    """Return what people must know of the store: closed gates, orders that cannot be read."""
    found = [
        Finding("note", "paused", f"{gate}, by {by.actor} at {by.at:%Y-%m-%d %H:%M} UTC: {by.note}")
        for gate, by in status.paused.items()
    ]
    if status.unreadable:
        names = ", ".join(status.unreadable[:8])
        detail = f"{len(status.unreadable)} names cannot be read and were set aside: {names}"
        found.append(Finding("bad", "unreadable", detail))
    return found


def _memory(about: Mapping[str, object]) -> list[Finding]:
    """Return a note if the server would evict keys once it had a memory limit.

    One that has both is not examined here: connecting to it raises `ConfigError`.
    """
    policy = about.get("maxmemory_policy", "noeviction")
    if policy == "noeviction":
        return []
    detail = f"{policy} drops payments once maxmemory is set: set maxmemory-policy noeviction"
    return [Finding("note", "memory", detail)]


def _durability(about: Mapping[str, object]) -> list[Finding]:
    """Return which commits this server loses when it dies or fails over."""
    if not about.get("aof_enabled"):
        return [
            Finding(
                "bad",
                "durability",
                "no append-only file: a restart loses every payment since the last snapshot;"
                " set appendonly yes",
            )
        ]
    findings = [
        Finding(
            "note",
            "durability",
            "append-only file is on; with appendfsync everysec a power cut loses up to a second"
            " of commits, with always none",
        )
    ]
    replicas = int(str(about.get("connected_slaves", 0)))
    if replicas:
        findings.append(
            Finding(
                "note",
                "replicas",
                f"{replicas}; a failover loses the commits that they have not received",
            )
        )
    return findings


def _clock(server_at_ms: int) -> Finding:
    off_ms = abs(server_at_ms - round(time.time() * 1000))
    if off_ms > _CLOCK_OFF_MS:
        detail = f"this clock and the store's are {off_ms} ms apart; cfflow uses the store's"
        return Finding("note", "clock", detail)
    return Finding("good", "clock", f"within {off_ms} ms of the store's")


async def examine_gateway(gateway: Gateway) -> Finding:
    """Return whether the gateway accepts the credentials; closes the client.

    Asks for an order that does not exist: 404 proves the credentials, 401 refutes them. Raises
    `CfflowError` when there is no answer.
    """
    try:
        await gateway.fetch_order("cfflow_doctor_asks")
    except GatewayAuthError as error:
        return Finding("bad", "gateway", f"the credentials are refused ({error.status})")
    except GatewayRejected as error:
        if error.code in _BAD_ADDRESS:
            detail = f"{gateway.base_url} does not answer as Cashfree does: {error}"
            return Finding("bad", "gateway", detail)
    finally:
        await gateway.aclose()
    return Finding("good", "gateway", f"{gateway.base_url} accepts the credentials")


def kept_limits(environment: str) -> Finding:
    """Return the rate limits that cfflow keeps unless `connect` or the gateway names others."""
    limits = limits_of(environment).items()
    numbers = ", ".join(f"{call} {limit}" for call, limit in limits if limit is not None)
    return Finding("good", "limits", f"calls a minute: {numbers or 'what the gateway names'}")
