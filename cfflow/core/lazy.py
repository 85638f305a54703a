"""`lazy`: an attribute that is made when it is first read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

__all__ = ["lazy"]

_T = TypeVar("_T")
_V = TypeVar("_V")


class lazy(Generic[_T, _V]):  # noqa: N801  used as `functools.cached_property` is
    """Makes a value at its first read, and keeps it in the object's `__dict__`.

    `functools.cached_property` of Python 3.11 takes a lock for it, which costs more than most
    values here: a sale reads twenty.
    """

    def __init__(self, make: Callable[[_T], _V]) -> None:
        self._make = make
        self._name = make.__name__
        self.__doc__ = make.__doc__

    def __get__(self, held: _T, owner: type[_T] | None = None) -> _V:
        """Return the value; from then on Python finds it without this."""
        made = held.__dict__[self._name] = self._make(held)
        return made
