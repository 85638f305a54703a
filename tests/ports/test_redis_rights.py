"""A user of Redis with the rights of docs/guides/redis-user.md: they are enough, and all needed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import pytest

from cfflow import CfflowError, ConfigError, State, StoreUnavailable, Worker
from cfflow.core.observation import Call
from cfflow.core.order import notice_digest
from cfflow.core.plan import under_token
from cfflow.limits.ledger import Entry
from cfflow.store.catalog import Catalog
from cfflow.store.codec import commit_of
from cfflow.store.control import Decision, decision_text
from cfflow.store.orders import Orders
from cfflow.store.protocol import Notification, Outcome
from cfflow.store.redis.keys import Keys
from cfflow.store.redis.scripts import Adapt, as_shipped
from cfflow.store.redis.store import RedisStore
from cfflow.store.retention import Retention
from cfflow.views.doctor import examine_store
from cfflow.views.reader import Reader
from tests.engine.shop import OTP, Shop, open_shop
from tests.engine.signing import SUCCESS, event, signed
from tests.ports.orders_kit import a_plan, begin, loaded
from tests.ports.servers import Cluster, Server, redis7_binary, running, valkey_binary

pytestmark = pytest.mark.timeout(240)

ROOT: Final = Path(__file__).parents[2]
PAGE: Final = ROOT / "docs" / "guides" / "redis-user.md"
LINE: Final = re.findall(r"^ACL SETUSER .*$", PAGE.read_text(), re.MULTILINE)[0].split()
RIGHTS: Final = [word for word in LINE if word.startswith("+")]
#: Not in the list that `open` compares: cfflow works without it, or nothing works without them.
UNLISTED: Final = {"+info", "+evalsha", "+eval"}
#: Needed before that list can be compared: the server's own words name them.
BEFORE: Final = {"+evalsha", "+eval", "+time", "+hgetall", "+hsetnx"}
#: Missed by a worker alone, which logs it or rests; and by `doctor`.
MISSED_IN_SILENCE: Final = {"+info", "+get", "+hdel", "+zrevrangebyscore"}
PASSWORD: Final = "of-the-page"
SERVERS: Final = {"valkey": valkey_binary, "redis7": redis7_binary}
OLD: Final = {"state": State.FAILED, "created_at_ms": 1, "updated_at_ms": 1, "wake_at_ms": None}
LISTED: Final = re.compile(r"local NEEDED = \{.*?\n\}", re.DOTALL)


def unchecked(text: str) -> str:
    """Return a script that compares no rights: what is missing then shows where it is needed."""
    return LISTED.sub("local NEEDED = {}", text)


def with_rights(server: Server, rights: Sequence[str]) -> str:
    """Make the page's user, with these rights; return the URL for it. The server is empty then."""
    line = [word.replace("PASSWORD", PASSWORD) for word in LINE if not word.startswith("+")]
    server.run(*line, *rights)
    server.run("FLUSHALL")
    if not server.cluster:
        server.run("SCRIPT", "FLUSH")
    return f"redis://shop:{PASSWORD}@127.0.0.1:{server.port}"


def without(right: str) -> list[str]:
    """Return all rights of the page but one."""
    return [each for each in RIGHTS if each != right]


@pytest.fixture(scope="module", params=SERVERS)
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """A server of each kind, whose users and scripts are these tests' own."""
    folder = tmp_path_factory.mktemp(request.param)
    with running(Server(SERVERS[request.param](), folder)) as started:
        yield started


# a whole life


