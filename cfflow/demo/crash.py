"""The two processes of the demo's last scene: the second recovers what the first began.

`python -m cfflow.demo.crash capture ID AMOUNT FLOWS` captures a hold and is killed while it waits
for the response. `python -m cfflow.demo.crash recover FLOWS` has only the store, and finishes the
payment.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from rich.console import Console

import cfflow
from cfflow.demo.stage import Timeline


async def _capture(payment_id: str, amount: str, flows: Path) -> None:
    timeline = Timeline(Console(highlight=False))
    async with cfflow.connect(flows=[flows], log=timeline) as orchestrator:
        await orchestrator.capture(payment_id, amount)


async def _recover(flows: Path) -> None:
    console = Console(highlight=False)
    timeline = Timeline(console)
    async with cfflow.connect(flows=[flows], log=timeline) as orchestrator:
        for found in await orchestrator.find(state="authorized"):
            console.print(f"  a new process finds {found!r}", markup=False, soft_wrap=True)
            payment = await orchestrator.refresh(found)
            while payment.operation is not None:
                await asyncio.sleep(0.1)
                payment = await orchestrator.refresh(payment)
            console.print(f"  and ends with {payment!r}", markup=False, soft_wrap=True)


def main(arguments: list[str]) -> None:
    """Run one of the two processes."""
    role, *rest = arguments
    if role == "capture":
        asyncio.run(_capture(rest[0], rest[1], Path(rest[2])))
    else:
        asyncio.run(_recover(Path(rest[0])))


if __name__ == "__main__":
    main(sys.argv[1:])
