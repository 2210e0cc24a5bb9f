"""The store's place on disk: one file, that is whole at every instant.

Each request's changes are appended before its answer is sent, with one write into the kernel's page cache:
what a client was told has happened outlives a daemon that is killed. When the file has grown enough, a new
one with everything in it takes its place, by a rename. A disk that is full does not stop the store: it is
said, and the whole is written again when there is room.
"""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

import structlog

from xbd.daemons.runtime.lock import FileLock, refused
from xbd.daemons.runtime.outside import calls
from xbd.daemons.runtime.owned_path import make_own_directory
from xbd.daemons.runtime.state_files import open_regular, remove, write_all
from xbd.errors import ConfigError, DamagedState
from xbd.replaceable import replaceable
from xbd.xenstore import saved
from xbd.xenstore.store import Store

_log = structlog.get_logger(__name__)

_NAME: Final = "xenstore.save"
# A file of fewer changes than this, or than twice the whole, is read in no time and need not be made anew: that takes
# the disk some milliseconds, in which nobody is served, once in some 30,000 writes.
_GROWTH_BYTES: Final = 4 << 20
# While the disk is full the whole is not tried again at each request.
RETRY_S: Final = 1.0


class StoreFile:
    """A store's file in a directory, locked while this lives.

    Args:
        directory: made if it is not there.
        retry_s: how long after a write that failed the next is tried.

    Attributes: *store*: what was saved, or an empty one.

    Raises:
        ConfigError: it cannot be used, or another daemon uses it, or what is in it is damaged.
    """

    def __init__(self, directory: Path, *, retry_s: float = RETRY_S) -> None:
        self._path = directory / _NAME
        self._retry_s = retry_s
        self._failed_at_s: float | None = None
        self._whole = self._appended = 0
        self._file = -1
        self._lock: FileLock | None = None
        in_use = "another `xbd xenstored` keeps its store there; stop it first"
        with refused(directory, in_use, "cannot be the state directory"):
            make_own_directory(directory, "the state directory", "replace what is saved")
            self._lock = FileLock(directory / "xenstore.lock")
        try:
            self.store = self._read()
            self._rewrite()
        except OSError as error:
            self.close()
            raise ConfigError(self._path, "", f"cannot be used: {error.strerror}") from error
        except DamagedState as error:
            self.close()
            raise ConfigError(
                self._path, "", f"is damaged: {error}; move it away to begin with an empty store"
            ) from error

    def _read(self) -> Store:
        """Read what was saved; where no file was ever, an empty store. Raises OSError, DamagedState."""
        # A link to nowhere is no file that was never there: what it leads to may come back.
        if not os.path.lexists(self._path):
            return Store()
        with os.fdopen(open_regular(self._path, os.O_RDONLY), "rb") as file:
            return saved.restore(file.read())

    @replaceable
    def save(self) -> None:
        """Write down what has changed since the last time; nothing waits for the disk."""
        journal = self.store.tree.journal
        domains_changed = self.store.domain_changes != self._domain_changes
        is_new = bool(journal) or domains_changed
        if self._failed_at_s is not None:
            if calls.monotonic() >= self._failed_at_s + self._retry_s:
                self._attempt(self._rewrite)
        elif is_new:
            records = saved.encode_changes(journal) if journal else b""
            if domains_changed:
                records += saved.encode_domains(self.store.domains)
            if self._appended + len(records) > max(_GROWTH_BYTES, 2 * self._whole):
                self._attempt(self._rewrite)
            else:
                self._attempt(lambda: self._append(records))
        if is_new:
            self._begin_changes()

    def _attempt(self, write: Callable[[], None]) -> None:
        try:
            write()
        except OSError as error:
            if self._failed_at_s is None:
                _log.error("xenstore_not_saved", path=str(self._path), reason=error.strerror)
            self._failed_at_s = calls.monotonic()

    def _append(self, records: bytes) -> None:
        written = calls.write(self._file, records)
        self._appended += written
        if written < len(records):
            # Half a record is the end of the file for who reads it.
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _begin_changes(self) -> None:
        self.store.tree.journal = []
        self._domain_changes = self.store.domain_changes

    def _rewrite(self) -> None:
        """Put a file with everything in the place of this one."""
        whole = saved.encode_whole(self.store)
        new = self._path.with_suffix(".new")
        file = calls.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            write_all(file, whole)
            calls.fsync(file)
            calls.replace(new, self._path)
        except BaseException:
            os.close(file)
            # Half a file would take up a disk that has no room.
            remove(new)
            raise
        if self._file >= 0:
            os.close(self._file)
        self._file, self._whole, self._appended = file, len(whole), 0
        if self._failed_at_s is not None:
            _log.info("xenstore_saved_again", path=str(self._path))
        self._failed_at_s = None
        self._begin_changes()

    def close(self) -> None:
        """Let go of the file."""
        if self._file >= 0:
            os.close(self._file)
        if self._lock is not None:
            self._lock.release()
        self._file, self._lock = -1, None
