"""Refuses what a web page can make a browser on this machine send to the emulator.

A browser sends what any page asks for, also to 127.0.0.1, and the emulator has no password.
Three headers that no page can choose show such a request:

`Host`: a page whose name was made to lead to this machine (DNS rebinding) sends that name.
`Origin`: a request to another site than the page's own carries the page's origin.
`Content-Type`: without asking first, a page can send another site a form or text, but no JSON.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from functools import lru_cache

from starlette.datastructures import Headers

from cfflow.emulator.refusals import Refused

#: The methods that change nothing.
SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
JSON = "application/json"

_AUTHORITY = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\s:/@\[\]]+)(?::\d{0,5})?")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Guard:
    """Which hosts a request may be sent to.

    hosts: names and addresses besides those of loopback: where the emulator listens, and what
    its user allows. Where it listens on all interfaces (`0.0.0.0`), every address is permitted,
    but no name: DNS rebinding needs a name.
    """

    def __init__(self, hosts: Iterable[str] = ()) -> None:
        self._hosts = frozenset(_host_of(host) for host in hosts)
        addresses = [_address(host) for host in self._hosts]
        self._every_address = any(found and found.is_unspecified for found in addresses)
        # The same few texts come with every call, and benchmarks measure the calls.
        self._permits = lru_cache(64)(self._is_permitted)

    def check_host(self, authority: str) -> None:
        """Raise `Refused` (403) if a `Host` header names another host."""
        if not self._permits(authority):
            text = "the Host is not this emulator's: use 127.0.0.1, or start it with --allow-host"
            raise _forbidden(text)

    def _is_permitted(self, authority: str) -> bool:
        found = _AUTHORITY.fullmatch(authority)
        if found is None:
            return False
        host = _plain(found[1])
        permitted = host in self._hosts or is_loopback(host)
        return permitted or (self._every_address and _address(host) is not None)


def check_origin(host: str, origin: str | None) -> None:
    """Raise `Refused` (403) if a page of another origin sent the request.

    host: the request's `Host`. origin: its `Origin`; None: no page of another origin sent it.
    """
    if origin is not None and origin.partition("://")[2].lower() != host.lower():
        raise _forbidden("a web page of another origin may not change anything here")


def check_press(headers: Headers) -> None:
    """Raise `Refused` (403) if another page than the emulator's own pressed a button of it.

    The emulator's pages send no referrer, so a browser names their origin `null`, and
    `Sec-Fetch-Site` has the sender. Browsers leave that header out over plain http to another
    machine; there the token in the page's URL is the only proof.
    """
    origin = headers.get("origin")
    if origin == "null" and headers.get("sec-fetch-site", "same-origin") == "same-origin":
        return
    check_origin(headers.get("host", ""), origin)


def check_json(headers: Headers) -> None:
    """Raise `Refused` (415) for a body, or a content type, that is not JSON."""
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    has_body = headers.get("content-length", "0") != "0" or "transfer-encoding" in headers
    if kind != JSON and (kind or has_body):
        text = f"a body needs the header content-type: {JSON}"
        raise Refused(415, "request_invalid", text, "invalid_request_error")


def is_loopback(host: str) -> bool:
    """Return whether a name or an address leads to this machine, whatever a DNS server replies."""
    address = _address(host)
    if address is not None:
        return address.is_loopback
    return host == "localhost" or host.endswith(".localhost")


def warning_for(host: str) -> str | None:
    """Return what a person should read who lets an emulator listen on `host`; None for loopback."""
    if is_loopback(_host_of(host)):
        return None
    return (
        f"warning: it listens on {host or 'all interfaces'} and has no password: anybody in the"
        " network can drive it and let it send webhooks"
    )


def _host_of(given: str) -> str:
    """Return a user's host as it is compared; "" is all interfaces, as for a socket."""
    host = _plain(given or "0.0.0.0")  # noqa: S104  the name of what a user asked for
    found = None if _address(host) else _AUTHORITY.fullmatch(host)
    return _plain(found[1]) if found else host


def _plain(host: str) -> str:
    """Return a host without brackets and final dot, in lower case; an address in its usual form."""
    name = host.strip("[]").rstrip(".").lower()
    return str(_address(name) or name)


def _address(host: str) -> Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _forbidden(message: str) -> Refused:
    return Refused(403, "request_failed", message, "invalid_request_error")
