"""References from code and pages to the concept pages: each leads to a heading that exists."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
CONCEPTS: Final = ROOT / "docs" / "concepts"
FOLDERS: Final = ("cfflow", "tests", "bench", "examples", "docs", "flows")
TOP_FILES: Final = (
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "Makefile",
    "pyproject.toml",
)
SUFFIXES: Final = {".py", ".lua", ".md", ".toml"}

#: How code refers to a heading: `gateway.md#proof`, `design.md#a-step`.
REFERENCE: Final = re.compile(r"\b(gateway|design)\.md#([\w-]*)")
#: References to pages that are not part of the project, by number.
NUMBERED: Final = re.compile(r"\b(?:GATEWAY|DESIGN)(?:\.md)?,? \d")


def texts() -> Iterator[tuple[Path, str]]:
    """Yield every text in which a reference may stand."""
    pages = [
        ROOT / name
        for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "Makefile", "pyproject.toml")
    ]
    for folder in FOLDERS:
        paths = (ROOT / folder).rglob("*")
        pages += [p for p in paths if p.suffix in SUFFIXES and "node_modules" not in p.parts]
    for path in pages:
        if path != Path(__file__):
            yield path.relative_to(ROOT), path.read_text(encoding="utf-8")


def slugs(page: str) -> set[str]:
    """Return what the headings of a concept page are called in a link."""
    headings = re.findall(r"^#+ (.+)$", (CONCEPTS / f"{page}.md").read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


def test_every_reference_leads_to_a_heading() -> None:
    """A heading that is renamed takes its references along, or this fails."""
    known = {page: slugs(page) for page in ("gateway", "design")}
    found = [(path, match) for path, text in texts() for match in REFERENCE.finditer(text)]
    assert len(found) > 30
    lost = [f"{path}: {match[0]}" for path, match in found if match[2] not in known[match[1]]]
    assert lost == []


def test_nothing_refers_to_a_page_by_number() -> None:
    """Numbers belong to pages that a reader of this repository has not got."""
    assert [str(path) for path, text in texts() if NUMBERED.search(text)] == []
