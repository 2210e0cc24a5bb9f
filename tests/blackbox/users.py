"""Runs `xbd` commands as another user: this process's root is given up after the imports, which that user may not read."""

import grp
import json
import os
import pwd
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import pytest

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can run commands as another user")
STRANGER: Final = "nobody"
# A command that has not ended by then hangs; it is killed, and its exit code is that of the signal.
HANGS_AFTER_S: Final = 30

# Reads commands, runs each in a fork that gives up root, and tells exit codes and what was said. One process
# for all: importing xbd takes longer than most commands.
_DRIVER: Final = """
import importlib, json, os, pkgutil, signal, sys, traceback
import xbd
for module in pkgutil.walk_packages(xbd.__path__, "xbd."):
    if not module.name.startswith(("xbd.lab", "xbd.testing")):
        importlib.import_module(module.name)
from xbd.__main__ import main
told = json.load(sys.stdin)
answers = []
for command in told["commands"]:
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.dup2(writing, 1); os.dup2(writing, 2); os.close(reading)
        os.setgroups(told["groups"]); os.setgid(told["gid"]); os.setuid(told["uid"])
        os.chdir("/")
        signal.alarm(told["hangs_after_s"])
        code = 99
        try:
            main(command, prog_name="xbd")
        except SystemExit as end:
            code = end.code or 0
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush(); sys.stderr.flush()
        os._exit(code)
    os.close(writing)
    said = b"".join(iter(lambda: os.read(reading, 65536), b""))
    os.close(reading)
    answers.append((os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), said.decode()))
json.dump(answers, sys.stdout)
"""


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
    ids = {"uid": user.pw_uid, "gid": user.pw_gid, "groups": [group.gr_gid for group in groups]}
    told = json.dumps({"commands": commands, "hangs_after_s": hangs_after_s, **ids})
    environ = {key: value for key, value in os.environ.items() if not key.startswith(("XBD_", "XDG_"))}
    driver = [sys.executable, "-c", _DRIVER]
    ran = subprocess.run(driver, input=told, stdout=subprocess.PIPE, text=True, check=True, env=environ)  # noqa: S603
    return [Ended(code, said) for code, said in json.loads(ran.stdout)]


@contextmanager
def public_directory() -> Iterator[Path]:
    """Make a directory that everybody may enter, which pytest's are not, and remove it in the end."""
    with TemporaryDirectory(prefix="xbd-") as name:
        Path(name).chmod(0o755)
        yield Path(name)
