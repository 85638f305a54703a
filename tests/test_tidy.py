"""House rules that no linter knows, read off the source (after TigerBeetle's tidy.zig)."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.conftest import LONGEST
from tests.trees import Trees

ROOT: Final = Path(__file__).parents[1]

MODULE_LINES_MAX: Final = 600
FUNCTION_LINES_MAX: Final = 70
PROSE_COLUMNS_MAX: Final = 100

#: Folders of code. What else lies in the repository is text for people or for tools.
CODE: Final = ("cfflow", "tests", "bench", "examples")
SKIPPED: Final = {"__pycache__", "build", "dist", "node_modules"}
TEXTS: Final = {".cfg", ".css", ".html", ".js", ".lua", ".md", ".py", ".toml", ".yaml", ".yml"}

#: What somebody outside opens first, or a tool looks for by its name.
ENTRANCES: Final = {
    ".ci/run",
    ".gitignore",
    "AGENTS.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "LICENSE",
    "Makefile",
    "README.md",
    "SECURITY.md",
    "pyproject.toml",
}
#: Talk to people, and print.
SPEAKERS: Final = (
    "cfflow/__main__.py",
    "cfflow/cli/",
    "cfflow/demo/",
    "cfflow/emulator/__main__",
)

BROAD: Final = {"BaseException", "Exception"}
#: The owner is missing from each of these words, written so that this file has none of them.
MARKS: Final = re.compile(r"\b(TO" r"DO|FIX" r"ME|X" r"XX|HA" r"CK)\b")
#: Where a machine keeps its users and its work: no such path belongs into a repository.
MACHINE: Final = re.compile(r"(?<![\w.~}])/(?:home|root|Users|work|private)/\w")
#: Prose that cannot be broken: an address, a piece of code or a link alone on its line.
LONE_LINK: Final = re.compile(
    r"(?:[-*] )?(?:\S+|`[^`]*`|\[[^\]]*\]: \S+|!?\[[^\]]*\]\([^)]*\)[.,;:]?)"
)
SILENCER: Final = re.compile(r"#\s*(?:type:\s*ignore|noqa)")
SILENCER_WITH_REASON: Final = re.compile(
    r"# (?:type: ignore\[[\w, -]+\]  # |noqa: [A-Z]+\d+(?:, [A-Z]+\d+)*  )\w"
)


def files() -> Iterator[Path]:
    """Yield every file of the repository that somebody wrote."""
    waiting = [ROOT]
    while waiting:
        for path in sorted(waiting.pop().iterdir()):
            hidden = path.name.startswith(".") and path.name not in {".ci", ".gitignore", ".github"}
            if hidden or path.name in SKIPPED or path.suffix == ".egg-info":
                continue
            if path.is_dir():
                waiting.append(path)
            else:
                yield path


FILES: Final = {str(path.relative_to(ROOT)): path for path in files()}
SOURCES: Final = {
    name: path.read_text(encoding="utf-8")
    for name, path in FILES.items()
    if path.suffix in TEXTS or name in ENTRANCES or name == "requirements.lock"
}
MODULES: Final = {
    name: path
    for name, path in FILES.items()
    if name.endswith(".py") and name.partition("/")[0] in CODE
}
TREES: Final = Trees(MODULES)
LIBRARY: Final = Trees({n: path for n, path in MODULES.items() if n.startswith("cfflow/")})

Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions(tree: ast.AST) -> Iterator[Function]:
    """Yield every function and method of a module."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node


def comments(text: str) -> Iterator[tuple[int, str]]:
    """Yield (line, text) of every comment."""
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def lines_of(node: Function) -> int:
    """Return how many lines a function has, decorators not counted."""
    return (node.end_lineno or node.lineno) - node.lineno + 1


def is_one_line(text: str | None) -> bool:
    """Say whether a docstring is there, and one line long."""
    return bool(text) and "\n" not in (text or "")


