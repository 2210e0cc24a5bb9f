"""The one way by which daemons reach the outside: all of it goes there, and each call can be replaced."""

import ast
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.test_layers import ROOT, ids, tree_of
from xbd.daemons.runtime.outside import Calls, calls, replaced
from xbd.daemons.runtime.state_dir import StateDir

SOURCES = sorted(path for path in (ROOT / "xbd" / "daemons").rglob("*.py") if path.name != "outside.py")
# These are not brought to the facade yet; whoever does it takes the name off this list.
NOT_YET: frozenset[str] = frozenset()

FUNCTIONS = frozenset(
    {"fcntl.fcntl", "fcntl.flock", "mmap.mmap", "trio.open_signal_receiver", "time.monotonic", "time.time"}
    | {"time.clock_gettime", "time.clock_gettime_ns", "time.monotonic_ns", "time.time_ns", "shutil.chown"}
    | {
        f"os.{name}"
        for name in [
            "chmod",
            "chown",
            "dup",
            "fchmod",
            "fchown",
            "fdatasync",
            "fsync",
            "ftruncate",
            "open",
            "posix_fallocate",
            "pread",
            "pwrite",
            "read",
            "remove",
            "rename",
            "replace",
            "statvfs",
            "truncate",
            "unlink",
            "write",
            "writev",
        ]
    }
)
# Of sockets and paths, whatever the object is called.
METHODS = frozenset(
    {"accept", "chmod", "connect_ex", "getsockopt", "listen", "read_bytes", "read_text", "recv"}
    | {"recv_into", "sendall", "sendmsg", "sendto", "unlink", "write_bytes", "write_text"}
)
# What variables that hold sockets are called here.
SOCKETS = ("socket", "listener", "connection", "probe", "notifier")


def goes_past(tree: ast.AST) -> Iterator[str]:
    """List the calls of a module that reach the outside without the facade."""
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id=module), attr=name) if f"{module}.{name}" in FUNCTIONS:
                yield f"line {node.lineno}: {module}.{name}"
            case ast.Call(func=ast.Name(id="open")):
                yield f"line {node.lineno}: open()"
            case ast.Call(func=ast.Attribute(value=of, attr=method)) if is_outside(ast.unparse(of), method, node.args):
                yield f"line {node.lineno}: .{method}()"


def is_outside(of: str, method: str, arguments: list[ast.expr]) -> bool:
    """Tell whether a call of a method, of what is spelt *of*, is one of a socket or a path."""
    if of == "calls":
        return False
    match method, arguments:
        case ("replace", [_]):  # a string's has two
            return True
        case ("open", []) | ("open", [ast.Constant(), *_]):
            return of != "tarfile"  # which is given what was opened
        case ("socket" | "send" | "connect" | "bind", _):  # others than sockets have these, too
            return any(word in of for word in SOCKETS)
    return method in METHODS


@pytest.mark.parametrize("path", SOURCES, ids=ids(SOURCES))
def test_daemons_reach_the_outside_by_the_facade(path: Path) -> None:
    """No module of the daemons calls the system where the facade has the call; a name on the list is there for a reason."""
    past = list(goes_past(tree_of(path)))

    if path.stem in NOT_YET:
        assert past, "it may be taken off NOT_YET"
    else:
        assert past == []


@pytest.mark.parametrize(
    "line",
    [
        "os.open(p, 0)",
        "from_os = os.replace",
        "p.unlink()",
        "new.replace(p)",
        "p.open('rb')",
        "open(p)",
        "s.accept()",
        "mmap.mmap(3, 0)",
        "self._socket.send(b'')",
        "time.monotonic()",
        "s.getsockopt(1, 17, 12)",
        "fcntl.flock(3, 2)",
        "socket.socket()",
    ],
)
def test_what_goes_past_the_facade_is_seen(line: str) -> None:
    """Each kind of call that a module could make by itself is found."""
    assert len(list(goes_past(ast.parse(line)))) == 1


def test_a_replaced_call_fails_where_it_is_used_and_is_put_back(tmp_path: Path) -> None:
    """A simulation's disk is full for as long as the block lasts, whatever the real one has."""
    state = StateDir(tmp_path / "state", spare_bytes=1)
    empty = os.statvfs_result((0,) * 10)
    with replaced(statvfs=lambda _: empty):
        meanwhile = state.is_full
    assert (meanwhile, state.is_full) == (True, False)
    state.close(in_order=False)


def test_what_is_no_call_cannot_be_replaced() -> None:
    """A misspelt name is refused, and nothing is replaced."""
    before = calls.open
    with pytest.raises(AttributeError), replaced(open=print, opne=print):
        pass
    assert calls.open is before


def test_each_call_is_the_systems_own() -> None:
    """None is a function of xbd's: in production the facade costs no call."""
    assert [name for name in Calls.__slots__ if getattr(getattr(calls, name), "__module__", "").startswith("xbd")] == []
