"""The rate budget of one process, and of several on one server or on a cluster."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cfflow.cashfree import facts
from cfflow.cashfree.calls import ROUTES
from cfflow.core.observation import Call
from cfflow.errors import ConfigError
from cfflow.limits.budget import Budget, LimitHeaders, limits_of
from cfflow.limits.ledger import Ledger
from cfflow.store.memory.ledger import MemoryLedger, ledger_of
from cfflow.store.redis.ledger import RedisLedger
from cfflow.store.redis.store import RedisStore
from cfflow.testing import FakeClock, MemoryStore
from cfflow.views import doctor
from tests.ports.servers import Monitor, Server, valkey_binary

#: Of 130 a minute workers get 91 in a window, 7 in any five seconds.
LIMIT, PACE = 130, 7
ONE, ALL = Call.FETCH_PAYMENT, Call.FETCH_PAYMENTS
SHORT_S = 10.0


@pytest.fixture
def clock() -> FakeClock:
    """A clock that stands still."""
    return FakeClock()


@pytest.fixture
def ledger(clock: FakeClock) -> Ledger:
    """The books of the processes of a test."""
    return MemoryStore(clock).ledger()


@pytest.fixture
def budget(ledger: Ledger) -> Budget:
    """The budget of a process in production."""
    return Budget(limits_of("production"), ledger)


@pytest.fixture(params=["redis_url", "redis7_url", "cluster_url"])
def url(request: pytest.FixtureRequest) -> str:
    """Valkey, Redis, and a cluster."""
    return str(request.getfixturevalue(request.param))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A server that may die in the middle of a test."""
    started = Server(valkey_binary(), tmp_path).start()
    yield started
    started.kill()


async def until_reported(budget: Budget) -> None:
    """Wait until this process has nothing left to report."""
    async with asyncio.timeout(SHORT_S):
        while budget._reporter is not None:
            await asyncio.sleep(0.01)


def taken(budget: Budget, call: Call = ONE) -> int:
    """Use permits until there are none, and return how many there were."""
    count = 0
    while budget.take(call):
        count += 1
    return count


def tasks() -> int:
    """How many tasks run besides the test."""
    return len(asyncio.all_tasks()) - 1


#: The calls that have a limit.
LIMITED = [call for call, route in ROUTES.items() if route.limited_by]

# limits


@pytest.mark.parametrize("environment", ["production", "sandbox"])
def test_each_limited_call_of_the_table_has_a_number(environment: str) -> None:
    """The table of calls and the published numbers name the same calls."""
    assert [Call(name) for name in facts.RATE_LIMITS[environment]] == LIMITED


@pytest.mark.parametrize("environment", ["production", "https://proxy.example/pg"])
def test_a_base_url_has_the_limits_of_production(environment: str) -> None:
    """The numbers of gateway.md#rate-limits; `limits` can set others."""
    assert limits_of(environment) == dict(zip(LIMITED, (200, 400, 100, 130, 100), strict=True))


def test_a_gateway_on_this_machine_names_its_limits_itself() -> None:
    """An emulator has those that it was started with, often none; `limits` still counts."""
    limits = limits_of("http://127.0.0.1:8000/pg", {"pay": 5})
    assert limits == dict.fromkeys(LIMITED) | {Call.PAY: 5}


def test_the_sandbox_has_limits_of_its_own() -> None:
    """Where the gateway names no number, the lowest of the others stands."""
    assert limits_of("sandbox") == dict(zip(LIMITED, (30, 60, 30, 30, 30), strict=True))


def test_limits_are_overridden_by_class() -> None:
    """A number or no limit at all; the other classes keep theirs."""
    limits = limits_of("sandbox", {"fetch_payment": 600, "pay": None})
    assert limits == limits_of("sandbox") | {Call.FETCH_PAYMENT: 600, Call.PAY: None}


