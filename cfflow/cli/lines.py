"""Lines of text and of JSON on standard output. It needs no extra.

What is printed came from others: a note, the gateway's text, an id out of Redis. So no control
character of it reaches the terminal, and no line break of it makes a line (core/printable.py).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import TextIO

import msgspec

from cfflow.core.printable import printable, safe_json
from cfflow.errors import CfflowError


def print_json_line(data: object, to: TextIO | None = None) -> None:
    """Print data for programs as one line, to standard output or another stream."""
    line = msgspec.json.encode(data, enc_hook=str).decode()
    (to or sys.stdout).write(f"{safe_json(line)}\n")


def print_lines(*lines: str, to: TextIO | None = None) -> None:
    """Print lines for people, each as one line whatever is in it, to standard output or `to`."""
    (to or sys.stdout).writelines(f"{printable(line)}\n" for line in lines)


def run_to_end(command: Callable[[], object], complain: Callable[[str], object]) -> None:
    """Run a command. An error of the tree is one line for `complain` and status 1, no traceback."""
    try:
        try:
            command()
        finally:
            sys.stdout.flush()
    except CfflowError as error:
        complain(printable(f"cfflow: {error}"))
        sys.exit(1)
    except BrokenPipeError:
        # The reader of the output has gone (`cfflow list | head -1`). Python would print a
        # second error when it flushes standard output at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
