"""The suite that every store must pass: `StoreConformance`.

A project with a store of its own derives a class from it, in a test module:

    import pytest_asyncio
    from cfflow.testing import StoreConformance

    class TestMyStore(StoreConformance):
        feed_max = 16

        @pytest_asyncio.fixture
        async def store(self):
            store = MyStore(feed_max=self.feed_max)
            await store.open()
            yield store
            await store.aclose()

        async def events_of(self, store):
            return await store.all_feed_entries()

        async def restart(self, store):
            await store.behave_as_after_a_restart()

It needs pytest and pytest-asyncio, in strict or in auto mode: the tests carry the marker
that strict mode asks for. In strict mode an async `store` fixture must be one of
`pytest_asyncio.fixture`; an ordinary one of pytest serves for a store that needs no await.

Each test gets an empty store, and uses it only as `cfflow.store.protocol.Store` describes: it
commits plain bytes, and has no rule about payments, as a store has none.
`cfflow.testing.conformance.part` has all that the class may set.
"""

from __future__ import annotations

from cfflow.testing.conformance.checks import CheckConformance
from cfflow.testing.conformance.commits import CommitConformance
from cfflow.testing.conformance.feed import FeedConformance
from cfflow.testing.conformance.feed_log import FeedLogConformance
from cfflow.testing.conformance.indexes import IndexConformance
from cfflow.testing.conformance.leases import LeaseConformance
from cfflow.testing.conformance.notifications import NotificationConformance
from cfflow.testing.conformance.removal import RemovalConformance
from cfflow.testing.conformance.restarts import RestartConformance
from cfflow.testing.conformance.unreadable import UnreadableConformance


class StoreConformance(
    CommitConformance,
    CheckConformance,
    RestartConformance,
    NotificationConformance,
    LeaseConformance,
    RemovalConformance,
    UnreadableConformance,
    IndexConformance,
    FeedConformance,
    FeedLogConformance,
):
    """Tests what `cfflow.store.protocol.Store` promises. Derive a test class from it.

    The class needs a fixture `store` and the methods `events_of` and `restart`; see the
    module's docstring for an example. It works in both modes of pytest-asyncio.
    """
