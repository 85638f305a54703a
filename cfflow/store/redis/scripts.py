"""The texts of the Lua scripts: all that cfflow does in Redis, besides INFO and WAIT.

Each process runs its own texts, which the server finds by their hashes: processes of two versions
can work on one server.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from importlib.resources import files
from typing import Final

_FOLDER: Final = files("cfflow") / "store" / "redis"

#: The commands that are not about orders.
_OF_DEPLOYMENT: Final = frozenset(
    {"create", "accept", "run", "meta", "rights", "swap", "feed", "sign"}
)
#: What workers do with due orders.
_OF_DUE: Final = frozenset({"lease", "defer", "set_aside", "overdue", "count"})

#: Where a script failed, in the error of any server, and the commands in a line of a script.
_PLACE: Final = re.compile(r"([0-9a-f]{40}).*?user_script: ?(\d+)", re.DOTALL)
_COMMAND: Final = re.compile(r"call\('([A-Z]+)'")
#: How an error of `named` begins (common.lua).
_NAMED: Final = re.compile(r"\b([A-Z]+): (?:ERR|NOPERM)\b")

#: Changes the text of a script, for tests that need another clock in it.
Adapt = Callable[[str], str]


def as_shipped(text: str) -> str:
    """Return the text as it is."""
    return text


class Scripts:
    """The scripts, as text and by hash; each begins with what all of them need."""

    def __init__(self, adapt: Adapt = as_shipped) -> None:
        common = (_FOLDER / "common.lua").read_text()
        self._orders: Final = adapt(common + (_FOLDER / "script.lua").read_text())
        self._due: Final = adapt(common + (_FOLDER / "due.lua").read_text())
        self._deployment: Final = adapt(common + (_FOLDER / "deployment.lua").read_text())
        self._hashes: Final = {
            text: hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
            for text in (self._orders, self._due, self._deployment)
        }

    def text_of(self, command: str) -> str:
        """Return the text of the script that has this command."""
        if command in _OF_DUE:
            return self._due
        return self._deployment if command in _OF_DEPLOYMENT else self._orders

    def hash_of(self, command: str) -> str:
        """Return the hash by which the server finds that script."""
        return self._hashes[self.text_of(command)]

    def commands_at(self, error: str) -> list[str]:
        """Return the commands of the line in which a script of ours failed; none for another error.

        Redis before 7.2 does not name the command for which a right is missing.
        """
        own = _NAMED.findall(error)
        if own:
            return own
        place = _PLACE.search(error)
        found = [text for text, digest in self._hashes.items() if place and digest == place[1]]
        lines = found[0].splitlines() if found else []
        number = int(place[2]) if place else 0
        return _COMMAND.findall(lines[number - 1]) if 1 <= number <= len(lines) else []
