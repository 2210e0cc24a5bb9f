"""Who may use a directory: nobody but this user and root writes in it, and one daemon at a time holds its lock."""

import errno
import fcntl
import os
import stat
from contextlib import suppress
from pathlib import Path

from xbd.daemons.runtime.outside import calls
from xbd.errors import ConfigError


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


def make_own_directory(path: Path, called: str, harm: str) -> None:
    """Make a directory, and those above it, unless it is there; refuse one in which somebody else could write.

    Its owner, and that of a link in its place, must be this user or root, and nobody else may write in it; this
    process's own primary group may, which on most systems is this user again.

    Args:
        path: where.
        called: what it is to a person, such as "run-time directory".
        harm: what others could do in it, such as "replace its sockets".

    Raises:
        ConfigError: others could write in it; says what to do.
        OSError: it cannot be made.
    """
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    told, owners = path.stat(), {path.lstat().st_uid, path.stat().st_uid}
    strangers = owners - {0, os.geteuid()}
    if strangers:
        reason = f"belongs to user {min(strangers)}, who could {harm}"
    elif told.st_mode & stat.S_IWOTH:
        reason = f"can be written by everybody (mode {stat.S_IMODE(told.st_mode):04o}), who could {harm}"
    elif told.st_mode & stat.S_IWGRP and told.st_gid != os.getegid():
        reason = f"can be written by group {told.st_gid}, whose members could {harm}"
    else:
        return
    raise ConfigError(path, "", f"the {called} {reason}; chmod it to 0750, or use another")
