"""One daemon at a time: a lock that its process holds until it releases it, or ends.

It is held twice. The file is locked, which decides between two that come at once. And its directory is, for that name,
because a file can be deleted under the one who holds it: whoever makes a new file and locks that is still refused. A
directory can only be locked for reading, which any number may do at a time, but everybody can see that somebody does.
"""

import errno
import fcntl
import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

from xbd.daemons.runtime.outside import calls
from xbd.errors import ConfigError
from xbd.replaceable import replaceable

# struct flock of man 2 fcntl: type, whence, start, length, pid.
_RANGE: Final = struct.Struct("hhqqi")


class FileLock:
    """A lock that this process holds until it releases it, or ends.

    Args:
        path: the file that is locked; made if it is not there.

    Attributes: *is_new*: whether its file was not there before.

    Raises:
        BlockingIOError: another process holds it, if by a file that was deleted.
        OSError: the file cannot be made or opened.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.is_new = not path.exists()
        with ExitStack() as opened:
            directory = calls.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            opened.callback(os.close, directory)
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW
            file = calls.open(path, flags, 0o600)
            opened.callback(os.close, file)
            take(path, file, directory)
            self._opened = opened.pop_all()

    def release(self, *, as_found: bool = False) -> None:
        """Let go of the lock; its file goes, too, if it was not there before and all is left *as_found*."""
        with self._opened:
            if as_found and self.is_new:
                # A file that stays is in nobody's way.
                with suppress(OSError):
                    calls.unlink(self._path)


@replaceable
def take(path: Path, file: int, directory: int) -> None:
    """Lock an open file of a *directory* until it is closed. Raises BlockingIOError: another process holds it."""
    calls.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    if not is_at(path, file) or _is_held(directory, path.name):
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))


@contextmanager
def refused(at: Path, in_use: str, unusable: str) -> Iterator[None]:
    """Say of what is locked in the `with` block that it is *in use*, or *unusable*, with the system's reason. Raises ConfigError."""
    try:
        yield
    except BlockingIOError as error:
        raise ConfigError(at, "", in_use) from error
    except OSError as error:
        raise ConfigError(at, "", f"{unusable}: {error.strerror}") from error


def is_at(path: Path, file: int) -> bool:
    """Tell whether *file* is the one at *path*: another one may have removed that with its release, meanwhile."""
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False


def _is_held(directory: int, name: str) -> bool:
    """Tell whether somebody else has locked a directory for *name*; if nobody has, it is locked. Of file systems without such locks: no."""
    at = zlib.crc32(name.encode())
    with suppress(OSError):
        asked = _RANGE.pack(fcntl.F_WRLCK, os.SEEK_SET, at, 1, 0)
        if _RANGE.unpack(calls.control(directory, fcntl.F_OFD_GETLK, asked))[0] != fcntl.F_UNLCK:
            return True
        calls.control(directory, fcntl.F_OFD_SETLK, _RANGE.pack(fcntl.F_RDLCK, os.SEEK_SET, at, 1, 0))
    return False
