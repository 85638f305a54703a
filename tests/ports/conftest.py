"""Which event loops the tests of real sockets run on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from importlib.util import find_spec

import pytest

LoopFactory = Callable[[], asyncio.AbstractEventLoop]


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> dict[str, LoopFactory]:
    """Run a module that says `BOTH_LOOPS = True` on asyncio's loop and on uvloop.

    Their sockets and their TLS are different code.
    """
    factories: dict[str, LoopFactory] = {"asyncio": asyncio.new_event_loop}
    module = item.getparent(pytest.Module)
    if module is not None and getattr(module.obj, "BOTH_LOOPS", False) and find_spec("uvloop"):
        import uvloop

        factories["uvloop"] = uvloop.new_event_loop
    return factories