@pytest.mark.parametrize(
    ("name", "limit"),
    [
        ("authorize", 10),
        ("fetch-payment", 10),
        ("pay", 0),
        ("pay", -1),
        ("pay", True),
        ("pay", 2.5),
        ("pay", "100"),
        ("pay", float("nan")),
    ],
)
def test_impossible_limits_are_refused(name: str, limit: Any) -> None:
    """One error that names the setting."""
    with pytest.raises(ConfigError, match=f"limits: .*{name}"):
        limits_of("production", {name: limit})


@pytest.mark.parametrize(
    ("environment", "shown"),
    [
        ("sandbox", "create_order 30, fetch_order 60, fetch_payments 30, fetch_payment 30, pay 30"),
        ("http://127.0.0.1:8000/pg", "what the gateway names"),
    ],
)
def test_the_doctor_shows_the_limits(environment: str, shown: str) -> None:
    """One line: the table that counts, or that only the gateway's answers do."""
    found = doctor.kept_limits(environment)
    assert (found.verdict, found.subject) == ("good", "limits")
    assert found.detail == f"calls a minute: {shown}"


# workers


async def test_a_worker_uses_what_it_leased_and_no_more(budget: Budget) -> None:
    """A slice is as large as the pace; then `wait_s` is the time until the next one."""
    assert not budget.take(ONE)
    assert await budget.room(ONE, 50) == PACE
    assert budget.wait_s(ONE) == 0.0
    assert taken(budget) == PACE
    assert await budget.room(ONE, 50) == 0
    assert budget.wait_s(ONE) == pytest.approx(5.0)


async def test_a_worker_gets_no_more_than_it_wants(budget: Budget) -> None:
    """What is left of a slice is there without asking again."""
    assert [await budget.room(ONE, wanted) for wanted in (0, -1, 3)] == [0, 0, 3]
    budget.take(ONE)
    assert await budget.room(ONE, 50) == 2


async def test_classes_are_counted_apart(budget: Budget) -> None:
    """An empty budget for one attempt leaves that for the list of attempts as it is."""
    await budget.room(ONE, 50)
    taken(budget)
    assert await budget.room(ALL, 50) == 6


async def test_permits_lapse_and_come_back(budget: Budget, clock: FakeClock) -> None:
    """Four seconds after the lease they may not be used, and the book has them again."""
    await budget.room(ONE, 50)
    budget.take(ONE)
    clock.advance(3.999)
    assert budget.take(ONE)
    clock.advance(0.001)
    assert not budget.take(ONE)
    assert await budget.room(ONE, 50) == PACE - 2


async def test_permits_are_given_back_at_once(budget: Budget, ledger: Ledger) -> None:
    """A worker that has nothing to ask leaves its permits to another process."""
    other = Budget(limits_of("production"), ledger)
    await budget.room(ONE, 50)
    budget.take(ONE)
    assert await other.room(ONE, 50) == 0
    budget.give_back()
    assert not budget.take(ONE)
    await budget.aclose()
    assert await other.room(ONE, 50) == PACE - 1


async def test_what_was_reported_is_not_reported_again(budget: Budget) -> None:
    """Permits that came back, calls and a block: after a second there is nothing left to report."""
    await budget.room(ONE, 50)
    budget.give_back()
    budget.enter(ALL)
    budget.apply_limit_headers(ALL, LimitHeaders(wait_s=600.0))
    await until_reported(budget)
    assert tasks() == 0


async def test_a_full_minute_of_work_gets_the_whole_share(budget: Budget, clock: FakeClock) -> None:
    """Ten minutes of a backlog: the share of every window, and never more than it."""
    called_s: list[float] = []
    for _ in range(600):
        await budget.room(ONE, 50)
        called_s += [clock.now_ms / 1000] * taken(budget)
        clock.advance(1)
    assert len(called_s) >= 600 / 65 * 91
    assert max(sum(b <= at < b + 60 for at in called_s) for b in called_s) <= 91


async def test_workers_of_one_process_ask_once(store: RedisStore) -> None:
    """Five that ask at the same time share one slice."""
    budget = Budget(limits_of("production"), store.ledger())
    rooms = await asyncio.gather(*(budget.room(ONE, 3) for _ in range(5)))
    assert rooms == [3] * 5
    assert taken(budget) == 3


