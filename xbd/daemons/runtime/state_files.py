"""The files of a host's state directory: what they are named, how they are read, and when they are refused.

Whatever lies in a directory is looked at here before it is used. A file may be missing, shortened, of another format or
of another shape, too long, or no file at all: each is told in a sentence, and nothing is changed by looking.
"""

import errno
import json
import mmap
import os
import re
import stat
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

import xbd
from xbd.abi import Frames
from xbd.daemons.runtime.outside import NEW_FILE_MODE, calls, open_to_read
from xbd.errors import ConfigError, DamagedState
from xbd.replaceable import replaceable
from xbd.storage.image import PAGE_WORDS, Kind, Layout

# How a directory is laid out: 1 has no manifest, and is made a 2 when its host is taken up. Another number means that a
# newer xbd wrote it.
FORMAT: Final = 2
FORMATS: Final = (1, FORMAT)
_SECTION_FORMAT: Final = 1
HEADER_BYTES: Final = 4096
WORD_BYTES: Final = 8
# One turn's notes have room; a domain that goes may need more, and the log grows.
LOG_BYTES: Final = 1 << 20
_SECTION_NAME: Final = re.compile(rf"({'|'.join(kind.name.lower() for kind in Kind)})-(0|[1-9][0-9]{{0,8}})")
_READ_BYTES: Final = 1 << 20
# The word of the log's first line that says whose it is: state.json names it, too.
LOG_ID: Final = 1
LOG_IDS: Final = 1 << 62
_WITHOUT_LOG: Final = (
    "without it a step that was under way cannot be undone; put it back, or restore a dump, or begin a new host in an"
    " empty directory"
)
# The checksums of as many sections as there can be have some 3 MB.
_JSON_BYTES: Final = 16 << 20


@dataclass(frozen=True, slots=True)
class SavedState:
    """What state.json says: whether anything was committed, which log belongs to it (0: that is not known), its format."""

    is_committed: bool
    log_id: int
    format: int = FORMAT


def section_name(kind: Kind, number: int) -> str:
    """Name a section's file."""
    return f"{kind.name.lower()}-{number}"


def is_of_state(name: str) -> bool:
    """Tell whether a file of that name belongs to a host's state; the lock does not."""
    return name in ("state.json", "undo", "checksums.json") or _SECTION_NAME.fullmatch(name) is not None


def sections_in(path: Path) -> Iterator[tuple[Kind, int]]:
    """List the sections that have a file in a directory."""
    for entry in path.iterdir():
        match = _SECTION_NAME.fullmatch(entry.name)
        if match:
            yield Kind[match[1].upper()], int(match[2])


def read_state(path: Path) -> SavedState | None:
    """Read the state.json of a directory; None: there is none. Raises ConfigError."""
    file = path / "state.json"
    told = _read_json(file)
    if told is None:
        return None
    if type(told.get("format")) is not int or told["format"] not in FORMATS:
        said = f"{told.get('format')!r:.40}, written by xbd {told.get('xbd')!r:.40}"
        raise ConfigError(file, "format", f"{said}; this xbd, {xbd.__version__}, reads formats up to {FORMAT}")
    # Earlier versions wrote neither, and the file only when something was committed.
    committed, log_id = told.get("committed", True), told.get("log", 0)
    if type(committed) is not bool:
        raise ConfigError(file, "committed", f"{committed!r:.40}, expected true or false")
    if type(log_id) is not int or not 0 <= log_id < LOG_IDS:
        raise ConfigError(file, "log", f"{log_id!r:.40}, expected a number from 0 to {LOG_IDS - 1}")
    return SavedState(committed, log_id, told["format"])


