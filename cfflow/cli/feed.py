"""`cfflow events`: the feed of committed transitions, line by line."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from typing import Annotated, Final

import msgspec
import typer

from cfflow.cli.lines import print_json_line, print_lines
from cfflow.cli.terminal import AsJson, RedisUrl, wait
from cfflow.connecting import open_reader
from cfflow.core.printable import printable
from cfflow.errors import CfflowError
from cfflow.feed.feed import (
    Feed,
    FeedEvent,
    FeedGap,
    FeedHoldExpiring,
    FeedItem,
    FeedNotification,
    FeedReview,
)
from cfflow.store.control import identity_of
from cfflow.views.reader import Reader

app = typer.Typer()

_PAUSE_S: Final = 0.5


@app.command()
def events(
    group: Annotated[
        str,
        typer.Argument(metavar="GROUP", help="Who reads; each group gets all events."),
    ],
    follow: Annotated[bool, typer.Option("--follow", help="Wait for more until Ctrl-C.")] = False,
    now: Annotated[
        bool, typer.Option("--now", help="A new group begins with the next event.")
    ] = False,
    forget: Annotated[
        bool,
        typer.Option("--forget", help="Forget the group; no events are kept for it any more."),
    ] = False,
    redis_url: RedisUrl = None,
    as_json: AsJson = False,
) -> None:
    """Print what a group has not read, and acknowledge each event.

    Transitions, reviews, holds that end within a day, and notifications.
    """

    async def work() -> None:
        async with open_reader(redis_url) as reader:
            if not await _is_there(reader, wait_for_it=follow and not forget):
                if not (as_json or forget):
                    print_lines("No new events.")
                return
            feed = reader.events(group, start="now" if now else "oldest")
            if forget:
                if not await feed.forget():
                    raise CfflowError(f"there is no group {group} in this store")
                return
            async with feed:
                await _print_all(feed, follow=follow, as_json=as_json)

    wait(work())


async def _is_there(reader: Reader, *, wait_for_it: bool) -> bool:
    """Return whether there is a store: a group that registers in an empty Redis would begin one."""
    while not (await identity_of(reader.store)).name:
        if not wait_for_it:
            return False
        await asyncio.sleep(_PAUSE_S)
    return True


async def _print_all(feed: Feed, *, follow: bool, as_json: bool) -> None:
    printed = 0
    while (event := await (anext(feed) if follow else feed.poll())) is not None:
        if as_json:
            print_json_line(_plain(event))
        else:
            print_lines(_line(event))
        # Printed before it is acknowledged: after a crash in between it comes again.
        sys.stdout.flush()
        await feed.ack(event)
        printed += 1
    if not (printed or as_json):
        print_lines("No new events.")
    others = [name for name in feed.consumers if name != feed.consumer]
    if others:
        names = printable(", ".join(others))
        sys.stderr.write(f"other consumers of {feed.group} read the other partitions: {names}\n")


_KINDS: Final[Mapping[type[FeedItem], str]] = {
    FeedEvent: "transition",
    FeedReview: "review",
    FeedHoldExpiring: "hold_expiring",
    FeedGap: "gap",
    FeedNotification: "notification",
}


def _plain(event: FeedItem) -> dict[str, object]:
    return {"kind": _KINDS[type(event)], **msgspec.structs.asdict(event)}


def _line(event: FeedItem) -> str:
    if isinstance(event, FeedGap):
        return f"gap: {event.lost} events of partition {event.partition} were dropped unread"
    if isinstance(event, FeedNotification):
        about = event.cf_payment_id or "-"
        return f"{event.at:%Y-%m-%d %H:%M:%S}  {event.order_id or '-'}  {event.type} ({about})"
    return f"{event.at:%Y-%m-%d %H:%M:%S}  {event.payment_id}  {_what(event)}"


def _what(event: FeedEvent | FeedReview | FeedHoldExpiring) -> str:
    match event:
        case FeedEvent():
            moved = f"{event.trigger}: {event.from_state} -> {event.to_state}"
            return f"{moved}  ({event.observation})"
        case FeedReview(is_open=True):
            return f"review {event.reason}: {event.detail}"
        case FeedReview():
            return f"review {event.reason} closed by {event.actor}: {event.note}"
        case FeedHoldExpiring():
            return f"the hold ends at {event.hold_expires_at:%Y-%m-%d %H:%M:%S}"
