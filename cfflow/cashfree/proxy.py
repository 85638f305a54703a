"""A company's proxy on the way to the gateway: which one, and how it is asked for a tunnel.

Only tunnels (CONNECT): TLS goes from here to the gateway, so the proxy sees the gateway's name and
no byte of a card. Its credentials are sealed: no error, log or repr shows them.
"""

from __future__ import annotations

import os
import re
from base64 import b64encode
from ipaddress import ip_address, ip_network
from typing import Final
from urllib.parse import SplitResult, unquote, urlsplit

from cfflow.core.sealed import Sealed
from cfflow.errors import ConfigError

__all__ = ["DIRECT", "Proxy", "proxy_of"]

#: What the setting says for no proxy at all, whatever the environment names.
DIRECT: Final = "direct"

_PORT: Final = 80
_HOST: Final = re.compile(r"[0-9A-Za-z.:_-]+")


class Proxy:
    """Where a proxy is, and what it is told."""

    def __init__(self, host: str, port: int, authorization: Sealed[str]) -> None:
        self.host = host
        self.port = port
        self._authorization = authorization

    def __str__(self) -> str:
        return f"{_bracketed(self.host)}:{self.port}"

    def __repr__(self) -> str:
        return f"Proxy({str(self)!r})"

    def connect_request(self, host: str, port: int) -> bytes:
        """Return the request for a tunnel to a host."""
        target = f"{_bracketed(host)}:{port}"
        lines = f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\nUser-Agent: cfflow\r\n"
        return f"{lines}{self._authorization.reveal()}\r\n".encode("ascii")


def proxy_of(given: Sealed[str | None], base_url: str) -> Proxy | None:
    """Return the proxy for a gateway, None for none.

    `given` is a URL (`http://user:password@host:port`) or `direct`; left out, CFFLOW_PROXY counts,
    and then, for a gateway with https, HTTPS_PROXY unless NO_PROXY names the gateway. Raises
    `ConfigError` for a URL that is none or of another kind of proxy; it never repeats the URL.
    """
    if not isinstance(given.reveal(), str | None):
        raise ConfigError("proxy must be a string")
    for name, url in (
        ("proxy", Sealed(given.reveal() or "")),
        ("CFFLOW_PROXY", Sealed(os.environ.get("CFFLOW_PROXY", ""))),
    ):
        if url.reveal():
            return None if url.reveal() == DIRECT else _proxy(name, url)
    return _of_the_environment(urlsplit(base_url))


def _of_the_environment(gateway: SplitResult) -> Proxy | None:
    if gateway.scheme != "https" or _is_exempt(gateway, _either("no_proxy").reveal()):
        return None
    url = _either("https_proxy")
    return _proxy("HTTPS_PROXY", url) if url.reveal() else None


def _either(name: str) -> Sealed[str]:
    """Return a variable that is written in either case; the lower one counts first, as in curl."""
    return Sealed(os.environ.get(name) or os.environ.get(name.upper()) or "")


def _proxy(name: str, url: Sealed[str]) -> Proxy:
    """Return the proxy that a URL names, as `name` has it."""
    try:
        parts = Sealed(
            urlsplit(url.reveal() if "://" in url.reveal() else f"http://{url.reveal()}")
        )
        host, port = parts.reveal().hostname or "", parts.reveal().port
    except ValueError:
        # The error of the standard library quotes the URL.
        parts, host, port = Sealed(urlsplit("")), "", None
    if parts.reveal().scheme not in {"", "http"}:
        raise ConfigError(f"{name}: a proxy is http://, or {DIRECT} for none")
    if not _HOST.fullmatch(host) or port == 0 or parts.reveal().path not in {"", "/"}:
        raise ConfigError(f"{name} is not a URL of a proxy, such as http://proxy.example:3128")
    return Proxy(host, port or _PORT, _authorization(parts))


def _authorization(parts: Sealed[SplitResult]) -> Sealed[str]:
    """Return the line of the request that has the credentials, "" without any."""
    if parts.reveal().username is None:
        return Sealed("")
    pair = Sealed(
        ":".join(unquote(part or "") for part in (parts.reveal().username, parts.reveal().password))
    )
    coded = Sealed(b64encode(pair.reveal().encode()).decode())
    return Sealed(f"Proxy-Authorization: Basic {coded.reveal()}\r\n")


def _is_exempt(gateway: SplitResult, no_proxy: str) -> bool:
    """Whether NO_PROXY names the gateway: its host, a domain around it, a network, or `*`."""
    host = (gateway.hostname or "").lower()
    for entry in (part.strip().lower() for part in no_proxy.split(",")):
        name, _, port = entry.rpartition(":") if entry.count(":") == 1 else (entry, "", "")
        if port and port != str(gateway.port or 443):
            continue
        domain = name.strip("[]").lstrip("*").lstrip(".")
        if entry == "*" or (domain and (host == domain or host.endswith(f".{domain}"))):
            return True
        if _is_within(host, name):
            return True
    return False


def _is_within(host: str, network: str) -> bool:
    """Whether a host is an address of a network, such as 10.0.0.0/8."""
    try:
        return ip_address(host) in ip_network(network, strict=False)
    except ValueError:
        return False


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
