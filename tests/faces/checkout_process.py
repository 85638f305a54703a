"""A checkout in a process of its own: starts a payment for each order id that it reads.

Tests run it as `python -m tests.faces.checkout_process`.
"""

from __future__ import annotations

import asyncio
import sys

import cfflow


async def main() -> None:
    """Print a payment's id for each line of standard input, or the error's class and text."""
    async with cfflow.connect() as cashier:
        _write("ready")
        while line := (await asyncio.to_thread(sys.stdin.readline)).strip():
            try:
                _write((await cashier.start("native_otp", order_id=line)).id)
            except cfflow.CfflowError as error:
                _write(f"{type(error).__name__} {error.message}")


def _write(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main())
