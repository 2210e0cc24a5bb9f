"""Measure what a program can of the machine at hand: memory zeroed, copied, faulted in, read, moved and dropped.

Loops over many pages run in the C library or the kernel. What is called page by page (4 KiB zeroed or copied) has the cost
of an empty call taken off; MADV_DONTNEED keeps some tenths of a microsecond of the interpreter.
"""

import ctypes
import mmap
import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np

from xbd.lab.costs.calibration import Measurements, Timing, timing_of
from xbd.units import PAGE_BYTES, SUPER_PAGES

_HUGE_BYTES: Final = PAGE_BYTES * SUPER_PAGES
_REPEATS: Final = 7
_CALLS: Final = 4096
_READS: Final = 1 << 20
# The numbers of the system call move_pages, which the C library does not name.
_MOVE_PAGES: Final = {"x86_64": 279, "aarch64": 239}
_MPOL_MF_MOVE: Final = 2
_NODES: Final = Path("/sys/devices/system/node")


class _Refused(Exception):
    """The machine does not do this. Says why."""


def measure(memory_bytes: int) -> Measurements:
    """Measure, in areas of *memory_bytes* (a multiple of 2 MiB); takes some seconds, and says what the machine refuses."""
    found = Measurements(_machine())
    parts: tuple[tuple[tuple[str, ...], Callable[[int], dict[str, Timing]]], ...] = (
        (("zero_4k", "zero_2m", "copy_4k", "copy_2m"), _zero_and_copy),
        (("fault_4k", "drop_4k_touched", "drop_4k_untouched"), _small_pages),
        (("fault_2m", "drop_2m_touched"), _huge_pages),
        (("access_4k",), lambda size: {"access_4k": _access(size, huge=False)}),
        (("access_2m",), lambda size: {"access_2m": _access(size, huge=True)}),
        (("move_4k",), _move),
    )
    for names, do in parts:
        try:
            found.timings.update(do(memory_bytes))
        except (_Refused, OSError, ValueError) as error:
            found.refused.update(dict.fromkeys(names, str(error)))
    return found


def _machine() -> str:
    words = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    models = [word.partition(":")[2].strip() for word in words if word.startswith("model name")]
    return f"{len(os.sched_getaffinity(0))} cores of {models[0] if models else platform.machine()}, Linux {platform.release()}"


