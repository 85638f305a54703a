"""`cfflow.sync`: the same calls, blocking, for Django, Flask, Celery and scripts.

Each blocking orchestrator has one thread with one event loop, on which the async orchestrator
runs. A call from any other thread is passed to that loop, and the caller waits for its result.
So all threads of a process share one set of connections, one rate budget and one clock of the
store, as tasks do.
"""

from __future__ import annotations

from cfflow.sync.blocking import Feed, Gateway, Orchestrator, Worker, connect

__all__ = ["Feed", "Gateway", "Orchestrator", "Worker", "connect"]
