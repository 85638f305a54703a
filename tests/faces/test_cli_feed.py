"""`cfflow events` as people and programs meet it."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from textwrap import indent
from typing import Any

import pytest

import cfflow
from cfflow import FeedEvent
from cfflow.store.redis.store import RedisStore
from cfflow.testing.conformance.feed import commit_events
from cfflow.testing.conformance.helpers import begin
from tests.faces.faces_kit import CFFLOW, ROOT, Till, environment, run

pytestmark = pytest.mark.timeout(240)

LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  (\w+)\.1  (\w+): (\w+) -> (\w+)  \(.+\)")
TEA = ["initiate", "require_otp", "reject_otp", "hold", "capture"]


def rows_of(text: str) -> list[dict[str, Any]]:
    """Return the lines that were printed for programs."""
    return [json.loads(line) for line in text.splitlines()]


def of_tea(rows: list[dict[str, Any]]) -> list[str]:
    """Return what happened to the order with a wrong OTP."""
    return [row["trigger"] for row in rows if row["order_id"] == "tea"]


def tell_more(url: str, order_id: str, count: int, feed_max: int = 1_000) -> None:
    """Commit events of a new order; ten times `feed_max` are kept at most."""

    async def work() -> None:
        store = RedisStore(url, feed_max=feed_max)
        await store.open()
        await commit_events(store, await begin(store, order_id), count)
        await store.aclose()

    asyncio.run(work())


@contextmanager
def follower(url: str, group: str) -> Iterator[subprocess.Popen[str]]:
    """Run `cfflow events … --follow` on a store."""
    process = subprocess.Popen(
        [str(CFFLOW), "events", group, "--follow", "--json"],
        env=environment(CFFLOW_REDIS_URL=url),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def next_line(process: subprocess.Popen[str]) -> Any:
    """Return what it prints next."""
    assert process.stdout is not None
    return json.loads(process.stdout.readline())


def test_it_prints_every_transition_once(till: Till) -> None:
    """A payment's in their order, one line each; the second time there is nothing new."""
    done = till.spawn("events", "printer")
    lines = [LINE.fullmatch(line) for line in done.stdout.splitlines()]
    assert (done.returncode, done.stderr) == (0, "")
    assert [line[2] for line in lines if line and line[1] == "tea"] == TEA
    assert all(lines)
    again = till.run("events", "printer")
    assert (again.returncode, again.stdout, again.stderr) == (0, "No new events.\n", "")


def test_it_prints_events_for_programs(till: Till) -> None:
    """`--json` is one object a line with an event's own fields, and no words for people."""
    done = till.run("events", "program", "--json")
    rows = rows_of(done.stdout)
    assert {tuple(row) for row in rows} == {("kind", *FeedEvent.__struct_fields__)}
    assert of_tea(rows) == TEA
    assert till.run("events", "program", "--json").stdout == ""


def test_groups_print_independently(till: Till) -> None:
    """Another group gets everything too."""
    first, second = (till.run("events", group, "--json").stdout for group in ("left", "right"))
    assert sorted(first.splitlines()) == sorted(second.splitlines())


def test_a_new_group_may_begin_now(till: Till) -> None:
    """`--now` passes over what was there before."""
    assert till.run("events", "later", "--now", "--json").stdout == ""
    assert till.run("events", "later", "--json").stdout == ""


def test_a_forgotten_group_begins_anew(till: Till) -> None:
    """`--forget` prints nothing; the next one starts at the oldest event again."""
    assert of_tea(rows_of(till.run("events", "short", "--json").stdout)) == TEA
    done = till.run("events", "short", "--forget")
    assert (done.returncode, done.stdout) == (0, "")
    assert of_tea(rows_of(till.run("events", "short", "--json").stdout)) == TEA


def test_a_group_that_is_not_there_is_said_to_be_missing(till: Till) -> None:
    """Whoever forgets `mailer` under a name that is none must not believe that it is gone."""
    for name in ("nosuch", "twice"):
        if name == "twice":
            till.run("events", name)
            assert till.run("events", name, "--forget").returncode == 0
        done = till.run("events", name, "--forget")
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == f"cfflow: there is no group {name} in this store\n"


def test_following_waits_for_more(redis_url: str) -> None:
    """What is committed meanwhile is printed; Ctrl-C ends it, and leaves nothing leased."""
    tell_more(redis_url, "first", 1)
    with follower(redis_url, "watcher") as process:
        assert next_line(process)["order_id"] == "first"
        tell_more(redis_url, "second", 1)
        assert next_line(process)["order_id"] == "second"
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
        assert (process.returncode, errors) == (130, "")
    done = run("events", "watcher", CFFLOW_REDIS_URL=redis_url)
    assert (done.stdout, done.stderr) == ("No new events.\n", "")


def test_the_rest_of_a_killed_reader_is_said_to_be_elsewhere(redis_url: str) -> None:
    """Its lease lasts a while: a reader that gets only a part sees who has the other."""
    tell_more(redis_url, "first", 1)
    with follower(redis_url, "killed") as process:
        next_line(process)
        process.kill()
        process.wait()
    done = run("events", "killed", CFFLOW_REDIS_URL=redis_url)
    assert done.returncode == 0
    assert f":{process.pid}:" in done.stderr


def test_a_gap_is_printed(redis_url: str) -> None:
    """How many events were dropped before the group saw them, for people and for programs."""
    tell_more(redis_url, "before", 1)
    for group in ("people", "programs"):
        run("events", group, CFFLOW_REDIS_URL=redis_url)
    tell_more(redis_url, "first", 192, feed_max=16)
    lines = run("events", "people", CFFLOW_REDIS_URL=redis_url).stdout.splitlines()
    gap, *rest = rows_of(run("events", "programs", "--json", CFFLOW_REDIS_URL=redis_url).stdout)
    assert gap["kind"] == "gap"
    assert gap["lost"] + len(rest) == 192
    where = f"gap: {gap['lost']} events of partition {gap['partition']} were dropped unread"
    assert lines[0] == where


async def test_the_guide_s_loop_sends_a_receipt(till: Till) -> None:
    """The first lines that a reader copies work on an orchestrator's feed."""
    page = (ROOT / "docs" / "guides" / "events.md").read_text()
    loop, *_ = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    receipts: asyncio.Queue[str] = asyncio.Queue()

    async def send_receipt(order_id: str, *, key: str) -> None:
        receipts.put_nowait(f"{order_id} {key}")

    scope: dict[str, Any] = {"cfflow": cfflow, "send_receipt": send_receipt}
    exec(f"async def main(cashier):\n{indent(loop, '    ')}", scope)  # noqa: S102  our own page
    async with till.connect() as cashier:
        reading = asyncio.create_task(scope["main"](cashier))
        async with asyncio.timeout(20):
            sent = {await receipts.get(), await receipts.get()}
        reading.cancel()
        await asyncio.wait([reading])
    assert {receipt.partition(" ")[0] for receipt in sent} == {"tea", "room"}


def test_a_wrong_group_is_refused_in_one_line(till: Till) -> None:
    """A name with a space is a slip of the shell."""
    done = till.run("events", "my group")
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert "group must be" in done.stderr


def test_a_missing_or_dead_store_is_named() -> None:
    """The variable to set, or the address that did not answer."""
    assert "CFFLOW_REDIS_URL" in run("events", "mailer").stderr
    dead = run("events", "mailer", CFFLOW_REDIS_URL="redis://127.0.0.1:1")
    assert (dead.returncode, "127.0.0.1:1" in dead.stderr) == (1, True)
