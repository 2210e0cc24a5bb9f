"""Compaction: in-use pages move down, ballooned pages move up, until the balloon is whole blocks.

A pass picks a *target*, the highest block that can be emptied, moves its in-use pages to the fullest
lower blocks, and fills it with the ballooned single pages of the *sources*: blocks that can never be
targets, then the others from the bottom. A filled target is one 2 MiB page of the balloon. No page moves
twice in a pass: a block that the pass has filled is no source, and a block that it has moved in-use
pages into is no target.

For an inflation that finds no wholly free block some are emptied first (`vacate`): giving up a whole
block breaks no superpage of the host.

A pass is a procedure of its own: it is woken, never runs inside an allocation, and only tries for the
balloon's token (`xbd/docs/contributing/design.md`, "A guest").
Source: the reverse of Linux mm/compaction.c; the deferral is its defer_compaction.
"""

from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from xbd.abi import BATCH_EXTENTS, Frames, Result
from xbd.guest.balloon.balloon import Balloon
from xbd.guest.balloon.migration import Migrated, Migration
from xbd.guest.procedures import Procedure, Request
from xbd.guest.settings import DriverSettings
from xbd.guest.state import Clock, Directives
from xbd.guest.workload.programs import Programs
from xbd.guest.zone import FILL_SOURCES, Mobility, PageState, Zone
from xbd.units import SUPER_PAGES

# Failures in a row before checks are skipped, and the most that a deferral is doubled.
_FAILURES_TOLERATED: Final = 1
_DEFER_SHIFT_MAX: Final = 6
# For how long what is not moved is saved up.
_SAVED_S: Final = 3600.0
_NO_BLOCKS: Final[Frames] = np.zeros(0, dtype=np.int64)


@dataclass(slots=True)
class _Pass:
    """What one pass has done; blocks in *filled* can be no sources any more, those in *received* no targets."""

    batches: int = 0
    moved: int = 0
    # The worker had the token, or the budget was spent: the pass did not fail, it only could not begin.
    has_to_wait: bool = False
    filled: set[int] = field(default_factory=set)
    received: set[int] = field(default_factory=set)


class _Budget:
    """How many in-use pages may be moved now, at *pages_s* in a second; 0: any number."""

    def __init__(self, pages_s: float, clock: Clock) -> None:
        self._pages_s = pages_s
        self._clock = clock
        self._saved = pages_s * _SAVED_S
        self._saved_at = clock.now

    def covers(self, pages: int) -> bool:
        """Whether so many may be moved."""
        elapsed_s, self._saved_at = self._clock.now - self._saved_at, self._clock.now
        self._saved = min(self._saved + elapsed_s * self._pages_s, self._pages_s * _SAVED_S)
        return not self._pages_s or pages <= self._saved

    def spend(self, pages: int) -> None:
        """Take so many off it."""
        self._saved -= pages