async def test_without_a_limit_there_is_always_room(ledger: Ledger) -> None:
    """While the gateway names none, None is no limit; a call of no class never has one."""
    budget = Budget(limits_of("production", {"fetch_payment": None}), ledger)
    for call in (ONE, Call.AUTHORIZE):
        assert await budget.room(call, 5_000) == 5_000
        assert all(budget.take(call) for _ in range(5_000))
        assert (budget.wait_s(call), budget.enter(call)) == (0.0, 0.0)
    await budget.aclose()


# the checkout


async def test_the_checkout_is_never_refused_by_our_own_count(budget: Budget) -> None:
    """A thousand calls in a moment: the gateway may refuse them, we do not."""
    assert {budget.enter(ONE) for _ in range(1_000)} == {0.0}
    await budget.aclose()


async def test_the_checkout_s_calls_come_off_the_workers_share(budget: Budget) -> None:
    """111 of 130 leave 19, half the reserve: none for a worker."""
    for _ in range(105):
        budget.enter(ONE)
    assert await budget.room(ONE, 50) == 6
    taken(budget)
    for _ in range(6):
        budget.enter(ONE)
    assert await budget.room(ONE, 50) == 0
    await budget.aclose()


async def test_calls_in_the_background_need_a_permit(budget: Budget) -> None:
    """Inside the block, and in tasks begun in it; outside, a customer waits for the answer."""

    async def enter() -> float:
        return budget.enter(ONE)

    with budget.background():
        assert budget.enter(ONE) > 0
        await budget.room(ONE, 2)
        assert [budget.enter(ONE), await asyncio.create_task(enter())] == [0.0, 0.0]
        assert budget.enter(ONE) > 0
    assert budget.enter(ONE) == 0.0
    await budget.aclose()


async def test_a_pay_is_never_counted(budget: Budget) -> None:
    """Its limit is by address: it is in no book of the account, in the background neither."""
    assert await budget.room(Call.PAY, 500) == 500
    with budget.background():
        assert budget.enter(Call.PAY) == 0.0
    assert tasks() == 0


# the gateway's own word


async def test_a_block_holds_everybody_in_this_process_at_once(
    budget: Budget, clock: FakeClock
) -> None:
    """Callers and workers alike, until it ends."""
    await budget.room(ONE, 50)
    budget.apply_limit_headers(ONE, LimitHeaders(wait_s=12.0))
    assert (budget.enter(ONE), budget.wait_s(ONE)) == (12.0, 12.0)
    assert (budget.take(ONE), await budget.room(ONE, 50)) == (False, 0)
    clock.advance(12)
    assert budget.enter(ONE) == 0.0
    assert await budget.room(ONE, 50) == PACE
    await budget.aclose()


async def test_a_block_without_a_limit_holds_too(ledger: Ledger) -> None:
    """Not to count is one thing, to be asked to wait another."""
    budget = Budget({ONE: None}, ledger)
    budget.apply_limit_headers(ONE, LimitHeaders(wait_s=12.0))
    assert budget.enter(ONE) == 12.0
    assert (budget.take(ONE), await budget.room(ONE, 50)) == (False, 0)
    assert tasks() == 0


@pytest.mark.parametrize(("by_address", "waits_s"), [(False, 12.0), (True, 0.0)])
async def test_the_others_learn_of_a_block_that_is_the_account_s(
    budget: Budget, ledger: Ledger, by_address: bool, waits_s: float
) -> None:
    """One by address speaks to this machine only."""
    other = Budget(limits_of("production"), ledger)
    budget.apply_limit_headers(ONE, LimitHeaders(wait_s=12.0, by_address=by_address))
    await budget.aclose()
    await other.room(ONE, 50)
    assert other.enter(ONE) == waits_s
    await other.aclose()


async def test_a_lower_limit_of_the_gateway_becomes_ours(budget: Budget) -> None:
    """And a higher one does not; the last word counts."""
    budget.apply_limit_headers(ONE, LimitHeaders(limit=26))
    assert (budget.limits[ONE], await budget.room(ONE, 50)) == (26, 2)
    budget.apply_limit_headers(ONE, LimitHeaders(limit=500))
    assert budget.limits[ONE] == LIMIT


