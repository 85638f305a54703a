"""A secret that no log, repr or traceback shows.

Card bodies, OTPs and session ids travel through cfflow in this wrapper, so that even a
crash report that prints the local variables of every frame shows none of them
(PCI DSS 4.0, requirement 3.3; gateway.md#secrets).
"""

from __future__ import annotations

from typing import Generic, NoReturn, TypeVar

_T = TypeVar("_T")


class Sealed(Generic[_T]):
    """Holds a secret. `reveal()` is called only inside the expression that needs it."""

    __slots__ = ("_value",)

    def __init__(self, value: _T) -> None:
        self._value = value

    def reveal(self) -> _T:
        """Return the secret; never bind it to a name."""
        return self._value

    def __repr__(self) -> str:
        return "<sealed>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sealed) and bool(self._value == other._value)

    def __hash__(self) -> int:
        return hash((Sealed, self._value))

    def __reduce__(self) -> NoReturn:
        raise TypeError("a sealed value is not written anywhere")


def sealed(secret: _T | Sealed[_T]) -> Sealed[_T]:
    """Return a secret sealed; one that is sealed already is returned as it is."""
    return secret if isinstance(secret, Sealed) else Sealed(secret)