async def whole_life(url: str, server: Server, *, script: Adapt = as_shipped, **kind: Any) -> None:
    """Do all that cfflow does in Redis; raises where it is not done."""
    settings: dict[str, Any] = {"partitions": 1, "feed_max": 16} | kind
    store = RedisStore(url, script=script, **settings)
    if settings["partitions"] == 1:
        key = Keys("cf", 1).events(0)
        for _ in range(63):
            # So the feed is long enough to be trimmed.
            server.run("XADD", key, "*", "e", "an entry")
    async with open_shop(store=store, limits={"fetch_payment": 6_000}) as shop:
        await sales(shop)
        await lost_replies(Orders(store))
        await feed(shop)
        await people(shop, store)
        await the_end(shop)
        assert [one.get("reason") for one in shop.events.named("worker.failed")] == []
    await readers(url, script, settings)


async def sales(shop: Shop) -> None:
    """Take money: with an OTP, from a hold, and through a notification and a worker."""
    payment, _ = await shop.at_otp()
    payment = await shop.cashier.submit_otp(payment, "222000")
    assert (await shop.cashier.submit_otp(payment, OTP)).state is State.CAPTURED
    held = await shop.held()
    assert (await shop.cashier.capture(held, "100.50")).state is State.CAPTURED
    paid, _ = await shop.at_otp()
    await shop.cashier.gateway.authenticate(paid.cf_payment_id or "", OTP)
    body = event(paid.order_id, paid.cf_payment_id, "SUCCESS", SUCCESS)
    for _ in range(2):
        await shop.cashier.on_webhook(signed(body, shop.store.now_ms()), body)
    report = await Worker(shop.cashier).run_once()
    assert (report.due, report.errors, report.progressed) == (0, 0, 1)
    assert await shop.captured(paid)


async def lost_replies(orders: Orders) -> None:
    """Send a commit twice, as after a lost reply, and one that is too late."""
    order = await begin(orders, "order_twice")
    commit = commit_of(under_token(a_plan(order, opens=True), "token_01"))
    for _ in range(2):
        assert (await orders.store.commit(commit)).outcome is Outcome.APPLIED
    late = commit_of(under_token(a_plan(order, opens=True), "token_02"))
    assert (await orders.store.commit(late)).outcome is Outcome.CONFLICT
    order = await loaded(orders, "order_twice")
    assert await orders.store.defer("order_twice", 1, token=order.token) is None
    for _ in range(4):
        # As many are due as are leased: the oldest have their share.
        await orders.store.lease(1, 1)
    await orders.store.set_aside("order_none.1", token="")


async def feed(shop: Shop) -> None:
    """Read all events of the feed, and forget the group."""
    async with shop.cashier.events("mailer") as events:
        seen = 0
        while (item := await events.poll()) is not None:
            await events.ack(item)
            seen += 1
        assert seen > 0
        await events.forget()


async def people(shop: Shop, store: RedisStore) -> None:
    """Look, pause, resume, and accept the store."""
    assert len(await shop.cashier.find()) >= 4
    assert await shop.cashier.find(state="captured", review=True) == []
    await shop.cashier.pause("pay", actor="asha", note="incident 4711")
    assert (await shop.cashier.resume("pay", actor="asha", note="over")).paused == {}
    decision = Decision(what="accept-store", actor="asha", note="it is ours", at_ms=1)
    await store.control.accept(decision_text(decision))
    assert len(await store.decisions(10)) == 3
    entry = Entry(id="a", limit=100, reserve=30, pace=10, wanted=1)
    await store.ledger().settle(Call.PAY, entry)


async def the_end(shop: Shop) -> None:
    """Purge an order that is over, and one that was paid, whose marker stays."""
    orders = Orders(shop.store)
    await begin(orders, "order_old", **OLD)
    assert await Retention(orders, Catalog()).purge_some() == 1
    assert await orders.remove(await loaded(orders, "order_1"))
    with pytest.raises(CfflowError, match="was paid by order_1"):
        await shop.cashier.start("native_otp", order_id="order_1")