def _read_json(path: Path) -> dict[str, Any] | None:
    """Read a map from a file; None: there is none. Raises ConfigError."""
    if not os.path.lexists(path):
        return None
    try:
        with os.fdopen(open_regular(path, os.O_RDONLY), "rb") as file:
            text = file.read(_JSON_BYTES + 1)
        told = json.loads(text) if len(text) <= _JSON_BYTES else None
    except OSError as error:
        raise ConfigError(path, "", f"cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(path, "", f"is damaged: {error}") from error
    if not isinstance(told, dict):
        raise ConfigError(path, "", "is damaged: it holds no map")
    return told


@replaceable
def read_checksums(path: Path, state: SavedState) -> dict[str, Any] | None:
    """Read the checksums.json of a *state*, and hold its names against those of the sections; None: there is none. Raises ConfigError."""
    told = _read_json(path / "checksums.json")
    if told is not None:
        there = {section_name(*key) for key in sections_in(path)}
        if state.format < FORMAT:
            # Of whoever was killed while it made one of this format of it.
            there.discard(section_name(Kind.MANIFEST, 0))
        strange = sorted(told.keys() ^ there)
        if strange:
            where = "missing" if strange[0] in told else "not"
            said = f"{strange[0]:.40} is {where}" + (" in it" if where == "not" else "")
            raise ConfigError(path / "checksums.json", "", f"is not of the sections that are there: {said}")
    return told


def write_json(path: Path, told: dict[str, Any]) -> None:
    """Write a file whole or not at all. Raises OSError: the one that was there is as it was, and nothing is beside it."""
    new = path.with_suffix(".new")
    try:
        descriptor = calls.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, NEW_FILE_MODE)
        try:
            write_all(descriptor, (json.dumps(told, indent=1) + "\n").encode())
        finally:
            os.close(descriptor)
        calls.replace(new, path)
    except OSError:
        # Half a file would take up a disk that has no room.
        with suppress(OSError):
            calls.unlink(new)
        raise


def write_all(descriptor: int, content: bytes) -> None:
    """Write *content* however many writes it takes. Raises OSError: part of it may be written."""
    rest = memoryview(content)
    while rest:
        rest = rest[calls.write(descriptor, rest) :]


def remove(path: Path) -> None:
    """Remove a file, if it is there. Raises OSError."""
    with suppress(FileNotFoundError):
        calls.unlink(path)


@replaceable
def check_log(path: Path, told: SavedState) -> Frames:
    """Map the log of a state that was committed, to be read and written; its file is not changed. Raises ConfigError."""
    try:
        descriptor = open_regular(path, os.O_RDWR)
    except OSError as error:
        raise ConfigError(path, "", f"cannot be opened: {error.strerror}; {_WITHOUT_LOG}") from error
    try:
        size_bytes = os.fstat(descriptor).st_size
        if size_bytes < LOG_BYTES or size_bytes % WORD_BYTES:
            raise ConfigError(path, "", f"has {size_bytes} bytes, expected at least {LOG_BYTES}; {_WITHOUT_LOG}")
        log: Frames = np.frombuffer(calls.mmap(descriptor, size_bytes), dtype=np.int64)
    except (OSError, OverflowError) as error:
        raise ConfigError(path, "", f"cannot be mapped into memory: {error}") from error
    finally:
        os.close(descriptor)
    if told.log_id and int(log[LOG_ID]) != told.log_id:
        raise ConfigError(path, "", f"is not the log of this state; {_WITHOUT_LOG}")
    return log


def check_section(path: Path, kind: Kind, number: int) -> None:
    """Look whether a directory has a section's file, with a header that fits it. Raises DamagedState."""
    name = section_name(kind, number)
    try:
        descriptor = open_regular(path / name, os.O_RDONLY)
    except OSError as error:
        raise DamagedState(f"{name} cannot be opened: {error.strerror}") from error
    try:
        read_header(descriptor, name, kind, number)
    finally:
        os.close(descriptor)


