"""A file of rows that grows no larger than it may, and holds whole rows whatever happens: SIGKILL, a crash, a full disk.

Rows are appended, each by one write. When the file has reached its size, every second row is dropped: what stays is
written to another file, which takes the place of the first one at once. So there is always one file or the other, and a
day is still a day, at half the resolution.
"""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fcntl import LOCK_EX, LOCK_NB, flock
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from xbd.daemons.runtime.lock import is_at

# What is written outlives the machine's own crash after so much more.
_SYNC_BYTES: Final = 8 << 10
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
# So many rows are not written after there was no room to halve the file, before it is tried again.
_REST_ROWS: Final = 60


class NoRoom(Exception):
    """A row found no room; the file is as it was."""


class BoundedFile:
    """The file at *path*, which is made with *header*, or found with *append*.

    Attributes: *found*: what was in it; *rows*: how many it holds; *halvings*: how often every second one was dropped.

    Raises:
        FileExistsError: it is there, and *append* is not said.
        BlockingIOError: somebody else has opened it here.
        OSError: it cannot be made or written.
    """

    def __init__(self, path: Path, header: bytes, most_bytes: int, *, append: bool) -> None:
        self._path = path
        self._half = path.with_name(f".{path.name}.half")
        self._header = header
        self._most_bytes = most_bytes
        self._rest = 0
        self.halvings = 0
        self._descriptor = _open(path, os.O_CREAT | (0 if append else os.O_EXCL))
        with self.closed_by_failure():
            flock(self._descriptor, LOCK_EX | LOCK_NB)
            if not stat.S_ISREG(os.fstat(self._descriptor).st_mode):
                raise OSError(errno.EINVAL, "it is no file")
            # One that was killed as it halved its file left this.
            self._half.unlink(missing_ok=True)
            self.found = path.read_bytes()
            self._size = len(self.found)
            self.rows = max(self.found.count(b"\n") - 1, 0)
            self._unsynced = 0
            if not self.found:
                self._begin()

    def _begin(self) -> None:
        """Write the header; where there is no room for it, nothing is left."""
        try:
            self._write(self._header)
        except NoRoom as error:
            self._path.unlink()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error

    @contextmanager
    def closed_by_failure(self) -> Iterator[None]:
        """Close it when the block fails."""
        try:
            yield
        except BaseException:
            os.close(self._descriptor)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        os.close(self._descriptor)

    def cut_torn(self) -> None:
        """Remove what stands behind the last end of a line."""
        self._size = self.found.rindex(b"\n") + 1
        os.ftruncate(self._descriptor, self._size)

    def add(self, line: bytes) -> None:
        """Append a row; where the file would grow too large, every second one is dropped first.

        Raises:
            NoRoom: there is none on the disk.
            OSError: it cannot be written, or is not at its path any more.
        """
        if not is_at(self._path, self._descriptor):
            raise OSError(errno.ENOENT, "it was removed, moved or replaced while it was recorded to")
        while self._size + len(line) > self._most_bytes and self.rows > 1:
            self._halve()
        self._write(line)
        self.rows += 1

    def _write(self, line: bytes) -> None:
        try:
            written = os.write(self._descriptor, line)
        except OSError as error:
            if error.errno not in _FULL:
                raise
            written = 0
        if written < len(line):
            os.ftruncate(self._descriptor, self._size)
            raise NoRoom("no space is left on its disk")
        self._size += written
        self._unsynced += written
        if self._unsynced >= _SYNC_BYTES:
            self._unsynced = 0
            # What the disk has no room for, the next write is told.
            with suppress(OSError):
                os.fdatasync(self._descriptor)

    def _halve(self) -> None:
        """Drop every second row."""
        if self._rest:
            self._rest -= 1
            raise NoRoom("no space is left on its disk to halve it")
        other, descriptor = self._half, -1
        try:
            other.unlink(missing_ok=True)
            descriptor = _open(other, os.O_CREAT | os.O_EXCL)
            flock(descriptor, LOCK_EX | LOCK_NB)
            size, rows = self._copy_half(descriptor)
            os.fsync(descriptor)
            other.rename(self._path)
        except OSError as error:
            if descriptor >= 0:
                os.close(descriptor)
            with suppress(OSError):
                other.unlink()
            if error.errno not in _FULL:
                raise
            self._rest = _REST_ROWS
            raise NoRoom("no space is left on its disk to halve it") from error
        os.close(self._descriptor)
        self._descriptor, self._size, self.rows, self._unsynced = descriptor, size, rows, 0
        self.halvings += 1

    def _copy_half(self, descriptor: int) -> tuple[int, int]:
        """Copy the header and every second row; returns bytes and rows."""
        size, rows = 0, 0
        with self._path.open("rb") as whole, os.fdopen(os.dup(descriptor), "wb") as half:
            for number, line in enumerate(whole):
                if number == 0 or number % 2:
                    half.write(line)
                    size, rows = size + len(line), number // 2 + number % 2
        return size, rows


def _open(path: Path, flags: int) -> int:
    # A pipe to which nobody listens would hold up whoever opens it.
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK | flags, 0o644)