async def test_a_limit_that_only_the_gateway_names_is_kept(ledger: Ledger) -> None:
    """Without a number of ours its first answer gives one; what it counted is known too."""
    budget = Budget({ONE: None}, ledger)
    budget.apply_limit_headers(ONE, LimitHeaders(limit=LIMIT, remaining=25))
    assert (budget.limits, await budget.room(ONE, 50)) == ({ONE: LIMIT}, 6)


async def test_calls_that_we_do_not_know_of_come_off_the_workers_share(budget: Budget) -> None:
    """Only 25 remain at the gateway: 6 for workers, 19 for whoever is at the checkout."""
    budget.apply_limit_headers(ONE, LimitHeaders(limit=LIMIT, remaining=25))
    assert await budget.room(ONE, 50) == 6


async def test_an_old_count_of_the_gateway_does_not_count_any_more(
    budget: Budget, clock: FakeClock
) -> None:
    """Its window has moved on since."""
    budget.apply_limit_headers(ONE, LimitHeaders(limit=LIMIT, remaining=0))
    clock.advance(6)
    assert await budget.room(ONE, 50) == PACE


async def test_a_slice_shrinks_when_the_gateway_runs_out(budget: Budget) -> None:
    """The last 19 of a minute are the checkout's, whatever was granted before."""
    await budget.room(ONE, 50)
    budget.apply_limit_headers(ONE, LimitHeaders(limit=LIMIT, remaining=21))
    assert taken(budget) == 2


# several processes


PROCESS = """
import asyncio, sys
from cfflow.core.observation import Call
from cfflow.limits.budget import Budget, limits_of
from cfflow.store.redis.store import RedisStore

async def main(url, entered, wanted):
    input("ready\\n")
    store = RedisStore(url)
    await store.open()
    budget = Budget(limits_of("production", {"fetch_payment": 1300}), store.ledger())
    for _ in range(int(entered)):
        budget.enter(Call.FETCH_PAYMENT)
    print(await budget.room(Call.FETCH_PAYMENT, int(wanted)))
    await budget.aclose()
    await store.aclose()

asyncio.run(main(*sys.argv[1:]))
"""


