"""The part of the suite about the checks of a commit: their order, and that none of them writes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec
import pytest

from cfflow.errors import Paused
from cfflow.store.control import Decision, decision_text
from cfflow.store.protocol import Commit, IndexChange, Outcome, Store, Window
from cfflow.testing.conformance.helpers import (
    a_notification,
    applied,
    begin,
    beginning,
    changed,
    digest_of,
    following,
    outcome_is,
    removed,
    removing,
    stored,
)
from cfflow.testing.conformance.part import ConformancePart

#: What a refused commit would write, if it wrote.
_ALL: Final[Mapping[str, Any]] = {
    "record": b"refused",
    "actions": b"refused",
    "digests": digest_of("77:done"),
    "wake_at_ms": 1,
    "index": (IndexChange("red", "a", None), IndexChange("red", "b", 2)),
    "events": (b"refused",),
    "flows": {"refused": b"refused"},
}


class CheckConformance(ConformancePart):
    """Tests of which commits are refused, and of gates. `StoreConformance` has them too."""

    async def _everything(self, store: Store) -> object:
        """Return all that can be read of order_1 and of what lies beside it."""
        return (
            list(await store.read(["order_1"])),
            await store.overdue(),
            list(await store.find(Window(("red",)))),
            list(await self.events_of(store)),
            await store.flow_text("order_1", "refused"),
        )

    async def _is_refused(self, outcome: Outcome, store: Store, commit: Commit) -> None:
        before = await self._everything(store)
        await outcome_is(outcome, store, commit)
        assert await self._everything(store) == before

    async def _is_paused(self, store: Store, commit: Commit, by: str = "Asha") -> None:
        before = await self._everything(store)
        with pytest.raises(Paused) as paused:
            await store.commit(commit)
        assert (paused.value.gate, paused.value.actor) == (commit.gate, by)
        assert await self._everything(store) == before

    # what is refused writes nothing

    async def test_a_conflict_writes_nothing(self, store: Store) -> None:
        """Neither the record nor anything beside it."""
        first = await begin(store, actions=b"press", index=(IndexChange("red", "a", 1),))
        await changed(store, first)
        await self._is_refused(Outcome.CONFLICT, store, following(first, **_ALL))
        await self._is_refused(Outcome.CONFLICT, store, beginning(**_ALL))
        await self._is_refused(
            Outcome.CONFLICT, store, removing(first, index=_ALL["index"], marker="paid")
        )
        await removed(store, await stored(store))
        assert (await begin(store)).record == b"it began"

    async def test_a_commit_of_a_purged_order_writes_nothing(self, store: Store) -> None:
        """Whether it would begin the order again or go on with it."""
        order = await begin(store, index=(IndexChange("red", "a", 1),))
        await removed(store, order, marker="paid")
        await self._is_refused(Outcome.GONE, store, following(order, **_ALL))
        await self._is_refused(Outcome.GONE, store, beginning(**_ALL))

    async def test_a_commit_at_a_closed_gate_writes_nothing(self, store: Store) -> None:
        """Whether it would begin the order or go on with it."""
        await store.set_gate("pay", closed_by("Asha"))
        await self._is_paused(store, beginning(gate="pay", **_ALL))
        order = await begin(store, index=(IndexChange("red", "a", 1),))
        await self._is_paused(store, following(order, gate="pay", **_ALL))
        await applied(store, following(order, **_ALL))

    async def test_a_commit_that_needs_verification_writes_nothing(self, store: Store) -> None:
        """Whether it opens a step, or was verified in another history."""
        order = await begin(store, index=(IndexChange("red", "a", 1),))
        await store.notify(a_notification(), digest_of("77"))
        await self.restart(store)
        answered = {"answered": (await stored(store)).notices, **_ALL}
        await self._is_refused(Outcome.RESTARTED, store, following(order, opens=True, **answered))
        old = following(order, verified=order.stamp, **answered)
        await self._is_refused(Outcome.RESTARTED, store, old)
        await applied(store, following(order, **answered))

    async def test_a_removal_beside_a_notification_writes_nothing(self, store: Store) -> None:
        """The order, its members and its place stay."""
        order = await begin(store, actions=b"press", index=(IndexChange("red", "a", 1),))
        await store.notify(a_notification(), digest_of("77"))
        removal = removing(order, marker="paid", index=_ALL["index"], events=_ALL["events"])
        await self._is_refused(Outcome.CONFLICT, store, removal)

    # the order of the checks

    async def test_a_repeated_commit_is_applied_before_all_other_checks(self, store: Store) -> None:
        """It was written when nothing was in its way."""
        commit = following(await begin(store), opens=True, gate="pay")
        order = await applied(store, commit)
        await store.set_gate("pay", closed_by("Asha"))
        await self.restart(store)
        assert await applied(store, commit) == order

    async def test_gone_comes_before_a_closed_gate(self, store: Store) -> None:
        """Nothing can be paused for an order that is not there."""
        order = await begin(store)
        await removed(store, order, marker="paid")
        await store.set_gate("pay", closed_by("Asha"))
        for commit in (following(order), beginning()):
            await outcome_is(Outcome.GONE, store, at_gate(commit))

    async def test_a_conflict_comes_before_a_closed_gate(self, store: Store) -> None:
        """The caller must decide anew: its step may not be wanted any more."""
        first = await begin(store)
        await changed(store, first)
        await store.set_gate("pay", closed_by("Asha"))
        for commit in (following(first), beginning()):
            await outcome_is(Outcome.CONFLICT, store, at_gate(commit))

    async def test_a_closed_gate_comes_before_a_restart(self, store: Store) -> None:
        """No inquiry is made for a step that is stopped."""
        order = await begin(store)
        await self.restart(store)
        await store.set_gate("pay", closed_by("Asha"))
        await self._is_paused(store, following(order, opens=True, gate="pay"))
        await self._is_paused(store, following(order, verified=order.stamp, gate="pay"))

    async def test_a_restart_comes_before_a_notification_that_is_left(self, store: Store) -> None:
        """A removal is refused like every other commit."""
        order = await begin(store)
        await store.notify(a_notification(), digest_of("77"))
        await self.restart(store)
        await outcome_is(Outcome.RESTARTED, store, removing(order, opens=True))
        await outcome_is(Outcome.RESTARTED, store, removing(order, verified=order.stamp))

    # gates

    async def test_a_closed_gate_stops_its_own_commits_only(self, store: Store) -> None:
        """Commits of another gate and of none go through, also those that open a step."""
        await store.set_gate("pay", closed_by("Asha"))
        order = await begin(store)
        for fields in ({"gate": "auto", "opens": True}, {"opens": True}, {}):
            order = await changed(store, order, **fields)
        await self._is_paused(store, following(order, gate="pay"))

    async def test_a_gate_is_closed_for_all_orders(self, store: Store) -> None:
        """In whichever partition they are."""
        orders = [await begin(store, f"order_{number}") for number in range(8)]
        await store.set_gate("pay", closed_by("Asha"))
        for order in orders:
            await self._is_paused(store, following(order, gate="pay", opens=True))
            await self._is_paused(store, beginning(f"{order.id}_2", gate="pay"))

    async def test_a_gate_is_opened_again(self, store: Store) -> None:
        """The commit that it stopped goes through then, under the same token."""
        await store.set_gate("pay", closed_by("Asha"))
        commit = following(await begin(store), gate="pay", opens=True)
        await self._is_paused(store, commit)
        await store.set_gate("pay", "")
        await applied(store, commit)

    async def test_closed_gates_are_listed_with_who_closed_them(self, store: Store) -> None:
        """Each by itself; who closes one again replaces who closed it before."""
        assert dict(await store.gates()) == {}
        await store.set_gate("pay", closed_by("Asha"))
        await store.set_gate("auto", closed_by("René"))
        await store.set_gate("auto", closed_by("Ravi"))
        assert dict(await store.gates()) == {
            "pay": closed_by("Asha"),
            "auto": closed_by("Ravi"),
        }
        order = await begin(store)
        await self._is_paused(store, following(order, gate="auto"), by="Ravi")
        await store.set_gate("pay", "")
        await store.set_gate("resend", "")
        assert dict(await store.gates()) == {"auto": closed_by("Ravi")}

    async def test_decisions_are_kept_newest_first(self, store: Store) -> None:
        """What people decided about the whole store, whatever it did."""
        assert list(await store.decisions(10)) == []
        for actor in ("Asha", "René", "Ravi"):
            await store.record_decision(closed_by(actor))
        assert list(await store.decisions(2)) == [closed_by("Ravi"), closed_by("René")]


def closed_by(actor: str) -> str:
    """Return the stored text of who closed a gate."""
    return decision_text(Decision(what="pause", actor=actor, note="too many failures", at_ms=1))


def at_gate(commit: Commit) -> Commit:
    """Return the same commit as one that opens a step at the gate `pay`."""
    return msgspec.structs.replace(commit, gate="pay", opens=True)
