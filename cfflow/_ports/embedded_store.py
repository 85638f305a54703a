"""The Redis store on a server of its own folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cfflow._ports.embedded import EmbeddedServer
from cfflow._ports.redis_store import RedisStore

__all__ = ["EmbeddedStore"]


class EmbeddedStore(RedisStore):
    """A `RedisStore` that starts or joins the embedded server of a folder."""

    def __init__(self, folder: Path | None = None, **options: Any) -> None:
        self.server = EmbeddedServer(folder)
        super().__init__(self.server.url, **options)

    async def open(self) -> None:
        """Start or join the server, then connect."""
        await self.server.start()
        await super().open()

    async def aclose(self) -> None:
        """Disconnect; the last one to leave stops the server."""
        await super().aclose()
        await self.server.stop()
