"""What `cfflow doctor` examines: extras, the store, the gateway, and what could be lost."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Mapping

from cfflow.cashfree.gateway import Gateway
from cfflow.errors import GatewayAuthError, GatewayRejected
from cfflow.limits.budget import limits_of
from cfflow.store.redis.store import RedisStore
from cfflow.store.redis.url import shown
from cfflow.views.durability import durability
from cfflow.views.finding import Finding
from cfflow.views.health import status_of
from cfflow.views.status import Status

_CLOCK_OFF_MS = 2_000

_BLIND = (
    "this user may not run the command INFO: cfflow cannot see a restart that lost commits, nor"
    " whether this server evicts keys; permit it (ACL SETUSER <user> +info)"
)

#: The error codes of a wrong address: the gateway's own, and "" from a server that is no gateway.
_BAD_ADDRESS = frozenset({"", "request_failed"})


def missing_extras() -> list[Finding]:
    """Return a note for each package that would make cfflow faster and is not installed."""
    if importlib.util.find_spec("uvloop") is not None:
        return []
    text = "not installed; a faster event loop: pip install 'cfflow[fast]'"
    return [Finding("note", "uvloop", text)]


async def examine_store(store: RedisStore) -> list[Finding]:
    """Connect to a store, return the findings about it, and close it. Nothing is written.

    The store must have been made with `read_only`. Raises `CfflowError` when it cannot be used.
    """
    await store.open()
    try:
        servers = await store.link.about()
        clock = _clock(store.now_ms())
        condition = _condition(await status_of(store, store.signs()))
    finally:
        await store.aclose()
    about = servers[0]
    name = f"Valkey {about['valkey_version']}" if "valkey_version" in about else "Redis"
    version = "" if "valkey_version" in about else f" {about.get('redis_version', '')}"
    kind = "cluster" if store.link.is_cluster else "one server"
    place = f"{name}{version}, {kind}, at {shown(store.link.url)}"
    found = [Finding("good", "store", place), clock, *condition]
    if any("run_id" not in about for about in servers):
        return [*found, Finding("note", "restarts", _BLIND)]
    for about in servers:
        found += [*_memory(about), *durability(about, min_replicas=store.min_replicas)]
    # The servers of a cluster are mostly set up alike.
    return [*dict.fromkeys(found)]


def _condition(status: Status) -> list[Finding]:
    """Return what people must know of the store: gates, workers, what cannot be read."""
    found = [
        Finding("note", "paused", f"{gate}, by {by.actor} at {by.at:%Y-%m-%d %H:%M} UTC: {by.note}")
        for gate, by in status.paused.items()
    ]
    if not status.store.name:
        detail = "it is empty: no process that takes payments has been here"
        found.append(Finding("note", "payments", detail))
    if status.is_unattended:
        waiting = f"{status.due} orders are due and {status.put_back} were put back"
        detail = f"{waiting}, and no worker has reported for 30 s: start one (cfflow worker)"
        found.append(Finding("bad", "workers", detail))
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
