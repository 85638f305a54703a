"""The guides agree with the code: reviews, advice, commands."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from typing import get_args

import msgspec

from cfflow.cashfree import facts
from cfflow.connecting import connect
from cfflow.core.reviews import ReviewReason
from cfflow.errors import Reason
from cfflow.webhooks import Receipt
from tests.faces.faces_kit import ROOT

WEBHOOKS = (ROOT / "docs" / "guides" / "webhooks.md").read_text()


def test_the_guide_to_webhooks_names_what_the_code_knows() -> None:
    """Every reason of a refusal, every field of a receipt, the limit of size, and any age."""
    words = [*get_args(Reason), *msgspec.structs.asdict(Receipt(type="T"))]
    assert [word for word in words if f"`{word}`" not in WEBHOOKS] == []
    assert f"{facts.WEBHOOK_MAX_B // 1024} KiB" in WEBHOOKS
    assert inspect.signature(connect).parameters["webhook_tolerance_s"].default is None
    assert "Any age is accepted" in WEBHOOKS


def opened_in_code() -> Iterator[ReviewReason]:
    """Yield every reason that the code outside of its own list names."""
    for path in sorted((ROOT / "cfflow").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "ReviewReason":
                yield ReviewReason[node.attr]


def test_every_review_is_opened_somewhere() -> None:
    """A reason that no code opens would be documentation of nothing."""
    assert set(opened_in_code()) == set(ReviewReason)


def test_the_guide_has_a_section_for_every_review() -> None:
    """In the order of the advice, so that neither grows without the other."""
    page = (ROOT / "docs" / "guides" / "recovery.md").read_text()
    headings = [
        name for line in re.findall(r"^### (.+)$", page, re.MULTILINE) for name in line.split(", ")
    ]
    assert headings == [reason.value for reason in ReviewReason]


def test_the_design_page_knows_every_review() -> None:
    """One line each, for who meets the word in a log."""
    page = (ROOT / "docs" / "concepts" / "design.md").read_text()
    assert {name for name in ReviewReason if f"`{name}`" not in page} == set()
