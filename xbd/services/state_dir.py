"""A host's state in a directory: sections and the undo log as files that are mapped into memory.

What is written to a shared mapping is in the kernel's page cache, whatever becomes of the process: a
daemon that is killed (SIGKILL) at any instant loses nothing. A machine that loses power may; that is
not what this is for.

    state.json       format and version; it is there when the first step was committed
    undo             the undo log (`xbd.machine.undo`)
    host-0, daemon-0, domain-N, agent-N
                     a section each: a page of header (a line of JSON with a checksum), then its words
    checksums.json   of all sections, when the daemon ended in order; the next one holds them against it
    lock             locked by the daemon that lives

A file is as long as its section and sparse: what was never touched is a hole, which costs nothing and
is found by SEEK_DATA. What cannot be used (another format, a wrong checksum, a missing or shortened
file, a lock that is held) is a `ConfigError`, and nothing has been changed.
"""

import errno
import fcntl
import json
import mmap
import os
import re
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import structlog

import xbd
from xbd.abi import Frames
from xbd.errors import ConfigError, DamagedState
from xbd.machine import HostSettings, Machine
from xbd.machine.image import PAGE_WORDS, Image, Kind, Layout, Store
from xbd.machine.recovery import recover
from xbd.machine.undo import Undo
from xbd.services.recorder import RecordedMachine, Recorder

_log = structlog.get_logger(__name__)

# What is said and laid out here; another number means that an older or newer xbd cannot use it.
FORMAT: Final = 1
_HEADER_BYTES: Final = 4096
_WORD_BYTES: Final = 8
# One turn's notes have room; a domain that goes may need more, and the log grows.
_LOG_BYTES: Final = 1 << 20
# Free space below which guests' calls wait: more than what a few turns can touch, so that the kernel never has to
# end the daemon (SIGBUS) because a page of the mapping finds no place on the disk.
SPARE_BYTES: Final = 256 << 20
_SECTION_NAME: Final = re.compile(rf"({'|'.join(kind.name.lower() for kind in Kind)})-(\d+)")
_READ_BYTES: Final = 1 << 20


