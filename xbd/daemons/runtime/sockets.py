"""Unix sockets of the daemon: bound where nobody else listens, or passed to it, for the peers that may use them."""

import errno
import grp
import os
import resource
import select
import socket
import stat
import struct
from pathlib import Path
from typing import Final

import trio

from xbd.client.runtime_dir import check_socket_path
from xbd.daemons.runtime.lock import FileLock, refused
from xbd.daemons.runtime.outside import calls
from xbd.daemons.runtime.owned_path import make_own_directory, refuse_shared_path
from xbd.errors import ConfigError, OutOfResources
from xbd.replaceable import replaceable

# As many as may connect between two accepts, such as every agent and tool after a restart. A client that does not wait to
# connect is told EAGAIN when the queue is full, which trio takes for connected.
BACKLOG: Final = 1024
# A listener, and as many connections as a domain's guest may hold (`hypervisor.MAX_DOMAIN_PEERS`), lest one take another's.
DESCRIPTORS_PER_DOMAIN: Final = 5
# Where the state is saved: domain-N and agent-N, for a mapped file stays open as long as it is mapped.
DESCRIPTORS_PER_SAVED_DOMAIN: Final = DESCRIPTORS_PER_DOMAIN + 2
# Of a domain that others still map pages of domain-N stays.
DESCRIPTORS_PER_ZOMBIE: Final = 1
# The toolstack's peers (`hypervisor.MAX_TOOLSTACK_PEERS`), and 32 for standard streams, event loop, signals, locks, the
# undo log, host-0 and daemon-0, a recording, the toolstack's listener, and files that are open for a moment.
DESCRIPTORS_APART: Final = 256 + 32
_RUNTIME_DIR: Final = "the run-time directory"
_UCRED: Final = struct.Struct("3i")  # struct ucred {pid, uid, gid} of man 7 unix


def raise_descriptor_limit() -> int:
    """Raise the soft limit of open files to the hard one; returns what it is then."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def descriptors_for(domains: int, *, zombies: int = 0, saved: bool = True) -> int:
    """Tell how many descriptors a daemon with so many domains (and *zombies* beside them) needs."""
    per_domain = DESCRIPTORS_PER_SAVED_DOMAIN if saved else DESCRIPTORS_PER_DOMAIN
    return domains * per_domain + (zombies * DESCRIPTORS_PER_ZOMBIE if saved else 0) + DESCRIPTORS_APART


def refuse_beyond_descriptors(what: str, needed: int) -> None:
    """Refuse what would need more descriptors than this process may have. Raises OutOfResources, with a sentence."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit != resource.RLIM_INFINITY and needed > limit:
        raise OutOfResources(
            f"{what}: it needs {needed} open files at most, the daemon may have {limit}",
            "a higher hard limit of open files (ulimit -Hn, LimitNOFILE=), or a domain less",
            errno="ENFILE",
        )


def lock_runtime_dir(runtime_dir: Path, group: str | None) -> FileLock:
    """Make the run-time directory and take its lock, to be held as long as the daemon runs.

    Raises:
        ConfigError: another daemon runs there, or the directory cannot be used.
    """
    in_use = "another `xbd hypervisor` runs here; stop it, or use another directory"
    with refused(runtime_dir, in_use, "cannot be the run-time directory"):
        for directory in (runtime_dir, runtime_dir / "domains"):
            make_own_directory(directory, _RUNTIME_DIR)
        if group:
            let_group_enter(runtime_dir, group)
        return FileLock(runtime_dir / "hypervisor.lock")


def bind_unix(path: Path, *, group: str | None = None) -> socket.socket:
    """Listen at *path*, mode 0600 (0660 with a group); a stale file there is replaced.

    Nobody else binds there meanwhile, so of two daemons that find the same stale file one gets the path.

    Raises:
        ConfigError: the path is too long, others could replace it, somebody listens there, or it cannot be bound or given
            to the group; what is there stays, and nothing new is left.
    """
    check_socket_path(path)
    with refused(path, "another daemon is just beginning to listen there; try again", "cannot listen there"):
        refuse_shared_path(path.parent)
        lock = FileLock(path.with_name(f".{path.name}.binding"))
        try:
            remove_stale(path)
            return _bind(path, group)
        finally:
            lock.release(as_found=True)


def _bind(path: Path, group: str | None) -> socket.socket:
    """Bind and listen at a free path; on an error no file is left. Raises OSError, ConfigError."""
    listener = calls.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        calls.bind(listener, os.fspath(path))
        try:
            # Before anybody can connect.
            permit_group(path, group)
            calls.listen(listener, BACKLOG)
        except BaseException:
            calls.unlink(path)
            raise
    except BaseException:
        listener.close()
        raise
    return listener


def permit_group(path: Path, group: str | None) -> None:
    """Make a socket this user's alone (mode 0600), or, with *group*, that group's as well (0660).

    Raises:
        ConfigError: there is no such group, or the socket cannot be given to it; nothing has changed.
    """
    if group is not None:
        _give_to_group(path, group)
    _change_mode(path, 0o600 if group is None else 0o660)


def let_group_enter(runtime_dir: Path, group: str) -> None:
    """Let a group into the run-time directory, to find the socket there. Raises ConfigError: nothing has changed."""
    _give_to_group(runtime_dir, group)
    _change_mode(runtime_dir, stat.S_IRGRP | stat.S_IXGRP, keep=True)


