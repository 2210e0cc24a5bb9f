"""One trace made of another: a part of it, or a guest that is like the recorded one."""

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from xbd.abi import Frames
from xbd.errors import TraceError
from xbd.guest.workload import Trace
from xbd.lab.trace.columns import CACHE, FREE, SUPERFRAMES, TIME, TOTAL
from xbd.lab.trace.table import Table, row_text
from xbd.units import SUPER_PAGES

# Noise wanders: what it was a minute ago still counts for about a third.
_NOISE_LASTS_S: Final = 60.0


def cut(table: Table, first_s: float, end_s: float) -> Table:
    """Cut out the rows from *first_s* to *end_s*; time starts at 0 again, all else stays as it is written.

    Raises TraceError: there are none.
    """
    inside = np.flatnonzero((table.seconds >= first_s) & (table.seconds <= end_s))
    if not inside.size:
        raise TraceError(f"{table.name}: no sample from {first_s:g} to {end_s:g} s")
    at, start_s = table.header.index(TIME), float(table.seconds[inside[0]])
    cells = [list(table.cells[row]) for row in inside]
    for row, now in zip(cells, table.seconds[inside].tolist(), strict=True):
        row[at] = str(round(now - start_s, 6))
    numbers = {column: numbers[inside] for column, numbers in table.numbers.items()}
    numbers[TIME] = numbers[TIME] - start_s
    return replace(table, cells=cells, numbers=numbers, torn="")


@dataclass(frozen=True, slots=True)
class Likeness:
    """How a guest is to differ from the recorded one.

    *shift_s*: so much later it does the same; what it would do after its end, it does at its beginning. *scale*: of all of
    its sizes. *demand*: of what its programs hold and its page cache alone, beside that. *noise*: how far what its programs hold, and its page cache, wander from it, as a share of each (standard
    deviation). *seed*: of the noise.
    """

    shift_s: float = 0.0
    scale: float = 1.0
    demand: float = 1.0
    noise: float = 0.0
    seed: int = 0


def synthesise(trace: Trace, likeness: Likeness) -> str:
    """Make the text of a trace that is like another one; the same for the same trace and likeness.

    Only what follows from the demand is written: of the free blocks how many are whole, by the recorded share of the free
    memory, where the recorded one says it.
    """
    shifted = _shifted(trace, likeness.shift_s)
    total = max(round(trace.total_pages * likeness.scale), 1)
    rng = np.random.default_rng(likeness.seed)
    anon, cache = (
        np.rint(
            trace_pages[shifted] * likeness.scale * likeness.demand * (1 + _noise(trace, likeness.noise, rng))
        ).astype(np.int64)
        for trace_pages in (trace.anon_pages, trace.cache_pages)
    )
    anon = np.clip(anon, 0, total)
    cache = np.clip(cache, 0, total - anon)
    columns: dict[str, Frames] = {
        TOTAL: np.full(trace.samples, total),
        FREE: total - anon - cache,
        **({SUPERFRAMES: _whole(trace, shifted, total - anon - cache)} if trace.free_superframes.size else {}),
        CACHE: cache,
    }
    rows = np.stack(list(columns.values()), axis=1).tolist()
    lines = [row_text(now, row) for now, row in zip(trace.seconds.tolist(), rows, strict=True)]
    return "\n".join((",".join((TIME, *columns)), *lines)) + "\n"


def _shifted(trace: Trace, shift_s: float) -> NDArray[np.int64]:
    """Name for each sample the one whose demand it gets: that of *shift_s* before, round and round."""
    length_s = float(trace.seconds[-1] - trace.seconds[0])
    if not length_s:
        return np.zeros(trace.samples, dtype=np.int64)
    then = trace.seconds[0] + (trace.seconds - trace.seconds[0] - shift_s) % length_s if shift_s else trace.seconds
    found: NDArray[np.int64] = np.maximum(np.searchsorted(trace.seconds, then, side="right") - 1, 0)
    return found


def _noise(trace: Trace, noise: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Draw a noise that wanders: each sample's is what is left of the one before, and something new."""
    left = np.exp(-np.diff(trace.seconds, prepend=trace.seconds[0]) / _NOISE_LASTS_S)
    new = rng.standard_normal(trace.samples) * np.sqrt(1 - left**2)
    wandered = np.zeros(trace.samples)
    last = float(rng.standard_normal())
    for at, (share, drawn) in enumerate(zip(left.tolist(), new.tolist(), strict=True)):
        last = last * share + drawn
        wandered[at] = last
    drawn_noise: NDArray[np.float64] = noise * wandered
    return drawn_noise


def _whole(trace: Trace, shifted: NDArray[np.int64], free: Frames) -> Frames:
    """Count whole free blocks, by the share of the free memory that lay in such."""
    was_free = trace.total_pages - trace.anon_pages - trace.cache_pages
    if trace.free_by_order.size:
        # What a balloon had taken was in no block.
        was_free = trace.free_by_order.sum(axis=1)
    share = (trace.free_superframes * SUPER_PAGES / np.maximum(was_free, 1))[shifted]
    whole: Frames = (free * np.minimum(share, 1) / SUPER_PAGES).astype(np.int64)
    return whole
