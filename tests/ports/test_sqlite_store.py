"""The store on SQLite of docs/guides/your-own-store.md: it passes the suite, and a sale works."""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from pathlib import Path
from types import ModuleType

from cfflow import State
from tests.engine.shop import OTP, open_shop

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "your-own-store.md"
STORE, SUITE = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)


def module_of(block: str, name: str) -> ModuleType:
    """Return a block of the page as the module that a user would import."""
    module = sys.modules[name] = ModuleType(name)
    exec(compile(block, f"{name}.py", "exec"), vars(module))  # noqa: S102  the guide's own code
    return module


SqliteStore = module_of(STORE, "sqlite_store").SqliteStore
TestSqliteStore = module_of(SUITE, "test_a_sqlite_store").TestSqliteStore


def test_the_store_has_at_most_300_lines_of_code() -> None:
    """Without comments, docstrings and blank lines: a store is no large thing."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    prose: set[int] = set()
    for node in ast.walk(ast.parse(STORE)):
        if isinstance(node, documented) and ast.get_docstring(node):
            prose |= set(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    code: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(STORE).readline):
        if token.string.strip() and token.type != tokenize.COMMENT:
            code |= set(range(token.start[0], token.end[0] + 1))
    assert len(code - prose) <= 300


async def test_a_sale_on_it_ends_captured(tmp_path: Path) -> None:
    """The whole way: start, pay, OTP, and the feed has each transition."""
    async with open_shop(store=SqliteStore(str(tmp_path / "payments.db"))) as shop:
        payment, _ = await shop.at_otp()
        captured = await shop.cashier.submit_otp(payment, OTP)
        assert captured.state is State.CAPTURED
        async with shop.cashier.events("readers") as feed:
            first = await feed.poll()
        assert first is not None
        assert await shop.cashier.find(state="captured") == [captured]