def permit_like(path: Path, pattern: Path) -> bool:
    """Let those use the socket at *path* who may use the one at *pattern*: this user, or its group as well.

    Where there is no *pattern* yet, it is this user's alone.

    Returns:
        Whether a group may use it.

    Raises:
        ConfigError: the socket cannot be given to that group; it is this user's alone then.
    """
    try:
        told = pattern.stat()
    except OSError:
        told = None
    shared = told is not None and stat.S_ISSOCK(told.st_mode) and bool(told.st_mode & stat.S_IWGRP)
    if told is None or not shared:
        _change_mode(path, 0o600)
        return False
    try:
        if path.stat().st_gid != told.st_gid:
            _change_mode(path, 0o600)
            calls.change_group(path, -1, told.st_gid)
    except OSError as error:
        raise ConfigError(
            path, "", f"cannot be given to group {told.st_gid}, whose {pattern} is: {error.strerror}"
        ) from error
    _change_mode(path, 0o660)
    return True


def _change_mode(path: Path, mode: int, *, keep: bool = False) -> None:
    """Set a path's mode, or, to *keep* what it has, add to it. Raises ConfigError: nothing has changed."""
    try:
        now = stat.S_IMODE(path.stat().st_mode)
        wanted = now | mode if keep else mode
        if wanted != now:
            calls.change_mode(path, wanted)
    except OSError as error:
        raise ConfigError(path, "", f"cannot be given mode {mode:04o}: {error.strerror}") from error


def _give_to_group(path: Path, group: str) -> None:
    try:
        gid = grp.getgrnam(group).gr_gid
        # A service whose own group it is may not call chown at all (SystemCallFilter=~@privileged), and need not.
        if path.stat().st_gid != gid:
            calls.change_group(path, -1, gid)
    except KeyError as error:
        raise ConfigError(path, "group", f"no group is called {group!r}") from error
    except OSError as error:
        raise ConfigError(path, "group", f"cannot be given to group {group!r}: {error.strerror}") from error


@replaceable
def remove_stale(path: Path) -> None:
    """Remove a socket that nobody listens on; whatever else is there stays. Raises ConfigError, naming what it is."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if stat.S_ISLNK(mode):
        raise ConfigError(path, "", f"is a link (to {path.readlink()}), in the place of a socket; remove it")
    if not stat.S_ISSOCK(mode):
        raise ConfigError(path, "", "is no socket, and in the place of one; remove it, or use another directory")
    with calls.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        outcome = calls.connect(probe, os.fspath(path))
    if outcome in (0, errno.EAGAIN):
        raise ConfigError(path, "", "somebody listens there already; stop it, or use another directory")
    if outcome == errno.ECONNREFUSED:
        calls.unlink(path)


def remove_leftovers(directory: Path) -> None:
    """Remove the sockets that a killed daemon left in *directory*, its domains'; the caller knows that none lives.

    Raises:
        ConfigError: one cannot be removed; others may have gone.
    """
    for path in sorted(directory.glob("*.sock")):
        try:
            calls.unlink(path)
        except OSError as error:
            raise ConfigError(
                path, "", f"is in the place of a socket, and cannot be removed: {error.strerror}"
            ) from error


def has_left(connection: socket.socket) -> bool:
    """Tell whether the peer has closed its end, whatever it may have sent before."""
    poll = select.poll()
    poll.register(connection, select.POLLHUP)
    return bool(poll.poll(0))


def peer_of(connection: socket.socket) -> tuple[int, int]:
    """Return the process that *connection*'s peer was when it connected, and the user that it ran as: pid and uid."""
    pid, uid, _ = _UCRED.unpack(calls.socket_option(connection, socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return pid, uid


def is_permitted(connection: socket.socket) -> bool:
    """Tell whether the peer runs as this process's user or as root."""
    return peer_of(connection)[1] in (0, os.geteuid())


async def until_readable(connection: socket.socket) -> None:
    """Wait until a socket has something to be read, or somebody to be accepted.

    Raises:
        trio.ClosedResourceError: it was closed, before this or meanwhile; any task may do so at any time.
    """
    refuse_closed(connection)
    await trio.lowlevel.wait_readable(connection)
    refuse_closed(connection)


async def until_writable(connection: socket.socket) -> None:
    """Wait until a socket takes bytes. Raises trio.ClosedResourceError, as `until_readable` does."""
    refuse_closed(connection)
    await trio.lowlevel.wait_writable(connection)
    refuse_closed(connection)


def refuse_closed(connection: socket.socket) -> None:
    """Refuse a socket that was closed: it has descriptor -1, to wait for which ends the event loop, and the daemon.

    Raises:
        trio.ClosedResourceError: it was closed.
    """
    if connection.fileno() < 0:
        end_waiting()


@replaceable
def end_waiting() -> None:
    """Say that a socket was closed. Raises trio.ClosedResourceError."""
    raise trio.ClosedResourceError("this socket was closed")


def close(connection: socket.socket) -> None:
    """Close a socket and wake whoever waits for it; nothing happens to one that is closed already."""
    if connection.fileno() >= 0:
        trio.lowlevel.notify_closing(connection)
        connection.close()


def is_out_of_descriptors(error: Exception) -> bool:
    """Tell whether *error* says that this process, or the system, has no descriptor left."""
    return isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE)