def process(url: str, entered: int, wanted: int) -> subprocess.Popen[str]:
    """Return another process once it waits: permits come back while it starts."""
    command = [sys.executable, "-c", PROCESS, url, str(entered), str(wanted)]
    started = subprocess.Popen(command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert started.stdout is not None
    assert started.stdout.readline() == "ready\n"
    return started


def permits(process: subprocess.Popen[str]) -> int:
    """Let it call and ask for permits, and return how many it got."""
    return int(process.communicate("go\n", timeout=60)[0])


async def test_processes_share_one_budget(store: RedisStore, url: str) -> None:
    """Of 1300 a minute 70 may be granted at once, to all of them together."""
    budget = Budget(limits_of("production", {"fetch_payment": 1300}), store.ledger())
    with process(url, 0, 60) as one, process(url, 1300, 60) as other:
        assert await budget.room(ONE, 45) == 45
        assert await asyncio.to_thread(permits, one) == 25
        budget.give_back()
        await budget.aclose()
        assert await asyncio.to_thread(permits, other) == 0


async def test_the_checkouts_calls_are_reported_within_seconds(store: RedisStore) -> None:
    """Calls are gathered for a second and reported together; then nothing is left running."""
    caller, worker = (Budget(limits_of("production"), store.ledger()) for _ in range(2))
    for _ in range(200):
        caller.enter(ONE)
    assert await worker.room(ONE, 1) == 1
    taken(worker)
    await until_reported(caller)
    assert await worker.room(ONE, 50) == 0
    assert tasks() == 0


async def test_no_two_processes_are_granted_the_same(store: RedisStore) -> None:
    """Twenty that ask at the same time get what one would get."""
    budgets = [Budget(limits_of("production"), store.ledger()) for _ in range(20)]
    rooms = await asyncio.gather(*(budget.room(ONE, 2) for budget in budgets))
    assert sum(rooms) == PACE


async def test_a_book_does_not_stay(store: RedisStore) -> None:
    """It is gone soon after it counts no more."""
    await Budget(limits_of("production"), store.ledger()).room(ONE, 1)
    assert 70_000 < await store.link.command("PTTL", store.keys.budget(ONE)) <= 71_000


async def test_a_call_makes_no_round_trip(valkey_server: Server, redis_url: str) -> None:
    """Only a slice is a script; permits and callers need no call to the server."""
    store = RedisStore(redis_url)
    await store.open()
    budget, monitor = Budget(limits_of("production"), store.ledger()), Monitor(valkey_server)
    await budget.room(ONE, 7)
    assert monitor.seen() == ["evalsha"]
    assert await budget.room(ONE, 3) == 3
    assert taken(budget) == 7
    assert {budget.enter(ALL) for _ in range(100)} == {0.0}
    await asyncio.sleep(0)
    assert monitor.seen() == []
    await until_reported(budget)
    assert monitor.seen() == ["evalsha"]
    await store.aclose()
    monitor.close()


# trouble


async def test_without_the_store_callers_go_on_and_workers_wait(server: Server) -> None:
    """No process has the count, so no worker calls; when it is back, what was called counts."""
    store = RedisStore(server.url, deadline_s=0.3)
    await store.open()
    budget = Budget(limits_of("production"), store.ledger())
    server.kill()
    assert {budget.enter(ONE) for _ in range(105)} == {0.0}
    assert await budget.room(ONE, 50) == 0
    assert 0 < budget.wait_s(ONE) <= 1.0
    await until_reported(budget)
    server.start()
    assert await budget.room(ONE, 50) == 6
    await budget.aclose()
    await store.aclose()


async def test_a_cancelled_lease_leaves_the_budget_usable(server: Server) -> None:
    """Who asks next, in the same process, is not held up and gets what is left."""
    store = RedisStore(server.url)
    await store.open()
    budget = Budget(limits_of("production"), store.ledger())
    server.pause()
    asking = asyncio.create_task(budget.room(ONE, 3))
    await asyncio.sleep(0.05)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    server.resume()
    assert await budget.room(ONE, 50) in {PACE - 3, PACE}
    await store.aclose()


async def test_closing_reports_the_last_calls_and_leaves_nothing_running(ledger: Ledger) -> None:
    """A process of one call and an end is counted too."""
    budget, other = (Budget(limits_of("production"), ledger) for _ in range(2))
    for _ in range(105):
        budget.enter(ONE)
    await budget.aclose()
    assert tasks() == 0
    assert await other.room(ONE, 50) == 6


async def test_closing_waits_for_no_store_that_hangs(server: Server) -> None:
    """Half a second, and then the last words stay unsaid."""
    store = RedisStore(server.url)
    await store.open()
    budget = Budget(limits_of("production"), store.ledger())
    budget.enter(ONE)
    server.pause()
    async with asyncio.timeout(1.5):
        await budget.aclose()
    server.resume()
    assert tasks() == 0
    await store.aclose()


async def test_idle_budgets_ask_nothing(valkey_server: Server, redis_url: str) -> None:
    """No call, no command: nothing polls."""
    store = RedisStore(redis_url)
    await store.open()
    budget, monitor = Budget(limits_of("production"), store.ledger()), Monitor(valkey_server)
    await asyncio.sleep(1.2)
    assert (monitor.seen(), tasks()) == ([], 0)
    await budget.aclose()
    await store.aclose()
    monitor.close()


def test_a_store_without_books_gets_those_of_its_process() -> None:
    """A store that was written elsewhere need not have budgets."""
    assert isinstance(ledger_of(object()), MemoryLedger)
    assert isinstance(ledger_of(RedisStore("redis://127.0.0.1:1")), RedisLedger)
    kept = MemoryStore()
    assert ledger_of(kept) is kept.ledger()
