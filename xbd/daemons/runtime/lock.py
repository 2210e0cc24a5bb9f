"""One daemon at a time: a lock that its process holds until it releases it, or ends."""

import errno
import fcntl
import os
from contextlib import suppress
from pathlib import Path

from xbd.daemons.runtime.outside import calls


class FileLock:
    """A lock that this process holds until it releases it, or ends.

    Args:
        path: the file that is locked; made if it is not there.

    Attributes: *is_new*: whether its file was not there before.

    Raises:
        BlockingIOError: another process holds it.
        OSError: the file cannot be made or opened.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.is_new = not path.exists()
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW
        self._descriptor = calls.open(path, flags, 0o600)
        try:
            calls.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Another one may have removed the file with its release, as it had found things, while this one was at it.
            is_it = os.path.samestat(os.fstat(self._descriptor), path.stat())
        except FileNotFoundError:
            is_it = False
        except BaseException:
            os.close(self._descriptor)
            raise
        if not is_it:
            os.close(self._descriptor)
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    def release(self, *, as_found: bool = False) -> None:
        """Let go of the lock; its file goes, too, if it was not there before and all is left *as_found*."""
        if as_found and self.is_new:
            with suppress(FileNotFoundError):
                calls.unlink(self._path)
        os.close(self._descriptor)
