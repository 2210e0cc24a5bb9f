"""State directories for black-box tests: unpacked, compared, and what `xbd` says of them."""

import os
import subprocess
import tarfile
from pathlib import Path
from typing import Final

from tests import forked

FIXTURES: Final = Path(__file__).parent.parent / "fixtures"
# sysexits.h: EX_CONFIG, what every refusal of a state ends with.
EX_CONFIG: Final = 78
_PATIENCE_S: Final = 120.0


def unpack(name: str, directory: Path) -> Path:
    """Unpack a fixture's state directory, holes and all."""
    with tarfile.open(FIXTURES / name) as archive:
        for member in archive:
            archive.extract(member, directory, filter="fully_trusted")
    return directory


def copy_sparse(source: Path, target: Path) -> Path:
    """Copy a state directory without filling its holes."""
    target.mkdir()
    for entry in source.iterdir():
        with entry.open("rb") as old, (target / entry.name).open("wb") as new:
            size_bytes = os.fstat(old.fileno()).st_size
            os.truncate(new.fileno(), size_bytes)
            at = 0
            while at < size_bytes:
                try:
                    first = os.lseek(old.fileno(), at, os.SEEK_DATA)
                except OSError:  # a hole up to the end
                    break
                at = os.lseek(old.fileno(), first, os.SEEK_HOLE)
                os.pwrite(new.fileno(), os.pread(old.fileno(), at - first, first), first)
    return target


def tree(directory: Path) -> dict[str, tuple[int, int, bytes]]:
    """Take down everything in a directory, by name: mode, time of the last change in ns, and contents."""
    told = {}
    for path in sorted(directory.rglob("*")):
        status = path.lstat()
        contents = path.read_bytes() if path.is_file() else b""
        told[str(path.relative_to(directory))] = (status.st_mode, status.st_mtime_ns, contents)
    return told


def run_xbd(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run an `xbd` command to its end; one that does not end is killed, and raises TimeoutExpired."""
    return forked.run(arguments, _PATIENCE_S)
