"""What is imported when: nothing heavy before the first name is used."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import cfflow
import cfflow.testing
from cfflow.names import public

#: What takes long to import, and none of it is needed to import cfflow.
HEAVY = ("httpx", "redis", "structlog", "transitions", "msgspec", "hiredis", "httptools")


def printed(program: str, *arguments: str) -> str:
    """Return what a fresh interpreter prints."""
    command = [sys.executable, *arguments, "-c", program]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_importing_cfflow_imports_none_of_what_it_needs() -> None:
    """A program that imports it at its top waits for the rest when it takes a payment."""
    loaded = f"print([n for n in {HEAVY!r} if n in sys.modules])"
    assert printed(f"import sys, cfflow, cfflow.testing.plugin; {loaded}") == "[]"
    assert printed(f"import sys, cfflow; cfflow.connect; {loaded}") == str([*HEAVY])


def test_a_test_run_without_our_fixtures_imports_none_of_cfflow(tmp_path: Path) -> None:
    """The plugin is loaded in every run of an environment that has cfflow."""
    (tmp_path / "test_other.py").write_text(
        "import sys\n"
        "def test_other():\n"
        "    held = {n for n in sys.modules if n.partition('.')[0] == 'cfflow'}\n"
        "    late = {'cfflow.names', 'cfflow.names.late', 'cfflow.names.version'}\n"
        "    assert held <= {'cfflow', 'cfflow.testing', 'cfflow.testing.plugin'} | late, held\n"
        "    assert 'cfflow.testing.plugin' in held\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("module", [cfflow, cfflow.testing], ids=lambda m: m.__name__)
def test_every_name_is_there(module: object) -> None:
    """As attributes, in `dir`, and by `from ... import *`; another name is not."""
    package = importlib.import_module(module.__name__)  # type: ignore[attr-defined]  # a module
    for name in package.__all__:
        assert getattr(package, name) is not None
    assert {*package.__all__} <= {*dir(package)}
    own = "[n for n in dir() if n == '__version__' or n[:2] != '__']"
    star = f"from {package.__name__} import *; print(len({own}))"
    assert printed(star) == str(len(package.__all__))
    with pytest.raises(AttributeError, match=f"'{package.__name__}' has no attribute 'nothing'"):
        _ = package.nothing


def test_no_name_is_a_module_too() -> None:
    """Importing `cfflow.connect`, if there were one, would put a module in the function's place."""
    modules = {found.name for found in pkgutil.iter_modules(cfflow.__path__)}
    assert not modules & {*public.__all__}
