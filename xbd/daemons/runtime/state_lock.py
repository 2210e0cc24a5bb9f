"""Who may use a state directory: one daemon at a time, and only one that finds in it what it expects."""

import errno
import fcntl
import os
from pathlib import Path

from xbd.daemons.runtime.state_files import is_of_state
from xbd.errors import ConfigError


class StateLock:
    """The lock of a state directory, which is held until it is released.

    Attributes: *is_new*: whether its file was not there before.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.is_new = not path.exists()
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Another one may have released it, as it had found it, while this one was at it.
            is_it = os.path.samestat(os.fstat(self._descriptor), path.stat())
        except BaseException:
            os.close(self._descriptor)
            raise
        if not is_it:
            os.close(self._descriptor)
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    def release(self, *, as_found: bool) -> None:
        """Let go of the lock; its file goes, too, if it was not there before and all is left *as_found*."""
        if as_found and self.is_new:
            self._path.unlink(missing_ok=True)
        os.close(self._descriptor)


def lock_state(path: Path) -> StateLock:
    """Make a state directory and take its lock. Raises ConfigError; what is there is left as it was."""
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        _refuse_strange(path)
        return StateLock(path / "lock")
    except (BlockingIOError, FileNotFoundError) as error:
        raise ConfigError(
            path, "", "is in use by another `xbd hypervisor`; stop it, or use another directory"
        ) from error
    except OSError as error:
        raise ConfigError(path, "", f"cannot be the state directory: {error.strerror}") from error


def _refuse_strange(path: Path) -> None:
    """Refuse a directory that has no state.json, and anything else than what is there before that is. Raises ConfigError."""
    names = {entry.name for entry in path.iterdir()}
    strange = sorted(names - {"lock", "state.new"})
    if not strange or "state.json" in names:
        return
    ours = [name for name in strange if is_of_state(name)]
    if ours:
        raise ConfigError(
            path / "state.json",
            "",
            f"is missing, though there is {ours[0]!r} of a host's state; put it back, or restore a dump,"
            " or begin a new host in an empty directory",
        )
    raise ConfigError(path, "", f"is no state directory: there is {strange[0]!r} in it; use an empty one")
