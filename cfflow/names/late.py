"""Packages whose names are imported when they are first used."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

__all__ = ["names_of"]


def names_of(
    package: str, place_of: Callable[[str], str | None]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return `__getattr__` and `__dir__` of a package that imports its names at their first use.

    `place_of` returns the module that has a name, None for none.
    """

    def get(name: str) -> Any:
        place = None if name.startswith("__") and name != "__all__" else place_of(name)
        # A submodule is no attribute until it is imported, as in any package.
        if place is not None and f"{package}.{name}" != place:
            module = import_module(place)
            if hasattr(module, name):
                value = getattr(module, name)
                setattr(sys.modules[package], name, value)
                return value
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *sys.modules[package].__all__})

    return get, names
