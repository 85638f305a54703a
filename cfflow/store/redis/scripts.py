"""The texts of the Lua scripts: all that cfflow does in Redis, besides INFO and WAIT.

Each process runs its own texts, which the server finds by their hashes: processes of two versions
can work on one server.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from importlib.resources import files
from typing import Final

_FOLDER: Final = files("cfflow") / "store" / "redis"

#: The commands that are not about orders.
_OF_DEPLOYMENT: Final = frozenset({"create", "accept", "run", "meta", "swap", "feed"})

#: Changes the text of a script, for tests that need another clock in it.
Adapt = Callable[[str], str]


def as_shipped(text: str) -> str:
    """Return the text as it is."""
    return text


class Scripts:
    """The two scripts, as text and by hash; each begins with what both need."""

    def __init__(self, adapt: Adapt = as_shipped) -> None:
        common = (_FOLDER / "common.lua").read_text()
        self._orders: Final = adapt(common + (_FOLDER / "script.lua").read_text())
        self._deployment: Final = adapt(common + (_FOLDER / "deployment.lua").read_text())
        self._hashes: Final = {
            text: hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
            for text in (self._orders, self._deployment)
        }

    def text_of(self, command: str) -> str:
        """Return the text of the script that has this command."""
        return self._deployment if command in _OF_DEPLOYMENT else self._orders

    def hash_of(self, command: str) -> str:
        """Return the hash by which the server finds that script."""
        return self._hashes[self.text_of(command)]