class StateDir(Store):
    """The store in directory *path*, locked until `close`.

    Raises:
        ConfigError: it is in use, is none of ours, of another format, or damaged.
    """

    undo: Undo

    def __init__(self, path: Path, *, spare_bytes: int = SPARE_BYTES) -> None:
        self.path = path
        self._spare_bytes = spare_bytes
        self._lock = lock_state(path)
        try:
            self.is_new = read_state_format(path) is None
            if self.is_new:
                self._clear()
            self._checksums = _read_checksums(path)
            self._open_log()
            self.undone = self._roll_back()
            # What a large domain's end once needed is not kept for ever.
            os.truncate(path / "undo", _LOG_BYTES)
            self._open_log()
        except BaseException:
            os.close(self._lock)
            raise

    def _open_log(self) -> None:
        self._log = _map(self.path / "undo", _LOG_BYTES)
        self.undo = Undo(self._log, self._grow)

    def _clear(self) -> None:
        """Remove what a daemon left that was killed before it had committed anything."""
        for name in (*(section_name(*key) for key in self.kept()), "undo", "checksums.json"):
            (self.path / name).unlink(missing_ok=True)

    def _roll_back(self) -> int:
        """Undo the step in whose middle an earlier daemon died; returns how many notes there were of it."""
        try:
            return self.undo.roll_back(self._find)
        except (ValueError, DamagedState) as error:
            raise ConfigError(self.path / "undo", "", f"the last step cannot be undone: {error}") from error

    def _find(self, kind: int, number: int) -> Frames | None:
        there = (self.path / section_name(Kind(kind), number)).exists()
        return self.open(Kind(kind), number)[1] if there else None

    def _grow(self, words: int) -> Frames:
        # The bytes are the file's: a larger mapping has what the smaller one had.
        self._log = _map(self.path / "undo", max(2 * self._log.nbytes, 2 * words * _WORD_BYTES))
        return self._log

    # -- sections

    def create(self, kind: Kind, number: int, layout: Layout) -> Frames:
        """Make a file of zeros with a header."""
        path = self.path / section_name(kind, number)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.pwrite(descriptor, _header(kind, number, layout), 0)
            os.ftruncate(descriptor, _HEADER_BYTES + layout.words * _WORD_BYTES)
            return _map_words(descriptor)
        finally:
            os.close(descriptor)

    def open(self, kind: Kind, number: int) -> tuple[Layout, Frames]:
        """Map a section's file. Raises DamagedState."""
        name = section_name(kind, number)
        try:
            descriptor = os.open(self.path / name, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise DamagedState(f"{name} cannot be opened: {error.strerror}") from error
        try:
            layout = _read_header(descriptor, name, kind, number)
            size_bytes, expected = os.fstat(descriptor).st_size, _HEADER_BYTES + layout.words * _WORD_BYTES
            if size_bytes != expected:
                raise DamagedState(f"{name} has {size_bytes} bytes, expected {expected}")
            if self._checksums is not None and self._checksums.get(name) != checksum(descriptor):
                raise DamagedState(f"{name} is not what the last daemon left: its checksum differs")
            return layout, _map_words(descriptor)
        finally:
            os.close(descriptor)

    def discard(self, kind: Kind, number: int) -> None:
        """Remove a section's file."""
        (self.path / section_name(kind, number)).unlink(missing_ok=True)

    def kept(self) -> set[tuple[Kind, int]]:
        """Name the sections that have a file."""
        return set(_sections_in(self.path))

    def touched(self, kind: Kind, number: int, words: Frames, first: int, end: int) -> Frames:
        """List the pages of a section, from word *first* to *end*, that are no holes in its file."""
        del words
        base = _HEADER_BYTES // _WORD_BYTES
        with (self.path / section_name(kind, number)).open("rb") as file:
            extents = list(data_extents(file.fileno(), (first + base) * _WORD_BYTES, (end + base) * _WORD_BYTES))
        page_bytes = PAGE_WORDS * _WORD_BYTES
        pages = [np.arange(a // page_bytes, -(-b // page_bytes), dtype=np.int64) for a, b in extents]
        return (np.concatenate(pages) if pages else np.zeros(0, dtype=np.int64)) - _HEADER_BYTES // page_bytes

    # -- beginning and end

    def begin(self) -> None:
        """Note that the state is in use and will change: from here on it is there, and older checksums mean nothing."""
        (self.path / "checksums.json").unlink(missing_ok=True)
        self._checksums = None
        if self.is_new:
            _write_json(self.path / "state.json", {"format": FORMAT, "xbd": xbd.__version__})
            self.is_new = False

    @property
    def is_full(self) -> bool:
        """Whether the file system has less room than a few turns may need."""
        told = os.statvfs(self.path)
        return told.f_bavail * told.f_frsize < self._spare_bytes

    def close(self, *, in_order: bool) -> None:
        """Let go of the directory; one that is left *in_order* is held against its checksums by the next daemon."""
        if in_order:
            assert self.undo.noted_words == 0, "the state was closed in the middle of a step"
            _write_json(self.path / "checksums.json", checksums_of(self.path))
        os.close(self._lock)


def make_machine(
    state: StateDir | None, superframes: int, settings: HostSettings, recorder: Recorder | None = None
) -> Machine:
    """Make a machine, or recover the one that *state* holds; then *superframes* and *settings* are its own.

    Raises:
        ConfigError: what is saved cannot be used, or is to be recorded from its middle on; nothing of it has been changed.
    """
    if state is None or state.is_new:
        image = None if state is None else Image(state)
        if recorder is not None:
            return RecordedMachine(superframes, recorder, settings=settings, image=image)
        return Machine(superframes, settings=settings, image=image)
    if recorder is not None:
        state.close(in_order=False)
        raise ConfigError(
            state.path, "", "holds a host already, and a recording begins with a new one; use an empty one"
        )
    started_s = time.monotonic()
    try:
        machine = recover(state)
    except DamagedState as error:
        state.close(in_order=False)
        raise ConfigError(state.path, "", f"the saved host cannot be used: {error}") from error
    _log.info(
        "state_recovered",
        directory=str(state.path),
        domains=len(machine.domains()),
        undone_notes=state.undone,
        seconds=round(time.monotonic() - started_s, 3),
    )
    return machine


def lock_state(path: Path) -> int:
    """Make a state directory and take its lock; returns the lock's descriptor. Raises ConfigError."""
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        strange = sorted(entry.name for entry in path.iterdir())
        if strange and not {"state.json", "lock"} & set(strange):
            raise ConfigError(path, "", f"is no state directory: there is {strange[0]!r} in it; use an empty one")
        lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError(path, "", f"cannot be the state directory: {error.strerror}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        raise ConfigError(
            path, "", "is in use by another `xbd hypervisor`; stop it, or use another directory"
        ) from error
    return lock


def section_name(kind: Kind, number: int) -> str:
    """Name a section's file."""
    return f"{kind.name.lower()}-{number}"


def is_of_state(name: str) -> bool:
    """Tell whether a file of that name belongs to a host's state; the lock does not."""
    return name in ("state.json", "undo", "checksums.json") or _SECTION_NAME.fullmatch(name) is not None


def _sections_in(path: Path) -> Iterator[tuple[Kind, int]]:
    for entry in path.iterdir():
        match = _SECTION_NAME.fullmatch(entry.name)
        if match:
            yield Kind[match[1].upper()], int(match[2])


def checksums_of(path: Path) -> dict[str, int]:
    """Compute the checksum of every section in a directory."""
    checksums = {}
    for name in sorted(section_name(*key) for key in _sections_in(path)):
        with (path / name).open("rb") as file:
            checksums[name] = checksum(file.fileno())
    return checksums


def checksum(descriptor: int) -> int:
    """Compute the CRC-32 of what of a file is not zero, and that of where it lies: the same however its holes are cut."""
    where = what = 0
    for first, end in data_extents(descriptor, 0, os.fstat(descriptor).st_size):
        for at in range(first, end, _READ_BYTES):
            piece = os.pread(descriptor, min(_READ_BYTES, end - at), at)
            words = np.frombuffer(piece, dtype=np.uint8).reshape(-1, _HEADER_BYTES)
            # A page that was touched and is zero again counts as a hole: copies may make it one.
            pages = np.flatnonzero(words.any(axis=1))
            where = zlib.crc32((pages + at // _HEADER_BYTES).tobytes(), where)
            what = zlib.crc32(np.ascontiguousarray(words[pages]).data, what)
    return where << 32 | what


def data_extents(descriptor: int, first: int, end: int) -> Iterator[tuple[int, int]]:
    """List the parts of a file, from byte *first* to *end*, that are no holes, rounded to pages."""
    at = first
    while at < end:
        try:
            data = os.lseek(descriptor, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole from here on
                return
            raise
        if data >= end:
            return
        hole = os.lseek(descriptor, data, os.SEEK_HOLE)
        yield data // _HEADER_BYTES * _HEADER_BYTES, min(-(-hole // _HEADER_BYTES) * _HEADER_BYTES, end)
        at = hole


def _map(path: Path, size_bytes: int) -> Frames:
    """Map a file of at least *size_bytes*, which is made or made larger, as words."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        size_bytes = max(size_bytes, os.fstat(descriptor).st_size // _WORD_BYTES * _WORD_BYTES)
        # The log must have its place on the disk before it is needed.
        os.posix_fallocate(descriptor, 0, size_bytes)
        return np.frombuffer(mmap.mmap(descriptor, size_bytes), dtype=np.int64)
    finally:
        os.close(descriptor)


def _map_words(descriptor: int) -> Frames:
    mapped = mmap.mmap(descriptor, 0)
    # A touched page is one page: read ahead, a hole would be filled with pages of zeros, which takes milliseconds.
    mapped.madvise(mmap.MADV_RANDOM)
    return np.frombuffer(mapped, dtype=np.int64, offset=_HEADER_BYTES)


def _header(kind: Kind, number: int, layout: Layout) -> bytes:
    told = {"xbd": "section", "format": FORMAT, "kind": kind.name.lower(), "number": number, "columns": layout.columns}
    line = json.dumps(told).encode()
    return (line + b"\n" + f"{zlib.crc32(line):08x}\n".encode()).ljust(_HEADER_BYTES, b"\0")


def _read_header(descriptor: int, name: str, kind: Kind, number: int) -> Layout:
    """Read a section's header. Raises DamagedState."""
    line, _, rest = os.pread(descriptor, _HEADER_BYTES, 0).partition(b"\n")
    if rest[:8] != f"{zlib.crc32(line):08x}".encode():
        raise DamagedState(f"{name}: its header is damaged")
    told = json.loads(line)
    if told["format"] != FORMAT or (told["kind"], told["number"]) != (kind.name.lower(), number):
        raise DamagedState(f"{name}: its header says {told['kind']}-{told['number']}, format {told['format']}")
    return Layout({column: (int(rows), int(width)) for column, (rows, width) in told["columns"].items()})


def read_state_format(path: Path) -> dict[str, Any] | None:
    """Read state.json; None: nothing was ever committed here. Raises ConfigError."""
    told = _read_json(path / "state.json")
    if told is not None and told.get("format") != FORMAT:
        raise ConfigError(
            path / "state.json",
            "format",
            f"{told.get('format')!r:.40}, written by xbd {told.get('xbd')!r:.40}; this xbd, {xbd.__version__}, reads format {FORMAT}",
        )
    return told


def _read_checksums(path: Path) -> dict[str, Any] | None:
    return _read_json(path / "checksums.json")


def _read_json(path: Path) -> dict[str, Any] | None:
    """Read a map from a file; None: there is none. Raises ConfigError."""
    try:
        told = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ConfigError(path, "", f"is damaged: {error}") from error
    if not isinstance(told, dict):
        raise ConfigError(path, "", "is damaged: it holds no map")
    return told


def _write_json(path: Path, told: dict[str, Any]) -> None:
    """Write a file whole or not at all."""
    new = path.with_suffix(".new")
    new.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    new.replace(path)
