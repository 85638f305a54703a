"""Chaos: drivers, workers and Redis itself are killed at random, and then the books are audited.

`python -m tests.crash.chaos --seconds 60 --seed 1`, or `make chaos`. Real processes, a real
Valkey whose AOF is written before each answer, a bank behind HTTP that loses, delays and
spoils its answers. No process is warned before it is killed. A seed repeats the plan of
which process is killed when, but not what each process was doing at that moment.

With an odd seed the store knows that its server keeps every commit, so steps go on after each
restart. With an even one it does not: most steps wait until their orders are verified again.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Any, Final

import httpx
import msgspec

from cfflow import State
from cfflow.emulator import BankOptions, EmulatorProcess
from cfflow.store.redis.store import RedisStore
from tests.crash.actors import FLOWS, Place, Seen, drive, work
from tests.crash.audit import Bank, Kept, Order, findings, kept_of, lost
from tests.ports.servers import Server, valkey_binary

__all__ = ["Verdict", "run"]

DRIVERS: Final = 3
WORKERS: Final = 2

#: How long the workers have, once no process is killed any more: a lost pay is looked for twice,
#: 15 s apart; an OTP that the bank accepted late is seen when its page expires, after 30 s.
_SETTLES_S: Final = 75.0
_FAULTS_WAITING_MAX: Final = 12
_CALLS: Final = ("pay", "authenticate", "authorize", "fetch_payment", "fetch_payments", "any")
_KINDS: Final = (
    "delay_before",
    "delay_after",
    "lost_before",
    "lost_after",
    "status_before",
    "status_after",
    "status_stored",
    "html",
    "garbage",
)
_SLOW_S: Final = 1.6


class Verdict(msgspec.Struct):
    """What was done, and what the auditor found at the end."""

    seed: int
    seconds: float
    killed: dict[str, int] = {}
    faults: int = 0
    payments: int = 0
    states: dict[str, int] = {}
    reviews: dict[str, int] = {}
    effects: dict[str, int] = {}
    reads: int = 0
    settled_s: float = 0.0
    findings: list[str] = []


class _Crowd:
    """The processes of one kind; one that is killed is replaced at once."""

    def __init__(self, kind: str, act: Callable[[Place, str], None], place: Place) -> None:
        self.kind = kind
        self.findings: list[str] = []
        self._act = act
        self._place = place
        self._born = 0
        self._processes: list[ForkProcess] = []

    def grow(self, count: int) -> None:
        """Start so many processes more."""
        for _ in range(count):
            self._born += 1
            name = f"{self.kind}{self._born}"
            process = multiprocessing.get_context("fork").Process(
                target=self._act, args=(self._place, name), name=name
            )
            process.start()
            self._processes.append(process)

    def kill_one(self, chance: random.Random) -> None:
        """Kill one of them and start another."""
        victim = chance.choice(self._processes)
        self._kill(victim)
        self.grow(1)

    def kill_all(self) -> None:
        """Kill every one of them."""
        for process in tuple(self._processes):
            self._kill(process)

    def _kill(self, process: ForkProcess) -> None:
        if process.exitcode is not None:
            self.findings.append(f"{process.name} ended by itself: {process.exitcode}")
        process.kill()
        process.join()
        self._processes.remove(process)


class _Chaos:
    """One run: everything that acts, everything that is killed, and the plan of the seed."""

    def __init__(self, seed: int, server: Server, admin: httpx.Client, place: Place) -> None:
        # Each plan has its own generator: the number of faults must not change the kills.
        self._chance = random.Random(f"{seed} kills")
        self._faulty = random.Random(f"{seed} faults")
        self._server = server
        self._admin = admin
        self._drivers = _Crowd("driver", drive, place)
        self._workers = _Crowd("worker", work, place)
        self._place = place
        self.killed: Counter[str] = Counter()
        self.faults = 0

    def rage(self, seconds: float) -> None:
        """Start all processes and kill at random for so many seconds."""
        self._drivers.grow(DRIVERS)
        self._workers.grow(WORKERS)
        ends_s, kill_s = time.monotonic() + seconds, time.monotonic() + 1.0
        while (now_s := time.monotonic()) < ends_s:
            self._add_fault()
            if now_s >= kill_s:
                self._kill_one()
                kill_s = time.monotonic() + self._chance.uniform(0.1, 0.7)
            time.sleep(0.04)

    def calm(self) -> list[str]:
        """End the faults and the drivers. Return the drivers that ended by themselves."""
        self._drivers.kill_all()
        self._admin.delete("/faults").raise_for_status()
        return self._drivers.findings

    def end(self) -> list[str]:
        """End the workers too. Return the workers that ended by themselves."""
        self._drivers.kill_all()
        self._workers.kill_all()
        return self._workers.findings

    def _add_fault(self) -> None:
        kind, call = self._faulty.choice(_KINDS), self._faulty.choice(_CALLS)
        rule: dict[str, Any] = {"call": call, "kind": kind}
        rule["delay_s"] = round(self._faulty.uniform(0.02, _SLOW_S), 2)
        waiting = self._admin.get("/faults").json()["faults"]
        if len(waiting) < _FAULTS_WAITING_MAX:
            self._admin.post("/faults", json=rule).raise_for_status()
            self.faults += 1

    def _kill_one(self) -> None:
        kind = self._chance.choices(("driver", "worker", "redis"), (5, 3, 2))[0]
        self.killed[kind] += 1
        if kind == "driver":
            self._drivers.kill_one(self._chance)
        elif kind == "worker":
            self._workers.kill_one(self._chance)
        else:
            self._server.kill()
            time.sleep(self._chance.choice((0.0, 0.2, 0.6)))
            self._server.start()


def run(seconds: float, seed: int) -> Verdict:
    """Run the chaos for so many seconds, let the workers finish, and audit everything."""
    options = BankOptions(confirm_after_s=0.3, otp_settles_after_s=0.2)
    verdict = Verdict(seed, seconds)
    with tempfile.TemporaryDirectory(prefix="cfflow-chaos-") as folder:
        server = Server(valkey_binary(), Path(folder) / "redis", *_DURABLE)
        try:
            server.start()
            with EmulatorProcess(options=options, seed=seed) as bank:
                _run(verdict, server, bank, folder)
        finally:
            server.kill()
    return verdict


#: Every commit is on the disk before Redis replies: a process that got the reply finds it.
_DURABLE: Final = ("--appendonly", "yes", "--appendfsync", "always")


def _run(verdict: Verdict, server: Server, bank: EmulatorProcess, folder: str) -> None:
    flows = Path(folder) / "flows"
    flows.mkdir()
    for name, text in FLOWS.items():
        (flows / f"{name}.toml").write_text(text)
    place = Place(server.url, bank.base_url, bank.client_id, bank.client_secret, str(flows), folder)
    asyncio.run(_create_store(server.url, keeps_every_commit=verdict.seed % 2 == 1))
    with httpx.Client(base_url=bank.admin_url, trust_env=False) as admin:
        chaos = _Chaos(verdict.seed, server, admin, place)
        try:
            chaos.rage(verdict.seconds)
            verdict.findings = chaos.calm()
            asyncio.run(_judge(verdict, server.url, admin, Path(folder)))
        finally:
            verdict.findings += chaos.end()
        verdict.killed, verdict.faults = dict(chaos.killed), chaos.faults


async def _create_store(redis_url: str, *, keeps_every_commit: bool) -> None:
    store = RedisStore(redis_url, keeps_every_commit=keeps_every_commit)
    await store.open()
    await store.aclose()


async def _judge(verdict: Verdict, redis_url: str, admin: httpx.Client, folder: Path) -> None:
    """Wait until the workers are done, and compare the store with the bank."""
    store = RedisStore(redis_url)
    await store.open()
    began_s = time.monotonic()
    while True:
        orders = await _orders(store, admin)
        left = [finding for order in orders.values() for finding in lost(order)]
        if not left or time.monotonic() - began_s > _SETTLES_S:
            break
        await asyncio.sleep(0.5)
    verdict.settled_s = round(time.monotonic() - began_s, 1)
    payments = [kept for order in orders.values() for kept in order.payments]
    verdict.findings += left
    for order in orders.values():
        verdict.findings += findings(order)
    verdict.findings += _asked_too_often(admin)
    seen = list(_seen(folder))
    verdict.findings += _missing(seen, payments)
    _count(verdict, payments, admin)
    verdict.reads = len(seen)
    await store.aclose()


async def _orders(store: RedisStore, admin: httpx.Client) -> dict[str, Order]:
    """Return every order of the store or the bank."""
    lines = Bank.of(admin).orders()
    names = set(lines) | set(await _order_ids(store))
    return {name: Order(await kept_of(store, name), lines.get(name, [])) for name in sorted(names)}


async def _order_ids(store: RedisStore) -> list[str]:
    found: list[str] = []
    for place in range(store.keys.partitions):
        prefix = store.keys.order_prefix(place)
        keys = await store.link.command("KEYS", f"{prefix}*")
        found += [key.decode().removeprefix(prefix) for key in keys]
    return found


def _asked_too_often(admin: httpx.Client) -> Iterator[str]:
    """Yield a sentence if the bank had to refuse a capture or void that was sent twice."""
    books = Bank.of(admin)
    effects = Counter(line.effect for line in books.ledger)
    holds = {line.cf_payment_id for line in books.ledger if line.effect == "authorized"}
    taken = sum(line.effect == "captured" and line.cf_payment_id in holds for line in books.ledger)
    performed = books.calls.performed.get("authorize", 0)
    if performed != taken + effects["voided"]:
        yield f"{performed} captures and voids asked for, {taken} + {effects['voided']} done"


def _seen(folder: Path) -> Iterator[Seen]:
    """Yield what the drivers recorded; the last line of a killed driver may be cut off."""
    for diary in sorted(folder.glob("*.seen")):
        for line in diary.read_bytes().split(b"\n")[:-1]:
            yield msgspec.json.decode(line, type=Seen)


def _missing(seen: list[Seen], payments: list[Kept]) -> Iterator[str]:
    """Yield each payment that a driver read and the store lost; the AOF must prevent that."""
    known = {kept.snapshot.id: kept.record for kept in payments}
    for read in seen:
        record = known.get(read.payment_id)
        if record is None:
            yield f"{read.payment_id} was {read.state}, and is not in the store"
        elif record.version < read.version:
            yield f"{read.payment_id} was at version {read.version}, now at {record.version}"
        elif read.state in {State.CAPTURED, State.VOIDED} and record.state is not read.state:
            yield f"{read.payment_id} was {read.state}, and is {record.state}"


def _count(verdict: Verdict, payments: list[Kept], admin: httpx.Client) -> None:
    reviews = [review.reason for kept in payments for review in kept.record.open_reviews]
    verdict.payments = len(payments)
    verdict.states = dict(Counter(kept.record.state.value for kept in payments))
    verdict.reviews = dict(Counter(reviews))
    verdict.effects = dict(Counter(line.effect for line in Bank.of(admin).ledger))


def main() -> None:
    """Run the chaos, audit, and print the verdict; the exit status is 1 if a rule is broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long to kill")
    parser.add_argument(
        "--seed", type=int, default=None, help="repeats the plan of which process is killed when"
    )
    parser.add_argument("--json", action="store_true", help="print the verdict for programs")
    given = parser.parse_args()
    seed = random.SystemRandom().randrange(1_000_000) if given.seed is None else given.seed
    verdict = run(given.seconds, seed)
    encoded = msgspec.json.encode(verdict)
    sys.stdout.write((encoded if given.json else msgspec.json.format(encoded)).decode() + "\n")
    sys.exit(1 if verdict.findings else 0)


if __name__ == "__main__":
    main()
