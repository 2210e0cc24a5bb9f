"""A client's way to the hypervisor's toolstack socket, and why there is none."""

import grp
import os
import pwd
import stat
from collections.abc import Mapping
from pathlib import Path

from xbd.client.runtime_dir import (
    SYSTEM_RUNTIME_DIR,
    absolute_path,
    check_socket_path,
    default_runtime_dir,
    hypervisor_socket,
)
from xbd.errors import XbdError


class NoHypervisor(XbdError):
    """No connection to a hypervisor, or another daemon, came about; says which, why, and what to do next."""


class NotRunning(NoHypervisor):
    """Nobody listens at the socket, or there is none."""


class NoPermission(NoHypervisor):
    """The socket may not be used; says whose it is, and which group to be in."""


def find_socket(given: str | Path | None, environ: Mapping[str, str]) -> Path:
    """Find the toolstack socket: `--socket`, else `$XBD_SOCKET`, else in the run-time directory.

    A directory stands for the socket in it. There need be nothing at the path yet.

    Raises:
        ConfigError: the path is longer than a Unix socket's can be.
        NoPermission: what is there may not be looked at, or may not be connected to.
    """
    named = given or environ.get("XBD_SOCKET")
    path = Path(named) if named else hypervisor_socket(default_runtime_dir(environ))
    # Not Path.is_dir(): that raises when the path may not be looked at, or is too long.
    path = check_socket_path(hypervisor_socket(path) if os.path.isdir(path) else path)  # noqa: PTH112
    refuse_forbidden(path)
    return path


def refuse_forbidden(path: Path) -> None:
    """Refuse a socket that this user may not connect to; one that is not there is none of these. Raises NoPermission."""
    try:
        path.stat()
    except PermissionError as error:
        raise NoPermission(_forbidden(path)) from error
    except OSError:
        return
    if not os.access(path, os.W_OK):
        raise NoPermission(_forbidden(path))


def explain_connect(path: Path, error: OSError) -> NoHypervisor:
    """Say why no connection came about, and what to do."""
    match error:
        case FileNotFoundError():
            return NotRunning(
                f"no hypervisor at {path}: there is no such socket; "
                f"start one with `xbd up HOST.toml` or `xbd hypervisor`, or name its socket with --socket or $XBD_SOCKET"
                f"{_hint_at_system(path)}"
            )
        case ConnectionRefusedError():
            return NotRunning(
                f"no hypervisor at {path}: nobody listens there, it may have been left by one that is gone; "
                f"start it again with `xbd up HOST.toml` or `xbd hypervisor`"
            )
        case PermissionError():
            return NoPermission(_forbidden(path))
        case _:
            return NoHypervisor(f"cannot connect to {path}: {error.strerror or error}; is it a hypervisor's socket?")


def _hint_at_system(path: Path) -> str:
    """Point at the system's own host, which a user with a run-time directory of their own does not look for."""
    if path.is_relative_to(SYSTEM_RUNTIME_DIR) or not os.path.isdir(SYSTEM_RUNTIME_DIR):  # noqa: PTH112 - never raises
        return ""
    return f"; the system's own host is at --socket {SYSTEM_RUNTIME_DIR}"


def _forbidden(path: Path) -> str:
    """Say why *path* may not be connected to: the outermost directory that keeps this user out, else the socket."""
    real = absolute_path(path)
    for kept_out, needed in (*((parent, os.X_OK) for parent in reversed(real.parents)), (real, os.W_OK)):
        try:
            told = kept_out.stat()
        except OSError:
            break
        if not os.access(kept_out, needed):
            return f"no permission to use {path}: {_whose(kept_out, told, needed)}"
    return f"no permission to use {path}; be the user, or in the group, that the hypervisor was started with"


def _whose(path: Path, told: os.stat_result, needed: int) -> str:
    """Say whose a path is, and how this user comes to be let in."""
    owner, group, user = user_name(told.st_uid), group_name(told.st_gid), user_name(os.geteuid())
    mode = stat.S_IMODE(told.st_mode)
    # The bits of X_OK and W_OK are those of a mode's last digit; its middle digit is the group's.
    if told.st_gid == 0 or mode & (needed << 3) != needed << 3:
        return f"{path} belongs to user {owner} alone (mode {mode:04o}); be that user, or root (sudo)"
    belongs = f"{path} belongs to group {group} (mode {mode:04o})"
    if user in _members(told.st_gid):
        return f"{belongs}, which {user} is in, but was not yet at login; log in again, or use `newgrp {group}`"
    return (
        f"{belongs}, which {user} is not in; add yourself with `sudo usermod -aG {group} {user}` and log in again, "
        f"or be root (sudo)"
    )


def user_name(uid: int) -> str:
    """Name a user; their number, where nobody knows a name."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def group_name(gid: int) -> str:
    """Name a group; its number, where nobody knows a name."""
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def _members(gid: int) -> list[str]:
    try:
        return grp.getgrgid(gid).gr_mem
    except KeyError:
        return []
