"""Socket activation: taking the toolstack's socket from a service manager that has bound it.

The manager keeps the socket while the daemon restarts, so clients that connect meanwhile wait in its
backlog. The daemon takes exactly one, the one whose path is `hypervisor.sock` in the run-time directory:
clients look there, and what listens elsewhere would never be asked. It neither changes who may use it
nor removes it: both are the manager's affair.

Source: man 3 sd_listen_fds (systemd 252).
"""

import os
import socket
import stat
from collections.abc import MutableMapping
from pathlib import Path
from typing import Final

from xbd.daemons.runtime.outside import calls
from xbd.errors import ConfigError

# SD_LISTEN_FDS_START: passed descriptors begin behind the standard streams.
FIRST_DESCRIPTOR: Final = 3
_VARIABLES: Final = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")


def take_passed_socket(
    environ: MutableMapping[str, str], pid: int, path: Path, first_descriptor: int = FIRST_DESCRIPTOR
) -> socket.socket | None:
    """Take the socket that was passed to process *pid*; None when none was.

    The variables are removed from *environ*: no child shall think that it is meant.

    Args:
        environ: where LISTEN_PID, LISTEN_FDS and LISTEN_FDNAMES are.
        pid: this process's own number; what is passed to another one is left alone.
        path: where the socket has to listen.
        first_descriptor: where what was passed begins.

    Raises:
        ConfigError: something else, more than one, or a socket that everybody may use was passed. All that
            was passed is closed then.
    """
    told_pid, told_count, told_names = (environ.pop(variable, "") for variable in _VARIABLES)
    if not told_count or told_pid != str(pid):
        return None
    if not (told_count.isascii() and told_count.isdecimal()):
        raise ConfigError("$LISTEN_FDS", "", f"{told_count!r:.80} is not a number of descriptors")
    names = told_names.split(":")
    passed = [first_descriptor + index for index in range(int(told_count))]
    if not passed:
        return None
    if len(passed) > 1:
        _close(passed)
        raise ConfigError(
            "$LISTEN_FDS", "", f"{len(passed)} sockets were passed ({told_names}), one is expected: {path}"
        )
    who = f"the passed socket {names[0]!r}" if names[0] else "the passed socket"
    try:
        return _checked(passed[0], who, path)
    except BaseException:
        _close(passed)
        raise


def _checked(descriptor: int, who: str, path: Path) -> socket.socket:
    """Make a listener of a descriptor, after a look at what it is. Raises ConfigError."""
    try:
        is_socket = stat.S_ISSOCK(os.fstat(descriptor).st_mode)
    except OSError as error:
        raise ConfigError(path, "", f"{who} is not open (descriptor {descriptor}: {error.strerror})") from error
    if not is_socket:
        raise ConfigError(path, "", f"{who} is no socket (descriptor {descriptor})")
    listener = calls.socket(fileno=calls.duplicate(descriptor))
    try:
        _check(listener, who, path)
        os.close(descriptor)
    except BaseException:
        listener.close()
        raise
    listener.settimeout(0)
    return listener


def _check(listener: socket.socket, who: str, path: Path) -> None:
    """Refuse a socket that is not the one that clients look for, or that everybody may use."""
    expected = f"a listening Unix stream socket at {path} is expected; correct ListenStream= in its unit"
    if listener.family != socket.AF_UNIX or listener.type != socket.SOCK_STREAM:
        raise ConfigError(path, "", f"{who} is a {listener.family.name} {listener.type.name}; {expected}")
    bound = listener.getsockname()
    if not isinstance(bound, str) or not bound or not _same_file(bound, path):
        raise ConfigError(path, "", f"{who} is bound to {bound!r}; {expected}")
    if not calls.socket_option(listener, socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        raise ConfigError(path, "", f"{who} does not listen; {expected}")
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & stat.S_IWOTH:
        raise ConfigError(path, "", f"everybody may use {who} (mode {mode:04o}); say SocketMode=0660 in its unit")


def _same_file(bound: str, path: Path) -> bool:
    """Tell whether two paths name one file, by whatever links."""
    try:
        return path.samefile(bound)
    except OSError:
        return False


def _close(descriptors: list[int]) -> None:
    """Close what was passed and is still open."""
    for descriptor in descriptors:
        try:
            os.close(descriptor)
        except OSError:
            continue  # never open, or closed by the time it was refused
