"""`connect`: makes an orchestrator from arguments and environment variables."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import httpx
import msgspec

from cfflow.cashfree import facts
from cfflow.cashfree.client import GatewayClient
from cfflow.cashfree.environment import base_url_of, is_local
from cfflow.cashfree.proxy import Proxy, proxy_of
from cfflow.cashfree.transport import GatewaySockets
from cfflow.core.sealed import Sealed, sealed
from cfflow.errors import ConfigError
from cfflow.limits.budget import Budget, limits_of
from cfflow.limits.transport import BudgetTransport
from cfflow.logs import Log, guarded
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
#: By these methods an object is known to be a store.
_STORE: Final = ("commit", "lease", "now_ms", "open", "read")


class Settings(msgspec.Struct, frozen=True):
    """Where the store and the gateway are, and the account's credentials."""

    redis_url: Sealed[str]
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
    log_level: str | int | None = None,
    log_target: str | None = None,
    store: Store | None = None,
    proxy: str | None = None,
    transport: httpx.AsyncBaseTransport | None = None,
) -> Orchestrator:
    """Return an orchestrator; use it with `async with`, which connects.

    `redis_url`: `redis://`, `rediss://`, `unix://`, any node of a cluster, or `embedded:`
    and `embedded:DIR` for a private Valkey. `environment`: `sandbox`, `production` or a
    base URL. What is not given comes from the variables of docs/start.md. `flows` are your own
    files or folders. `namespace` is what all keys in Redis begin with, `cf` by default;
    `partitions` are the parts that the keys are spread over, fixed for a store's life.
    `limits` are your account's calls per minute, where they are not the usual ones; None: no limit
    until a response names one. `log` is a structlog logger, or one of the standard library;
    `log_target`, in its place: `stderr`, `stdout` or `logging`; `log_level`: INFO by default.
    `store` replaces the one of `redis_url`.
    `min_replicas`: a step is sent only when so many replicas of the Redis have it, else
    `StoreUnavailable` and nothing is sent; not on a cluster. `webhook_secrets`: further secrets
    that may sign notifications, while the client secret is being replaced.
    `webhook_tolerance_s`: how many seconds old one may be, None for any age.
    `proxy`: `http://user:password@host:port`, or `direct` for none; left out, CFFLOW_PROXY, and
    for https HTTPS_PROXY unless NO_PROXY names the gateway. `transport` carries the calls in place
    of cfflow's connections: docs/start.md says what its errors prove.

    Raises one `ConfigError` that names everything that is missing. No money moves.
    """
    # Sealed first: a crash report that prints this frame's variables must not show them.
    url, secret, way = Sealed(redis_url), Sealed(client_secret), Sealed(proxy)
    others = Sealed(webhook_secrets)
    del redis_url, client_secret, webhook_secrets, proxy
    settings = settings_of(
        redis_url=url if store is None else "store",
        client_id=client_id,
        client_secret=secret,
        environment=environment,
        api_version=api_version,
    )
    logger = guarded(log, target=log_target, level=log_level)
    catalog, owner = Catalog(flows), _owner(settings)
    chosen = _own(store) or open_store(
        settings.redis_url,
        namespace=namespace,
        partitions=partitions,
        min_replicas=min_replicas,
        owner=owner,
    )
    budget = Budget(limits_of(settings.environment, limits), ledger_of(chosen))
    gateway = gateway_client(settings, logger, budget, proxy=way, transport=transport)
    secrets = [settings.client_secret, *_signing(others)]
    verifier = Verifier(secrets, tolerance_s=webhook_tolerance_s)
    return Orchestrator(
        chosen, gateway, catalog=catalog, log=logger, budget=budget, verifier=verifier
    )


def _owner(settings: Settings) -> Owner:
    return owner_of(
        settings.client_id, settings.environment, is_local=is_local(settings.environment)
    )


def settings_of(
    *,
    redis_url: str | Sealed[str | None] | None = None,
    client_id: str | None = None,
    client_secret: Sealed[str | None] | None = None,
    environment: str | None = None,
    api_version: str | None = None,
) -> Settings:
    """Return all settings: the given ones first, then the environment's, then the defaults.

    Raises one `ConfigError` that names everything that is missing, so that a new deployment
    does not meet one error after the other.
    """
    url = sealed(redis_url)
    del redis_url
    settings = Settings(
        redis_url=_sealed_setting("redis_url", url),
        client_id=_setting("client_id", Sealed(client_id)),
        client_secret=_sealed_setting("client_secret", client_secret or Sealed(None)),
        environment=_setting("environment", Sealed(environment)),
        api_version=_setting("api_version", Sealed(api_version)),
    )
    missing = [
        f"{name} (or {variable})"
        for name, (variable, _) in VARIABLES.items()
        if not sealed(getattr(settings, name)).reveal()
    ]
    if missing:
        raise ConfigError(f"missing settings: {', '.join(missing)}")
    return settings


def _sealed_setting(name: str, given: Sealed[str | None]) -> Sealed[str]:
    return Sealed(_setting(name, given))


