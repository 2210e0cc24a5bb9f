"""A program that takes memory of one kind, holds it and ends: `python -m ... KIND BYTES FILL_S HOLD_S DIRECTORY`.

It ends early when its standard input does, so that nothing is left when the one that measures has gone. Files have no
name in the directory, so the kernel removes them whatever ends the program.
"""

import mmap
import select
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from typing import IO, Final

from xbd.units import PAGE_BYTES, SUPER_PAGES

# The kinds of memory: of a process in pages of 4 KiB or of 2 MiB, files, and a process that gives parts back and takes
# them again all the time.
SMALL, HUGE, FILES, OTHER = "small", "huge", "files", "other"
_STEPS: Final = 20
_RETURNED_BYTES: Final = 64 << 10
_CHUNK_BYTES: Final = 1 << 20


def _fill_anonymous(size: int, advice: int) -> tuple[mmap.mmap, Callable[[int, int], None]]:
    # Shared memory, which is the default, would count as page cache.
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(advice)

    def fill(start: int, end: int) -> None:
        memory[start:end:PAGE_BYTES] = b"x" * ((end - start) // PAGE_BYTES)

    return memory, fill


def _fill_file(file: IO[bytes]) -> Callable[[int, int], None]:
    def fill(start: int, end: int) -> None:
        for at in range(start, end, _CHUNK_BYTES):
            file.seek(at)
            file.write(b"x" * min(_CHUNK_BYTES, end - at))

    return fill


def _wait(seconds: float) -> bool:
    """Wait, and tell whether to go on: the standard input has not ended."""
    return not select.select([sys.stdin], [], [], max(seconds, 0))[0]


def main(kind: str, size: int, fill_s: float, hold_s: float, directory: str) -> None:
    """Take *size* bytes in steps for *fill_s*, hold them for *hold_s*."""
    size -= size % (SUPER_PAGES * PAGE_BYTES)
    steps = [size // PAGE_BYTES * step // _STEPS * PAGE_BYTES for step in range(_STEPS + 1)]
    with tempfile.TemporaryFile(dir=directory, buffering=0) as file:
        memory, fill = _fill_anonymous(size, mmap.MADV_HUGEPAGE if kind == HUGE else mmap.MADV_NOHUGEPAGE)
        if kind == FILES:
            fill = _fill_file(file)
        started = time.monotonic()
        for step, (start, end) in enumerate(pairwise(steps), start=1):
            fill(start, end)
            if not _wait(started + fill_s * step / _STEPS - time.monotonic()):
                return
        ends = time.monotonic() + hold_s
        at = 0
        while kind == OTHER and time.monotonic() < ends and _wait(min(1.0, hold_s / _STEPS)):
            for _ in range(size // _RETURNED_BYTES // _STEPS):
                # A step that shares no divisor with the number of pieces goes through all of them.
                at = (at + 37 * _RETURNED_BYTES) % size
                memory.madvise(mmap.MADV_DONTNEED, at, _RETURNED_BYTES)
                fill(at, at + _RETURNED_BYTES)
        _wait(ends - time.monotonic())


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4]), sys.argv[5])
