"""The store's time is the server's, however this machine's clocks are set."""

from __future__ import annotations

import time

import pytest

from cfflow.store import clock as server_clock
from cfflow.store.clock import ServerClock, monotonic_ms


class Monotonic:
    """A monotonic clock that the test moves."""

    def __init__(self) -> None:
        self.ms = 5_000.0

    def __call__(self) -> float:
        """Return its time."""
        return self.ms


@pytest.fixture
def mono(monkeypatch: pytest.MonkeyPatch) -> Monotonic:
    """The monotonic clock of this machine, moved by the test."""
    clock = Monotonic()
    monkeypatch.setattr(server_clock, "monotonic_ms", clock)
    return clock


def test_before_the_first_reply_it_is_this_machines_time() -> None:
    """A record made before the store is open has a plausible time."""
    assert abs(ServerClock().now_ms() - time.time() * 1000) < 1_000


def test_a_reply_sets_the_time_within_its_round_trip(mono: Monotonic) -> None:
    """The server read its clock between our call and its reply."""
    clock = ServerClock()
    clock.adjust(1_000_000, 5_000, 5_010)
    mono.ms = 5_010
    assert 1_000_000 <= clock.now_ms() <= 1_000_011


def test_time_runs_on_between_replies(mono: Monotonic) -> None:
    """Without a reply for an hour it is an hour later."""
    clock = ServerClock()
    clock.adjust(1_000_000, 5_000, 5_000)
    before = clock.now_ms()
    mono.ms += 3_600_000
    assert clock.now_ms() == before + 3_600_000


def test_a_slow_reply_changes_nothing_that_it_does_not_prove(mono: Monotonic) -> None:
    """A reply that took ten seconds has wide bounds."""
    clock = ServerClock()
    clock.adjust(1_000_000, 5_000, 5_001)
    mono.ms = 5_001
    before = clock.now_ms()
    clock.adjust(1_000_000, 5_000, 15_000)
    assert clock.now_ms() == before


@pytest.mark.parametrize("step_ms", [-60_000, 60_000])
def test_a_server_whose_clock_was_set_is_followed_at_once(mono: Monotonic, step_ms: int) -> None:
    """A failover to a server with another clock: leases are that one's from now on."""
    clock = ServerClock()
    clock.adjust(1_000_000, 5_000, 5_001)
    mono.ms = 6_000
    clock.adjust(1_001_000 + step_ms, 6_000, 6_001)
    assert abs(clock.now_ms() - (1_001_000 + step_ms)) <= 2


def test_the_wall_clock_of_this_machine_is_never_asked_again(
    mono: Monotonic, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A change of this machine's clock has no effect."""
    clock = ServerClock()
    clock.adjust(1_000_000, 5_000, 5_000)
    before = clock.now_ms()
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert clock.now_ms() == before


def test_the_monotonic_clock_never_goes_back() -> None:
    """It is read twice, and the second is not before the first."""
    assert monotonic_ms() <= monotonic_ms()
