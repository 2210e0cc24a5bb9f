"""A private view of the file system, without root, with the directories in which Xen's tools keep and look for files.

A directory that is there is covered by one of the host's own; where it is not there, the nearest directory that is gets
a layer in which it is. Only the program that is run, and what it starts, see this.
"""

import ctypes
import os
from contextlib import suppress
from pathlib import Path
from typing import Final

from xbd.errors import XbdError

_CLONE_NEWNS: Final = 0x00020000
_CLONE_NEWUSER: Final = 0x10000000
_PR_SET_DUMPABLE: Final = 4
_MS_RDONLY: Final = 1
_MS_BIND: Final = 4096
_MS_REC: Final = 16384
_MS_PRIVATE: Final = 1 << 18
# Where libxl keeps what it knows of domains: covered always, for it is of this host alone.
USERDATA: Final = Path("/var/lib/xen")
# Where libxl keeps its locks, and which numbers were domains' a moment ago: without it it destroys none.
RUN: Final = Path("/var/run").resolve() / "xen"
# Directories that tools look into; and a file, with what is in it.
_LOOKED_INTO: Final = (Path("/sys/bus/xen-backend/devices"), Path("/sys/bus/pci/devices"))
_XL_CONF: Final = Path("/etc/xen/xl.conf")
_DIRECTORY_MODE: Final = 0o700


class NoNamespace(XbdError):
    """This system does not let a user have a view of the file system; the sentence says why."""


def prepare(directory: Path) -> Path:
    """Make what the view is made of in *directory*; returns where userdata lies. Raises OSError."""
    userdata = directory / "userdata"
    userdata.mkdir(_DIRECTORY_MODE, parents=True, exist_ok=True)
    (directory / "run").mkdir(_DIRECTORY_MODE, exist_ok=True)
    for wanted in (USERDATA, RUN, _XL_CONF.parent, *_LOOKED_INTO):
        base = _existing(wanted)
        (directory / "layers" / _flat(base) / wanted.relative_to(base)).mkdir(parents=True, exist_ok=True)
    conf = directory / "layers" / _flat(_existing(_XL_CONF.parent)) / _XL_CONF.relative_to(_existing(_XL_CONF.parent))
    conf.touch()
    return userdata


def enter(directory: Path, kept: Path) -> None:
    """Give this process the view that was prepared in *directory*; *kept*, where sockets lie, stays as it is.

    Raises:
        NoNamespace: this system does not let it; nothing has changed.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    uid, gid = os.getuid(), os.getgid()
    if libc.unshare(_CLONE_NEWNS) < 0:
        # A process that was root's may not write to its own files of /proc until then.
        libc.prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)
        if libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNS) < 0:
            raise NoNamespace(f"no private view of the file system is allowed here ({_reason()})")
        try:
            Path("/proc/self/setgroups").write_bytes(b"deny")
            Path("/proc/self/uid_map").write_bytes(b"%d %d 1" % (uid, uid))
            Path("/proc/self/gid_map").write_bytes(b"%d %d 1" % (gid, gid))
        except OSError as error:
            raise NoNamespace(f"no private view of the file system is allowed here ({error})") from error
    _cover(_Mounts(libc), directory, kept)


def _cover(mounts: "_Mounts", directory: Path, kept: Path) -> None:
    """Mount what there is to be seen. Raises NoNamespace."""
    mounts.mount(None, Path("/"), None, _MS_REC | _MS_PRIVATE)
    sockets = os.open(kept, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    userdata, run = (
        os.open(directory / name, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC) for name in ("userdata", "run")
    )
    running = {} if RUN.is_dir() else _opened(RUN.parent)
    try:
        for base in {_existing(wanted) for wanted in (USERDATA, RUN, _XL_CONF.parent, *_LOOKED_INTO)}:
            layer = directory / "layers" / _flat(base)
            if base in (USERDATA, RUN, *_LOOKED_INTO) or (base / _XL_CONF.name).exists():
                continue
            mounts.mount("overlay", base, "overlay", _MS_RDONLY, f"lowerdir={layer}:{base}")
            if kept.is_relative_to(base):
                # A socket under an overlay cannot be connected to.
                mounts.mount(f"/proc/self/fd/{sockets}", kept, None, _MS_BIND)
        for path, descriptor in running.items():
            # All that runs here is reached as before, but what comes later.
            with suppress(NoNamespace):
                mounts.mount(f"/proc/self/fd/{descriptor}", path, None, _MS_BIND | _MS_REC)
        mounts.mount(f"/proc/self/fd/{userdata}", USERDATA, None, _MS_BIND)
        mounts.mount(f"/proc/self/fd/{run}", RUN, None, _MS_BIND)
    finally:
        for descriptor in (sockets, userdata, run, *running.values()):
            os.close(descriptor)
    os.chdir(os.getcwd())  # noqa: PTH109 - what is below an overlay is seen through it


def _opened(directory: Path) -> dict[Path, int]:
    """Hold on to what lies in a directory, sockets too, before it is covered; by path, a descriptor of each."""
    held = {}
    for path in directory.iterdir():
        with suppress(OSError):
            if not path.is_symlink():
                held[path] = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    return held


def _existing(path: Path) -> Path:
    """Name the nearest directory at or above *path* that exists."""
    return path if path.is_dir() else _existing(path.parent)


def _flat(path: Path) -> str:
    """Name a directory in one word."""
    return str(path).strip("/").replace("/", "-") or "root"


def _reason() -> str:
    return os.strerror(ctypes.get_errno())


class _Mounts:
    """Mounts, one after the other."""

    def __init__(self, libc: ctypes.CDLL) -> None:
        self._libc = libc

    def mount(self, source: str | None, target: Path, kind: str | None, flags: int, data: str = "") -> None:
        """Mount. Raises NoNamespace: it is not allowed."""
        words = [None if word is None else word.encode() for word in (source, str(target), kind)]
        if self._libc.mount(*words, ctypes.c_ulong(flags), data.encode() or None) < 0:
            raise NoNamespace(f"no private view of {target} is allowed here ({_reason()})")