def is_code(comment: str) -> bool:
    """Say whether a comment is a statement that somebody switched off."""
    if comment.startswith("#!") or SILENCER.match(comment):
        return False
    try:
        body = ast.parse(comment.lstrip("#: ")).body
    except SyntaxError:
        return False
    return any(
        isinstance(node.value, (ast.Await, ast.Call))
        if isinstance(node, ast.Expr)
        else not isinstance(node, ast.AnnAssign)
        for node in body
    )


def last_words(node: ast.expr | None) -> set[str]:
    """Return the last words of a name, or of each name in a tuple."""
    if isinstance(node, ast.Tuple):
        return {word for element in node.elts for word in last_words(element)}
    if isinstance(node, ast.Attribute):
        return {node.attr}
    return {node.id} if isinstance(node, ast.Name) else set()


def swallows(node: ast.ExceptHandler | ast.Call) -> bool:
    """Say whether this catches every error and does nothing about it."""
    if isinstance(node, ast.Call):
        caught = {word for argument in node.args for word in last_words(argument)}
        return last_words(node.func) == {"suppress"} and bool(caught & BROAD)
    idle = all(
        isinstance(line, ast.Pass)
        or (isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant))
        for line in node.body
    )
    return idle and (node.type is None or bool(last_words(node.type) & BROAD))


def found(pattern: re.Pattern[str], but: str = "") -> Iterator[str]:
    """Yield every line that has the pattern, of all files but one."""
    for name, text in SOURCES.items():
        for number, line in enumerate(text.split("\n"), 1):
            if name != but and pattern.search(line):
                yield f"{name}:{number} {line.strip()[:80]}"


def nothing(findings: Iterable[str]) -> None:
    """Fail with one line for each finding."""
    lines = sorted(findings)
    if lines:
        pytest.fail("\n".join(lines), pytrace=False)


def test_every_module_says_what_it_is() -> None:
    """A module opens with a docstring; an empty one has nothing to say."""
    nothing(name for name, tree in TREES.items() if tree.body and not ast.get_docstring(tree))


def test_every_module_reads_annotations_late() -> None:
    """One meaning of annotations everywhere: `from __future__ import annotations`."""
    wanted = "from __future__ import annotations\n"
    nothing(name for name, tree in TREES.items() if tree.body[1:] and wanted not in SOURCES[name])


def test_modules_are_short() -> None:
    """A module of the library is read in one sitting."""
    counted = {name: SOURCES[name].count("\n") for name in LIBRARY}
    nothing(f"{name}: {n} lines" for name, n in counted.items() if n >= MODULE_LINES_MAX)


def test_functions_are_short() -> None:
    """A function is seen whole."""
    nothing(
        f"{name}:{node.lineno} {node.name}: {lines_of(node)} lines"
        for name, tree in TREES.items()
        for node in functions(tree)
        if lines_of(node) >= FUNCTION_LINES_MAX
    )


def test_every_test_is_a_sentence() -> None:
    """A test says in one line what holds."""
    nothing(
        f"{name}:{node.lineno} {node.name}"
        for name, tree in TREES.items()
        if Path(name).name.startswith("test_")
        for node in functions(tree)
        if node.name.startswith("test_") and not is_one_line(ast.get_docstring(node))
    )


def test_nothing_is_left_to_do() -> None:
    """What is not done is told in the issues, not in the source."""
    nothing(found(MARKS))


def test_no_code_is_commented_out() -> None:
    """The history keeps what was deleted."""
    nothing(
        f"{name}:{number} {comment}"
        for name in TREES
        for number, comment in comments(SOURCES[name])
        if is_code(comment)
    )


def test_the_library_prints_nothing() -> None:
    """It speaks through its log; only what talks to people prints."""
    nothing(
        f"{name}:{node.lineno}"
        for name, tree in LIBRARY.items()
        if not name.startswith(SPEAKERS)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and last_words(node.func) & {"print", "breakpoint", "input"}
    )