class Compaction:
    """Compaction of one guest.

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
        self._settings = settings
        self._clock = clock
        self._budget = _Budget(settings.move_pages_s, clock)
        self.enabled = settings.migration and balloon.pages.migrates and balloon.blocks is not None
        self.running = False
        self.passes = 0
        self.failures = 0
        self.pages_moved = 0
        self._failures_in_row = 0
        self._check_at: float | None = None
        self._deferred_until = 0.0
        # If the guest's pages end within a block, that block can never be whole.
        self._whole_blocks = zone.gfn_count // SUPER_PAGES

    # -- when to run

    def wake(self) -> None:
        """Look now, unless deferred: a batch of the worker left blocks partly ballooned."""
        if self.enabled and not self.running:
            self._check_at = max(self._clock.now, self._deferred_until)

    def ask(self) -> None:
        """Look now: somebody asks for it."""
        self.wake()

    def due(self) -> bool:
        """Whether a pass is to be started now."""
        if not self.enabled or self.running:
            return False
        if self._balloon.partly_ballooned() <= 0:
            self._check_at = None
            return False
        if self._check_at is None:
            self._check_at = max(self._clock.now + self._settings.compaction_check_s, self._deferred_until)
        return self._clock.now >= self._check_at

    def deadline(self) -> float | None:
        """Say when to look again; None while no block is partly ballooned."""
        return None if self.running else self._check_at

    # -- a pass

    def run(self) -> Procedure:
        """Make one pass."""
        self.running = True
        self.passes += 1
        this = _Pass()
        going = True
        while going and this.batches < self._settings.compaction_batches and self._wanted():
            this.batches += 1
            going = yield from self._fill_one(this)
        self._reschedule(failed=this.moved == 0 and not this.has_to_wait)
        self.running = False

    def _wanted(self) -> bool:
        return not self._directives.stopping and self._balloon.partly_ballooned() > 0

    def _reschedule(self, *, failed: bool) -> None:
        check_s = self._settings.compaction_check_s
        self._check_at = self._clock.now + check_s
        if not failed:
            self._failures_in_row = 0
            self._deferred_until = 0.0
            return
        self.failures += 1
        self._failures_in_row += 1
        if self._failures_in_row > _FAILURES_TOLERATED:
            shift = min(self._failures_in_row - _FAILURES_TOLERATED, _DEFER_SHIFT_MAX)
            self._deferred_until = self._clock.now + check_s * (1 << shift)
            self._check_at = self._deferred_until

    def _fill_one(self, this: _Pass) -> Generator[Request, list[Result], bool]:
        """Empty one target and fill it from the sources; returns whether to go on."""
        # Held until the target is empty, so that nobody frees a page that is being moved.
        yield self._programs.pages_lock
        eligible = self._eligible()
        target = self._target(eligible, this)
        sources = _NO_BLOCKS if target is None else self._sources(eligible, target, this)
        in_use = 0 if target is None else int(self._zone.counts[PageState.MOVABLE, target])
        this.has_to_wait = self._balloon.token.held or not self._budget.covers(in_use)
        if target is None or this.has_to_wait or not sources.size:
            self._programs.pages_lock.release()
            return False
        vacated = yield from self._evacuate(target, eligible, this)
        self._programs.pages_lock.release()
        if vacated is None:
            return False
        if not self._balloon.token.try_acquire():
            this.has_to_wait = True
            self._zone.release(vacated, PageState.ISOLATED)
            return False
        if in_use:
            # Read anew: emptying the target may have taken a while.
            sources = self._sources(self._eligible(), target, this)
        outcome = yield from self._migrate(sources, vacated)
        self._balloon.token.release()
        this.filled.add(target)
        this.moved += outcome.done
        return outcome.done > 0 and not outcome.unchanged and not outcome.half_done

    def _eligible(self) -> Frames:
        """List the blocks that may be targets, ascending: none of unmovable, slot, isolated, or whole in the balloon."""
        counts = self._zone.counts
        pinned = counts[PageState.UNMOVABLE] | counts[PageState.SLOT]
        pinned |= counts[PageState.ISOLATED]
        pinned |= counts[PageState.BALLOON_2M]
        return np.flatnonzero(pinned[: self._whole_blocks] == 0)

    def _target(self, eligible: Frames, this: _Pass) -> int | None:
        """Name the highest eligible block; None if this pass has moved in-use pages into it."""
        if not eligible.size:
            return None
        target = int(eligible[-1])
        return None if target in this.received or target in this.filled else target

    def _sources(self, eligible: Frames, target: int, this: _Pass) -> Frames:
        """List the blocks whose ballooned pages move: those that can never be targets, then eligible ones below it."""
        ballooned = np.flatnonzero(self._zone.counts[PageState.BALLOON_4K])
        where = np.searchsorted(eligible, ballooned)
        may_be_target = np.zeros(ballooned.size, dtype=np.bool_)
        inside = where < eligible.size
        may_be_target[inside] = eligible[where[inside]] == ballooned[inside]
        # An isolated page pins its block only for a while, but as long as it does the block is no target.
        never = ballooned[~may_be_target]
        never = never[[block not in this.filled and block != target for block in never.tolist()]]
        return np.concatenate((never, ballooned[may_be_target & (ballooned < target)]))

    # -- emptying the target

    def _evacuate(self, target: int, eligible: Frames, this: _Pass) -> Generator[Request, list[Result], Frames | None]:
        """Move the target's in-use pages to lower blocks.

        Returns the target's pages that are not ballooned, all isolated by now; None if there was no room.
        """
        free = self._zone.pages_in(target, PageState.FREE)
        old = self._zone.pages_in(target, PageState.MOVABLE)
        self._zone.isolate_free(free)
        if not old.size:
            return free
        new = self._take_below(old.size, target, eligible)
        if new.size < old.size:
            self._zone.release(np.concatenate((new, free)), PageState.ISOLATED)
            return None
        self._zone.change(old, PageState.MOVABLE, PageState.ISOLATED)
        moved = yield from self._programs.move(old, new)
        if not moved:
            self._zone.change(old, PageState.ISOLATED, PageState.MOVABLE)
            self._zone.release(np.concatenate((new, free)), PageState.ISOLATED)
            return None
        self._zone.change(new, PageState.ISOLATED, PageState.MOVABLE)
        self._note_moved(int(old.size))
        this.received.update(np.unique(new // SUPER_PAGES).tolist())
        return np.sort(np.concatenate((free, old)))

    def _take_below(self, count: int, target: int, eligible: Frames) -> Frames:
        """Isolate free pages below the target, in blocks that this pass will not empty as far as there are."""
        filled_at_most = -(-self._zone.total(PageState.BALLOON_4K) // SUPER_PAGES) + 1
        settled_below = int(eligible[-min(filled_at_most, eligible.size)])
        parts = [self._take_free(count, settled_below)]
        if parts[0].size < count:
            parts.append(self._take_free(count - parts[0].size, target))
        return np.concatenate(parts)

    def _take_free(self, count: int, below: int) -> Frames:
        return self._zone.allocate(count, Mobility.MOVABLE, PageState.ISOLATED, sources=FILL_SOURCES, below=below)

    def vacate(self, count: int) -> Generator[Request, list[Result], int]:
        """Leave up to *count* blocks wholly free, for an inflation that found none; returns how many.

        The highest blocks are emptied, together, into lower ones; if there is no room or no budget for that, half as many.
        """
        count = min(count, self._settings.vacate_blocks)
        if not self.enabled or count <= 0:
            return 0
        yield self._programs.pages_lock
        counts = self._zone.counts
        eligible = self._eligible()
        usable = eligible[(counts[PageState.MOVABLE][eligible] > 0) & (counts[PageState.BALLOON_4K][eligible] == 0)]
        targets = usable[-count:]
        while targets.size and not self._can_empty(targets):
            targets = targets[-(targets.size // 2) :] if targets.size > 1 else _NO_BLOCKS
        vacated = (yield from self._vacate_all(targets)) if targets.size else 0
        self._programs.pages_lock.release()
        return vacated

    def _can_empty(self, targets: Frames) -> bool:
        """Whether there is room for what is in use there, and budget to move it."""
        in_use = int(self._zone.counts[PageState.MOVABLE][targets].sum(dtype=np.int64))
        return self._budget.covers(in_use) and in_use <= int(
            self._zone.free.free_count[: targets[0]].sum(dtype=np.int64)
        )

    def _vacate_all(self, targets: Frames) -> Generator[Request, list[Result], int]:
        free = self._zone.pages_in_blocks(targets, PageState.FREE)
        old = self._zone.pages_in_blocks(targets, PageState.MOVABLE)
        self._zone.isolate_free(free)
        new = self._take_free(old.size, int(targets[0]))
        assert new.size == old.size, f"{old.size} pages were free below block {targets[0]}, only {new.size} came"
        self._zone.change(old, PageState.MOVABLE, PageState.ISOLATED)
        moved = yield from self._programs.move(old, new)
        used, unused = (new, old) if moved else (old, new)
        self._zone.change(used, PageState.ISOLATED, PageState.MOVABLE)
        self._zone.release(np.concatenate((free, unused)), PageState.ISOLATED)
        if not moved:
            return 0
        self._note_moved(int(old.size))
        return int(targets.size)

    def _note_moved(self, pages: int) -> None:
        self.pages_moved += pages
        self._budget.spend(pages)

    # -- filling it

    def _migrate(self, sources: Frames, vacated: Frames) -> Generator[Request, list[Result], Migrated]:
        """Let the target's isolated pages, *vacated*, take the place of the sources' ballooned pages."""
        counts = np.cumsum(self._zone.counts[PageState.BALLOON_4K][sources], dtype=np.int64)
        wanted = min(vacated.size, BATCH_EXTENTS)
        enough = sources[: int(np.searchsorted(counts, wanted)) + 1]
        old = self._zone.pages_in_blocks(enough, PageState.BALLOON_4K)[:wanted]
        self._zone.release(vacated[: vacated.size - old.size], PageState.ISOLATED)
        if not old.size:
            return Migrated()
        return (yield from self._migration.migrate(old, vacated[::-1][: old.size]))
