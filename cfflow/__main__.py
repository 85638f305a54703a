"""`cfflow` and `python -m cfflow`: the command line. All but the worker needs the extra `cli`."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; without its extra, only the worker, or print what to install."""
    try:
        from cfflow.cli.app import run
    except ModuleNotFoundError as missing:
        if missing.name is None or missing.name.partition(".")[0] not in {"typer", "rich", "click"}:
            raise
        if sys.argv[1:2] != ["worker"]:
            print("the command line needs an extra: pip install 'cfflow[cli]'", file=sys.stderr)
            sys.exit(1)
        from cfflow.cli.work import main as work

        work(sys.argv[2:])
        return
    run()


if __name__ == "__main__":
    main()
