"""`cfflow` and `python -m cfflow`: the command line. It needs the extra `cli`."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; without its extra, print which one to install."""
    try:
        from cfflow.cli.app import run
    except ModuleNotFoundError as missing:
        if missing.name is None or missing.name.partition(".")[0] not in {"typer", "rich", "click"}:
            raise
        print("the command line needs an extra: pip install 'cfflow[cli]'", file=sys.stderr)
        sys.exit(1)
    run()


if __name__ == "__main__":
    main()
