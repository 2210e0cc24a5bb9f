"""Compaction as Linux's kernel does it: a scanner from the bottom takes what is movable, one from the top finds it a place.

Theory of operation. The *migrate scanner* goes up, block by block, and takes all movable pages: those in use, and ballooned
pages if their driver lets them migrate. The *free scanner* goes down, and finds free pages in blocks of the movable type
that are not wholly free. Page by page the one's go where the other points, until both meet; blocks at the bottom become
wholly free, those at the top full. Three occasions:

- *proactive*: every half second, when more than 90 % of the free memory lies in broken blocks, until it is 80 %; when
  that brought nothing, next after 32 s
- *direct*: an allocation of a whole block that found none; goes on where the last one stopped, takes from movable blocks
  alone, and ends when there are as many as were wanted. After a failure it is skipped for 2, 4, ... 64 times
- *asked for* by `/proc/sys/vm/compact_memory`: the whole zone, until the scanners meet

Source: Linux 6.1 mm/compaction.c: isolate_migratepages, isolate_freepages, suitable_migration_target, compact_finished,
proactive_compact_node, kcompactd, defer_compaction. Left out: skip hints, and what contention ends.
"""

from collections.abc import Generator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from xbd.abi import Frames, Result
from xbd.guest.balloon.balloon import Balloon
from xbd.guest.balloon.migration import Migration
from xbd.guest.procedures import Procedure, Request
from xbd.guest.settings import DriverSettings
from xbd.guest.state import Clock, Directives
from xbd.guest.workload.programs import Programs
from xbd.guest.zone import Mobility, PageState, Zone
from xbd.units import SUPER_PAGES

# HPAGE_FRAG_CHECK_INTERVAL_MSEC; and shifted by COMPACT_MAX_DEFER_SHIFT.
_CHECK_S: Final = 0.5
_DEFER_SHIFT_MAX: Final = 6
# With vm.compaction_proactiveness at its default, 20: begin above, and go on until.
_SCORE_HIGH: Final = 0.9
_SCORE_LOW: Final = 0.8
# So many pages change places before it is looked whether that is enough.
_ROUND_PAGES: Final = 32 * SUPER_PAGES


@dataclass(slots=True)
class _Scanners:
    """Where the scanners stand: the lowest block still to be emptied, and the highest still to be filled."""

    migrate: int
    free: int


