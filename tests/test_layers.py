"""The shape of the house, read from its sources: who imports whom, what reaches outside, and how long things are.

Packages are known by name, pure or shell; where a module lies says what it may do. Nothing here imports
the code: it walks syntax trees.
"""

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODULES = sorted((ROOT / "xbd").rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))

# From the lowest to the highest: a module imports its own package and those of lower rows, never one of its own row.
ROWS = (
    ("abi", "arrays", "errors", "lazy", "units", "limits", "log", "replaceable", "settings", "shipped", "text"),
    ("shapes", "target_rules"),
    ("domain",),
    ("frames",),
    ("storage",),
    ("machine", "guest", "policy", "xenstore", "protocol", "hypercalls"),
    ("config",),
    ("control", "client"),
    ("daemons", "xentools"),
    ("testing", "cli"),
    ("lab",),
    ("docs",),
)
RANK = {part: rank for rank, row in enumerate(ROWS) for part in row}
# Packages whose modules reach outside; in lab, `command.py` of each part and what is in its `shell/`, too.
SHELLS = frozenset({"log", "shipped", "client", "daemons", "xentools", "cli", "docs", "__main__"})
# Its `host` starts strangers' policies, and so do the package that names it, and its names there.
TESTING_SHELLS = frozenset({"_host", "host", "Host", "processes"})

# What reaches outside the process: tasks, sockets, descriptors, files, clocks, chance, other processes.
OUTSIDE = frozenset(
    {"asyncio", "datetime", "fcntl", "multiprocessing", "os", "random", "resource", "secrets", "select", "selectors"}
    | {"shutil", "signal", "socket", "subprocess", "tempfile", "threading", "time", "trio"}
)
OUTSIDE_CALLS = frozenset({"open", "print", "input"})
STREAMS = frozenset({"stdin", "stdout", "stderr"})
# What a pathlib.Path may not be asked in a pure module; as a name in a message it may be there.
FILE_METHODS = frozenset(
    {"exists", "is_dir", "is_file", "iterdir", "mkdir", "read_text", "resolve", "rglob", "samefile", "touch"}
    | {"unlink", "write_bytes", "write_text"}
)

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


def is_shell(name: tuple[str, ...]) -> bool:
    """Tell whether a module is a shell, which may reach outside, by where it lies."""
    match name:
        case ("xbd", "lab", *_, "command") | ("xbd", "lab", _, "shell", *_):
            return True
        case ("xbd", "testing", *module):
            return not module or module[0] in TESTING_SHELLS
    return part_of(name) in SHELLS


def reaches_outside(path: Path) -> Iterator[str]:
    """List where a module reaches outside: imports, the standard streams, files, mappings of files."""
    for line, name in imports_of(path):
        if name[0] in OUTSIDE:
            yield f"line {line}: imports {'.'.join(name)}"
    for node in ast.walk(tree_of(path)):
        match node:
            case ast.Attribute(value=ast.Name(id="sys"), attr=stream) if stream in STREAMS:
                yield f"line {node.lineno}: sys.{stream}"
            case ast.Call(func=ast.Name(id=call)) if call in OUTSIDE_CALLS:
                yield f"line {node.lineno}: {call}()"
            case ast.Call(func=ast.Attribute(attr=method)) if method in FILE_METHODS:
                yield f"line {node.lineno}: .{method}()"
            case ast.Call(func=ast.Attribute(value=ast.Name(id="mmap"), attr="mmap"), args=[descriptor, *_]):
                # Anonymous memory is the process's own.
                if ast.unparse(descriptor) != "-1":
                    yield f"line {node.lineno}: maps a file"


@pytest.mark.parametrize("path", MODULES, ids=ids(MODULES))
def test_only_shells_reach_outside(path: Path) -> None:
    """A module that is no shell imports no tasks, sockets, clocks or processes, and touches no stream and no file."""
    if not is_shell(name_of(path)):
        assert list(reaches_outside(path)) == []


@pytest.mark.parametrize("path", MODULES, ids=ids(MODULES))
def test_a_pure_module_imports_no_shell(path: Path) -> None:
    """What a pure module imports of xbd is pure."""
    name = name_of(path)
    if is_shell(name):
        return
    shells = [f"line {line}: {'.'.join(of)}" for line, of in imports_of(path) if of[0] == "xbd" and is_shell(of)]

    assert shells == []


@pytest.mark.parametrize("path", MODULES, ids=ids(MODULES))
def test_imports_point_downwards(path: Path) -> None:
    """A package imports packages of lower rows alone: machine, guest and policy, say, do not know each other."""
    part = part_of(name_of(path))
    if part in ("xbd", "__main__"):
        return
    own = [(line, of) for line, of in imports_of(path) if of[0] == "xbd" and part_of(of) in RANK]
    upwards = [
        f"line {line}: {'.'.join(of)}" for line, of in own if part_of(of) != part and RANK[part_of(of)] >= RANK[part]
    ]

    # Words that everyone may import know each other.
    assert RANK[part] == 0 or upwards == []


def test_every_package_has_its_row() -> None:
    """No package stands outside the order of the house, and no row names one that is not there."""
    parts = {part_of(name_of(path)) for path in MODULES} - {"xbd", "__main__"}

    assert parts - RANK.keys() == set()
    assert RANK.keys() - parts == set()


def test_tests_mirror_the_packages() -> None:
    """Each folder of tests is named after a package of xbd, but for those that try the whole from outside."""
    folders = {path.relative_to(ROOT / "tests").parts[0] for path in TESTS if path.parent != ROOT / "tests"}

    assert folders - RANK.keys() <= {"blackbox", "docs", "fixtures"}


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
    """A core that imports trio inside a function, a stranger relatively, or maps a file, is found."""
    source = tmp_path / "xbd" / "machine" / "heap.py"
    source.parent.mkdir(parents=True)
    source.write_text(
        "from ..guest import Guest\nfrom . import audit\ndef f(path):\n    import trio.socket\n"
        "    path.read_text()\n    mmap.mmap(3, 10)\n    mmap.mmap(-1, 10)\n    sys.stderr.write(open(path))\n"
    )
    monkeypatch.setitem(globals(), "ROOT", tmp_path)

    assert list(imports_of(source)) == [
        (1, ("xbd", "guest", "Guest")),
        (2, ("xbd", "machine", "audit")),
        (4, ("trio", "socket")),
    ]
    assert not is_shell(name_of(source))
    assert sorted(reaches_outside(source)) == [
        "line 4: imports trio.socket",
        "line 5: .read_text()",
        "line 6: maps a file",
        "line 8: open()",
        "line 8: sys.stderr",
    ]
    assert list(public_without_docstring(tree_of(source).body)) == ["line 3: f"]


@pytest.mark.parametrize(
    ("name", "shell"),
    [
        ("xbd.lab.bench.command", True),
        ("xbd.lab.bench.shell.wire", True),
        ("xbd.lab.bench.record", False),
        ("xbd.testing.processes", True),
        ("xbd.testing", True),
        ("xbd.testing.host", True),
        ("xbd.testing.virtual_host", False),
        ("xbd.daemons.runtime.listener", True),
        ("xbd.control.controller", False),
    ],
)
def test_where_a_module_lies_says_what_it_may_do(name: str, shell: bool) -> None:  # noqa: FBT001 - a column of a table
    """Shells are known by package, folder or file name, never by a list of modules."""
    assert is_shell(tuple(name.split("."))) is shell
