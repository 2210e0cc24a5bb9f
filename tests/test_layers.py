"""The shape of the house, read from its sources: who imports whom, and how long things are.

Pure cores take `now` and a generator as arguments; only the shells reach the outside. Nothing here
imports the code: it walks syntax trees.
"""

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODULES = sorted((ROOT / "xbd").rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))

# What reaches outside the process: tasks, sockets, files by descriptor, clocks, chance, other processes.
OUTSIDE = frozenset(
    {"asyncio", "datetime", "multiprocessing", "os", "random", "resource", "secrets", "select", "selectors"}
    | {"signal", "socket", "subprocess", "tempfile", "threading", "time", "trio"}
)
PURE = frozenset({"frames", "machine", "guest", "policy", "wire", "xenstore", "abi", "errors", "units"})
SHELLS = frozenset({"services", "toolstack", "__main__"})
# The modules of lab/ that measure or run: they own clocks and processes. All others there are pure.
LAB_SHELLS = frozenset(
    {
        "bench",
        "bench_allocator",
        "bench_fleet",
        "bench_flood",
        "bench_grants",
        "bench_host",
        "bench_recovery",
        "bench_wire",
        "bench_xenstore",
        "demo",
        "echo",
        "figures",
        "finale",
        "flood",
        "injector",
        "local",
        "processes",
        "relay",
        "replay",
        "runner",
        "simulate",
        "soak",
        "stage",
        "traffic",
        "watcher",
        "witness",
        "work",
    }
)
STRANGERS = frozenset({"machine", "guest", "policy"})

MAX_FUNCTION_LINES = 70
MAX_MODULE_LINES = 400

Function = ast.FunctionDef | ast.AsyncFunctionDef


def name_of(path: Path) -> tuple[str, ...]:
    """Name a module by its parts: xbd/frames/layout.py is ("xbd", "frames", "layout")."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts[:-1] if parts[-1] == "__init__" else parts


def tree_of(path: Path) -> ast.Module:
    """Parse a module."""
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imports_of(path: Path) -> Iterator[tuple[int, tuple[str, ...]]]:
    """List what a module imports, anywhere in it: line and dotted name, as parts; relative imports resolved."""
    package = name_of(path) if path.name == "__init__.py" else name_of(path)[:-1]
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, tuple(alias.name.split("."))
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = base + tuple((node.module or "").split(".") if node.module else ())
            for alias in node.names:
                yield node.lineno, (*module, alias.name)


def part_of(name: tuple[str, ...]) -> str:
    """Name the part of the house that a module of xbd belongs to: a package, or a module at the top."""
    return name[1] if len(name) > 1 else "xbd"


def ids(paths: list[Path]) -> list[str]:
    """Name test cases by file."""
    return [path.relative_to(ROOT).as_posix() for path in paths]


def may_reach_outside(name: tuple[str, ...]) -> bool:
    """Tell whether a module is a shell."""
    return part_of(name) in SHELLS or (part_of(name) == "lab" and name[-1] in LAB_SHELLS)


@pytest.mark.parametrize("path", MODULES, ids=ids(MODULES))
def test_only_shells_reach_outside(path: Path) -> None:
    """Only services, toolstack and the listed modules of lab import trio, sockets, clocks or processes."""
    if may_reach_outside(name_of(path)):
        return
    reached = [f"line {line}: {'.'.join(name)}" for line, name in imports_of(path) if name[0] in OUTSIDE]

    assert reached == []


@pytest.mark.parametrize("path", MODULES, ids=ids(MODULES))
def test_cores_stay_pure_and_apart(path: Path) -> None:
    """A pure package imports no shell, nor lab, and machine, guest and policy do not know each other."""
    part = part_of(name_of(path))
    if part not in PURE:
        return
    own = [(line, name) for line, name in imports_of(path) if name[0] == "xbd"]
    foreign = [f"line {line}: {'.'.join(name)}" for line, name in own if part_of(name) not in PURE]
    strange = [
        f"line {line}: {'.'.join(name)}"
        for line, name in own
        if part in STRANGERS and part_of(name) in STRANGERS - {part}
    ]

    assert foreign == []
    assert strange == []


def test_no_package_imports_its_importer() -> None:
    """The packages and top modules of xbd form a graph without cycles; the shells are one layer in it."""
    graph: dict[str, set[str]] = {}
    known = {part_of(name_of(path)) for path in MODULES}
    for path in MODULES:
        imported = {part_of(name) for _, name in imports_of(path) if name[0] == "xbd"} & known
        part, *others = ("shells" if part in SHELLS else part for part in (part_of(name_of(path)), *sorted(imported)))
        graph.setdefault(part, set()).update(set(others) - {part, "xbd"})

    assert list(TopologicalSorter(graph).static_order())


def test_no_module_imports_its_importer() -> None:
    """The modules of xbd form a graph without cycles, imports inside functions included."""
    modules = {name_of(path): path for path in MODULES}
    graph: dict[tuple[str, ...], set[tuple[str, ...]]] = {}
    for module, path in modules.items():
        named = {name for _, name in imports_of(path)}
        # `from package import name` may name a module, else the package that has it.
        imported = {name if name in modules else name[:-1] for name in named}
        graph[module] = {name for name in imported if name in modules and name != module}

    assert list(TopologicalSorter(graph).static_order())


@pytest.mark.parametrize("path", MODULES, ids=ids(MODULES))
def test_modules_are_short(path: Path) -> None:
    """No module is longer than a person reads in one sitting."""
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_MODULE_LINES


def lines_of(function: Function) -> int:
    """Count a function's lines without its docstring."""
    lines = (function.end_lineno or function.lineno) - function.lineno + 1
    first = function.body[0]
    if ast.get_docstring(function, clean=False) is not None:
        lines -= (first.end_lineno or first.lineno) - first.lineno + 1
    return lines


