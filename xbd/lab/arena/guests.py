"""What guests of an arena want, second by second: from a trace, or made up from a seed; pure.

Each kind of guest is a rule from seconds to shares of its memory: what its programs hold, the page cache that its files
fill, and how much of that is read in a second, which says whether the cache is needed or worthless. The same seed gives
the same guest.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from xbd.abi import Frames
from xbd.guest.workload import Pace, Player, Trace

Shares = NDArray[np.float64]
# Programs, page cache, and reads in a second: (seconds,) each, as shares of the guest's memory.
Rule = Callable[[int, np.random.Generator], tuple[Shares, Shares, Shares]]


@dataclass(frozen=True, slots=True, eq=False)
class Wanted:
    """What a guest wants: (seconds,) int64 pages of programs and kernel, page cache, and pages read in that second."""

    anon_pages: Frames
    cache_pages: Frames
    cache_reads: Frames


def _steady(seconds: int, rng: np.random.Generator) -> tuple[Shares, Shares, Shares]:
    """Hold 40 %, a little more and less, with 15 % of cache of which a hundredth is read in a second."""
    anon = 0.40 + 0.02 * _slowly(seconds, 60, rng)
    return anon, np.full(seconds, 0.15), np.full(seconds, 0.0015)


def _idle(seconds: int, _rng: np.random.Generator) -> tuple[Shares, Shares, Shares]:
    """Hold a tenth, and do nothing."""
    return np.full(seconds, 0.10), np.full(seconds, 0.05), np.zeros(seconds)


def _bursty(seconds: int, rng: np.random.Generator) -> tuple[Shares, Shares, Shares]:
    """Jump from 15 % to about 65 % for half a minute to three minutes, every few minutes."""
    return _bursts(seconds, rng, (60, 300), (30, 180), (0.15, 0.65)), np.full(seconds, 0.10), np.full(seconds, 0.001)


def _spiky(seconds: int, rng: np.random.Generator) -> tuple[Shares, Shares, Shares]:
    """Jump from 20 % to 45 % for three to eight seconds, every half minute: what is looked at now and then is missed."""
    return _bursts(seconds, rng, (20, 40), (3, 8), (0.20, 0.45)), np.full(seconds, 0.05), np.zeros(seconds)


def _reader(seconds: int, rng: np.random.Generator) -> tuple[Shares, Shares, Shares]:
    """Read files of half its memory for a minute, each page five times; then they lie about as cache that nobody needs."""
    reading = _bursts(seconds, rng, (120, 400), (60, 60), (0.0, 1.0)) > 0
    cache = np.where(np.maximum.accumulate(reading), 0.5, 0.05)
    return np.full(seconds, 0.20), cache, np.where(reading, 0.5 * 5 / 60, 0.0)


def _needy(seconds: int, rng: np.random.Generator) -> tuple[Shares, Shares, Shares]:
    """Hold a quarter, and read all of a cache of 45 % once in twenty seconds, for ever: all of that is needed."""
    return 0.25 + 0.01 * _slowly(seconds, 60, rng), np.full(seconds, 0.45), np.full(seconds, 0.45 / 20)


def _hoarder(seconds: int, rng: np.random.Generator) -> tuple[Shares, Shares, Shares]:
    """Hold a quarter beside a cache of 60 % that nobody reads again: it is worthless."""
    return 0.25 + 0.01 * _slowly(seconds, 60, rng), np.full(seconds, 0.60), np.zeros(seconds)


def _waking(seconds: int, rng: np.random.Generator) -> tuple[Shares, Shares, Shares]:
    """Sleep for a third of the time with a tenth, then want 70 % within a minute, for ever."""
    wakes = seconds // 3 + int(rng.integers(30))
    ramp = np.clip((np.arange(seconds) - wakes) / 60, 0, 1)
    return 0.10 + 0.60 * ramp, np.full(seconds, 0.05), np.zeros(seconds)


KINDS: Final[Mapping[str, Rule]] = {
    "steady": _steady,
    "idle": _idle,
    "bursty": _bursty,
    "spiky": _spiky,
    "reader": _reader,
    "needy": _needy,
    "hoarder": _hoarder,
    "waking": _waking,
}


def _slowly(seconds: int, every: int, rng: np.random.Generator) -> Shares:
    """Draw a noise between -1 and 1 that changes slowly."""
    points = rng.uniform(-1, 1, seconds // every + 2)
    return np.interp(np.arange(seconds), np.arange(points.size) * every, points)


def _bursts(
    seconds: int, rng: np.random.Generator, rests: tuple[int, int], lasts: tuple[int, int], levels: tuple[float, float]
) -> Shares:
    """Draw bursts from the first to about the second of *levels*, no two quite alike, with rests between."""
    low, high = levels
    level = np.full(seconds, low)
    at = int(rng.integers(*rests))
    while at < seconds:
        end = at + int(rng.integers(lasts[0], lasts[1] + 1))
        level[at:end] = high * rng.uniform(0.85, 1.0)
        at = end + int(rng.integers(*rests))
    return level


def make_up(kind: str, memory_pages: int, seconds: int, rng: np.random.Generator) -> Wanted:
    """Make up what a guest of a kind wants."""
    anon, cache, reads = KINDS[kind](seconds, rng)
    counts = [(np.round(share * memory_pages / 64) * 64).astype(np.int64) for share in (anon, cache)]
    return Wanted(counts[0], counts[1], (reads * memory_pages).astype(np.int64))


def play(trace: Trace, seconds: int, offset_s: float, reads_share: float) -> Wanted:
    """Play a trace from *offset_s* on, again and again, as guests and replays do; *reads_share* of its cache is read in a second."""
    player = Player(trace, Pace(loop=True, offset_s=offset_s))
    at = np.zeros(seconds, dtype=np.int64)
    for second in range(seconds):
        player.advance(float(second))
        at[second] = player.at
    cache = trace.cache_pages[at].astype(np.int64)
    return Wanted(trace.anon_pages[at].astype(np.int64), cache, (cache * reads_share).astype(np.int64))


def wear_of(trace: Trace, offset_s: float) -> float:
    """Tell how worn the recorded guest was at *offset_s*."""
    return trace.wear_at(Player(trace, Pace(loop=True, offset_s=offset_s)).at)
