"""A state directory between two lives: set apart as it was at an instant, damaged, looked at, and put back."""

import os
import shutil
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from xbd.daemons.runtime.state_files import (
    HEADER_BYTES,
    LOG_BYTES,
    WORD_BYTES,
    data_extents,
    read_state,
    section_name,
    sections_in,
)
from xbd.lab.simulation.rng import Rng
from xbd.storage.image import Kind

_STORE: Final = "xenstore.save"
_ZEROS: Final = bytes(HEADER_BYTES)
# Magic, and the length and checksums of the record of everything.
_FIRST_RECORD_BYTES: Final = 27
# What every host has, whenever it was dropped.
_ALWAYS: Final = ("state.json", "manifest-0", "undo", "host-0", "daemon-0")
# A section of nobody.
_STRAY: Final = section_name(Kind.AGENT, 32_000)


def gone_of(directory: Path) -> Path:
    """Name the directory that takes what the dropped owner of *directory* still writes."""
    return directory.with_name("gone")


def set_apart(directory: Path) -> None:
    """Put a copy of a directory in its place; what the old one's owner still writes goes to `gone_of`."""
    if not directory.exists():
        return
    copy = directory.with_name("copy")
    copy.mkdir(mode=0o700)
    for entry in sorted(os.scandir(directory), key=lambda one: one.name):
        if entry.is_file():
            copy_file(Path(entry.path), copy / entry.name)
    gone = gone_of(directory)
    shutil.rmtree(gone, ignore_errors=True)
    directory.rename(gone)
    copy.rename(directory)


def _checksum(path: Path) -> int:
    """Compute a checksum of a file's size and of what of it is not zero: to read a hole makes it a page of zeros."""
    with path.open("rb") as file:
        size_bytes = os.fstat(file.fileno()).st_size
        found = zlib.crc32(b"%d" % size_bytes)
        for first, end in data_extents(file.fileno(), 0, size_bytes):
            piece = os.pread(file.fileno(), min(end, size_bytes) - first, first)
            for at in range(0, len(piece), HEADER_BYTES):
                page = piece[at : at + HEADER_BYTES]
                if page != _ZEROS[: len(page)]:
                    found = zlib.crc32(b"%d " % (first + at) + page, found)
    return found


def copy_file(source: Path, target: Path) -> None:
    """Copy a file, its holes as holes."""
    with source.open("rb") as read, target.open("wb") as write:
        size_bytes = os.fstat(read.fileno()).st_size
        for first, end in data_extents(read.fileno(), 0, size_bytes):
            piece = os.pread(read.fileno(), min(end, size_bytes) - first, first)
            os.pwrite(write.fileno(), piece, first)
        write.truncate(size_bytes)


def fingerprint(directory: Path) -> dict[str, int]:
    """Compute a checksum of each file of a directory but its lock."""
    return {
        path.name: _checksum(path) for path in sorted(directory.iterdir()) if path.is_file() and path.name != "lock"
    }


@dataclass(frozen=True, slots=True)
class Damage:
    """What was done to one file, and how to put it back."""

    name: str
    what: str
    put_back: Callable[[], None]


def damage(directory: Path, kept: Path, rng: Rng) -> Damage | None:
    """Damage one file such that no start may accept it; None: there is no host yet.

    The file as it was goes to *kept*, outside the directory.
    """
    told = read_state(directory)
    if told is None or not told.is_committed:
        return None
    in_order = (directory / "checksums.json").exists()
    there = set(sections_in(directory))
    # A section that is left of a domain that has gone, because its file could not be removed, is never read again.
    sections = sorted(
        section_name(kind, number)
        for kind, number in there
        if kind in (Kind.HOST, Kind.DAEMON) or {(Kind.DOMAIN, number), (Kind.AGENT, number)} <= there
    )
    # Every second one of the few that are refused whatever became of the host: there are many sections.
    name = rng.choice([*sections, "checksums.json"] if in_order and rng.bernoulli(0.5) else _ALWAYS)
    path = directory / name
    copy_file(path, kept)
    what = rng.choice(("missing", "cut", "changed", "copied"))
    if name == "checksums.json" and what == "missing":
        what = "changed"  # without checksums it is the state of a daemon that was dropped, and is used
    match what:
        case "missing":
            path.unlink()
        case "cut":
            _cut(path)
        case "copied":
            copy_file(path, directory / _STRAY)
            return Damage(_STRAY, what, (directory / _STRAY).unlink)
        case _:
            _change(path, rng, in_order=in_order)
    return _done(path, what, kept)


def damage_store(directory: Path, kept: Path, rng: Rng) -> Damage | None:
    """Damage a XenStore's file such that no start may accept it; None: there is none yet.

    A file that ends early is as one whose last write was cut off, and is used; so what differs is a byte of its beginning.
    """
    path = directory / _STORE
    if not path.exists():
        return None
    copy_file(path, kept)
    what = rng.choice(("cut", "changed"))
    if what == "cut":
        os.truncate(path, rng.below(_FIRST_RECORD_BYTES))
    else:
        _flip(path, rng.below(_FIRST_RECORD_BYTES))
    return _done(path, what, kept)


def _done(path: Path, what: str, kept: Path) -> Damage:
    def put_back() -> None:
        path.unlink(missing_ok=True)
        copy_file(kept, path)

    return Damage(path.name, what, put_back)


def _cut(path: Path) -> None:
    size_bytes = path.stat().st_size
    os.truncate(path, LOG_BYTES - WORD_BYTES if path.name == "undo" else size_bytes // 2)


def _change(path: Path, rng: Rng, *, in_order: bool) -> None:
    """Change one byte, of those that are always looked at."""
    if path.suffix == ".json":
        at = 0
    elif path.name == "undo":
        at = WORD_BYTES  # which host's log it is
    elif in_order:
        at = HEADER_BYTES + rng.below(path.stat().st_size - HEADER_BYTES)
    else:
        at = 1
    _flip(path, at)


def _flip(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        old = file.read(1)
        file.seek(at)
        file.write(bytes([old[0] ^ 0x5A]))