async def readers(url: str, script: Adapt, settings: dict[str, Any]) -> None:
    """Read a payment whose flow only the store has, and examine the store as `doctor` does."""
    async with Reader(RedisStore(url, script=script, **settings), Catalog()) as reader:
        assert (await reader.get("order_twice.1")).flow == "ports"
    found = await examine_store(RedisStore(url, script=script, **settings))
    assert [each.subject for each in found if each.subject in {"restarts", "unreadable"}] == [
        "unreadable"
    ]


async def test_a_user_with_the_page_s_rights_does_everything(server: Server) -> None:
    """Sales, holds, webhooks, a worker, the feed, searches, decisions, the purge, doctor."""
    await whole_life(with_rights(server, RIGHTS), server)


@pytest.mark.parametrize("right", RIGHTS)
async def test_every_right_of_the_page_is_needed(server: Server, right: str) -> None:
    """Without it something of a whole life fails, and an error of the store names it."""
    url = with_rights(server, without(right))
    expected = AssertionError if right in MISSED_IN_SILENCE else StoreUnavailable
    with pytest.raises(expected) as failed:
        await whole_life(url, server, script=unchecked)
    if expected is StoreUnavailable:
        assert right[1:] in str(failed.value).lower()
        assert PAGE.name in str(failed.value)


@pytest.mark.parametrize("right", [each for each in RIGHTS if each != "+info"])
async def test_a_missing_right_is_refused_when_the_store_is_opened(
    server: Server, right: str
) -> None:
    """Before anything is written in part: the error names the right and the page."""
    url = with_rights(server, without(right))
    store = RedisStore(url)
    expected = StoreUnavailable if right in BEFORE else ConfigError
    with pytest.raises(expected) as refused:
        await store.open()
    assert right[1:] in str(refused.value).lower()
    assert f"docs/guides/{PAGE.name}" in str(refused.value)
    assert PASSWORD not in str(refused.value)


async def test_several_missing_rights_are_named_at_once(server: Server) -> None:
    """A person corrects the line once."""
    rights = [each for each in RIGHTS if each not in {"+xadd", "+zadd", "+lpush"}]
    with pytest.raises(ConfigError, match=r"LPUSH, XADD, ZADD"):
        await RedisStore(with_rights(server, rights)).open()


@pytest.mark.parametrize("namespace", ["other", "cfx"])
async def test_the_keys_of_another_namespace_are_refused(server: Server, namespace: str) -> None:
    """They are not this user's."""
    url = with_rights(server, RIGHTS)
    with pytest.raises(StoreUnavailable, match=PAGE.name):
        await RedisStore(url, namespace=namespace).open()
    assert server.run("DBSIZE") == 0


async def test_a_right_that_is_taken_away_later_is_named(server: Server) -> None:
    """The step is refused, nothing is sent, and it goes on once the right is back."""
    store = RedisStore(with_rights(server, RIGHTS))
    async with open_shop(store=store) as shop:
        payment, _ = await shop.at_otp()
        server.run("ACL", "SETUSER", "shop", "-getrange")
        with pytest.raises(StoreUnavailable, match=r"(?i)getrange.*redis-user") as refused:
            await shop.cashier.submit_otp(payment, OTP)
        assert not refused.value.money_may_have_moved
        assert shop.performed("authenticate") == 0
        report = await Worker(shop.cashier).run_once()
        assert report.due == 0
        server.run("ACL", "SETUSER", "shop", "+getrange")
        assert (await shop.cashier.submit_otp(payment, OTP)).state is State.CAPTURED


async def test_orders_are_not_unreadable_to_a_user_without_rights(server: Server) -> None:
    """A right that is missing is trouble of the store: no order is set aside because of it."""
    store = RedisStore(with_rights(server, RIGHTS))
    await store.open()
    await begin(Orders(store), "order_1", wake_at_ms=1)
    # A lease reads the notifications of an order only where there are some.
    seen = Notification(type="T", content_id="c", order_id="order_1", cf_payment_id="1")
    await store.notify(seen, notice_digest("1", ""))
    for command in ("hgetall", "mget", "zadd", "hset"):
        server.run("ACL", "SETUSER", "shop", f"-{command}")
        with pytest.raises(StoreUnavailable, match=f"(?i){command}"):
            await store.lease(64, 1)
        server.run("ACL", "SETUSER", "shop", f"+{command}")
    await store.aclose()
    assert server.run("KEYS", "*unreadable*") == []