@contextmanager
def _area(size: int, *, huge: bool) -> Iterator[tuple[mmap.mmap, int, int]]:
    """Map fresh memory, in 2 MiB pages if so wanted and else never; yields the mapping, offset and address of its aligned part.

    Raises _Refused: the kernel has no transparent huge pages.
    """
    area = mmap.mmap(-1, size + _HUGE_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    exported = ctypes.c_char.from_buffer(area)
    address = ctypes.addressof(exported)
    try:
        area.madvise(mmap.MADV_HUGEPAGE if huge else mmap.MADV_NOHUGEPAGE)
    except OSError as error:
        if huge:
            raise _Refused(f"no transparent huge pages: {error.strerror}") from error
        # A kernel that knows no huge pages makes none.
    try:
        offset = -address % _HUGE_BYTES
        yield area, offset, address + offset
    finally:
        del exported
        area.close()


def _each(do: Callable[[], object], count: int) -> float:
    """Return the microseconds of one of *count* calls."""
    began = time.perf_counter_ns()
    for _ in range(count):
        do()
    return (time.perf_counter_ns() - began) / 1000 / count


def _took(do: Callable[[], object], parts: int) -> float:
    """Return the microseconds of one of the *parts* that a call does."""
    return _each(do, 1) / parts


def _zero_and_copy(size: int) -> dict[str, Timing]:
    with _area(size, huge=False) as (_, _, at):
        ctypes.memset(at, 1, size)
        half = size // 2
        copies_to = at + half
        pieces = half // _HUGE_BYTES
        stretch = min(half, _CALLS * PAGE_BYTES)

        def small(call: Callable[[int], object], nth: int) -> float:
            """Time calls on pages one after the other, other ones each time."""
            pages = [at + page % half for page in range(nth * stretch, (nth + 1) * stretch, PAGE_BYTES)]
            began = time.perf_counter_ns()
            for page in pages:
                call(page)
            return (time.perf_counter_ns() - began) / 1000 / len(pages)

        rounds = range(_REPEATS)
        nothing = min(small(lambda page: ctypes.memset(page, 0, 0), nth) for nth in rounds)
        zero = [small(lambda page: ctypes.memset(page, 0, PAGE_BYTES), nth) - nothing for nth in rounds]
        copy = [small(lambda page: ctypes.memmove(page + half, page, PAGE_BYTES), nth) - nothing for nth in rounds]
        zero_huge = [_took(lambda: ctypes.memset(at, 0, pieces * _HUGE_BYTES), pieces) for _ in rounds]
        copy_huge = [_took(lambda: ctypes.memmove(copies_to, at, pieces * _HUGE_BYTES), pieces) for _ in rounds]
    samples = {"zero_4k": zero, "copy_4k": copy, "zero_2m": zero_huge, "copy_2m": copy_huge}
    return {name: timing_of(of_name) for name, of_name in samples.items()}


def _small_pages(size: int) -> dict[str, Timing]:
    faults: list[float] = []
    touched: list[float] = []
    untouched: list[float] = []
    pages = size // PAGE_BYTES
    dropped = range(min(pages, _CALLS))
    for _ in range(_REPEATS):
        with _area(size, huge=False) as (area, offset, at):
            fresh = _took(partial(ctypes.memset, at, 1, size), pages)
            faults.append(fresh - _took(partial(ctypes.memset, at, 1, size), pages))
            for samples in (touched, untouched):
                began = time.perf_counter_ns()
                for page in dropped:
                    area.madvise(mmap.MADV_DONTNEED, offset + page * PAGE_BYTES, PAGE_BYTES)
                samples.append((time.perf_counter_ns() - began) / 1000 / len(dropped))
    return {
        "fault_4k": timing_of(faults),
        "drop_4k_touched": timing_of(touched),
        "drop_4k_untouched": timing_of(untouched),
    }


def _huge_pages(size: int) -> dict[str, Timing]:
    faults, dropped = [], []
    blocks = size // _HUGE_BYTES
    for _ in range(_REPEATS):
        with _area(size, huge=True) as (area, offset, at):
            fresh = _took(partial(ctypes.memset, at, 1, size), blocks)
            _check_huge(at, size)
            faults.append(fresh - _took(partial(ctypes.memset, at, 1, size), blocks))
            began = time.perf_counter_ns()
            for block in range(blocks):
                area.madvise(mmap.MADV_DONTNEED, offset + block * _HUGE_BYTES, _HUGE_BYTES)
            dropped.append((time.perf_counter_ns() - began) / 1000 / blocks)
    return {"fault_2m": timing_of(faults), "drop_2m_touched": timing_of(dropped)}


def _check_huge(at: int, size: int) -> None:
    """Check that memory came in huge pages. Raises _Refused: less than nine tenths of it did."""
    inside, huge_kib = False, 0
    for line in Path("/proc/self/smaps").read_text(encoding="utf-8").splitlines():
        first, _, rest = line.partition(" ")
        if "-" in first and not first.endswith(":"):
            low, _, high = first.partition("-")
            inside = int(low, 16) < at + size and int(high, 16) > at
        elif inside and first == "AnonHugePages:":
            huge_kib += int(rest.split()[0])
    if huge_kib * 1024 < 0.9 * size:
        raise _Refused(f"transparent huge pages were asked for, and {huge_kib} of {size // 1024} KiB are such")


def _access(size: int, *, huge: bool) -> Timing:
    """Time reads of words anywhere, the same ones in either kind of pages."""
    where = np.random.default_rng(0).integers(0, size // 8, _READS)
    with _area(size, huge=huge) as (area, offset, at):
        ctypes.memset(at, 1, size)
        if huge:
            _check_huge(at, size)
        words = np.frombuffer(area, dtype=np.uint64, count=size // 8, offset=offset)
        samples = [_took(partial(words.take, where), _READS) for _ in range(_REPEATS)]
        del words
    return timing_of(samples)


def _move(size: int) -> dict[str, Timing]:
    """Move pages to another node of memory and back. Raises _Refused: there is none, or the kernel does not let it."""
    number = _MOVE_PAGES.get(platform.machine())
    if number is None:
        raise _Refused(f"the number of move_pages on {platform.machine()} is not known")
    nodes = [int(path.name[4:]) for path in sorted(_NODES.glob("node[0-9]*")) if "kB" in _memory_of(path)]
    if len(nodes) < 2:
        raise _Refused("this machine has no second node of memory that pages could be moved to")
    libc = ctypes.CDLL(None, use_errno=True)
    count = min(size // PAGE_BYTES, _CALLS)
    samples = []
    with _area(size, huge=False) as (_, _, at):
        ctypes.memset(at, 1, size)
        pages = (ctypes.c_void_p * count)(*(at + nth * PAGE_BYTES for nth in range(count)))
        status = (ctypes.c_int * count)()
        for nth in range(2 * _REPEATS):
            to = (ctypes.c_int * count)(*([nodes[nth % 2]] * count))
            began = time.perf_counter_ns()
            failed = libc.syscall(number, 0, ctypes.c_ulong(count), pages, to, status, _MPOL_MF_MOVE)
            samples.append((time.perf_counter_ns() - began) / 1000 / count)
            if failed < 0:
                raise _Refused(f"move_pages: {os.strerror(ctypes.get_errno())}")
            astray = sum(one != nodes[nth % 2] for one in status)
            if astray:
                raise _Refused(f"move_pages left {astray} of {count} pages where they were")
    # The first time the pages may have lain there already.
    return {"move_4k": timing_of(samples[1:])}


def _memory_of(node: Path) -> str:
    """Read how much memory a node has; a node without any takes no pages."""
    lines = (node / "meminfo").read_text(encoding="utf-8").splitlines()
    return next((line for line in lines if "MemTotal:" in line and " 0 kB" not in line), "")
