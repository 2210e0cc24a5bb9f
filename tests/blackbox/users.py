"""Runs `xbd` commands as another user: root is given up after the imports, which that user may not read."""

import grp
import os
import pwd
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import pytest

from tests import forked

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can run commands as another user")
STRANGER: Final = "nobody"
# A command that has not ended by then hangs; it is killed, and its exit code is that of the signal.
HANGS_AFTER_S: Final = 30


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended: its exit code (negative: a signal's number), and all that it wrote."""

    code: int
    said: str


def some_group() -> grp.struct_group:
    """Choose a group of this machine that neither root nor the stranger is in."""
    gids = {0, *os.getgrouplist(STRANGER, pwd.getpwnam(STRANGER).pw_gid)}
    return next(group for group in grp.getgrall() if group.gr_gid not in gids)


def as_stranger(
    commands: Sequence[Sequence[str]], groups: Sequence[grp.struct_group] = (), *, hangs_after_s: int = HANGS_AFTER_S
) -> list[Ended]:
    """Run `xbd` commands, one after the other, as the user `nobody` and a member of *groups*."""
    user = pwd.getpwnam(STRANGER)
    ids = (user.pw_uid, user.pw_gid, [group.gr_gid for group in groups])
    ended = [forked.run(command, hangs_after_s, ids) for command in commands]
    return [Ended(one.returncode, one.stdout + one.stderr) for one in ended]


@contextmanager
def public_directory() -> Iterator[Path]:
    """Make a directory that everybody may enter, which pytest's are not, and remove it in the end."""
    with TemporaryDirectory(prefix="xbd-") as name:
        Path(name).chmod(0o755)
        yield Path(name)
