"""`python -m cfflow.emulator`: serves the local gateway until it is stopped."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping
from typing import get_args

import msgspec

from cfflow.emulator.guard import warning_for
from cfflow.emulator.limits import table_of
from cfflow.emulator.process import CLIENT_SECRET_VARIABLE, WEBHOOK_URL_VARIABLE, Announcement
from cfflow.emulator.records import DEFAULT_CLIENT_ID, DEFAULT_CLIENT_SECRET, BankOptions
from cfflow.emulator.server import serve
from cfflow.emulator.versions import NEWEST_WEBHOOK_VERSION, WebhookVersion


def main(arguments: list[str] | None = None) -> int:
    """Run the emulator. Returns 0 after a clean stop, 1 if it cannot listen; exits 2 on misuse."""
    parser = _parser()
    options = parser.parse_args(arguments)
    _check_secrets(parser, options)
    try:
        behaviour = msgspec.json.decode(options.options, type=BankOptions)
    except msgspec.DecodeError as error:
        parser.error(f"--options: {error}")
    try:
        rate_limits = _table(options.rate_limits)
    except ValueError as error:
        parser.error(f"--rate-limits: {error}")
    if (warning := warning_for(options.host)) is not None:
        print(warning, file=sys.stderr, flush=True)

    def announce(base_url: str) -> None:
        announcement = Announcement(base_url, options.client_id)
        if options.json:
            line = msgspec.json.encode(announcement).decode()
        else:
            line = f"A local Cashfree listens on {base_url} for client id {options.client_id}."
        print(line, flush=True)

    try:
        serve(
            host=options.host,
            port=options.port,
            client_id=options.client_id,
            client_secret=os.environ.get(CLIENT_SECRET_VARIABLE) or DEFAULT_CLIENT_SECRET,
            options=behaviour,
            seed=options.seed,
            rate_limits=rate_limits,
            webhook_url=options.webhook_url or os.environ.get(WEBHOOK_URL_VARIABLE) or None,
            webhook_version=options.webhook_version,
            allowed_hosts=options.allow_host,
            announce=announce,
            until_stdin_ends=options.until_stdin_ends,
        )
    except ValueError as error:
        parser.error(f"--webhook-url: {error}")
    except OSError as error:
        print(f"cannot listen on {options.host} port {options.port}: {error}", file=sys.stderr)
        return 1
    return 0


def _check_secrets(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Exit with 2 for a secret on the command line, which every user of the machine can read."""
    if options.client_secret is not None:
        parser.error(f"--client-secret: `ps` would show it; set {CLIENT_SECRET_VARIABLE}")
    account, at, _ = (options.webhook_url or "").partition("://")[2].rpartition("@")
    if at and "/" not in account:
        parser.error(f"--webhook-url: `ps` would show its password; set {WEBHOOK_URL_VARIABLE}")


def _table(text: str | None) -> Mapping[str, int] | None:
    if text is None:
        return None
    if text.startswith("{"):
        return table_of(msgspec.json.decode(text, type=dict[str, int]))
    return table_of(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m cfflow.emulator", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="where to listen; it has no password")
    parser.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="a further name or address under which it may be called",
    )
    parser.add_argument("--port", type=int, default=0, help="0 picks a free one")
    parser.add_argument("--client-id", default=DEFAULT_CLIENT_ID)
    parser.add_argument("--client-secret", help=f"refused here: set {CLIENT_SECRET_VARIABLE}")
    parser.add_argument("--seed", type=int, default=0, help="seed of its ids")
    parser.add_argument("--options", default="{}", help="bank options as a JSON object")
    parser.add_argument(
        "--rate-limits",
        metavar="LIMITS",
        help="production, sandbox, or calls per minute by call as a JSON object",
    )
    parser.add_argument(
        "--webhook-url",
        metavar="URL",
        help=f"where webhooks go; one with a password only as {WEBHOOK_URL_VARIABLE}",
    )
    parser.add_argument(
        "--webhook-version", choices=get_args(WebhookVersion), default=NEWEST_WEBHOOK_VERSION
    )
    parser.add_argument("--json", action="store_true", help="announce in one line of JSON")
    parser.add_argument(
        "--until-stdin-ends", action="store_true", help="stop when standard input closes"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
