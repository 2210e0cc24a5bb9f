"""A stopped host in one file: for a bug report, or to go on with on another machine.

A dump is a tar archive, compressed: `manifest.json` (format, versions, and of each file of the state directory
its size, the parts that are no holes, and the checksum of those), then a member for each file with
just these parts, one after the other. Holes cost nothing, here as there. A step that was under way when
the daemon was killed is in it: whoever goes on with the host undoes it.
"""

import io
import json
import os
import tarfile
import zlib
from pathlib import Path
from typing import IO, Any, Final

import xbd
from xbd.errors import ConfigError
from xbd.services.state_dir import FORMAT, data_extents, is_of_state, lock_state, read_state_format

_MANIFEST: Final = "manifest.json"
_PIECE_BYTES: Final = 1 << 20


def dump_state(directory: Path, archive: Path) -> int:
    """Write what a state directory holds to a new file; returns how many files that were.

    Raises:
        ConfigError: the directory is none, is in use, or the archive is there or cannot be written.
    """
    lock = _lock_existing(directory)
    try:
        files = sorted(entry for entry in directory.iterdir() if is_of_state(entry.name))
        told = {entry.name: _describe(entry) for entry in files}
        manifest = json.dumps({"format": FORMAT, "xbd": xbd.__version__, "files": told}).encode()
        with archive.open("xb") as raw:
            try:
                _write_archive(raw, manifest, files, told)
            except BaseException:
                archive.unlink()
                raise
    except OSError as error:
        raise ConfigError(archive, "", f"cannot be written: {error.strerror}") from error
    finally:
        os.close(lock)
    return len(files)


def restore_state(archive: Path, directory: Path) -> int:
    """Make a state directory of a dump; returns how many files there were.

    Raises:
        ConfigError: the directory is not empty, or the archive is none, damaged, or of another format.
    """
    if directory.exists() and any(directory.iterdir()):
        raise ConfigError(directory, "", "is not empty; name one that is, or that is not there yet")
    lock = lock_state(directory)
    try:
        with tarfile.open(archive, mode="r:gz") as tar:
            manifest = _read_manifest(tar, archive)
            for name, told in manifest.items():
                _restore_file(tar, archive, name, told, directory)
    except (OSError, tarfile.TarError, zlib.error, EOFError) as error:
        _remove(directory)
        raise ConfigError(archive, "", f"is no dump that can be read: {error}") from error
    except BaseException:
        _remove(directory)
        raise
    finally:
        os.close(lock)
    return len(manifest)


def _write_archive(raw: IO[bytes], manifest: bytes, files: list[Path], told: dict[str, Any]) -> None:
    with tarfile.open(fileobj=raw, mode="w:gz") as tar:
        _add(tar, _MANIFEST, io.BytesIO(manifest), len(manifest))
        for entry in files:
            parts = _Parts(entry, told[entry.name]["extents"])
            _add(tar, entry.name, parts, parts.size_bytes)  # type: ignore[arg-type]  # it only reads
            parts.close()


def _lock_existing(directory: Path) -> int:
    if not (directory / "state.json").exists():
        raise ConfigError(directory, "", "is no state directory: there is no state.json in it")
    read_state_format(directory)
    return lock_state(directory)


def _describe(entry: Path) -> dict[str, Any]:
    with entry.open("rb") as file:
        size_bytes = os.fstat(file.fileno()).st_size
        extents = [(first, min(end, size_bytes)) for first, end in data_extents(file.fileno(), 0, size_bytes)]
        crc = 0
        for first, end in extents:
            for at in range(first, end, _PIECE_BYTES):
                crc = zlib.crc32(os.pread(file.fileno(), min(_PIECE_BYTES, end - at), at), crc)
    return {"size_bytes": size_bytes, "extents": extents, "crc": crc}


class _Parts:
    """The parts of a file that are no holes, to be read as one stream."""

    def __init__(self, entry: Path, extents: list[tuple[int, int]]) -> None:
        self.size_bytes = sum(end - first for first, end in extents)
        self._file = entry.open("rb")
        self._extents = [tuple(extent) for extent in extents]

    def read(self, most_bytes: int) -> bytes:
        """Read on."""
        pieces = []
        while most_bytes and self._extents:
            first, end = self._extents[0]
            piece = os.pread(self._file.fileno(), min(most_bytes, end - first), first)
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


def _read_manifest(tar: tarfile.TarFile, archive: Path) -> dict[str, dict[str, Any]]:
    """Read what the archive says that it holds. Raises ConfigError."""
    member = tar.next()
    stream = tar.extractfile(member) if member is not None and member.name == _MANIFEST else None
    try:
        told = json.loads(stream.read()) if stream is not None else {}
    except ValueError as error:
        raise ConfigError(archive, _MANIFEST, f"is damaged: {error}") from error
    if told.get("format") != FORMAT:
        raise ConfigError(archive, "format", f"{told.get('format')!r:.40}; this xbd, {xbd.__version__}, reads {FORMAT}")
    files: dict[str, dict[str, Any]] = told["files"]
    for name in files:
        if not is_of_state(name):
            raise ConfigError(archive, _MANIFEST, f"names {name!r:.80}, which is no file of a state directory")
    return files


def _restore_file(tar: tarfile.TarFile, archive: Path, name: str, told: dict[str, Any], directory: Path) -> None:
    member = tar.getmember(name) if name in tar.getnames() else None
    stream = tar.extractfile(member) if member is not None else None
    if stream is None:
        raise ConfigError(archive, "", f"{name} is missing")
    crc = 0
    descriptor = os.open(directory / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.ftruncate(descriptor, told["size_bytes"])
        for first, end in told["extents"]:
            at = first
            while at < end:
                piece = stream.read(min(_PIECE_BYTES, end - at))
                if not piece:
                    raise ConfigError(archive, "", f"{name} is shorter than the manifest says")
                os.pwrite(descriptor, piece, at)
                crc = zlib.crc32(piece, crc)
                at += len(piece)
    finally:
        os.close(descriptor)
    if crc != told["crc"]:
        raise ConfigError(archive, "", f"{name} is damaged: its checksum differs")


def _remove(directory: Path) -> None:
    """Take away what was restored of a dump that turned out to be bad."""
    for entry in directory.iterdir():
        if is_of_state(entry.name):
            entry.unlink()