def open_regular(path: Path, flags: int) -> int:
    """Open a file that is there, which may be neither directory, pipe nor device. Raises OSError."""
    # A pipe that nobody writes to would hold up whoever opens it.
    descriptor = calls.open(path, flags | os.O_CLOEXEC | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is no regular file")
    return descriptor


def read_header(descriptor: int, name: str, kind: Kind, number: int) -> Layout:
    """Read a section's header, and hold the file's size against it. Raises DamagedState."""
    line, _, rest = calls.pread(descriptor, HEADER_BYTES, 0).partition(b"\n")
    if rest[:8] != f"{zlib.crc32(line):08x}".encode():
        raise DamagedState(f"{name}: its header is damaged")
    try:
        told = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DamagedState(f"{name}: its header cannot be read: {error}") from error
    match told:
        case {"format": format_, "kind": told_kind, "number": told_number, "columns": columns}:
            if (format_, told_kind, told_number) != (_SECTION_FORMAT, kind.name.lower(), number):
                said = f"{told_kind!s:.20}-{told_number!s:.20}, format {format_!s:.20}"
                raise DamagedState(f"{name}: its header says {said}")
        case _:
            raise DamagedState(f"{name}: its header is none of a section")
    layout = _layout(columns)
    if layout is None:
        raise DamagedState(f"{name}: its columns make no sense")
    size_bytes, expected = os.fstat(descriptor).st_size, HEADER_BYTES + layout.words * WORD_BYTES
    if size_bytes != expected:
        raise DamagedState(f"{name} has {size_bytes} bytes, expected {expected}")
    return layout


def _layout(columns: object) -> Layout | None:
    """Read columns as a header tells them; None: they are none."""
    if not isinstance(columns, dict):
        return None
    read = {}
    for column, told in columns.items():
        match told:
            case [int(rows), int(width)] if rows >= 0 and width >= 1 and bool not in (type(rows), type(width)):
                read[column] = (rows, width)
            case _:
                return None
    return Layout(read)


def header(kind: Kind, number: int, layout: Layout) -> bytes:
    """Write a section's header: a line of JSON, a line with its checksum, zeros up to the page's end."""
    told = {"xbd": "section", "format": _SECTION_FORMAT, "kind": kind.name.lower(), "number": number}
    line = json.dumps(told | {"columns": layout.columns}).encode()
    return (line + b"\n" + f"{zlib.crc32(line):08x}\n".encode()).ljust(HEADER_BYTES, b"\0")


def checksums_of(path: Path) -> dict[str, int]:
    """Compute the checksum of every section in a directory."""
    checksums = {}
    for name in sorted(section_name(*key) for key in sections_in(path)):
        with open_to_read(path / name) as file:
            checksums[name] = checksum(file.fileno())
    return checksums


def checksum(descriptor: int) -> int:
    """Compute the CRC-32 of what of a file is not zero, and that of where it lies: the same however its holes are cut."""
    where = what = 0
    for first, end in data_extents(descriptor, 0, os.fstat(descriptor).st_size):
        for at in range(first, end, _READ_BYTES):
            piece = calls.pread(descriptor, min(_READ_BYTES, end - at), at)
            words = np.frombuffer(piece, dtype=np.uint8).reshape(-1, HEADER_BYTES)
            # A page that was touched and is zero again counts as a hole: copies may make it one.
            pages = np.flatnonzero(words.any(axis=1))
            where = zlib.crc32((pages + at // HEADER_BYTES).tobytes(), where)
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
        yield data // HEADER_BYTES * HEADER_BYTES, min(-(-hole // HEADER_BYTES) * HEADER_BYTES, end)
        at = hole


def touched_pages(path: Path, first: int, end: int) -> Frames:
    """List the pages of a section's file, from word *first* to *end*, that are no holes; counted without the header."""
    base = HEADER_BYTES // WORD_BYTES
    with open_to_read(path) as file:
        extents = list(data_extents(file.fileno(), (first + base) * WORD_BYTES, (end + base) * WORD_BYTES))
    page_bytes = PAGE_WORDS * WORD_BYTES
    pages = [np.arange(a // page_bytes, -(-b // page_bytes), dtype=np.int64) for a, b in extents]
    return (np.concatenate(pages) if pages else np.zeros(0, dtype=np.int64)) - HEADER_BYTES // page_bytes


def map_log(path: Path, size_bytes: int) -> Frames:
    """Map a file of at least *size_bytes*, which is made or made larger, as words."""
    descriptor = calls.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        size_bytes = max(size_bytes, os.fstat(descriptor).st_size // WORD_BYTES * WORD_BYTES)
        # The log must have its place on the disk before it is needed.
        calls.fallocate(descriptor, 0, size_bytes)
        return np.frombuffer(calls.mmap(descriptor, size_bytes), dtype=np.int64)
    finally:
        os.close(descriptor)


def map_words(descriptor: int) -> Frames:
    """Map the words of a section's file, without its header."""
    mapped = calls.mmap(descriptor, 0)
    # A touched page is one page: read ahead, a hole would be filled with pages of zeros, which takes milliseconds.
    mapped.madvise(mmap.MADV_RANDOM)
    return np.frombuffer(mapped, dtype=np.int64, offset=HEADER_BYTES)
