"""`connect`: makes an orchestrator from arguments and environment variables."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import msgspec

from cfflow.cashfree import facts
from cfflow.cashfree.client import GatewayClient
from cfflow.cashfree.environment import base_url_of, is_local
from cfflow.cashfree.transport import GatewayTransport
from cfflow.core.sealed import Sealed
from cfflow.errors import ConfigError
from cfflow.limits.budget import Budget, limits_of
from cfflow.limits.transport import BudgetTransport
from cfflow.logs import Log, default_log
from cfflow.orchestrator import Orchestrator
from cfflow.store.catalog import Catalog
from cfflow.store.control import Owner, owner_of
from cfflow.store.embedded import EmbeddedStore
from cfflow.store.memory.ledger import ledger_of
from cfflow.store.protocol import Store
from cfflow.store.redis.store import RedisStore
from cfflow.views.reader import Reader
from cfflow.webhooks import Verifier

#: Each setting's environment variable and its default; None: the setting is required.
VARIABLES: Final[Mapping[str, tuple[str, str | None]]] = {
    "redis_url": ("CFFLOW_REDIS_URL", None),
    "client_id": ("CASHFREE_CLIENT_ID", None),
    "client_secret": ("CASHFREE_CLIENT_SECRET", None),
    "environment": ("CASHFREE_ENVIRONMENT", None),
    "api_version": ("CASHFREE_API_VERSION", facts.API_VERSION),
}

_SCHEMES: Final = frozenset({"redis", "rediss", "unix"})
_CONNECTIONS_MAX: Final = 256


class Settings(msgspec.Struct, frozen=True):
    """Where the store and the gateway are, and the account's credentials."""

    redis_url: str
    client_id: str
    client_secret: Sealed[str]
    environment: str
    api_version: str

    def __repr__(self) -> str:
        return f"Settings(environment={self.environment!r}, api_version={self.api_version!r})"


def connect(
    *,
    redis_url: str | None = None,
    client_id: str | None = None,
    client_secret: str | None = None,
    environment: str | None = None,
    api_version: str | None = None,
    flows: Iterable[Path | str] = (),
    namespace: str | None = None,
    partitions: int = 64,
    min_replicas: int = 0,
    limits: Mapping[str, int | None] | None = None,
    webhook_secrets: Iterable[str] = (),
    webhook_tolerance_s: float | None = None,
    log: Log | None = None,
    store: Store | None = None,
) -> Orchestrator:
    """Return an orchestrator; use it with `async with`, which connects.

    `redis_url`: `redis://`, `rediss://`, `unix://`, any node of a cluster, or `embedded:`
    and `embedded:DIR` for a private Valkey. `environment`: `sandbox`, `production` or a
    base URL. What is not given comes from CFFLOW_REDIS_URL, CASHFREE_CLIENT_ID,
    CASHFREE_CLIENT_SECRET, CASHFREE_ENVIRONMENT, CASHFREE_API_VERSION, CFFLOW_NAMESPACE.
    `flows` are your own files or folders. `namespace` is what all keys in Redis begin with, `cf`
    by default; `partitions` are the parts that the keys are spread over, fixed for a store's life.
    `limits` are your account's calls per minute, where they are not the usual ones:
    `create_order`, `fetch_order`, `fetch_payments`, `fetch_payment`, `pay`; None: no limit until a
    response names one. `log` is a structlog logger. `store` replaces the one of `redis_url`.
    `min_replicas`: a step is sent only when so many replicas of the Redis have it, else
    `StoreUnavailable` and nothing is sent; not on a cluster. `webhook_secrets`: further secrets
    that may sign notifications, while the client secret is being replaced.
    `webhook_tolerance_s`: how many seconds old one may be, None for any age.

    Raises one `ConfigError` that names everything that is missing. No money moves.
    """
    secret = Sealed(client_secret) if client_secret else None
    others = [Sealed(other) for other in webhook_secrets]
    # A crash report that prints this frame's variables must not show them.
    del client_secret, webhook_secrets
    settings = settings_of(
        redis_url=redis_url if store is None else "store",
        client_id=client_id,
        client_secret=secret,
        environment=environment,
        api_version=api_version,
    )
    logger = log or default_log()
    catalog = Catalog(flows)
    owner = owner_of(
        settings.client_id, settings.environment, is_local=is_local(settings.environment)
    )
    chosen = store or open_store(
        settings.redis_url,
        namespace=namespace,
        partitions=partitions,
        min_replicas=min_replicas,
        owner=owner,
    )
    budget = Budget(limits_of(settings.environment, limits), ledger_of(chosen))
    gateway = gateway_client(settings, logger, budget)
    verifier = Verifier([settings.client_secret, *others], tolerance_s=webhook_tolerance_s)
    return Orchestrator(
        chosen, gateway, catalog=catalog, log=logger, budget=budget, verifier=verifier
    )


