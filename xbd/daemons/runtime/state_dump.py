"""A stopped host in one file: for a bug report, or to go on with on another machine.

A dump is a tar archive, compressed: `manifest.json` (format, versions, and of each file of the state directory
its size, the parts that are no holes, and the checksum of those), then a member for each file with
just these parts, one after the other. Holes cost nothing, here as there. A step that was under way when
the daemon was killed is in it: whoever goes on with the host undoes it.
"""

import errno
import gzip
import io
import json
import os
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, cast

import xbd
from xbd.daemons.runtime.lock import FileLock
from xbd.daemons.runtime.outside import calls, open_new, open_to_read
from xbd.daemons.runtime.state_files import (
    FORMAT,
    FORMATS,
    check_log,
    check_section,
    data_extents,
    is_of_state,
    read_state,
    section_name,
    sections_in,
)
from xbd.daemons.runtime.state_lock import lock_state, make_and_lock_state
from xbd.errors import ConfigError, DamagedState
from xbd.storage.image import Kind
from xbd.text import quote

_MANIFEST: Final = "manifest.json"
_STATE: Final = "state.json"
# What a daemon calls it, too, until it is whole.
_UNFINISHED: Final = "state.new"
_PIECE_BYTES: Final = 1 << 20
# What is zeros from end to end is a hole to a dump: a page that was touched once and is empty again costs nothing.
_CHUNK_BYTES: Final = 1 << 16
# The extents of a host of terabytes have some MB.
_MANIFEST_BYTES: Final = 1 << 26
# A member's header is 512 bytes and its end is filled up to 512; tar's own end is 10 KiB.
_FRAME_BYTES: Final = 1 << 14
# A dump leaves zeros out: those of hosts of 8 to 256 GiB with domains unpacked to 5 to 35 times what they were packed to.
_MOST_RATIO: Final = 200
# So much unpacks whatever the ratio: a host without domains is some KB, packed to a hundredth of that.
_ALWAYS_BYTES: Final = 256 << 20
# Of every host there are these, whatever domains it has.
_ALWAYS: Final = ((Kind.HOST, 0), (Kind.DAEMON, 0))


@dataclass(frozen=True, slots=True)
class _Member:
    """A file in a dump, as the manifest describes it: *extents* [first, end) in bytes, ascending."""

    size_bytes: int
    extents: tuple[tuple[int, int], ...]
    crc: int


def dump_state(directory: Path, archive: Path) -> int:
    """Write what a state directory holds to a new file; returns how many files that were.

    Raises:
        ConfigError: the directory is none, is in use, or the archive is there or cannot be written.
    """
    lock = _lock_existing(directory)
    try:
        _check_complete(directory)
        files = sorted(entry for entry in directory.iterdir() if is_of_state(entry.name))
        told = {entry.name: _describe(entry) for entry in files}
        manifest = json.dumps({"format": FORMAT, "xbd": xbd.__version__, "files": told}).encode()
        with open_new(archive) as raw:
            try:
                _write_archive(raw, manifest, files, told)
                # What finds no room only here must not leave half an archive, either.
                raw.flush()
            except BaseException:
                calls.unlink(archive)
                raise
    except OSError as error:
        raise ConfigError(archive, "", f"cannot be written: {error.strerror}") from error
    finally:
        lock.release(as_found=True)
    return len(files)


def restore_state(archive: Path, directory: Path) -> int:
    """Make a state directory of a dump; returns how many files there were.

    Raises:
        ConfigError: the directory is not empty, or the archive is none, damaged, or of another format.
    """
    if not _is_empty(directory):
        raise ConfigError(directory, "", "is not empty; name one that is, or that is not there yet")
    is_new = not directory.exists()
    lock = make_and_lock_state(directory)
    try:
        with open_to_read(archive) as raw, gzip.open(raw) as stream:
            bounded = _Bounded(stream, archive, _MANIFEST_BYTES + _FRAME_BYTES)
            with tarfile.open(fileobj=cast(IO[bytes], bounded), mode="r|") as tar:  # it only reads
                manifest = _read_manifest(tar, archive)
                bounded.left_bytes = _refuse_too_much(manifest, archive, os.fstat(raw.fileno()).st_size, directory)
                _restore_files(tar, archive, manifest, directory)
    except BaseException as error:
        _remove(directory)
        lock.release(as_found=True)
        if is_new:
            with suppress(OSError):
                directory.rmdir()
        # tarfile lets through what it trips over in headers that are garbage.
        if isinstance(
            error, OSError | tarfile.TarError | zlib.error | EOFError | ValueError | ArithmeticError | LookupError
        ):
            raise ConfigError(archive, "", f"is no dump that can be read: {error}") from error
        raise
    lock.release(as_found=True)
    return len(manifest)


