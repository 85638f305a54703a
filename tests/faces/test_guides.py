"""The guides say what the code does: reviews, advice, commands."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from typing import get_args

import msgspec

from cfflow.connect import connect
from cfflow.core.reviews import ADVICE
from cfflow.webhooks import BODY_MAX_B, Reason, Receipt
from tests.faces.faces_kit import ROOT

_OPENS = {"review", "Disputed"}

WEBHOOKS = (ROOT / "docs" / "guides" / "webhooks.md").read_text()


def test_the_guide_to_webhooks_names_what_the_code_knows() -> None:
    """Every reason of a refusal, every field of a receipt, the limit of size, and any age."""
    words = [*get_args(Reason), *msgspec.structs.asdict(Receipt(type="T"))]
    assert [word for word in words if f"`{word}`" not in WEBHOOKS] == []
    assert f"{BODY_MAX_B // 1024} KiB" in WEBHOOKS
    assert inspect.signature(connect).parameters["webhook_tolerance_s"].default is None
    assert "Any age is accepted" in WEBHOOKS


def opened_in_code() -> Iterator[str]:
    """Yield the reason of every review that the code opens."""
    for path in sorted((ROOT / "cfflow").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and _name(node.func) in _OPENS and node.args:
                yield from _texts(node.args[0])


def _name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def _texts(node: ast.expr) -> Iterator[str]:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.JoinedStr):
        # contradicts_{state}: the two final ones.
        head = "".join(str(p.value) for p in node.values if isinstance(p, ast.Constant))
        yield from (f"{head}captured", f"{head}voided")


def test_every_review_has_its_advice() -> None:
    """`why` never leaves a person alone with a reason."""
    assert set(opened_in_code()) == set(ADVICE)


def test_the_guide_has_a_section_for_every_review() -> None:
    """In the order of the advice, so that neither grows without the other."""
    page = (ROOT / "docs" / "guides" / "recovery.md").read_text()
    headings = [
        name for line in re.findall(r"^### (.+)$", page, re.MULTILINE) for name in line.split(", ")
    ]
    assert headings == list(ADVICE)


def test_the_design_page_knows_every_review() -> None:
    """One line each, for who meets the word in a log."""
    page = (ROOT / "docs" / "concepts" / "design.md").read_text()
    assert {name for name in ADVICE if f"`{name}`" not in page} == set()
