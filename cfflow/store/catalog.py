"""Flows by name and by digest: those that come with cfflow, and the merchant's own files."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Final

from cfflow.core.arguments import shown_name
from cfflow.core.bounds import FLOW_MAX_B
from cfflow.core.flow import Examined, Flow, digest_of, examine, parse
from cfflow.core.mistakes import Mistake
from cfflow.core.order import Snapshot
from cfflow.errors import ConfigError, FlowError
from cfflow.store.protocol import Store

#: Each exists on some systems only.
_OPENS: Final = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)

#: A path with a null character in it is a ValueError.
_UNREADABLE: Final = (OSError, ValueError)


def read_flow(path: Path | Traversable) -> Flow:
    """Return the flow in a file. Raises `FlowError` with file, key and reason.

    Only a regular file is read, and no more of it than a flow may have: a device has no end, and
    a pipe without a writer would keep the caller waiting.
    """
    try:
        text = _start_of(path) if isinstance(path, Path) else path.read_bytes()
    except _UNREADABLE as error:
        raise FlowError(f"{path}: {_why_unreadable(error)}") from None
    return parse(text, file=str(path))


def examine_flow(path: Path) -> Examined:
    """Return the flow in a file and what is doubtful in it, or every mistake in it."""
    try:
        text = _start_of(path)
    except _UNREADABLE as error:
        return Examined(None, (Mistake("", _why_unreadable(error)),))
    return examine(text)


def _why_unreadable(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)


def _start_of(path: Path) -> bytes:
    """Return what a regular file contains: all of it, or one byte more than a flow may have."""
    # Without waiting: to open a pipe for reading takes until somebody writes into it.
    number = os.open(path, os.O_RDONLY | _OPENS)
    try:
        if not stat.S_ISREG(os.fstat(number).st_mode):
            raise OSError(0, "not a regular file")
        with open(number, "rb", closefd=False) as file:
            return file.read(FLOW_MAX_B + 1)
    finally:
        os.close(number)


def shipped() -> Traversable:
    """Return the folder of the flows that come with cfflow.

    In a wheel they are inside the package, in the repository beside it.
    """
    inside = files("cfflow") / "flows"
    return inside if inside.is_dir() else Path(str(files("cfflow"))).parent / "flows"


class Catalog:
    """The flows of one process, by name and by digest.

    `paths` are the merchant's own files or folders; a flow in them replaces a shipped one of
    the same name. Raises `FlowError` for a file that cannot be used, or two with one name.
    """

    def __init__(self, paths: Iterable[Path | str] = ()) -> None:
        self._by_name: dict[str, Flow] = {}
        self._by_digest: dict[str, Flow] = {}
        for entry in sorted(shipped().iterdir(), key=lambda entry: entry.name):
            if entry.name.endswith(".toml"):
                self._keep(read_flow(entry))
        own: dict[str, Path] = {}
        for path in _own_files(paths):
            flow = read_flow(path)
            if flow.name in own:
                raise FlowError(f"{path}: name: {flow.name!r} is also the name of {own[flow.name]}")
            own[flow.name] = path
            self._keep(flow)

    def _keep(self, flow: Flow) -> None:
        self._by_name[flow.name] = flow
        self._by_digest[flow.digest] = flow

    def named(self, name: str) -> Flow:
        """Return a flow by name. Raises `FlowError`, which lists the known ones."""
        found = self._by_name.get(name) if isinstance(name, str) else None
        if found is None:
            known = ", ".join(sorted(self._by_name))
            raise FlowError(f"there is no flow {shown_name(name)}; known are {known}")
        return found

    def all_named(self, names: str | Iterable[str]) -> list[Flow]:
        """Return the flows of one name or several. Raises `FlowError` for an unknown one."""
        given = [names] if isinstance(names, str) else names
        if not isinstance(given, list | tuple | set | frozenset):
            raise FlowError("flow must be a flow's name, or a list of names")
        found = [self.named(name) for name in given]
        if not found:
            raise FlowError("no flow is named")
        return found

    async def flow_of(self, snapshot: Snapshot, store: Store) -> Flow:
        """Return the flow that a payment began with, from this process or else from the store.

        A payment keeps the flow that it began with, even if the file has changed since. Raises
        `FlowError`, which names the payment, if the store has lost the text or has another one
        under its digest: by other rules a hold could be kept or captured that should be released.
        """
        digest = snapshot.record.digest
        known = self._by_digest.get(digest)
        if known is not None:
            return known
        text = await store.flow_text(snapshot.order_id, digest)
        if text is None:
            raise FlowError(f"{snapshot.id}: the text of its flow {snapshot.record.flow} is gone")
        if digest_of(text) != digest:
            raise FlowError(
                f"{snapshot.id}: the stored text of its flow {snapshot.record.flow} has been"
                f" changed: it is not the one of digest {digest}"
            )
        flow = parse(text, file=f"{snapshot.id}: stored flow {digest}", stored=True)
        self._by_digest[digest] = flow
        return flow

    def retention_min_s(self) -> int:
        """Return the shortest time for which a flow of this process keeps an ended payment."""
        return min(flow.end.retention_s for flow in self._by_digest.values())

    def __iter__(self) -> Iterator[Flow]:
        return iter(sorted(self._by_name.values(), key=lambda flow: flow.name))


def _own_files(paths: object) -> Iterable[Path]:
    if not isinstance(paths, list | tuple | set | frozenset):
        # A text would be read letter by letter.
        raise ConfigError('flows must be a list of files and folders: flows=["my_flows"]')
    for given in paths:
        if not isinstance(given, str | Path) or "\0" in str(given):
            raise ConfigError("flows: each entry must be the path of a file or folder")
        path = Path(given)
        if path.is_dir():
            yield from sorted(path.glob("*.toml"))
        else:
            yield path