class _Bounded:
    """A stream of which no more than *left_bytes* are read: a small archive unpacks to anything. Raises ConfigError."""

    def __init__(self, stream: gzip.GzipFile, archive: Path, left_bytes: int) -> None:
        self._stream = stream
        self._archive = archive
        self.left_bytes = left_bytes

    def read(self, most_bytes: int) -> bytes:
        """Read on."""
        piece = self._stream.read(most_bytes)
        self.left_bytes -= len(piece)
        if self.left_bytes < 0:
            raise ConfigError(self._archive, "", "unpacks to more than its manifest says; it is no dump of a host")
        return piece


def _refuse_too_much(manifest: dict[str, _Member], archive: Path, packed_bytes: int, directory: Path) -> int:
    """Refuse what no host's state is packed to, or what finds no place; returns how many bytes there are to read."""
    held_bytes = sum(end - first for told in manifest.values() for first, end in told.extents)
    if held_bytes > _ALWAYS_BYTES + _MOST_RATIO * packed_bytes:
        said = f"{packed_bytes:,} bytes that unpack to {held_bytes:,}, more than any host's state does"
        raise ConfigError(archive, "", f"holds {said}; it was damaged, or made to fill a disk")
    free = calls.statvfs(directory)
    if held_bytes > free.f_bavail * free.f_frsize:
        said = f"{held_bytes:,} bytes are needed, {free.f_bavail * free.f_frsize:,} are free"
        raise ConfigError(directory, "", f"cannot be written: {os.strerror(errno.ENOSPC)}: {said}")
    return held_bytes + _FRAME_BYTES * (1 + len(manifest))


def _restore_files(tar: tarfile.TarFile, archive: Path, manifest: dict[str, _Member], directory: Path) -> None:
    """Write the members as they come; state.json gets its name last, so that half a host is none. Raises ConfigError."""
    missing = dict(manifest)
    while (member := tar.next()) is not None:
        told = missing.pop(member.name, None)
        stream = tar.extractfile(member) if member.isreg() and not member.issparse() else None
        if told is None or stream is None:
            raise ConfigError(archive, "", f"{quote(member.name)} is in it, which is no file of its manifest")
        _restore_file(stream, archive, member.name, told, directory)
    for name in missing:
        raise ConfigError(archive, "", f"{name} is missing")
    with _writable(directory):
        calls.replace(directory / _UNFINISHED, directory / _STATE)


def _write_archive(raw: IO[bytes], manifest: bytes, files: list[Path], told: dict[str, Any]) -> None:
    with tarfile.open(fileobj=raw, mode="w:gz") as tar:
        _add(tar, _MANIFEST, io.BytesIO(manifest), len(manifest))
        for entry in files:
            parts = _Parts(entry, told[entry.name]["extents"])
            _add(tar, entry.name, parts, parts.size_bytes)  # type: ignore[arg-type]  # it only reads
            parts.close()


def _is_empty(directory: Path) -> bool:
    """Tell whether nothing is in a directory; one that is not there is empty. Raises ConfigError."""
    try:
        return not any(directory.iterdir())
    except FileNotFoundError:
        return True
    except OSError as error:
        raise _unreadable(directory, error) from error


def _unreadable(directory: Path, error: OSError) -> ConfigError:
    return ConfigError(
        directory, "", f"cannot be looked into: {error.strerror}; be the user that its hypervisor runs as, or root"
    )


def _lock_existing(directory: Path) -> FileLock:
    try:
        is_one = directory.is_dir() and any(is_of_state(entry.name) for entry in directory.iterdir())
    except OSError as error:
        raise _unreadable(directory, error) from error
    if not is_one:
        raise ConfigError(directory, "", "is no state directory: there is no state.json in it")
    return lock_state(directory)


def _check_complete(directory: Path) -> None:
    """Refuse to dump what no daemon would go on with, as far as that can be told without reading it all. Raises ConfigError."""
    told = read_state(directory)
    if told is None or not told.is_committed:
        raise ConfigError(directory, "", "holds no host yet: its daemon ended before it was ready")
    check_log(directory / "undo", told)
    try:
        for kind, number in sorted({*sections_in(directory), *_ALWAYS}):
            check_section(directory, kind, number)
    except DamagedState as error:
        raise ConfigError(directory, "", f"the saved host cannot be used: {error}") from error


def _describe(entry: Path) -> dict[str, Any]:
    with open_to_read(entry) as file:
        size_bytes = os.fstat(file.fileno()).st_size
        extents: list[list[int]] = []
        crc = 0
        for first, end in data_extents(file.fileno(), 0, size_bytes):
            for at in range(first, min(end, size_bytes), _CHUNK_BYTES):
                piece = calls.pread(file.fileno(), min(_CHUNK_BYTES, min(end, size_bytes) - at), at)
                if not piece.strip(b"\0"):
                    continue
                crc = zlib.crc32(piece, crc)
                if not (extents and extents[-1][1] == at):
                    extents.append([at, at])
                extents[-1][1] = at + len(piece)
    return {"size_bytes": size_bytes, "extents": extents, "crc": crc}


