"""Every call by which the daemons reach the outside, in one object: `calls`.

Each is the system's own function, not a wrapper around it: `calls.receive(connection, 4096)` is
`socket.socket.recv`. All of `xbd.daemons` goes through here (a test over its sources holds that), so a simulation
replaces the outside, or one call of it, for the length of a block, and so makes each fail.
"""

import fcntl
import io
import mmap
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import trio


class Calls:
    """The calls themselves; what is replaced is replaced for everybody."""

    __slots__ = (
        "accept",
        "bind",
        "change_group",
        "change_mode",
        "connect",
        "control",
        "duplicate",
        "fallocate",
        "flock",
        "fsync",
        "listen",
        "mmap",
        "monotonic",
        "open",
        "pread",
        "pwrite",
        "receive",
        "replace",
        "send",
        "send_to",
        "signals",
        "socket",
        "socket_option",
        "statvfs",
        "truncate",
        "unlink",
        "wall_clock",
        "write",
        "write_log",
    )

    def __init__(self) -> None:
        # Sockets; the first argument is the socket. `socket_option` reads peers' credentials, `duplicate` copies the
        # descriptor of a socket that was passed.
        self.socket = socket.socket
        self.duplicate = os.dup
        self.bind = socket.socket.bind
        self.listen = socket.socket.listen
        self.accept = socket.socket.accept
        self.connect = socket.socket.connect_ex
        self.send = socket.socket.send
        self.send_to = socket.socket.sendto
        self.receive = socket.socket.recv
        self.socket_option = socket.socket.getsockopt
        # Files. `open_to_read` and `open_new` below go through `open`.
        self.open = os.open
        self.write = os.write
        self.pread = os.pread
        self.pwrite = os.pwrite
        self.truncate = os.truncate
        self.fallocate = os.posix_fallocate
        self.mmap = mmap.mmap
        self.fsync = os.fdatasync
        self.replace = os.replace
        self.unlink = os.unlink
        self.flock = fcntl.flock
        self.control = fcntl.fcntl
        self.statvfs = os.statvfs
        self.change_mode = os.chmod
        self.change_group = os.chown
        # Standard error, signals, clocks. Tasks' own time is trio's, which has clocks of its own for that.
        self.write_log = os.write
        self.signals = trio.open_signal_receiver
        self.monotonic = time.monotonic
        self.wall_clock = time.time


calls: Final = Calls()

# As Python's own `open` makes a file, before the process's umask.
NEW_FILE_MODE: Final = 0o666


def open_to_read(path: Path) -> io.BufferedReader:
    """Open a file that is there. Raises OSError."""
    return open(path, "rb", opener=calls.open)


def open_new(path: Path) -> io.BufferedWriter:
    """Make a file to be written. Raises OSError: FileExistsError if it is there, which is left as it is."""
    return open(path, "xb", opener=lambda name, flags: calls.open(name, flags, NEW_FILE_MODE))


@contextmanager
def replaced(**other: Callable[..., Any]) -> Iterator[None]:
    """Put *other* calls in the place of those of the same names, until the block ends.

    Raises:
        AttributeError: there is no call of such a name; nothing is replaced.
    """
    before = {name: getattr(calls, name) for name in other}
    for name, call in other.items():
        setattr(calls, name, call)
    try:
        yield
    finally:
        for name, call in before.items():
            setattr(calls, name, call)
