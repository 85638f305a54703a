"""The README's promises: its lines run, its chart is the machine's, its links lead somewhere."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from cfflow.emulator import EmulatorProcess
from cfflow.views.graph import mermaid
from tests.faces.faces_kit import LIMIT_S, ROOT, environment

pytestmark = pytest.mark.timeout(180)

README = (ROOT / "README.md").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PAGES = sorted(
    path
    for path in ROOT.rglob("*.md")
    if not any(part.startswith((".", "node_modules")) for part in path.relative_to(ROOT).parts)
)
EMULATOR = "http://127.0.0.1:8000/pg"


def blocks(language: str) -> list[str]:
    """Return the README's blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def test_the_readme_s_program_takes_a_payment(bank: EmulatorProcess, tmp_path: Path) -> None:
    """The first lines that a reader copies end in `captured`."""
    (program,) = blocks("python")
    assert EMULATOR in program
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program.replace(EMULATOR, bank.base_url)],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("captured 170.00\n")


def test_the_readme_starts_the_emulator_that_its_program_calls() -> None:
    """The port of the command is the port of the program."""
    assert any("cfflow emulator --port 8000" in block for block in blocks("console"))


def test_the_readme_s_chart_is_the_machine_s() -> None:
    """The diagram was printed by `cfflow graph`, and still would be."""
    assert blocks("mermaid") == [mermaid() + "\n"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_s_links_lead_somewhere(page: Path) -> None:
    """Every link to a file of the repository names one that is there."""
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text())
    inside = [link for link in links if not re.match(r"[a-z]+:", link)]
    assert [link for link in inside if not (page.parent / link).exists()] == []


def test_the_readme_s_links_work_on_the_registry_s_page() -> None:
    """It is shown there without the repository: every link is whole, and names what is there."""
    assert not re.search(r"\]\((?![a-z]+:)", README)
    base = f"{PROJECT['urls']['Repository']}/blob/main/"
    defined = dict(re.findall(r"(?m)^\[([^\]]+)\]: (\S+)$", README))
    used = re.findall(r"\][ \n]?\[([^\]]+)\]", README)
    assert {*used} == {*defined}
    for link in [*defined.values(), *PROJECT["urls"].values()]:
        assert link.startswith(PROJECT["urls"]["Repository"])
        path, _, place = link.removeprefix(base).partition("#")
        if link.startswith(base):
            assert (ROOT / path).exists(), link
            assert not place or place in anchors((ROOT / path).read_text()), link


def anchors(page: str) -> set[str]:
    """Return the names of a page's headings in a link."""
    headings = re.findall(r"(?m)^#+ (.+)$", page)
    return {re.sub(r"[^\w -]", "", text.lower()).replace(" ", "-") for text in headings}


def test_the_readme_s_commands_are_the_makefile_s() -> None:
    """`make demo` and `make test` exist, as every target that the README names."""
    named = set(re.findall(r"\bmake (\w+)", "\n".join(blocks("console"))))
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {"demo", "test"} <= named <= targets
