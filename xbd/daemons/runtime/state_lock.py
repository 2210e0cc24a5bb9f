"""Who may use a state directory: one daemon at a time, and only one that finds in it what it expects."""

from pathlib import Path
from typing import Final

from xbd.daemons.runtime.lock import FileLock, refused
from xbd.daemons.runtime.owned_path import make_own_directory
from xbd.daemons.runtime.state_files import is_of_state
from xbd.errors import ConfigError
from xbd.replaceable import replaceable

_IN_USE: Final = "is in use by another `xbd hypervisor`; stop it, or use another directory"
_UNUSABLE: Final = "cannot be the state directory"


def make_and_lock_state(path: Path) -> FileLock:
    """Make a state directory and take its lock. Raises ConfigError; what is there is left as it was."""
    with refused(path, _IN_USE, _UNUSABLE):
        make_own_directory(path, "the state directory", "replace what is saved")
    return lock_state(path)


def lock_state(path: Path) -> FileLock:
    """Take the lock of a state directory, whoever's it is. Raises ConfigError; what is there is left as it was."""
    with refused(path, _IN_USE, _UNUSABLE):
        refuse_strange(path)
        return FileLock(path / "lock")


@replaceable
def refuse_strange(path: Path) -> None:
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
