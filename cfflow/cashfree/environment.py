"""Where the gateway is: an environment becomes the base URL of every call."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import SplitResult, quote, urlsplit

import httpx

from cfflow.cashfree import facts
from cfflow.core.arguments import shown_name
from cfflow.errors import ConfigError

#: What is one segment of a path as it is.
_PLAIN: Final = re.compile(r"[0-9A-Za-z_-]+")

#: Hosts on which a base URL may be plain http: an emulator on this machine.
_LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})


def base_url_of(environment: str) -> str:
    """Return the base URL of `sandbox` or `production`, or the base URL that was given.

    Raises `ConfigError` for anything else; for plain http to another machine, where card
    numbers would travel readable; and for a URL with a password, which httpx would send
    along with every call.
    """
    if environment in facts.BASE_URLS:
        return facts.BASE_URLS[environment]
    if "@" in environment:
        raise ConfigError("environment: a base URL takes no user name and no password")
    parts = _base(environment)
    if parts is None:
        known = ", ".join(facts.BASE_URLS)
        name = shown_name(environment)
        raise ConfigError(f"environment {name} is not one of {known}, and not a base URL")
    if parts.scheme == "http" and parts.hostname not in _LOOPBACK:
        raise ConfigError("environment: plain http is for this machine only")
    return environment.rstrip("/")


def is_local(environment: str) -> bool:
    """Whether this is a gateway on this machine: an emulator."""
    return environment not in facts.BASE_URLS and urlsplit(environment).hostname in _LOOPBACK


def _base(url: str) -> SplitResult | None:
    """Return the parts of a URL to which a path can be appended, None for any other text."""
    try:
        parts = urlsplit(url)
        usable = httpx.URL(url).host and parts.port != 0
    except (ValueError, httpx.InvalidURL):
        return None
    if not usable or parts.scheme not in {"http", "https"} or set(url) & set("?#\\ "):
        return None
    return parts


def path_segment(text: str) -> str:
    """Return a text as exactly one segment of a path, whatever the gateway put into an id."""
    if _PLAIN.fullmatch(text):
        return text
    # httpx resolves "." and ".." before it sends; quoted, they stay what they are.
    return text.replace(".", "%2E") if text in {".", ".."} else quote(text, safe="")
