"""sysstat: what `sadf -j FILE -- -r ALL -B -S -q MEM` prints, as samples."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np

from xbd.errors import TraceError
from xbd.lab.trace.columns import CACHE, FREE, SWAPPED, TOTAL
from xbd.lab.trace.samples import MALFORMED, Imported, Sample, make_trace, not_said, refuse_given
from xbd.units import PAGE_KIB

_HOW: Final = "`sadf -j FILE -- -r ALL -B -S -q MEM` makes what is expected"
# Columns, with sysstat's names, of numbers in kB.
_MEMORY: Final = {
    FREE: "memfree",
    CACHE: "cached",
    "available_pages": "avail",
    "anon_pages": "anonpg",
    "buffers_pages": "buffers",
    "slab_pages": "slab",
    "page_table_pages": "pgtbl",
    "kernel_stack_pages": "kstack",
    SWAPPED: "swpused",
}
# What only rises, and sysstat tells as rates: of a second, in its `paging`; of pressure the percentage of the time since the
# last sample, which is microseconds of each ten milliseconds.
_RATES: Final = {"faults": ("fault", 1.0), "major_faults": ("majflt", 1.0)}
_SHARES: Final = {f"psi_{kind}_us": (f"{kind}_avg", 10_000.0) for kind in ("some", "full")}
# An interval is told in whole seconds, rounded down: of samples a little further apart so much would be lost of every count.
# The times are whole seconds, too, but what one lacks the next one has. Further apart something was not recorded.
_ROUNDED_S: Final = 1.0
# How exactly the percentage of used memory is told.
_PERCENT: Final = 0.02


def import_sadf(text: str, name: str) -> Imported:
    """Make a trace of sysstat's JSON; counts are rates times the time between samples. Raises TraceError."""
    refuse_given(text, name)
    try:
        hosts = json.loads(text)["sysstat"]["hosts"]
        host, statistics = hosts[0], hosts[0]["statistics"]
        if len(hosts) > 1:
            raise TraceError(f"{name}: is of {len(hosts)} hosts, a trace is of one")
        samples = list(_samples(statistics, name))
        restarts = [entry["boot"] for entry in host.get("restarts", ()) if "boot" in entry]
        remarks = not_said(
            samples, "sadf tells swap with -S, and pressure with -q MEM where the kernel and sadc know it"
        )
        remarks += [f"the machine was booted at {boot.get('date')} {boot.get('time')}" for boot in restarts]
    except MALFORMED as error:
        raise TraceError(f"{name}: is not sysstat's JSON ({error!r:.80}); {_HOW}") from error
    return make_trace(samples, name, remarks)


def _samples(statistics: list[Any], name: str) -> Iterator[Sample]:
    counts = dict.fromkeys((*_RATES, *_SHARES), 0.0)
    told = [
        (f"{name}: {_place(number, entry)}", entry["memory"])
        for number, entry in enumerate(statistics, 1)
        if entry.get("memory")
    ]
    totals = iter(_totals_kib(told) if told else ())
    before_s: float | None = None
    for number, entry in enumerate(statistics, start=1):
        stamp = entry.get("timestamp", {})
        at = _place(number, entry)
        if stamp.get("utc") != 1:
            raise TraceError(
                f"{name}: {at}: its time is local, and tells no zone: where clocks are set for summer and winter, an hour"
                " is there twice, and one never; run sadf without -t and -T, which tells UTC"
            )
        now_s = _seconds(stamp, f"{name}: {at}")
        interval_s = stamp.get("interval", 0)
        if before_s is not None and abs(now_s - before_s - interval_s) <= _ROUNDED_S:
            interval_s = now_s - before_s
        before_s = now_s
        numbers = {
            column: entry["memory"][own] / PAGE_KIB for column, own in _MEMORY.items() if own in entry.get("memory", {})
        }
        if entry.get("memory"):
            numbers[TOTAL] = next(totals) / PAGE_KIB
        for rates, told_rates in (
            (_RATES, entry.get("paging", {})),
            (_SHARES, entry.get("psi", {}).get("psi-mem", {})),
        ):
            for column, (own, scale) in rates.items():
                if own in told_rates:
                    counts[column] += told_rates[own] * scale * interval_s
                    numbers[column] = counts[column]
        yield Sample(at, now_s, numbers)


def _place(number: int, entry: Mapping[str, Any]) -> str:
    stamp = entry.get("timestamp", {})
    return f"sample {number} ({stamp.get('date')} {stamp.get('time')})"


def _seconds(stamp: Mapping[str, Any], at: str) -> float:
    try:
        return float(np.datetime64(f"{stamp['date']}T{stamp['time']}", "s").astype(np.int64))
    except (ValueError, LookupError) as error:
        raise TraceError(f"{at}: its time cannot be read ({error}); {_HOW}") from error


def _totals_kib(memories: Sequence[tuple[str, Mapping[str, float]]]) -> list[float]:
    """Add up all memory of each sample, by the reckoning that its percentage of used memory fits best.

    Newer versions count neither buffers, page cache nor slab as used.
    """
    both: list[tuple[float, list[float]]] = []
    for apart in (("buffers", "cached", "slab"), ()):
        totals, farthest = [], 0.0
        for at, memory in memories:
            try:
                total = memory["memfree"] + memory["memused"] + sum(memory[key] for key in apart)
                farthest = max(farthest, abs(100 * memory["memused"] / max(total, 1) - memory["memused-percent"]))
            except KeyError as error:
                raise TraceError(f"{at}: it does not say {error}; {_HOW}") from error
            totals.append(total)
        both.append((farthest, totals))
    farthest, totals = min(both, key=lambda one: one[0])
    if farthest > _PERCENT:
        raise TraceError(f"{memories[0][0]}: memused and memused-percent do not say how much memory there is; {_HOW}")
    return totals