def test_the_library_guards_money_with_exceptions() -> None:
    """`python -O` drops an assert; only the suite for stores is written for pytest."""
    nothing(
        f"{name}:{node.lineno}"
        for name, tree in LIBRARY.items()
        if not name.startswith("cfflow/testing/")
        for node in ast.walk(tree)
        if isinstance(node, ast.Assert)
    )


def test_no_error_is_swallowed_unread() -> None:
    """Nobody but a test catches everything and does nothing, by `except` or by `suppress`."""
    nothing(
        f"{name}:{node.lineno}"
        for name, tree in TREES.items()
        if not name.startswith("tests/")
        for node in ast.walk(tree)
        if isinstance(node, (ast.ExceptHandler, ast.Call)) and swallows(node)
    )


def test_no_machine_s_paths_are_left() -> None:
    """What worked in one person's folder works in everybody's."""
    nothing(found(MACHINE))


def test_lines_end_where_they_end() -> None:
    """No tabs but make's, no spaces at the end, one newline at the end of a file."""
    nothing(found(re.compile(r"\t|\s$"), but="Makefile"))
    nothing(
        name
        for name, text in SOURCES.items()
        if text and (not text.endswith("\n") or text.endswith("\n\n"))
    )


def prose_of(page: str) -> Iterator[tuple[int, str]]:
    """Yield (line, text) of a page without code blocks, tables and links on lines of their own."""
    is_code = False
    for number, line in enumerate(page.split("\n"), 1):
        if line.lstrip().startswith("```"):
            is_code = not is_code
        elif not (is_code or line.startswith("|") or LONE_LINK.fullmatch(line.strip())):
            yield number, line


def test_prose_keeps_to_the_width_of_the_code() -> None:
    """A line of a page has at most 100 columns, so that a change shows as few lines."""
    nothing(
        f"{name}:{number}: {len(line)} columns"
        for name, text in SOURCES.items()
        if name.endswith(".md")
        for number, line in prose_of(text)
        if len(line) > PROSE_COLUMNS_MAX
    )


def test_every_silenced_warning_says_why() -> None:
    """`noqa` and `type: ignore` name the rule, and two spaces on, the reason."""
    nothing(
        f"{name}:{number} {comment}"
        for name in TREES
        for number, comment in comments(SOURCES[name])
        if SILENCER.match(comment) and not SILENCER_WITH_REASON.match(comment)
    )


def test_every_module_is_imported_by_somebody() -> None:
    """A module that no other names is run by pytest, by `python -m`, or by nobody."""
    named: set[str] = set()
    for tree in TREES.values():
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                named |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                named |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    alone = re.compile(r"(?:^|/)(?:test_\w+|conftest|__init__|__main__)\.py$|^examples/")
    nothing(
        name
        for name in TREES
        if not alone.search(name)
        and (module := name.removesuffix(".py").replace("/", ".")) not in named
        and not any(f"-m {module}" in text for text in SOURCES.values())
    )


def test_every_file_is_read_by_somebody() -> None:
    """A file that is no code is named by another one, or is where readers begin."""
    words = {
        name: Path(name).stem if name.startswith("flows/") else Path(name).name
        for name in FILES
        if name not in TREES and name not in ENTRANCES
    }
    nothing(
        name
        for name, word in words.items()
        if not any(word in text for other, text in SOURCES.items() if other != name)
    )


def test_every_example_is_shown_to_readers() -> None:
    """An example that no page names is an example that nobody finds."""
    pages = "".join(text for name, text in SOURCES.items() if name.endswith(".md"))
    nothing(name for name in TREES if name.startswith("examples/") and name not in pages)


def test_the_files_that_are_begun_first_are_there() -> None:
    """A file that has another name now would be begun late, and nobody would notice."""
    nothing(name for name in LONGEST if f"tests/{name}" not in FILES)
