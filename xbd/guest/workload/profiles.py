"""Workload profiles: what a guest's programs want to hold, tick by tick.

A profile is a frozen description: it computes the goals of a tick, and the time of the next one. It
holds no pages (see `programs`) and has no state: everything follows from the number of the tick.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, ClassVar, Final, Protocol

from xbd.errors import unknown_name
from xbd.guest.workload.kernel_memory import kernel_of
from xbd.settings import Setting, number, read, whole

if TYPE_CHECKING:
    import numpy as np

# Nobody plays a trace of more than a year.
LONGEST_TRACE_S: Final = 366 * 86_400.0
# More pages of block I/O than any disk does; the ring bounds what is under way anyway.
_IO_PAGES_S_MOST: Final = 1_000_000


def _share(doc: str) -> Setting:
    """Make a setting of a share of a guest's memory."""
    return replace(number(doc, 0, 1), expected="a share of the guest's memory, a number from 0 to 1")


_Used = Annotated[float, _share("what its programs hold")]
_Low = Annotated[float, _share("what its programs hold between bursts")]
_High = Annotated[float, _share("about what they hold in a burst, the last third of a period")]
_Cache = Annotated[float, _share("what is page cache")]
_Kernel = Annotated[float, _share("what its kernel holds, which cannot be moved")]
_Swinging = Annotated[float, _share("what its kernel holds at least; it swings up to twice that in each period")]
_Churn = Annotated[float, _share("what is freed and allocated anew in each tick")]
_Young = Annotated[float, number("the share of the youngest memory in what is freed", 0, 1)]
_TickS = Annotated[float, number("the time between ticks", 0.01, 86_400, "seconds")]
_PeriodTicks = Annotated[int, whole("the length of a period", 3, 1_000_000, "ticks")]
_IoPagesS = Annotated[float, number("block I/O; needs dom0", 0, _IO_PAGES_S_MOST, "pages per second")]


@dataclass(frozen=True, slots=True)
class Goals:
    """How many pages of each kind the programs want to hold, and how many of them to free and allocate anew.

    *cache_reads*: how many pages of their files, any of *cache_pages*, they read meanwhile; None: those that have to come
    back, so far as there is room.
    *at_random*: of what processes have too much, single pages are freed, wherever they lie.
    """

    anon_pages: int
    cache_pages: int
    kernel_pages: int
    churn_pages: int = 0
    cache_reads: int | None = None
    at_random: bool = False


class Workload(Protocol):
    """What a guest runs.

    *tick_s*: seconds between ticks; 0 for a workload that is driven by `Demand` events alone. *io_pages_s*: pages that
    it reads from and writes to its disk, per second, whatever the ticks; 0 for a guest without block I/O.
    """

    @property
    def tick_s(self) -> float:
        """Seconds between ticks, 0 for none."""

    @property
    def io_pages_s(self) -> float:
        """Pages of block I/O per second, 0 for none."""

    @property
    def young_share(self) -> float:
        """Of what is freed, the share of the youngest memory; the rest is of any age."""

    def goals(self, gfn_count: int, tick: int, rng: np.random.Generator) -> Goals:
        """Say what the programs want to hold in tick number *tick* (from 0)."""

    def settled(self, tick: int) -> bool:
        """Whether no tick after this one wants anything else."""


@dataclass(frozen=True, slots=True)
class Idle:
    """A guest that holds *used* of its memory and *cache* as page cache, and does nothing more."""

    used: _Used = 0.1
    cache: _Cache = 0.05
    kernel: _Kernel = 0.01
    tick_s: _TickS = 1.0
    young_share: _Young = 0.5
    io_pages_s: _IoPagesS = 0.0

    def goals(self, gfn_count: int, tick: int, rng: np.random.Generator) -> Goals:
        """Return the same goals for every tick."""
        del tick, rng
        return Goals(int(gfn_count * self.used), int(gfn_count * self.cache), int(gfn_count * self.kernel))

    def settled(self, tick: int) -> bool:
        """Return True: the first tick is the last."""
        return tick >= 0


@dataclass(frozen=True, slots=True)
class Steady:
    """Holds *used* of the memory and frees and allocates *churn* of it anew each tick."""

    used: _Used = 0.4
    cache: _Cache = 0.1
    kernel: _Kernel = 0.02
    churn: _Churn = 0.01
    tick_s: _TickS = 1.0
    young_share: _Young = 0.5
    io_pages_s: _IoPagesS = 0.0

    def goals(self, gfn_count: int, tick: int, rng: np.random.Generator) -> Goals:
        """Return steady goals, with churn from the second tick on."""
        del rng
        churn = int(gfn_count * self.churn) if tick else 0
        return Goals(
            int(gfn_count * self.used), int(gfn_count * self.cache), int(gfn_count * self.kernel), churn_pages=churn
        )

    def settled(self, tick: int) -> bool:
        """Return False unless there is no churn."""
        return tick >= 0 and self.churn == 0


