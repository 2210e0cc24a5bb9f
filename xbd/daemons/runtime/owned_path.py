"""Whose a path is: nobody else may be able to put something of theirs in the place of what is ours.

Every directory on the way from the root is looked at, and every link that is followed: one component that another user
owns, or may rename and replace, is enough to lead a client to a socket that is not ours.
"""

import errno
import os
import stat
from pathlib import Path

from xbd.errors import ConfigError

# As the kernel's own limit (MAXSYMLINKS, man 7 path_resolution).
_MOST_LINKS = 40


def refuse_shared_path(
    directory: Path, what: str = "the directory of a socket", harm: str = "replace its sockets"
) -> None:
    """Refuse a directory when somebody else could replace it, a directory above it, a link on the way, or what is in it.

    Owners must be this user, root, or whoever owns the root directory. Nobody else may write, but for the sticky
    directories above it, such as /tmp, in which nobody can replace what is not theirs; this process's own primary group
    may, which on most systems is this user again. What is not there yet is not looked at.

    Args:
        directory: where something of ours is, or will be.
        what: what it is to a person, such as "the run-time directory".
        harm: what others could do in it, such as "replace its sockets".

    Raises:
        ConfigError: others could; names the component, and says what to do.
        OSError: it cannot be looked at.
    """
    at = Path("/")
    status = at.lstat()
    trusted = {0, os.geteuid(), status.st_uid}
    ahead = list(directory.absolute().parts[1:])[::-1]
    links = 0
    while ahead:
        _refuse_writable(at, status, f"is above {what} and", harm)
        name = ahead.pop()
        at = at.parent if name == ".." else at / name
        try:
            status = at.lstat()
        except FileNotFoundError:
            return
        if status.st_uid not in trusted:
            is_it = not ahead and not stat.S_ISLNK(status.st_mode)
            where = what if is_it else f"leads to {what} and"
            raise ConfigError(
                at, "", f"{where} belongs to user {status.st_uid}, who could {harm}; use another directory"
            )
        if stat.S_ISLNK(status.st_mode):
            links += 1
            if links > _MOST_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
            target = at.readlink()
            at = Path("/") if target.is_absolute() else at.parent
            status = at.lstat()
            ahead += [part for part in target.parts if part != "/"][::-1]
    _refuse_writable(at, status, what, harm, is_last=True)


def make_own_directory(directory: Path, what: str, harm: str = "replace its sockets") -> None:
    """Make a directory, and those above it, unless it is there; refuse one that is not ours alone.

    Args:
        directory: where.
        what: as `refuse_shared_path` takes it.
        harm: as `refuse_shared_path` takes it.

    Raises:
        ConfigError: others could change it; nothing is made by way of what they could replace.
        OSError: it cannot be made, or looked at.
    """
    refuse_shared_path(directory, what, harm)
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    refuse_shared_path(directory, what, harm)


def _refuse_writable(at: Path, status: os.stat_result, where: str, harm: str, *, is_last: bool = False) -> None:
    """Refuse a directory that others can write. Raises ConfigError."""
    mode = status.st_mode
    if not is_last and mode & stat.S_ISVTX:
        return
    if mode & stat.S_IWOTH:
        reason = f"can be written by everybody (mode {stat.S_IMODE(mode):04o}), who could {harm}"
    # The members of root's group administer the system; in the last directory they are others all the same.
    elif mode & stat.S_IWGRP and status.st_gid != os.getegid() and (is_last or status.st_gid != 0):
        reason = f"can be written by group {status.st_gid}, whose members could {harm}"
    else:
        return
    way_out = "chmod it to 0750" if is_last else "take that right away (chmod go-w)"
    raise ConfigError(at, "", f"{where} {reason}; {way_out}, or use another")