@pytest.mark.parametrize("path", MODULES + TESTS, ids=ids(MODULES + TESTS))
def test_functions_are_short_and_end_where_they_return(path: Path) -> None:
    """No function has more than 70 lines without its docstring, and nothing stands behind a return."""
    wrong = []
    for node in ast.walk(tree_of(path)):
        if isinstance(node, Function) and lines_of(node) > MAX_FUNCTION_LINES:
            wrong.append(f"line {node.lineno}: {node.name} has {lines_of(node)} lines")
        for field in ("body", "orelse", "finalbody"):
            block = getattr(node, field, None)
            wrong += [
                f"line {statement.lineno}: statements after this one are never reached"
                for statement in (block[:-1] if isinstance(block, list) else [])
                if isinstance(statement, ast.Return | ast.Raise | ast.Continue | ast.Break)
            ]

    assert wrong == []


def public_without_docstring(body: list[ast.stmt], prefix: str = "") -> Iterator[str]:
    """List public classes, functions and methods without a docstring."""
    for node in body:
        if isinstance(node, Function | ast.ClassDef) and not node.name.startswith("_"):
            if ast.get_docstring(node) is None:
                yield f"line {node.lineno}: {prefix}{node.name}"
            if isinstance(node, ast.ClassDef):
                yield from public_without_docstring(node.body, f"{prefix}{node.name}.")


@pytest.mark.parametrize("path", MODULES + TESTS, ids=ids(MODULES + TESTS))
def test_public_names_are_described(path: Path) -> None:
    """Every module says what it is for; every public class, function and method, tests too, has a docstring."""
    tree = tree_of(path)

    assert ast.get_docstring(tree)
    assert list(public_without_docstring(tree.body)) == []


def test_the_walk_sees_what_it_forbids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A core that imports trio inside a function, or a stranger relatively, is found."""
    source = tmp_path / "xbd" / "machine" / "heap.py"
    source.parent.mkdir(parents=True)
    source.write_text("from ..guest import Guest\nfrom . import audit\ndef f():\n    import trio.socket\n")
    monkeypatch.setitem(globals(), "ROOT", tmp_path)

    assert list(imports_of(source)) == [
        (1, ("xbd", "guest", "Guest")),
        (2, ("xbd", "machine", "audit")),
        (4, ("trio", "socket")),
    ]
    assert not may_reach_outside(name_of(source))
    assert list(public_without_docstring(tree_of(source).body)) == ["line 3: f"]