def settings_of(
    *,
    redis_url: str | None = None,
    client_id: str | None = None,
    client_secret: Sealed[str] | None = None,
    environment: str | None = None,
    api_version: str | None = None,
) -> Settings:
    """Return all settings: the given ones first, then the environment's, then the defaults.

    Raises one `ConfigError` that names everything that is missing, so that a new deployment
    does not meet one error after the other.
    """
    settings = Settings(
        redis_url=_setting("redis_url", redis_url),
        client_id=_setting("client_id", client_id),
        client_secret=client_secret or Sealed(_setting("client_secret")),
        environment=_setting("environment", environment),
        api_version=_setting("api_version", api_version),
    )
    is_set = {name: bool(getattr(settings, name)) for name in VARIABLES}
    is_set["client_secret"] = bool(settings.client_secret.reveal())
    missing = [f"{name} (or {VARIABLES[name][0]})" for name in VARIABLES if not is_set[name]]
    if missing:
        raise ConfigError(f"missing settings: {', '.join(missing)}")
    return settings


def _setting(name: str, given: str | None = None) -> str:
    """Return a setting's text: given, from its variable, or its default; "" if it has none."""
    variable, default = VARIABLES[name]
    return given or os.environ.get(variable) or default or ""


def open_store(
    redis_url: str,
    *,
    namespace: str | None = None,
    partitions: int = 64,
    min_replicas: int = 0,
    owner: Owner | None = None,
) -> RedisStore:
    """Return the store that a URL names; nothing is connected yet.

    `namespace` is what its keys begin with: by default CFFLOW_NAMESPACE, else `cf`.
    `min_replicas`: so many must have a step before it is sent. `owner`: whose payments these are;
    None for a process that only reads. Raises `ConfigError`.
    """
    prefix = namespace or os.environ.get("CFFLOW_NAMESPACE") or "cf"
    if redis_url.startswith("embedded:"):
        if min_replicas:
            raise ConfigError("min_replicas: the server of embedded: has no replicas")
        folder = redis_url.removeprefix("embedded:")
        return EmbeddedStore(
            Path(folder) if folder else None, namespace=prefix, partitions=partitions, owner=owner
        )
    if urlsplit(redis_url).scheme not in _SCHEMES:
        raise ConfigError(
            "redis_url must begin with redis://, rediss://, unix:// or embedded:;"
            f" it begins with {redis_url.split(':', 1)[0]!r}"
        )
    return RedisStore(
        redis_url,
        namespace=prefix,
        partitions=partitions,
        min_replicas=min_replicas,
        owner=owner,
    )


def open_reader(redis_url: str | None = None) -> Reader:
    """Return a reader of the store that a URL, or CFFLOW_REDIS_URL, names."""
    variable = VARIABLES["redis_url"][0]
    url = redis_url or os.environ.get(variable)
    if not url:
        raise ConfigError(f"missing settings: redis_url (or {variable})")
    return Reader(open_store(url), Catalog())


def gateway_client(
    settings: Settings, log: Log | None = None, budget: Budget | None = None
) -> GatewayClient:
    """Return a client of the gateway with its own connections.

    It ignores the proxies of the environment: a request may carry card data.

    `budget` counts its calls and limits a worker's; without one nothing does.
    """
    base_url = base_url_of(settings.environment)
    sockets = GatewayTransport(base_url, max_connections=_CONNECTIONS_MAX)
    return GatewayClient(
        sockets if budget is None else BudgetTransport(sockets, budget),
        client_id=settings.client_id,
        client_secret=settings.client_secret.reveal(),
        environment=settings.environment,
        api_version=settings.api_version,
        log=log,
    )