class LinuxCompaction:
    """Linux's compaction in one guest; it has what `Compaction` has.

    Attributes: *running*: a pass is under way. *pages_moved*: in-use pages moved. *passes*, *failures*: counts.
    """

    def __init__(
        self,
        zone: Zone,
        balloon: Balloon,
        *,
        programs: Programs,
        migration: Migration,
        directives: Directives,
        settings: DriverSettings,
        clock: Clock,
    ) -> None:
        self._zone = zone
        self._balloon = balloon
        self._programs = programs
        self._migration = migration
        self._directives = directives
        self._clock = clock
        self._vacate_blocks = settings.vacate_blocks
        ballooned = (PageState.BALLOON_4K,) if settings.migration and balloon.pages.migrates else ()
        self._states: tuple[PageState, ...] = (PageState.MOVABLE, *ballooned)
        self.running = False
        self.passes = 0
        self.failures = 0
        self.pages_moved = 0
        self._asked = False
        self._check_at: float | None = None
        self._not_before = 0.0
        # Of direct compaction, which goes on where it stopped.
        self._cached = self._ends()
        self._defer_shift = 0
        self._to_skip = 0

    # -- when to run

    def wake(self) -> None:
        """Do nothing: Linux's driver does not know of compaction."""

    def ask(self) -> None:
        """Compact the whole zone, as soon as no pass is under way."""
        self._asked = True

    def due(self) -> bool:
        """Whether a pass is to be started now."""
        if self.running:
            return False
        if self._asked:
            return True
        if self._zone.broken_share <= _SCORE_HIGH:
            self._check_at = None
            return False
        if self._check_at is None:
            self._check_at = max(self._clock.now + _CHECK_S, self._not_before)
        return self._clock.now >= self._check_at

    def deadline(self) -> float | None:
        """Say when to look again; None while there is nothing to look for."""
        return None if self.running else self._check_at

    # -- a pass

    def run(self) -> Procedure:
        """Make one pass: over the whole zone if that was asked for, else until the score is low."""
        self.running = True
        whole, self._asked = self._asked, False
        yield self._programs.pages_lock
        before = self._zone.broken_share
        scanners = self._ends()
        going = True
        while going and not self._directives.stopping and (whole or self._zone.broken_share > _SCORE_LOW):
            going = yield from self._move_some(scanners, _ROUND_PAGES)
        self._programs.pages_lock.release()
        failed = self._zone.broken_share >= before
        self.passes += 1
        self.failures += failed
        self._not_before = self._clock.now + (_CHECK_S * (1 << _DEFER_SHIFT_MAX) if failed else _CHECK_S)
        self._check_at = None
        self.running = False

    def vacate(self, count: int) -> Generator[Request, list[Result], int]:
        """Compact directly, for an inflation that lacks *count* whole blocks; returns how many there are more."""
        count = min(count, self._vacate_blocks)
        if count <= 0 or self.running:
            return 0
        if self._to_skip:
            self._to_skip -= 1
            return 0
        self.running = True
        yield self._programs.pages_lock
        before = self._zone.free.free_superframes
        going = True
        while going and (lacking := count - (self._zone.free.free_superframes - before)) > 0:
            going = yield from self._move_some(self._cached, lacking * SUPER_PAGES, Mobility.MOVABLE)
            if not going:
                self._cached = self._ends()
        self._programs.pages_lock.release()
        gained = max(self._zone.free.free_superframes - before, 0)
        self._defer_shift = 0 if gained else min(self._defer_shift + 1, _DEFER_SHIFT_MAX)
        self._to_skip = (1 << self._defer_shift) if self._defer_shift else 0
        self.passes += 1
        self.failures += not gained
        self.running = False
        return gained

    def _ends(self) -> _Scanners:
        return _Scanners(0, self._zone.block_count - 1)

    # -- pages that change places

    def _move_some(
        self, scanners: _Scanners, most: int, only_of: Mobility | None = None
    ) -> Generator[Request, list[Result], bool]:
        """Let up to *most* pages change places; returns whether any did, and more may."""
        states = self._states
        has_token = PageState.BALLOON_4K in states and self._balloon.token.try_acquire()
        if not has_token:
            # Somebody inflates, deflates or migrates: ballooned pages stay.
            states = (PageState.MOVABLE,)
        old, new = self._pair(scanners, most, states, only_of)
        if not old.size:
            if has_token:
                self._balloon.token.release()
            return False
        self._zone.isolate_free(new)
        ballooned = self._zone.state[old] == PageState.BALLOON_4K
        moved = yield from self._move_in_use(old[~ballooned], new[~ballooned])
        if ballooned.any():
            outcome = yield from self._migration.migrate(old[ballooned], new[ballooned])
            moved = moved and not outcome.unchanged and not outcome.half_done
        if has_token:
            self._balloon.token.release()
        return moved

    def _move_in_use(self, old: Frames, new: Frames) -> Generator[Request, list[Result], bool]:
        """Move pages in use to isolated free ones; returns whether they moved."""
        if not old.size:
            return True
        self._zone.change(old, PageState.MOVABLE, PageState.ISOLATED)
        moved = yield from self._programs.move(old, new)
        used, unused = (new, old) if moved else (old, new)
        self._zone.change(used, PageState.ISOLATED, PageState.MOVABLE)
        self._zone.release(unused, PageState.ISOLATED)
        self.pages_moved += old.size if moved else 0
        return moved

    def _pair(
        self, scanners: _Scanners, most: int, states: tuple[PageState, ...], only_of: Mobility | None
    ) -> tuple[Frames, Frames]:
        """Name the next pages to move, and where; both scanners go on. Empty when they have met."""
        zone = self._zone
        movable = zone.counts[list(states)].sum(axis=0, dtype=np.int64)
        if only_of is not None:
            movable[zone.mobility != only_of] = 0
        free = zone.free.free_count[: zone.block_count].astype(np.int64)
        free[(free == SUPER_PAGES) | (zone.mobility != Mobility.MOVABLE)] = 0
        # Of a last block that is not whole, some pages do not exist.
        free[zone.gfn_count // SUPER_PAGES :] = 0
        within = slice(scanners.migrate, scanners.free + 1)
        sources = _first(np.flatnonzero(movable[within]) + scanners.migrate, movable, most)
        targets = _first((np.flatnonzero(free[within]) + scanners.migrate)[::-1], free, most)
        from_blocks, to_blocks = np.repeat(sources, movable[sources]), np.repeat(targets, free[targets])
        size = min(from_blocks.size, to_blocks.size, most)
        # The one goes up and the other down, so that pairs are in order up to where the scanners meet.
        size = int(np.count_nonzero(from_blocks[:size] < to_blocks[:size]))
        if not size:
            return from_blocks[:0], to_blocks[:0]
        scanners.migrate, scanners.free = int(from_blocks[size - 1]), int(to_blocks[size - 1])
        old = self._list(sources, states)[:size]
        return old, self._list(targets, (PageState.FREE,))[:size]

    def _list(self, blocks: Frames, states: tuple[PageState, ...]) -> Frames:
        """List the pages of mixed blocks that are in one of *states*, block by block as given."""
        flat = np.flatnonzero(np.isin(self._zone.rows[blocks], np.array(states, dtype=np.uint8)))
        gfns: Frames = blocks[flat // SUPER_PAGES] * SUPER_PAGES + flat % SUPER_PAGES
        return gfns


def _first(blocks: Frames, pages: NDArray[np.int64], most: int) -> Frames:
    """Cut a list of blocks where they have *most* pages together."""
    return blocks[: int(np.searchsorted(np.cumsum(pages[blocks]), most)) + 1]
