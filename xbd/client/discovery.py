"""Finding the hypervisor's toolstack socket, and explaining why it cannot be connected to."""

import grp
import os
import pwd
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from xbd.client.runtime_dir import (
    SYSTEM_RUNTIME_DIR,
    absolute_path,
    check_socket_path,
    default_runtime_dir,
    hypervisor_socket,
)
from xbd.errors import XbdError

# What is at a socket of such a name, and how to get one.
_DAEMONS: Final = {
    "autoballoon.sock": ("autoballoon daemon", "start one with `xbd autoballoon`"),
    "hypervisor.sock": (
        "hypervisor",
        "start one with `xbd up HOST.toml` or `xbd hypervisor`, or name its socket with --socket or $XBD_SOCKET",
    ),
}


def daemon_at(path: Path) -> tuple[str, str]:
    """Tell who is meant to listen at a socket, by its name, and how to get there one who does."""
    if path.parent.name == "domains":
        return "hypervisor", "the domain is gone, or its hypervisor; `xbd list` shows those that there are"
    return _DAEMONS.get(path.name, _DAEMONS["hypervisor.sock"])


class NoHypervisor(XbdError):
    """A hypervisor, or another daemon, cannot be connected to; the sentence says which, why, and what to do."""


class NotRunning(NoHypervisor):
    """The socket does not exist, or no daemon listens at it."""


class NoPermission(NoHypervisor):
    """This user may not connect to the socket; the sentence says whose it is, and which group to join."""


def find_socket(given: str | Path | None, environ: Mapping[str, str]) -> Path:
    """Find the toolstack socket: `--socket`, else `$XBD_SOCKET`, else in the run-time directory.

    A directory means the socket in it. The path need not exist yet.

    Raises:
        ConfigError: the path is longer than a Unix socket's can be.
        NoPermission: this user may not read the path, or not connect to the socket.
    """
    named = given or environ.get("XBD_SOCKET")
    path = Path(named) if named else hypervisor_socket(default_runtime_dir(environ))
    # Not Path.is_dir(): that raises when the path may not be read, or is too long.
    path = check_socket_path(hypervisor_socket(path) if os.path.isdir(path) else path)  # noqa: PTH112
    refuse_forbidden(path)
    return path


def refuse_forbidden(path: Path) -> None:
    """Refuse a socket that this user may not connect to; a path that does not exist is not refused. Raises NoPermission."""
    try:
        path.stat()
    except PermissionError as error:
        raise NoPermission(_explain_permission(path)) from error
    except OSError:
        return
    if not os.access(path, os.W_OK):
        raise NoPermission(_explain_permission(path))


def explain_connect(path: Path, error: OSError) -> NoHypervisor:
    """Make the error that says why connecting failed, and what to do."""
    who, how = daemon_at(path)
    match error:
        case FileNotFoundError():
            return NotRunning(f"no {who} at {path}: there is no such socket; {how}{_hint_at_system(path)}")
        case ConnectionRefusedError() if _is_other_file(path):
            return NoHypervisor(f"no {who} at {path}: that is no socket; {how}")
        case ConnectionRefusedError():
            return NotRunning(
                f"no {who} at {path}: nobody listens there, it may have been left by one that is gone; {how}"
            )
        case BlockingIOError():
            return NoHypervisor(
                f"the {who} at {path} takes nobody in: too many wait there already; does it hang? (see its log)"
            )
        case PermissionError():
            return NoPermission(_explain_permission(path))
        case _:
            return NoHypervisor(f"cannot connect to the {who} at {path}: {error.strerror or error}")


def _is_other_file(path: Path) -> bool:
    """Tell whether something else than a socket is there."""
    try:
        return not stat.S_ISSOCK(path.stat().st_mode)
    except OSError:
        return False


def _hint_at_system(path: Path) -> str:
    """Point at the system's own host, which is not searched for where the user has a run-time directory."""
    if path.is_relative_to(SYSTEM_RUNTIME_DIR) or not os.path.isdir(SYSTEM_RUNTIME_DIR):  # noqa: PTH112 - never raises
        return ""
    return f"; the system's own host is at --socket {SYSTEM_RUNTIME_DIR}"


def _explain_permission(path: Path) -> str:
    """Explain why this user may not connect to *path*: by the outermost directory that excludes them, else the socket."""
    real = absolute_path(path)
    for place, needed in (*((parent, os.X_OK) for parent in reversed(real.parents)), (real, os.W_OK)):
        try:
            status = place.stat()
        except OSError:
            break
        if not os.access(place, needed):
            return f"no permission to use {path}: {_explain_owner(place, status, needed)}"
    return f"no permission to use {path}; be the user, or in the group, that the hypervisor was started with"


def _explain_owner(path: Path, status: os.stat_result, needed: int) -> str:
    """Say who owns a path, and how this user gets access."""
    owner, group, user = user_name(status.st_uid), group_name(status.st_gid), user_name(os.geteuid())
    mode = stat.S_IMODE(status.st_mode)
    # The bits of X_OK and W_OK are those of a mode's last digit; its middle digit is the group's.
    if status.st_gid == 0 or mode & (needed << 3) != needed << 3:
        return f"{path} belongs to user {owner} alone (mode {mode:04o}); be that user, or root (sudo)"
    belongs = f"{path} belongs to group {group} (mode {mode:04o})"
    if user in _members(status.st_gid):
        return f"{belongs}, which {user} is in, but was not yet at login; log in again, or use `newgrp {group}`"
    return (
        f"{belongs}, which {user} is not in; add yourself with `sudo usermod -aG {group} {user}` and log in again, "
        f"or be root (sudo)"
    )


def user_name(uid: int) -> str:
    """Name a user, or give the number of one without a name."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def group_name(gid: int) -> str:
    """Name a group, or give the number of one without a name."""
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def _members(gid: int) -> list[str]:
    try:
        return grp.getgrgid(gid).gr_mem
    except KeyError:
        return []