# the page and the scripts


def test_the_page_has_the_commands_of_the_scripts() -> None:
    """No command more, and none is missing."""
    folder = ROOT / "cfflow" / "store" / "redis"
    texts = {path.name: path.read_text() for path in folder.glob("*.lua")}
    assert len(texts) == 4
    used = set(re.findall(r"(?:call\(|named, )'([A-Z]+)'", "".join(texts.values())))
    direct = re.findall(
        r'(?:\.command\(|\(\()"([A-Z]+)"|\[\("(WAIT)"',
        "".join(p.read_text() for p in folder.glob("*.py")),
    )
    needed = set(re.findall(r"'([A-Z]+)'", LISTED.findall(texts["deployment.lua"])[0]))
    assert used | {name for pair in direct for name in pair if name} == needed | {"INFO", "WAIT"}
    assert {f"+{name.lower()}" for name in needed} | UNLISTED == set(RIGHTS)
    assert len(RIGHTS) == len(set(RIGHTS))
    assert f"{len(RIGHTS)} commands" in PAGE.read_text()


# what else may be needed


async def test_min_replicas_needs_wait(server: Server) -> None:
    """Refused when the store is opened, before a step is stored and not sent."""
    url = with_rights(server, RIGHTS)
    with pytest.raises(StoreUnavailable, match=r"(?i)wait.*redis-user"):
        await RedisStore(url, min_replicas=1).open()
    store = RedisStore(with_rights(server, [*RIGHTS, "+wait"]), min_replicas=1)
    await store.open()
    await store.aclose()


async def test_the_number_of_a_database_needs_select(server: Server) -> None:
    """The URL names one."""
    url = with_rights(server, RIGHTS)
    with pytest.raises(StoreUnavailable, match=r"(?i)select.*redis-user"):
        await RedisStore(f"{url}/3").open()
    store = RedisStore(f"{with_rights(server, [*RIGHTS, '+select'])}/3")
    await store.open()
    await store.aclose()


CLUSTER: Final = ["+cluster|slots", "+command"]


def on_all(cluster: Cluster, rights: Sequence[str]) -> str:
    """Make the page's user on every node; return the URL of one."""
    urls = [with_rights(node, rights) for node in cluster.nodes]
    return urls[0]


async def test_on_a_cluster_two_rights_more_are_enough(cluster: Cluster) -> None:
    """The whole life again, on three nodes."""
    url = on_all(cluster, [*RIGHTS, *CLUSTER])
    await whole_life(url, cluster.nodes[0], partitions=64, feed_max=1_000)


@pytest.mark.parametrize("right", CLUSTER)
async def test_on_a_cluster_each_of_the_two_is_needed(cluster: Cluster, right: str) -> None:
    """The error names it, and does not look like a server that is down."""
    url = on_all(cluster, [*RIGHTS, *(each for each in CLUSTER if each != right)])
    with pytest.raises(StoreUnavailable, match=rf"(?i){re.escape(right[1:])}.*redis-user"):
        await RedisStore(url).open()


async def test_on_a_cluster_every_node_is_examined(cluster: Cluster) -> None:
    """A right that is missing on one of them would cut off the commits of its orders only."""
    url = on_all(cluster, [*RIGHTS, *CLUSTER])
    for node in cluster.nodes[1:]:
        node.run("ACL", "SETUSER", "shop", "-zadd")
        with pytest.raises(ConfigError, match="ZADD"):
            await RedisStore(url).open()
        node.run("ACL", "SETUSER", "shop", "+zadd")
