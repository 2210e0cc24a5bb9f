"""Every daemon of a host, told how to start it and how to see, without its log, that it serves."""

import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests import forked
from tests.blackbox.rpc import PATIENCE_S, Caller
from xbd.testing.processes import XBD, Process, end, start

HOST: Final = '[host]\nmemory = "64m"\nstate_dir = "state"\n[[guest]]\nname = "web1"\nmaximum = "32m"\n'
_LOOK_EVERY_S: Final = 0.02

# Its type, its number, no transaction, the length of the path and its end (xen/include/public/io/xs_wire.h).
XENSTORE_READ_OF_ROOT: Final = struct.pack("<4I", 2, 1, 0, 2) + b"/\0"


def until(is_so: Callable[[], bool]) -> None:
    """Wait until *is_so* says so; fail when it does not for long."""
    deadline = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < deadline, "it does not come about"
        time.sleep(_LOOK_EVERY_S)  # noqa: TID251 - another process gets there


def answers(path: Path) -> bool:
    """Tell whether somebody says hello at a toolstack's or autoballoon's socket."""
    try:
        if not connects(path):
            return False
        with Caller(path, hello=False) as caller:
            caller.call("hello", version=1)
    except OSError:
        return False
    return True


def connects(path: Path) -> bool:
    """Tell whether somebody listens at *path*."""
    with socket.socket(socket.AF_UNIX) as connection:
        return connection.connect_ex(os.fspath(path)) == 0


def asked(path: Path, question: bytes) -> bool:
    """Tell whether somebody who listens at *path* answers *question*."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(PATIENCE_S)
        try:
            connection.connect(os.fspath(path))
            connection.sendall(question)
            return bool(connection.recv(1))
        except OSError:
            return False


def domains(run: Path) -> dict[str, dict[str, Any]]:
    """Ask the hypervisor in *run* for its domains, by name."""
    with Caller(run / "hypervisor.sock") as caller:
        return {domain["name"]: domain for domain in caller.call("list")["domains"]}


@dataclass(frozen=True, slots=True)
class Daemon:
    """One of xbd's daemons.

    Attributes:
        arguments: its command line, for a host that runs in the directory `host` and a directory `own` of its own.
        serves: whether it does what it is for, asked of the same two directories.
    """

    name: str
    arguments: Callable[[Path, Path], Sequence[object]]
    serves: Callable[[Path, Path], bool]

    def command(self, host: Path, own: Path) -> list[str]:
        """Spell what starts it; a host file is written where it needs one."""
        (own / "host.toml").write_text(HOST)
        return [*XBD, *map(str, self.arguments(host, own))]


def _up_serves(host: Path, own: Path) -> bool:
    del host
    run = own / "run"
    return answers(run / "hypervisor.sock") and bool(domains(run)["web1"]["agent"])


DAEMONS: Final = (
    Daemon(
        "hypervisor",
        lambda _, own: ["hypervisor", "--config", own / "host.toml", "--runtime-dir", own / "run"],
        lambda _, own: answers(own / "run" / "hypervisor.sock"),
    ),
    Daemon("up", lambda _, own: ["up", own / "host.toml", "--runtime-dir", own / "run"], _up_serves),
    *(
        Daemon(
            name,
            lambda host, _, processes=processes: ["--socket", host, "guests", "--processes", processes],  # type: ignore[misc]
            lambda host, _: domains(host)["web1"]["agent"],
        )
        for name, processes in (("guests", 1), ("shared-guests", 2))
    ),
    Daemon(
        "guest", lambda host, _: ["--socket", host, "guest", "solo"], lambda host, _: domains(host)["solo"]["agent"]
    ),
    Daemon(
        "autoballoon",
        lambda host, _: ["--socket", host, "autoballoon"],
        lambda host, _: answers(host / "autoballoon.sock"),
    ),
    Daemon(
        "xenstored",
        lambda host, own: ["--socket", host, "xenstored", "--xenstore-socket", own / "xenstored.sock"],
        lambda _, own: asked(own / "xenstored.sock", XENSTORE_READ_OF_ROOT),
    ),
    Daemon(
        "metrics",
        lambda host, own: ["--socket", host, "metrics", "--listen", f"unix:{own / 'metrics.sock'}"],
        lambda _, own: asked(own / "metrics.sock", b"GET /metrics HTTP/1.1\r\nHost: xbd\r\n\r\n"),
    ),
    Daemon(
        "web",
        lambda host, own: ["--socket", host, "web", "--listen", f"unix:{own / 'web.sock'}"],
        lambda _, own: asked(own / "web.sock", b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    ),
)


@contextmanager
def running_with(command: Sequence[str], stderr: int, within_s: float = 2 * PATIENCE_S) -> Iterator[Process]:
    """Run a command whose standard error is the descriptor *stderr*; it has ended in the end, or after *within_s*."""
    process = start(command, forked.start, stderr=stderr)
    watchdog = threading.Timer(within_s, process.kill)
    watchdog.start()
    try:
        yield process
    finally:
        # `xbd up` ends its own processes when it is asked; only one that does not listen is killed.
        end(process, within_s=PATIENCE_S)
        watchdog.cancel()
