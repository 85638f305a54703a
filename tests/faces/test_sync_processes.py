"""The blocking face in processes of its own: forks, and the end of a program."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from cfflow.emulator import EmulatorProcess
from tests.faces.faces_kit import LIMIT_S, environment

#: What each program begins with: an orchestrator that a web application keeps in a module.
MODULE = """
import os, sys
import cfflow, cfflow.sync
from cfflow.testing import MemoryStore

cashier = cfflow.sync.connect()

def in_child(work):
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        try:
            work()
            sys.stdout.flush()
        finally:
            os._exit(0)
    return os.waitpid(child, 0)[1]
"""


@pytest.fixture
def run(bank: EmulatorProcess, redis_url: str) -> Runner:
    """Runs programs against the emulator and an empty store."""
    return Runner(
        CFFLOW_REDIS_URL=redis_url,
        CASHFREE_ENVIRONMENT=bank.base_url,
        CASHFREE_CLIENT_ID=bank.client_id,
        CASHFREE_CLIENT_SECRET=bank.client_secret,
    )


class Runner:
    """Runs a program with these settings, warnings being errors; returns what it printed."""

    def __init__(self, **settings: str) -> None:
        self.settings = settings

    def __call__(self, program: str) -> list[str]:
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", MODULE + textwrap.dedent(program)],
            env=environment(**self.settings),
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
        errors = [line for line in done.stderr.splitlines() if not line.startswith("{")]
        assert (done.returncode, errors) == (0, [])
        return done.stdout.split()


def test_a_forked_child_connects_anew(run: Runner) -> None:
    """Parent and children go on, each on connections of its own, before and after the fork."""
    printed = run("""
        def start():
            print(cashier.start("upi", order_id=f"order_{os.getpid()}").state)

        start()
        in_child(start)
        in_child(lambda: (start(), in_child(start)))
        print(len(cashier.find()))
    """)
    assert printed == ["created"] * 4 + ["4"]


def test_what_was_connected_late_is_forked_for_free(run: Runner) -> None:
    """A preloaded application connects in its children only, and closes in each."""
    printed = run("""
        import threading

        def serve():
            print(cashier.start("upi", order_id="order_1").state)
            cashier.close()
            print(threading.active_count())

        in_child(serve)
        print(threading.active_count())
    """)
    assert printed == ["created", "1", "1"]


def test_a_fork_without_python_s_hooks_is_noticed(run: Runner) -> None:
    """Some servers fork without Python's own hooks: the process id shows it."""
    printed = run("""
        from cfflow.sync import loop_thread

        print(cashier.start("upi", order_id="order_1").state)
        loop_thread._ALL.clear()
        in_child(lambda: print(cashier.get("order_1.1").state))
        print(cashier.get("order_1.1").state)
    """)
    assert printed == ["created"] * 3


def test_a_store_of_the_parent_s_is_refused_in_a_child(run: Runner) -> None:
    """Two processes on one connection would read each other's answers."""
    printed = run("""
        own = cfflow.sync.connect(store=MemoryStore())
        own.start("upi", order_id="order_1")

        def call():
            try:
                own.get("order_1.1")
            except cfflow.ConfigError as error:
                print("forked" in str(error))

        in_child(call)
        print(own.get("order_1.1").state)
    """)
    assert printed == ["True", "created"]


def test_a_feed_and_a_worker_of_the_parent_s_are_refused_in_a_child(run: Runner) -> None:
    """They hold leases in the parent's name; a child makes its own."""
    printed = run("""
        worker = cfflow.sync.Worker(cashier)

        def call(what):
            try:
                what()
            except cfflow.ConfigError as error:
                print("before a fork" in str(error))

        with cashier.events("mailer") as feed:
            in_child(lambda: call(feed.poll))
            in_child(lambda: call(worker.run_once))
            in_child(lambda: print(cfflow.sync.Worker(cashier).run_once().errors))
            print(feed.poll())
    """)
    assert printed == ["True", "True", "0", "None"]


@pytest.mark.parametrize("folder", ["", "payments"])
def test_an_embedded_server_of_a_program_that_closes_nothing_stops(
    run: Runner, tmp_path: Path, folder: str
) -> None:
    """At its end no thread can begin: it waits for the server without one, and prints nothing."""
    run.settings["CFFLOW_REDIS_URL"] = f"embedded:{folder and tmp_path / folder}"
    assert run("print(cashier.start('upi', order_id='order_1').id)") == ["order_1.1"]
    assert run("print(len(cashier.find()))") == ["1" if folder else "0"]


def test_a_program_that_closes_nothing_ends_cleanly(run: Runner) -> None:
    """At its end the connections are closed, without a warning and without waiting."""
    assert run("""
        print(cashier.start("upi", order_id="order_1").state)
    """) == ["created"]
