"""`cfflow.sync`: the same names, blocking, for Django, Flask, Celery and scripts.

Each orchestrator has one thread with one event loop, on which the async one lives; a call
from any other thread is handed over and waited for. So all threads of a process share one
set of connections, one rate budget and one idea of the store's time, as tasks do.
"""

from __future__ import annotations

from cfflow.sync.faces import Feed, Gateway, Orchestrator, Worker, connect

__all__ = ["Feed", "Gateway", "Orchestrator", "Worker", "connect"]
