"""What a person controls in a store: gates, and whose store it is.

A gate stops one kind of step for all orders, at once and in every process: the script looks at
it inside the commit that opens the step. The store also keeps a name of its own, the accounts
that use it and their environment, so that a process does not take payments on a store that was
flushed, or that belongs to another deployment.
"""

from __future__ import annotations

import hashlib
from typing import Final, Protocol, runtime_checkable

import msgspec

from cfflow.core.arguments import shown_name
from cfflow.core.plan import Gate
from cfflow.core.times import moment
from cfflow.errors import InvalidInput, Paused, StoreError

_ACCOUNT_B: Final = 8


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """What a person did to the store: who, why and when. Kept in the store's audit trail."""

    what: str
    actor: str
    note: str
    at_ms: int


_decoder = msgspec.json.Decoder(Decision)


def decision_text(decision: Decision) -> str:
    """Return the stored text of a decision."""
    return msgspec.json.encode(decision).decode()


def decision_of(text: str | bytes) -> Decision:
    """Return a decision from its stored text. Raises `StoreError`."""
    try:
        return _decoder.decode(text)
    except msgspec.MsgspecError as error:
        raise StoreError(f"a stored decision does not decode: {error}") from None


def gate_named(name: str) -> Gate:
    """Return a gate by its name. Raises `InvalidInput`."""
    try:
        return Gate(name if isinstance(name, str) else "")
    except ValueError:
        known = ", ".join(Gate)
        text = f"there is no gate {shown_name(name)}; the gates are {known}"
        raise InvalidInput(text) from None


def paused(gate: str, closed_by: str) -> Paused:
    """Return the error for a step whose gate is closed; `closed_by` is the stored decision."""
    by = decision_of(closed_by)
    return Paused(gate, actor=by.actor, note=by.note, at=moment(by.at_ms))


class Owner(msgspec.Struct, frozen=True):
    """Whose payments a store keeps: an environment's, and an account's (a digest of its id)."""

    account: str
    environment: str


class StoreIdentity(msgspec.Struct, frozen=True, kw_only=True):
    """Whose store it is, as it is stored. `name` is empty where no process has made one yet.

    `environment` and `accounts` (digests of client ids) are empty where no process has named them.
    `foreign`: why this process may begin nothing here, "" if it may or if that is not known.
    """

    name: str
    environment: str = ""
    accounts: tuple[str, ...] = ()
    foreign: str = ""


@runtime_checkable
class _HasIdentity(Protocol):
    """A store that can be another one than a process began with."""

    async def identity(self) -> StoreIdentity:
        """Return whose store it is now."""
        ...


async def identity_of(store: object) -> StoreIdentity:
    """Return whose store it is. One that cannot be swapped is this process's own."""
    return await store.identity() if isinstance(store, _HasIdentity) else StoreIdentity(name="own")


def owner_of(client_id: str, environment: str, *, is_local: bool) -> Owner:
    """Return the owner that a process's settings name; emulators on this machine are all one."""
    if is_local:
        return Owner("local", "local")
    digest = hashlib.sha256(client_id.encode(errors="surrogatepass")).hexdigest()
    return Owner(digest[: 2 * _ACCOUNT_B], environment)
