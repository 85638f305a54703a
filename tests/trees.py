"""Parsed modules, for the tests that read source."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path


class Trees(Mapping[str, ast.Module]):
    """The syntax trees of modules, by any name; each is parsed when a test first looks at it.

    Every worker collects every test: parsed there, all modules would be parsed in each of them.
    """

    def __init__(self, paths: Mapping[str, Path]) -> None:
        self._paths = paths
        self._parsed: dict[str, ast.Module] = {}

    def __getitem__(self, name: str) -> ast.Module:
        if name not in self._parsed:
            self._parsed[name] = ast.parse(self._paths[name].read_bytes())
        return self._parsed[name]

    def __contains__(self, name: object) -> bool:
        return name in self._paths

    def __iter__(self) -> Iterator[str]:
        return iter(self._paths)

    def __len__(self) -> int:
        return len(self._paths)
