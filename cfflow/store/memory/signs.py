"""The workers' signs of life in this process's memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import msgspec

from cfflow.store.protocol import Store
from cfflow.store.signs import Sign, Signs, newest_first


@runtime_checkable
class _HasSigns(Protocol):
    """A store that keeps the signs of all processes that share it."""

    def signs(self) -> Signs:
        """Return the signs."""
        ...


def signs_of(store: Store) -> Signs:
    """Return the store's signs of life; for a store without them, those of this process alone."""
    if isinstance(store, _HasSigns):
        return store.signs()
    return MemorySigns(store.now_ms, is_shared=False)


class MemorySigns:
    """The signs of the workers of one process. `now_ms` is the store's clock."""

    def __init__(self, now_ms: Callable[[], int], *, is_shared: bool = True) -> None:
        self.is_shared = is_shared
        self._now_ms = now_ms
        self._signs: dict[str, Sign] = {}

    async def put(self, sign: Sign) -> None:
        """Keep a sign in place of this worker's last one."""
        now_ms = self._now_ms()
        self._signs[sign.name] = msgspec.structs.replace(sign, at_ms=now_ms)
        self._signs = {each.name: each for each in newest_first([*self._signs.values()], now_ms)}

    async def all(self) -> Sequence[Sign]:
        """Return the signs of the last day, newest first."""
        return newest_first([*self._signs.values()], self._now_ms())
