"""Gates, the store's identity and the audit trail, in Redis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from secrets import token_urlsafe
from typing import Any, Final

from cfflow.errors import ConfigError, StoreReplaced
from cfflow.store.control import Owner, StoreIdentity
from cfflow.store.redis.failures import not_permitted
from cfflow.store.redis.keys import Keys
from cfflow.store.redis.link import RedisLink
from cfflow.store.redis.replies import fields_from, text_of
from cfflow.store.redis.url import shown

_STORE_ID_B: Final = 9
_AUDIT_MAX: Final = 1_000
_GATE: Final = "gate:"


class RedisControl:
    """What people control of one deployment: a namespace of keys on one server or cluster.

    `owner`: whose payments this process takes; None where that is not known. `read_only`: a store
    that does not exist yet is not made, and nothing is written by `identify`.
    `keeps_every_commit`: this server loses no commit when it restarts (it writes each one to its
    disk and has no replicas), so no order has to be verified afterwards. Only set in a new store.
    """

    def __init__(
        self,
        link: RedisLink,
        keys: Keys,
        owner: Owner | None,
        *,
        keeps_every_commit: bool,
        read_only: bool = False,
    ) -> None:
        self._link = link
        self._keys = keys
        self._owner = owner
        self._keeps_every_commit = keeps_every_commit
        self._read_only = read_only
        self.store_id = ""

    async def identify(self) -> str:
        """Learn whose store this is; a new one gets a name of its own, in every partition.

        Returns why this process may begin nothing here, "" if it may. Raises `ConfigError` for
        another number of partitions, and for a user of Redis who lacks a right. A process that
        only reads names nothing: where there is no store, `store_id` stays empty.
        """
        reply = await self._meta(**({} if self._read_only else self._of_a_new_store()))
        fields, own = fields_from(reply), str(self._keys.partitions)
        await self._check_rights(reply)
        if fields.get("partitions", own) != own:
            raise ConfigError(
                f"the store at {shown(self._link.url)} has {fields['partitions']} partitions,"
                f" not {own}: the number is fixed for its life"
            )
        self.store_id = fields.get("store", "")
        if "complete" not in fields:
            await self._name_partitions()
        return self._foreign(fields)

    def _of_a_new_store(self) -> dict[str, str]:
        """Return the fields with which this process would make a new store."""
        fields = {"partitions": str(self._keys.partitions), "store": token_urlsafe(_STORE_ID_B)}
        if self._owner is not None:
            fields |= {"accounts": self._owner.account, "environment": self._owner.environment}
        return fields

    async def identity(self) -> StoreIdentity:
        """Return whose store this is, as it is stored now. Nothing is written."""
        fields = fields_from(await self._meta())
        name = fields.get("store", "")
        is_another = name and self.store_id not in {"", name} and not await self.was_accepted(name)
        return StoreIdentity(
            name=name,
            environment=fields.get("environment", ""),
            accounts=tuple(name for name in fields.get("accounts", "").split(",") if name),
            foreign=f"it is store {name} now" if is_another else self._foreign(fields),
        )

    async def _name_partitions(self) -> None:
        """Write the name of a new store into every partition: it shows later whose data this is.

        A process that only reads takes over the name that it finds there, and writes nothing.
        """
        others = {run["store"] for run in await self._run() if "store" in run} - {self.store_id}
        if len(others) > 1:
            raise StoreReplaced(
                f"its partitions are of several stores: {', '.join(sorted(others))}"
            )
        renamed = bool(others)
        if renamed:
            # The master of a cluster that has the meta key lost its data. The partitions that it
            # has lost too must get no name: they would begin orders that may have been paid.
            self.store_id = others.pop()
        if self._read_only:
            return
        if renamed:
            await self._link.command("HSET", self._keys.meta, "store", self.store_id)
        else:
            args = ("create", self.store_id, "1" if self._keeps_every_commit else "")
            await self._link.scripts([((run,), args) for run in self._runs])
        await self._link.command("HSET", self._keys.meta, "complete", 1)

    def _foreign(self, fields: Mapping[str, str]) -> str:
        owner = self._owner
        if owner is None:
            return ""
        environment = fields.get("environment", owner.environment)
        if environment != owner.environment:
            return f"it keeps payments of {environment}, not of {owner.environment}"
        if owner.account not in fields.get("accounts", owner.account).split(","):
            return "it keeps payments of another account"
        return ""

    async def was_accepted(self, held: str) -> bool:
        """Take over another name of the store, if a person has accepted it; return whether."""
        fields = fields_from(await self._meta())
        if held and fields.get("accepted") == held and not self._foreign(fields):
            self.store_id = held
        return self.store_id == held

    async def accept(self, decision: str) -> None:
        """Make this store the one of this process's account and environment.

        Where it was the owner's already, its data was lost: every partition counts as restarted
        now, also one that has a new name since, so that an order which begins in the next minutes
        is verified before its first step. For another owner nothing was lost, but in partitions
        without this name.
        """
        meta, fields = self._keys.meta, fields_from(await self._meta())
        store = fields.get("store") or token_urlsafe(_STORE_ID_B)
        accounts = [name for name in fields.get("accounts", "").split(",") if name]
        pairs = {"store": store, "accepted": store, "complete": "1"}
        if self._owner is not None:
            names = dict.fromkeys([*accounts, self._owner.account])
            pairs |= {"accounts": ",".join(names), "environment": self._owner.environment}
        await self._link.command("HSET", meta, *(part for pair in pairs.items() for part in pair))
        lost = "" if self._foreign(fields) else "1"
        await self._link.scripts([((run,), ("accept", store, lost)) for run in self._runs])
        self.store_id = store
        await self.record_decision(decision)

    async def gates(self) -> Mapping[str, str]:
        """Return who closed each gate that is closed, in any partition."""
        fields = [pair for run in await self._run() for pair in run.items()]
        return {name[len(_GATE) :]: by for name, by in fields if name.startswith(_GATE)}

    async def set_gate(self, gate: str, closed_by: str) -> None:
        """Close a gate in every partition, or open it with an empty `closed_by`."""
        await self._run(f"{_GATE}{gate}", closed_by)

    async def record_decision(self, decision: str) -> None:
        """Write a decision into the audit trail."""
        await self._link.command("LPUSH", self._keys.audit, decision)
        await self._link.command("LTRIM", self._keys.audit, 0, _AUDIT_MAX - 1)

    async def decisions(self, limit: int) -> Sequence[str]:
        """Return the last decisions of the audit trail, newest first."""
        rows = await self._link.command("LRANGE", self._keys.audit, 0, limit - 1)
        return [text_of(row) for row in rows]

    async def _meta(self, **wanted: str) -> Sequence[Any]:
        """Write these fields of the store where they are missing, and return the script's reply."""
        args = ("meta", *(part for pair in wanted.items() for part in pair))
        return await self._link.script([self._keys.meta], args)

    async def _check_rights(self, reply: Sequence[Any]) -> None:
        """Raise `ConfigError` for a user of Redis who may not run all that cfflow needs."""
        missing = set(reply[3])
        if self._link.is_cluster:
            # Each node has users of its own.
            calls = [((run,), ("rights",)) for run in self._runs]
            missing.update(*(each[2] for each in await self._link.scripts(calls)))
        if missing:
            names = ", ".join(sorted(map(text_of, missing)))
            raise ConfigError(not_permitted(self._link.url, names))

    async def _run(self, *changes: str) -> Sequence[Mapping[str, str]]:
        """Write fields of each partition's `run` (name, value, ...), and return all that it has."""
        replies = await self._link.scripts([((run,), ("run", *changes)) for run in self._runs])
        return [fields_from(reply) for reply in replies]

    @property
    def _runs(self) -> Sequence[str]:
        return [self._keys.run(partition) for partition in range(self._keys.partitions)]