@dataclass(frozen=True, slots=True)
class Bursty:
    """Sits at *low* of the memory and, in the last third of each period, jumps to about *high*."""

    low: _Low = 0.15
    high: _High = 0.6
    cache: _Cache = 0.1
    kernel: _Kernel = 0.02
    period_ticks: _PeriodTicks = 30
    tick_s: _TickS = 1.0
    young_share: _Young = 0.7
    io_pages_s: _IoPagesS = 0.0

    def goals(self, gfn_count: int, tick: int, rng: np.random.Generator) -> Goals:
        """Return goals for the phase that this tick is in; no two bursts are quite the same."""
        level = self.low
        if tick % self.period_ticks >= self.period_ticks * 2 // 3:
            level = self.high * rng.uniform(0.8, 1.0)
        return Goals(int(gfn_count * level), int(gfn_count * self.cache), int(gfn_count * self.kernel))

    def settled(self, tick: int) -> bool:
        """Return False: there is always another burst."""
        return tick < 0


@dataclass(frozen=True, slots=True)
class UnmovableHeavy:
    """Lets the kernel's own, unmovable memory swing between *kernel* and twice that, beside steady churn."""

    used: _Used = 0.25
    cache: _Cache = 0.1
    kernel: _Swinging = 0.1
    churn: _Churn = 0.01
    period_ticks: _PeriodTicks = 20
    tick_s: _TickS = 1.0
    young_share: _Young = 0.3
    io_pages_s: _IoPagesS = 0.0

    def goals(self, gfn_count: int, tick: int, rng: np.random.Generator) -> Goals:
        """Return goals whose kernel share follows a triangle, with some noise."""
        phase = tick % self.period_ticks / self.period_ticks
        swing = self.kernel * (1 + (1 - abs(2 * phase - 1)) * rng.uniform(0.7, 1.0))
        churn = int(gfn_count * self.churn) if tick else 0
        return Goals(int(gfn_count * self.used), int(gfn_count * self.cache), int(gfn_count * swing), churn_pages=churn)

    def settled(self, tick: int) -> bool:
        """Return False: the swing goes on."""
        return tick < 0


@dataclass(frozen=True, slots=True)
class Driven:
    """Holds what the last `Demand` event said, of which slab and page tables cannot be moved."""

    young_share: _Young = 0.5
    io_pages_s: _IoPagesS = 0.0
    tick_s: ClassVar[float] = 0.0

    def goals(self, gfn_count: int, tick: int, rng: np.random.Generator) -> Goals:
        """Return goals of 0: a trace is driven from outside."""
        del gfn_count, tick, rng
        return Goals(0, 0, 0)

    def demanded(self, anon_pages: int, cache_pages: int, cache_reads: int | None = None) -> Goals:
        """Return the goals that a demand means: what is neither free nor page cache is programs', slab and page tables."""
        kernel = min(kernel_of(anon_pages, cache_pages), anon_pages)
        return Goals(anon_pages - kernel, cache_pages, kernel, cache_reads=cache_reads)

    def settled(self, tick: int) -> bool:
        """Return True: it has no ticks of its own."""
        return tick >= 0


@dataclass(frozen=True, slots=True)
class Pace:
    """How to play a trace: *speed* times real time, from *offset_s* of the trace's own time on; with *loop* again and again."""

    speed: float = 1.0
    loop: bool = False
    offset_s: float = 0.0


AS_RECORDED: Final = Pace()


Profile = Idle | Steady | Bursty | UnmovableHeavy
PROFILES: Final[dict[str, type[Profile]]] = {
    "idle": Idle,
    "steady": Steady,
    "bursty": Bursty,
    "unmovable": UnmovableHeavy,
}


def make_workload(profile: str, options: Mapping[str, object] | None = None) -> Profile:
    """Make a workload by its profile's name; *options* override its numbers.

    Raises:
        BadArgument: for an unknown profile or option, or a value out of range, naming what is known.
    """
    if profile not in PROFILES:
        raise unknown_name("workload", profile, PROFILES)
    return read(PROFILES[profile], options or {}, f"workload {profile}")
