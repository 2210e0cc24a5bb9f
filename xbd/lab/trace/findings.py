"""What is strange in a trace, each by its line; nothing is ever mended."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from xbd.guest.workload.trace import MAX_TRACE_PAGES, ORDERS, gaps_of
from xbd.lab.trace.columns import BALLOONED, CACHE, COUNTERS, FREE, PAGES, PRESSURE, SUPERFRAMES, TOTAL
from xbd.lab.trace.table import Table
from xbd.units import SUPER_PAGES

# Kinds of findings: what a trace is played with, and what it is not.
GAP, RESET, CLOCK = NOTES = ("gap", "reset", "clock")
TORN, IMPLAUSIBLE = FAULTS = ("torn", "implausible")
_CLOCK_S: Final = 1.0
# Free pages, and free blocks of another moment, differ by no more of all memory.
_BLOCKS_SHARE: Final = 0.05
# What is measured of a second takes a little longer.
_SLACK: Final = 1.1

Numbers = NDArray[np.float64]


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """Something strange: its *line*, its *kind*, and a *text* that says it."""

    line: int
    kind: str
    text: str

    @property
    def is_fault(self) -> bool:
        """Whether the trace cannot be right so."""
        return self.kind in FAULTS


def findings(table: Table) -> list[Finding]:
    """Find what is strange in a trace, in the order of lines."""
    found = [*_times(table), *_resets(table), *_pages(table), *_pressure(table)]
    if table.torn:
        found.append(Finding(len(table.cells) + 2, TORN, table.torn.partition(": is torn: ")[2]))
    return sorted(found)


def _where(mask: NDArray[np.bool_]) -> list[int]:
    return [int(at) for at in np.flatnonzero(mask)]


def usual_step_s(table: Table) -> float:
    """Return the time between most samples; 0 of a single one."""
    return float(np.median(np.diff(table.seconds))) if table.seconds.size > 1 else 0.0


def _times(table: Table) -> Iterator[Finding]:
    steps = np.diff(table.seconds)
    for at in _where(np.concatenate(([table.seconds[0] < 0], steps < 0))):
        yield Finding(at + 2, IMPLAUSIBLE, f"t_s is {table.seconds[at]:g}: time runs backwards")
    usual_s = usual_step_s(table)
    for at in gaps_of(table.seconds).tolist():
        yield Finding(at + 3, GAP, f"no sample for {steps[at]:g} s, where {usual_s:g} s are usual")
    utc = table.utc_seconds()
    if not utc.size:
        return
    for at in _where(np.isnan(utc)):
        yield Finding(
            at + 2, IMPLAUSIBLE, f"utc is {table.cells[at][-1][:40]!r}, such as 2026-01-31T12:00:00.000Z was expected"
        )
    for at in _where(np.abs(np.diff(utc) - steps) > _CLOCK_S):
        step_s = float(np.diff(utc)[at] - steps[at])
        yield Finding(at + 3, CLOCK, f"the clock was set {'forward' if step_s > 0 else 'back'} by {abs(step_s):.1f} s")


def _resets(table: Table) -> Iterator[Finding]:
    for column in COUNTERS:
        for at in _where(np.diff(table.numbers.get(column, np.zeros(0))) < 0):
            before, after = table.numbers[column][at : at + 2]
            text = f"{column} falls from {before:.0f} to {after:.0f}: the machine was booted anew, or it is another one"
            yield Finding(at + 3, RESET, text)


def _pages(table: Table) -> Iterator[Finding]:
    numbers = table.numbers
    total, free, cache = (numbers[column] for column in (TOTAL, FREE, CACHE))

    def implausible(mask: NDArray[np.bool_], text: str) -> Iterator[Finding]:
        return (
            Finding(at + 2, IMPLAUSIBLE, text.format(**{name: int(column[at]) for name, column in numbers.items()}))
            for at in _where(mask)
        )

    yield from implausible(
        (total <= 0) | (total > MAX_TRACE_PAGES), f"total_pages is {{total_pages}}, of 1 to {MAX_TRACE_PAGES}"
    )
    yield from implausible(total != total[0], f"total_pages is {{total_pages}}, it was {total[0]:.0f}")
    taken = numbers.get(BALLOONED, np.zeros(total.size))
    yield from implausible(free + cache + taken > total, "free, cached and ballooned pages are more than total_pages")
    for column in PAGES:
        if column in numbers:
            mask = (numbers[column] < 0) | (numbers[column] > total)
            yield from implausible(mask, f"{column} is {{{column}}}, of {{total_pages}} in all")
    if SUPERFRAMES in numbers:
        mask = (numbers[SUPERFRAMES] < 0) | (numbers[SUPERFRAMES] * SUPER_PAGES > free)
        yield from implausible(mask, f"{SUPERFRAMES} is {{{SUPERFRAMES}}}, of {{free_pages}} free pages")
    if all(order in numbers for order in ORDERS):
        blocks = sum((numbers[order] * (1 << at) for at, order in enumerate(ORDERS)), np.zeros(total.size))
        # Less is no fault: what a balloon has taken is free, and in no block.
        mask = blocks - free > _BLOCKS_SHARE * total
        yield from implausible(mask, "the free blocks of all orders are more than free_pages says, {free_pages}")


def _pressure(table: Table) -> Iterator[Finding]:
    elapsed_us = np.maximum(np.diff(table.seconds), 0) * 1e6
    for column in PRESSURE:
        waited = np.diff(table.numbers[column]) if column in table.numbers else np.zeros(0)
        for at in _where(waited > _SLACK * elapsed_us[: waited.size] + 1e6 * 0.1):
            text = f"{column} rises by {waited[at] / 1e6:.2f} s in {elapsed_us[at] / 1e6:.2f} s"
            yield Finding(at + 3, IMPLAUSIBLE, text)


def summary(found: list[Finding]) -> str:
    """Say in a line how much was found of each kind."""
    counts = {kind: sum(one.kind == kind for one in found) for kind in (*NOTES, *FAULTS)}
    return ", ".join(f"{kind}: {count}" for kind, count in counts.items() if count) or "nothing strange"