class _Parts:
    """The parts of a file that are no holes, to be read as one stream."""

    def __init__(self, entry: Path, extents: list[list[int]]) -> None:
        self.size_bytes = sum(end - first for first, end in extents)
        self._file = open_to_read(entry)
        self._extents = [tuple(extent) for extent in extents]

    def read(self, most_bytes: int) -> bytes:
        """Read on."""
        pieces = []
        while most_bytes and self._extents:
            first, end = self._extents[0]
            piece = calls.pread(self._file.fileno(), min(most_bytes, end - first), first)
            pieces.append(piece)
            most_bytes -= len(piece)
            self._extents[0] = (first + len(piece), end)
            if first + len(piece) == end:
                del self._extents[0]
        return b"".join(pieces)

    def close(self) -> None:
        """Be done with the file."""
        self._file.close()


def _add(tar: tarfile.TarFile, name: str, stream: io.BytesIO, size_bytes: int) -> None:
    member = tarfile.TarInfo(name)
    member.size = size_bytes
    tar.addfile(member, stream)


def _read_manifest(tar: tarfile.TarFile, archive: Path) -> dict[str, _Member]:
    """Read what the archive says that it holds. Raises ConfigError."""
    member = tar.next()
    if member is None or member.name != _MANIFEST or not member.isreg() or member.size > _MANIFEST_BYTES:
        raise ConfigError(archive, _MANIFEST, f"of at most {_MANIFEST_BYTES >> 20} MiB does not come first in it")
    stream = tar.extractfile(member)
    try:
        told = json.loads(stream.read()) if stream is not None else {}
    except (ValueError, RecursionError) as error:
        raise ConfigError(archive, _MANIFEST, f"is damaged: {error}") from error
    if not isinstance(told, dict) or type(told.get("format")) is not int or told["format"] not in FORMATS:
        found = told.get("format") if isinstance(told, dict) else told
        raise ConfigError(
            archive, "format", f"{quote(found)}; this xbd, {xbd.__version__}, reads formats up to {FORMAT}"
        )
    files = told.get("files")
    if not isinstance(files, dict):
        raise ConfigError(archive, _MANIFEST, "names no files")
    for name in files:
        if not is_of_state(name):
            raise ConfigError(archive, _MANIFEST, f"names {quote(name)}, which is no file of a state directory")
    missing = [name for name in ("undo", *(section_name(*key) for key in _ALWAYS), "state.json") if name not in files]
    if missing:
        raise ConfigError(archive, _MANIFEST, f"{missing[0]} is missing")
    return {name: _member(archive, name, told) for name, told in files.items()}


def _member(archive: Path, name: str, told: object) -> _Member:
    """Read what the manifest says of a file. Raises ConfigError."""
    match told:
        case {"size_bytes": int(size_bytes), "extents": list(extents), "crc": int(crc)} if 0 <= size_bytes < 1 << 62:
            at, read = 0, []
            for extent in extents:
                match extent:
                    case [int(first), int(end)] if at <= first <= end <= size_bytes:
                        read.append((first, end))
                        at = end
                    case _:
                        raise ConfigError(
                            archive, _MANIFEST, f"{name}: its part {quote(extent)} lies outside, or out of order"
                        )
            return _Member(size_bytes, tuple(read), crc)
        case _:
            raise ConfigError(
                archive, _MANIFEST, f"{name} is described by {quote(told)}, not by size, parts and checksum"
            )


def _restore_file(stream: IO[bytes], archive: Path, name: str, told: _Member, directory: Path) -> None:
    path = directory / (_UNFINISHED if name == _STATE else name)
    crc = 0
    with _writable(directory):
        descriptor = calls.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with _writable(directory):
            calls.truncate(descriptor, told.size_bytes)
        for first, end in told.extents:
            at = first
            while at < end:
                piece = stream.read(min(_PIECE_BYTES, end - at))
                if not piece:
                    raise ConfigError(archive, "", f"{name} is shorter than the manifest says")
                with _writable(directory):
                    _write_at(descriptor, piece, at)
                crc = zlib.crc32(piece, crc)
                at += len(piece)
    finally:
        os.close(descriptor)
    if crc != told.crc:
        raise ConfigError(archive, "", f"{name} is damaged: its checksum differs")


def _write_at(descriptor: int, piece: bytes, at: int) -> None:
    """Write all of a piece: a disk that is nearly full takes the first part of it without an error. Raises OSError."""
    rest = memoryview(piece)
    while rest:
        written = calls.pwrite(descriptor, rest, at)
        rest, at = rest[written:], at + written


@contextmanager
def _writable(directory: Path) -> Iterator[None]:
    """Say of a disk that cannot be written that it is that, and not the archive. Raises ConfigError."""
    try:
        yield
    except (OSError, OverflowError) as error:
        raise ConfigError(directory, "", f"cannot be written: {getattr(error, 'strerror', None) or error}") from error


def _remove(directory: Path) -> None:
    """Take away what was restored of a dump that turned out to be bad."""
    for entry in directory.iterdir():
        if is_of_state(entry.name) or entry.name == _UNFINISHED:
            calls.unlink(entry)
