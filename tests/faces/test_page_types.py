"""The Python that the pages show passes a user's own `mypy --strict`."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.faces.faces_kit import ROOT

pytestmark = pytest.mark.timeout(180)

PAGES: Final = [ROOT / "README.md", ROOT / "docs/start.md", *ROOT.glob("docs/guides/*.md")]

#: What a piece of a program on a page uses and does not show: each name with its type.
GIVEN: Final = {
    "card": "cfflow.Card",
    "cashfree": "LocalCashfree",
    "cashier": "cfflow.Orchestrator",
    "customer": "dict[str, str]",
    "feed": "cfflow.Feed",
    "new": "str",
    "old": "str",
    "orchestrator": "cfflow.Orchestrator",
    "otp": "str",
    "payment": "cfflow.Payment",
    "payment_id": "str",
    "version": "int",
}
#: On the page about blocking code these are the blocking versions.
BLOCKING: Final = {"cashier": "cfflow.sync.Orchestrator", "feed": "cfflow.sync.Feed"}

#: What the pieces import without showing it. `shop` is the user's other code, see below.
IMPORTS: Final = """\
import asyncio
import cfflow
import cfflow.sync
import pytest
from cfflow import Worker
from cfflow.testing import LocalCashfree
from shop import (
    HttpRequest, HttpResponse, Request, Response, app, book_refund, csrf_exempt, resynchronise,
    send_receipt,
)
"""

#: Stands for the user's own functions and for the web frameworks, which this project has not.
SHOP: Final = """\
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

_F = TypeVar("_F")

class Request:
    headers: Mapping[str, str]
    async def body(self) -> bytes: ...

class HttpRequest:
    headers: Mapping[str, str]
    body: bytes

class Response:
    def __init__(self, content: str = ..., status_code: int = ...) -> None: ...

class HttpResponse:
    def __init__(self, content: str = ..., *, status: int = ...) -> None: ...

class _App:
    def post(self, path: str) -> Callable[[_F], _F]: ...

app: _App

def csrf_exempt(view: _F) -> _F: ...
async def resynchronise() -> None: ...
async def send_receipt(order_id: str, *, key: str) -> None: ...
async def book_refund(refund: Any, *, key: str | None) -> None: ...
"""

#: No type of the first is in a public signature, and reading them takes four fifths of the time.
#: Django has no types.
CONFIG: Final = """\
[mypy]
strict = true
no_error_summary = true
cache_dir = ../cache
[mypy-anyio.*,httpcore.*,httpx.*,redis.*,structlog.*,transitions.*]
follow_imports = skip
[mypy-django.*]
ignore_missing_imports = true
"""

#: A block that another one imports, by page and number.
NAMED: Final = {("testing-your-checkout", 0): "checkout", ("your-own-store", 0): "sqlite_store"}
#: cashfree-pg has types for its models and none for its calls, celery and kombu have none.
UNTYPED: Final = ("from cashfree_pg", "from celery", "from kombu")


def blocks(page: Path) -> Iterator[tuple[str, str]]:
    """Yield each Python block of a page with the name of its module."""
    found = re.findall(r"^```python\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    for number, block in enumerate(found):
        usual = f"{page.stem}_{number}".replace("-", "_").lower()
        yield NAMED.get((page.stem, number), usual), block


def names_in(tree: ast.AST) -> set[str]:
    """Return every name that a piece of code reads or binds."""
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}


def module_of(page: Path, block: str) -> str:
    """Return a block as a module: as it stands if it is a whole program, else in a function."""
    flags = ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    tree = compile(block, str(page), "exec", flags, dont_inherit=True)
    if any(isinstance(node, (ast.Import, ast.ImportFrom)) for node in tree.body):
        return block
    types = GIVEN | (BLOCKING if page.stem == "blocking" else {})
    given = sorted(names_in(tree) & set(types))
    lines = [f"{name}: {types[name]}" for name in given]
    lines += ["async def piece() -> None:", *(f"    global {name}" for name in given)]
    return "\n".join([IMPORTS, *lines, *(f"    {line}" for line in block.splitlines()), ""])


def test_what_the_pages_show_passes_a_strict_type_check(tmp_path: Path) -> None:
    """All blocks in one project beside an installed cfflow, in one run of mypy."""
    project = tmp_path / "project"
    project.mkdir()
    (project / "shop.pyi").write_text(SHOP)
    for page in PAGES:
        for name, block in blocks(page):
            if not any(name in block for name in UNTYPED):
                (project / f"{name}.py").write_text(module_of(page, block))
    assert len(list(project.iterdir())) > 15
    (tmp_path / "mypy.ini").write_text(CONFIG)
    command = [sys.executable, "-m", "mypy", "--config-file", str(tmp_path / "mypy.ini"), "."]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.fail(done.stdout + done.stderr, pytrace=False)
