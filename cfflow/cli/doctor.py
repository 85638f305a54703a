"""`cfflow doctor`: opens the store and the gateway of the settings and collects the findings."""

from __future__ import annotations

import os

from cfflow.connecting import (
    VARIABLES,
    Settings,
    gateway_client,
    open_store,
    proxy_to,
    settings_of,
)
from cfflow.core.sealed import Sealed
from cfflow.errors import CfflowError
from cfflow.logs import silent_log
from cfflow.views.doctor import (
    examine_gateway,
    examine_store,
    kept_limits,
    missing_extras,
)
from cfflow.views.finding import Finding


async def examine(redis_url: str | None = None, *, min_replicas: int = 0) -> list[Finding]:
    """Return the findings. Problems come in the order in which a person should solve them.

    `min_replicas` is what the processes that take payments pass to `connect`.
    """
    try:
        settings = settings_of(redis_url=redis_url)
    except CfflowError as error:
        url = redis_url or os.environ.get(VARIABLES["redis_url"][0])
        found = await _store(url, min_replicas) if url else []
        return [Finding("bad", "settings", str(error)), *missing_extras(), *found]
    place = f"{settings.environment}, API {settings.api_version}{_way(settings)}"
    return [
        Finding("good", "settings", place),
        *missing_extras(),
        *await _store(settings.redis_url, min_replicas),
        await _gateway(settings),
        kept_limits(settings.environment),
    ]


def _way(settings: Settings) -> str:
    """Return through which proxy the gateway is called, without its credentials."""
    try:
        proxy = proxy_to(settings)
    except CfflowError:
        # The gateway's own finding says what is wrong with it.
        return ""
    return "" if proxy is None else f", through the proxy {proxy}"


async def _store(url: str | Sealed[str], min_replicas: int) -> list[Finding]:
    try:
        return await examine_store(open_store(url, min_replicas=min_replicas, read_only=True))
    except CfflowError as error:
        return [Finding("bad", "store", str(error))]


async def _gateway(settings: Settings) -> Finding:
    try:
        return await examine_gateway(gateway_client(settings, silent_log()))
    except CfflowError as error:
        return Finding("bad", "gateway", str(error))
