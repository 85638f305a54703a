"""Chaos: drivers, workers and Redis itself are killed at random, and then the books are audited.

`python -m tests.crash.chaos --seconds 60 --seed 1`, or `make chaos`. Real processes, a real
Valkey whose AOF is written before each answer, a bank behind HTTP that loses, delays and
spoils what it is asked. Nothing in it knows when it will be killed. The seed repeats the
plan of who is killed when, not what everybody was doing at that moment.
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
from tests.crash.actors import FLOWS, Place, Told, drive, work
from tests.crash.audit import Bank, Kept, Order, findings, kept_of, lost
from tests.ports.servers import Server, valkey_binary

__all__ = ["Verdict", "run"]

DRIVERS: Final = 3
WORKERS: Final = 2

#: How long the workers have, once nobody is killed any more: a lost pay is looked for twice,
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
    """What was done, and what the auditor found: in the end, and only then, all counts."""

    seed: int
    seconds: float
    killed: dict[str, int] = {}
    faults: int = 0
    payments: int = 0
    states: dict[str, int] = {}
    reviews: dict[str, int] = {}
    effects: dict[str, int] = {}
    told: int = 0
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
        """Kill one of them, and let another one begin."""
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
        # Each plan draws by itself: how many faults there were must not change who is killed.
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
        """Let everybody act, and kill at random, for so long."""
        self._drivers.grow(DRIVERS)
        self._workers.grow(WORKERS)
        ends_s, kill_s = time.monotonic() + seconds, time.monotonic() + 1.0
        while (now_s := time.monotonic()) < ends_s:
            self._add_fault()
            if now_s >= kill_s:
                self._kill_somebody()
                kill_s = time.monotonic() + self._chance.uniform(0.1, 0.7)
            time.sleep(0.04)

    def calm(self) -> list[str]:
        """End the faults and the customers; only workers go on. Return who died by itself."""
        self._drivers.kill_all()
        self._admin.delete("/faults").raise_for_status()
        return self._drivers.findings

    def end(self) -> list[str]:
        """End the workers too. Return who died by itself."""
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

    def _kill_somebody(self) -> None:
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
    """Let chaos rage for so long, let the workers finish, and audit everything."""
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


#: Every commit is on the disk before it is answered: whoever was told of it finds it again.
_DURABLE: Final = ("--appendonly", "yes", "--appendfsync", "always")


def _run(verdict: Verdict, server: Server, bank: EmulatorProcess, folder: str) -> None:
    flows = Path(folder) / "flows"
    flows.mkdir()
    for name, text in FLOWS.items():
        (flows / f"{name}.toml").write_text(text)
    place = Place(server.url, bank.base_url, bank.client_id, bank.client_secret, str(flows), folder)
    with httpx.Client(base_url=bank.admin_url, trust_env=False) as admin:
        chaos = _Chaos(verdict.seed, server, admin, place)
        try:
            chaos.rage(verdict.seconds)
            verdict.findings = chaos.calm()
            asyncio.run(_judge(verdict, server.url, admin, Path(folder)))
        finally:
            verdict.findings += chaos.end()
        verdict.killed, verdict.faults = dict(chaos.killed), chaos.faults


async def _judge(verdict: Verdict, redis_url: str, admin: httpx.Client, folder: Path) -> None:
    """Wait until the workers are done, and hold the store against the bank."""
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
    told = list(_told(folder))
    verdict.findings += _forgotten(told, payments)
    _count(verdict, payments, admin)
    verdict.told = len(told)
    await store.aclose()


async def _orders(store: RedisStore, admin: httpx.Client) -> dict[str, Order]:
    """Return every order that the store or the bank knows."""
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
    """The bank refuses a second capture by itself: this is whether it had to."""
    books = Bank.of(admin)
    effects = Counter(line.effect for line in books.ledger)
    holds = {line.cf_payment_id for line in books.ledger if line.effect == "authorized"}
    taken = sum(line.effect == "captured" and line.cf_payment_id in holds for line in books.ledger)
    performed = books.calls.performed.get("authorize", 0)
    if performed != taken + effects["voided"]:
        yield f"{performed} captures and voids asked for, {taken} + {effects['voided']} done"


def _told(folder: Path) -> Iterator[Told]:
    """Yield what the drivers wrote down; the last line of a dead one may be cut off."""
    for diary in sorted(folder.glob("*.told")):
        for line in diary.read_bytes().split(b"\n")[:-1]:
            yield msgspec.json.decode(line, type=Told)


def _forgotten(told: list[Told], payments: list[Kept]) -> Iterator[str]:
    """What somebody was told is in the store: with the AOF written first, nothing is lost."""
    known = {kept.snapshot.id: kept.record for kept in payments}
    for word in told:
        record = known.get(word.payment_id)
        if record is None:
            yield f"{word.payment_id} was {word.state}, and is not in the store"
        elif record.version < word.version:
            yield f"{word.payment_id} was at version {word.version}, now at {record.version}"
        elif word.state in {State.CAPTURED, State.VOIDED} and record.state is not word.state:
            yield f"{word.payment_id} was {word.state}, and is {record.state}"


def _count(verdict: Verdict, payments: list[Kept], admin: httpx.Client) -> None:
    reviews = [review.reason for kept in payments for review in kept.record.open_reviews]
    verdict.payments = len(payments)
    verdict.states = dict(Counter(kept.record.state.value for kept in payments))
    verdict.reviews = dict(Counter(reviews))
    verdict.effects = dict(Counter(line.effect for line in Bank.of(admin).ledger))


def main() -> None:
    """Rage, audit, and print the verdict; the exit status says whether the books agree."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long to kill")
    parser.add_argument("--seed", type=int, default=None, help="the plan of whom to kill when")
    parser.add_argument("--json", action="store_true", help="print the verdict for programs")
    given = parser.parse_args()
    seed = random.SystemRandom().randrange(1_000_000) if given.seed is None else given.seed
    verdict = run(given.seconds, seed)
    encoded = msgspec.json.encode(verdict)
    sys.stdout.write((encoded if given.json else msgspec.json.format(encoded)).decode() + "\n")
    sys.exit(1 if verdict.findings else 0)


if __name__ == "__main__":
    main()
