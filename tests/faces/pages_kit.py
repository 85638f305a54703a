"""Runs the programs of a page as they stand, each in a process of its own.

A program is a block of Python with imports; what it prints is the next block of `text` on the page,
where `...` stands for any text within a line. It takes its settings from the environment: a local
Cashfree in another process, and a private Valkey.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from cfflow.emulator import EmulatorProcess
from tests.faces.faces_kit import CFFLOW, LIMIT_S, ROOT, environment

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def page(name: str) -> str:
    """Return a guide's text."""
    return (ROOT / "docs" / "guides" / f"{name}.md").read_text()


def programs(text: str) -> Iterator[tuple[str, str]]:
    """Yield each whole program of a page with what it prints, as the page says."""
    blocks = _BLOCK.findall(text)
    for number, (language, block) in enumerate(blocks):
        if language == "python" and re.search(r"^(?:import|from) ", block, re.MULTILINE):
            after = blocks[number + 1 :][:1]
            yield block, after[0][1] if after and after[0][0] == "text" else ""


def play(program: str, folder: Path, bank: EmulatorProcess, *arguments: str) -> str:
    """Run a program in this folder and return what it prints; it must end well and in silence."""
    settings = environment(
        CFFLOW_REDIS_URL="embedded:",
        CASHFREE_ENVIRONMENT=bank.base_url,
        CASHFREE_CLIENT_ID=bank.client_id,
        CASHFREE_CLIENT_SECRET=bank.client_secret,
    )
    settings["PATH"] = f"{CFFLOW.parent}:{settings['PATH']}"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program, *arguments],
        cwd=folder,
        env=settings,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    # What cfflow logs is JSON lines on standard error; anything else there is trouble.
    lines = [line for line in done.stderr.splitlines() if not line.startswith('{"')]
    assert (done.returncode, lines) == (0, []), done.stderr
    return done.stdout


def prints(shown: str, output: str) -> bool:
    """Whether the output of a program is what the page shows."""
    pattern = r"[^\n]*".join(map(re.escape, shown.split("...")))
    return re.fullmatch(pattern, output) is not None
