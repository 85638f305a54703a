"""The workers' signs of life in Redis: one hash for the whole deployment."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from cfflow.store.redis.keys import Keys
from cfflow.store.redis.link import RedisLink
from cfflow.store.redis.replies import fields_from
from cfflow.store.signs import SIGN_KEPT_MS, SIGNS_MAX, Sign, newest_first

_decoder = msgspec.json.Decoder(Sign)


class RedisSigns:
    """Keeps the newest sign of each worker, with the server's time. Any process reads them all."""

    is_shared = True

    def __init__(self, link: RedisLink, keys: Keys) -> None:
        self._link = link
        self._keys = keys

    async def put(self, sign: Sign) -> None:
        """Keep a sign in place of this worker's last one; what is forgotten goes."""
        args = ("sign", sign.name, msgspec.json.encode(sign), SIGN_KEPT_MS, SIGNS_MAX)
        await self._link.script([self._keys.workers], args)

    async def all(self) -> Sequence[Sign]:
        """Return the signs of the last day, newest first."""
        fields = fields_from(await self._link.script([self._keys.workers], ("run",)))
        signs = [sign for text in fields.values() if (sign := _sign_of(text)) is not None]
        return newest_first(signs, self._link.clock.now_ms())


def _sign_of(text: str) -> Sign | None:
    """Return a stored sign; None for one that does not decode: it must not hide the others."""
    at_ms, _, report = text.partition(":")
    try:
        return msgspec.structs.replace(_decoder.decode(report), at_ms=int(at_ms))
    except (msgspec.MsgspecError, ValueError):
        return None
