"""Which branches of a checking module a run has reached.

A check that no run reaches holds nothing. It can go unnoticed for long: a method of the store
gets another name, and the branch that waited for the old one is dead.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any, Final

__all__ = ["Reached"]

#: Calls that report a broken promise. A run of a correct product never reaches them.
_REPORTS: Final = frozenset({"complain", "_complain", "fail"})


class Reached:
    """The branches of some modules, and which of them ran inside `watching`."""

    def __init__(self, *modules: ModuleType) -> None:
        self._missing = {str(module.__file__): _branches(module) for module in modules}

    @property
    def missing(self) -> list[str]:
        """The branches that were not reached: a file, a line, and its text."""
        return [
            f"{Path(file).name}:{line} {Path(file).read_text().splitlines()[line - 1].strip()}"
            for file, lines in self._missing.items()
            for line in sorted(lines)
        ]

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Follow the lines that run inside the block."""
        before = sys.gettrace()
        sys.settrace(self._on_call)
        try:
            yield
        finally:
            sys.settrace(before)

    def _on_call(self, frame: FrameType, _event: str, _arg: Any) -> Any:
        return self._on_line if self._missing.get(frame.f_code.co_filename) else None

    def _on_line(self, frame: FrameType, _event: str, _arg: Any) -> Any:
        self._missing[frame.f_code.co_filename].discard(frame.f_lineno)
        return self._on_line


def _branches(module: ModuleType) -> set[int]:
    """Return the first line of each branch in the module's functions that reports nothing."""
    tree = ast.parse(Path(str(module.__file__)).read_text())
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    bodies = [body for function in functions for body in _bodies(function)]
    return {body[0].lineno for body in bodies if not any(map(_reports, body))}


def _bodies(function: ast.FunctionDef) -> Iterator[list[ast.stmt]]:
    """Yield the statements of each branch, and the function's own after its docstring."""
    yield function.body[ast.get_docstring(function) is not None :] or function.body
    for node in ast.walk(function):
        for name in ("body", "orelse") if isinstance(node, ast.If | ast.For | ast.While) else ():
            if branch := getattr(node, name):
                yield branch
        if isinstance(node, ast.ExceptHandler | ast.match_case):
            yield node.body


def _reports(statement: ast.stmt) -> bool:
    """Whether a statement reports a broken promise, whatever it is inside of."""
    names = [
        getattr(node.func, "attr", getattr(node.func, "id", ""))
        for node in ast.walk(statement)
        if isinstance(node, ast.Call)
    ]
    return isinstance(statement, ast.Raise) or not _REPORTS.isdisjoint(names)