def _setting(name: str, given: Sealed[str | None]) -> str:
    """Return a setting's text: given, from its variable, or its default; "" if it has none."""
    variable, default = VARIABLES[name]
    if not isinstance(given.reveal(), str | None):
        raise ConfigError(f"{name} must be a string")
    return given.reveal() or os.environ.get(variable) or default or ""


def _own(store: Store | None) -> Store | None:
    """Return the caller's own store; raises `ConfigError` for what is none."""
    if store is not None and not all(callable(getattr(store, name, None)) for name in _STORE):
        raise ConfigError("store must be a Store, such as cfflow.testing.MemoryStore")
    return store


def _signing(secrets: Sealed[Iterable[str]]) -> list[Sealed[str]]:
    """Return further secrets that may sign notifications, each of them sealed.

    A text is refused: each of its characters would count as a secret.
    """
    if not isinstance(secrets.reveal(), list | tuple | set | frozenset):
        raise ConfigError('webhook_secrets must be a list: webhook_secrets=["the old secret"]')
    return [Sealed(secret) for secret in secrets.reveal()]


def open_store(
    redis_url: str | Sealed[str],
    *,
    namespace: str | None = None,
    partitions: int = 64,
    min_replicas: int = 0,
    owner: Owner | None = None,
    read_only: bool = False,
) -> RedisStore:
    """Return the store that a URL names; nothing is connected yet.

    `namespace` is what its keys begin with: by default CFFLOW_NAMESPACE, else `cf`.
    `min_replicas`: so many must have a step before it is sent. `owner`: whose payments these are;
    None where that is not known. `read_only`: opening it makes no store where there is none.
    Raises `ConfigError`.
    """
    url = sealed(redis_url)
    del redis_url
    if not isinstance(namespace, str | None):
        raise ConfigError("namespace must be a string")
    prefix = namespace or os.environ.get("CFFLOW_NAMESPACE") or "cf"
    if url.reveal().startswith("embedded:"):
        if min_replicas:
            raise ConfigError("min_replicas: the server of embedded: has no replicas")
        folder = url.reveal().removeprefix("embedded:")
        return EmbeddedStore(
            Path(folder) if folder else None,
            namespace=prefix,
            partitions=partitions,
            owner=owner,
            read_only=read_only,
        )
    if _scheme(url) not in _SCHEMES:
        raise ConfigError("redis_url must begin with redis://, rediss://, unix:// or embedded:")
    return RedisStore(
        url,
        namespace=prefix,
        partitions=partitions,
        min_replicas=min_replicas,
        owner=owner,
        read_only=read_only,
    )


def _scheme(url: Sealed[str]) -> str:
    try:
        return urlsplit(url.reveal()).scheme
    except ValueError:
        return ""


def open_reader(redis_url: str | None = None) -> Reader:
    """Return a reader of the store that a URL, or CFFLOW_REDIS_URL, names.

    It makes no store where there is none. Where the environment names the gateway's account, the
    reader can tell whether the store is that account's.
    """
    url = _sealed_setting("redis_url", Sealed(redis_url))
    del redis_url
    if not url.reveal():
        raise ConfigError(f"missing settings: redis_url (or {VARIABLES['redis_url'][0]})")
    return Reader(open_store(url, owner=_owner_in_environment(), read_only=True), Catalog())


def _owner_in_environment() -> Owner | None:
    """Return whose payments this environment takes, None where it does not name an account."""
    client_id = _setting("client_id", Sealed(None))
    environment = _setting("environment", Sealed(None))
    if not client_id or not environment:
        return None
    try:
        base_url_of(environment)
    except ConfigError:
        return None
    return owner_of(client_id, environment, is_local=is_local(environment))


def gateway_client(
    settings: Settings,
    log: Log | None = None,
    budget: Budget | None = None,
    *,
    proxy: Sealed[str | None] | None = None,
    transport: httpx.AsyncBaseTransport | None = None,
) -> GatewayClient:
    """Return a client of the gateway with its own connections, or over the caller's `transport`.

    `budget` counts its calls and limits a worker's; without one nothing does. Raises `ConfigError`.
    """
    sender = _sender(settings, proxy or Sealed(None), transport)
    return GatewayClient(
        sender if budget is None else BudgetTransport(sender, budget),
        client_id=settings.client_id,
        client_secret=settings.client_secret.reveal(),
        environment=settings.environment,
        api_version=settings.api_version,
        log=log,
    )


def _sender(
    settings: Settings, proxy: Sealed[str | None], transport: httpx.AsyncBaseTransport | None
) -> httpx.AsyncBaseTransport | GatewaySockets:
    """Return what carries the calls."""
    if transport is None:
        base_url = base_url_of(settings.environment)
        way = proxy_to(settings, proxy)
        return GatewaySockets(base_url, max_connections=_CONNECTIONS_MAX, proxy=way)
    if proxy.reveal():
        raise ConfigError("proxy: a transport of your own has its own way to the gateway")
    if not isinstance(transport, httpx.AsyncBaseTransport):
        raise ConfigError("transport must be an httpx.AsyncBaseTransport")
    return transport


def proxy_to(settings: Settings, proxy: Sealed[str | None] | None = None) -> Proxy | None:
    """Return the proxy on the way to the gateway, None for none; raises `ConfigError`."""
    return proxy_of(proxy or Sealed(None), base_url_of(settings.environment))
