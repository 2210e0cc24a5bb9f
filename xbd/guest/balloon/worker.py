"""The balloon worker: brings the guest to its target, one batch per hold of the token.

A batch is up to 8 commands of up to 512 extents. Inflation takes wholly free 2 MiB blocks first,
then single pages; deflation returns 2 MiB pages first, as order-9 extents, then single pages, and
breaks a 2 MiB page only when there is no single one. If the host has no whole superframe it goes on
by single frames. How a batch ended decides when the next one comes (see `backoff`).
"""

from collections.abc import Callable, Generator
from typing import Final

from xbd.abi import Decrease, Frames, Populate, Result, Stop
from xbd.guest.balloon.backoff import Backoff, WorkerState
from xbd.guest.balloon.balloon import Balloon
from xbd.guest.mode import ModeKind
from xbd.guest.procedures import Call, Procedure, Request, carry_out, split_calls
from xbd.guest.settings import FLOOR_SHIFT, DriverSettings
from xbd.guest.state import Clock, Wishes
from xbd.guest.workload.programs import Programs
from xbd.guest.zone import PageState, Zone
from xbd.units import SUPER_ORDER, SUPER_PAGES

_NO_MEMORY: Final = frozenset({Stop.ENOMEM, Stop.E2BIG})
# Leaves up to so many blocks wholly free, and says how many.
Vacate = Callable[[int], Generator[Request, list[Result], int]]
_WhatHappened = Generator[Request, list[Result], WorkerState]


def _populate_blocks(gfns: Frames) -> Populate:
    return Populate(gfns, SUPER_ORDER)


def _decrease_blocks(gfns: Frames) -> Decrease:
    return Decrease(gfns, SUPER_ORDER)


class Worker:
    """The worker of one guest.

    Attributes: *running*: a procedure of it is under way. *blocks_lacking*: 2 MiB blocks that the last inflation
    would have taken had they been free. *pages_inflated*, *pages_deflated*: counts.
    """

    def __init__(
        self,
        zone: Zone,
        balloon: Balloon,
        *,
        programs: Programs,
        wishes: Wishes,
        settings: DriverSettings,
        clock: Clock,
        vacate: Vacate,
    ) -> None:
        self._zone = zone
        self._balloon = balloon
        self._programs = programs
        self._wishes = wishes
        self._settings = settings
        self._clock = clock
        self._vacate = vacate
        floor = zone.gfn_count >> FLOOR_SHIFT if settings.floor_pages is None else settings.floor_pages
        self.floor_pages = min(floor, zone.gfn_count)
        self.backoff = Backoff(settings.delay_max_s, settings.retry_max)
        self.running = False
        self.blocks_lacking = 0
        # More blocks can be emptied, for all that is known.
        self._can_vacate = True
        self._vacated = 0
        self.pages_inflated = 0
        self.pages_deflated = 0
        self._wake_at: float | None = None
        self._slept_credit = 0
        self._slept_free = 0
        self._not_before = 0.0

    # -- when

    @property
    def aim_pages(self) -> int:
        """The pages that the driver aims at: the target within floor, limit, what there is, and the guest's mode."""
        wanted = self._wishes.mode.bound(max(self._wishes.target_pages, self.floor_pages))
        return min(wanted, self._wishes.limit_pages, self._zone.gfn_count)

    def credit(self) -> int:
        """Return the pages still to get (above 0) or to give (below)."""
        return self.aim_pages - self._balloon.current_pages

    def due(self) -> bool:
        """Whether a batch is to be started now."""
        if self.running or self._wishes.mode.kind is ModeKind.STUCK or self._clock.now < self._not_before:
            return False
        credit = self.credit()
        if self.backoff.state is WorkerState.DONE:
            return credit != 0
        if credit != self._slept_credit or (self._wake_at is not None and self._clock.now >= self._wake_at):
            return True
        return self.backoff.state is WorkerState.CANCELLED and self._freed_enough(credit)

    def _freed_enough(self, credit: int) -> bool:
        needed = self._settings.wake_on_free_pages
        return bool(needed) and credit < 0 and self._zone.free.free_frames >= self._slept_free + needed

    def deadline(self) -> float | None:
        """Say when to look again though nothing happens; None when there is nothing to look for."""
        if self.running or self._wishes.mode.kind is ModeKind.STUCK:
            return None
        if self.backoff.state is WorkerState.DONE:
            return self._not_before if self.credit() else None
        if self._wake_at is None:
            return None
        return max(self._wake_at, self._not_before)

    # -- what

    def run(self) -> Procedure:
        """Level until the credit is 0 or a batch does not end in DONE."""
        self.running = True
        self._can_vacate = True
        self._vacated = 0
        state = WorkerState.DONE
        while state is WorkerState.DONE and not self._wishes.stopping and self._wishes.mode.kind is not ModeKind.STUCK:
            yield self._balloon.token
            before = self._balloon.current_pages
            outcome = yield from self._batch()
            state = self.backoff.note(outcome)
            self._balloon.token.release()
            if self._pace(abs(self._balloon.current_pages - before)) or self.credit() == 0:
                break
            if state is WorkerState.DONE and self.blocks_lacking and self._can_vacate:
                self._vacated = yield from self._vacate(self.blocks_lacking)
                self._can_vacate = self._vacated > 0
        pause_s = self.backoff.pause_s
        self._wake_at = None if pause_s is None else self._clock.now + pause_s
        self._slept_credit = self.credit()
        self._slept_free = self._zone.free.free_frames
        self.running = False

    def _pace(self, moved_pages: int) -> bool:
        """Under mode slow, put the next batch off for as long as this one should have taken."""
        if self._wishes.mode.kind is not ModeKind.SLOW:
            self._not_before = 0.0
            return False
        self._not_before = self._clock.now + moved_pages / self._wishes.mode.pages_per_s
        return moved_pages > 0

    def _most_pages(self) -> int:
        """Bound a batch: under mode slow to what one second may move, but never to less than one 2 MiB page."""
        if self._wishes.mode.kind is ModeKind.SLOW:
            return max(int(self._wishes.mode.pages_per_s), SUPER_PAGES)
        return self._zone.gfn_count

    def _batch(self) -> _WhatHappened:
        self.blocks_lacking = 0
        credit = self.credit()
        if credit > 0:
            if self._balloon.empty:
                return WorkerState.WAIT if self._zone.total(PageState.SLOT) else WorkerState.AGAIN
            return (yield from self._deflate(min(credit, self._most_pages())))
        if credit < 0:
            return (yield from self._inflate(min(-credit, self._most_pages())))
        return WorkerState.DONE

    # -- deflation

    def _deflate(self, wanted: int) -> _WhatHappened:
        """Populate up to *wanted* pages from the balloon; DONE even if only part came, AGAIN if nothing did."""
        before = self._balloon.current_pages
        room = self._settings.commands_in_flight
        per_call = self._settings.batch_extents
        blocks = self._balloon.take_blocks(min(wanted // SUPER_PAGES, room * per_call))
        block_calls = split_calls(_populate_blocks, blocks, per_call)
        left = wanted - blocks.size * SUPER_PAGES
        pages = self._take_pages(min(left, (room - len(block_calls)) * per_call))
        page_calls = split_calls(Populate, pages, per_call)
        yield from carry_out(block_calls + page_calls)
        self._settle_deflated(block_calls, SUPER_ORDER)
        self._settle_deflated(page_calls, 0)
        if any(call.stop == Stop.ENOMEM for call in block_calls):
            yield from self._deflate_by_pages(wanted - (self._balloon.current_pages - before))
        came = self._balloon.current_pages - before
        self.pages_deflated += came
        return WorkerState.DONE if came else WorkerState.AGAIN

    def _deflate_by_pages(self, wanted: int) -> Procedure:
        """Go on by single frames where the host has no whole superframe (any more)."""
        most = self._settings.commands_in_flight * self._settings.batch_extents
        calls = split_calls(Populate, self._take_pages(min(wanted, most)), self._settings.batch_extents)
        if calls:
            yield from carry_out(calls)
        self._settle_deflated(calls, 0)

    def _take_pages(self, wanted: int) -> Frames:
        """Take single pages from the balloon; only if there is none is a 2 MiB page broken."""
        if wanted > 0 and not self._balloon.pages.extents:
            self._balloon.split_block()
        return self._balloon.take_pages(wanted)

    def _settle_deflated(self, calls: list[Call], order: int) -> None:
        for call in calls:
            self._balloon.settle_deflated(call.did, order)
            self._balloon.settle_not_deflated(call.left, order)
            self._note_failure(call)

    def _note_failure(self, call: Call) -> None:
        if call.stop is not None and call.stop not in _NO_MEMORY:
            self._balloon.failed_extents += 1

    # -- inflation

    def _inflate(self, wanted: int) -> _WhatHappened:
        """Give up to *wanted* pages; AGAIN unless the whole batch could be had."""
        low = self._zone.watermarks.low_pages
        lacking = wanted - self._zone.spare_pages(low)
        if lacking > 0 and self._programs.reclaimable_pages:
            yield from self._programs.reclaim(lacking)
            # The target may have moved while the cache was being dropped.
            wanted = min(wanted, max(-self.credit(), 0))
        before = self._balloon.current_pages
        room = self._settings.commands_in_flight
        per_call = self._settings.batch_extents
        spare = min(wanted, self._zone.spare_pages(low))
        blocks_wanted = min(spare // SUPER_PAGES, room * per_call) if self._balloon.blocks is not None else 0
        blocks = self._balloon.isolate_blocks(blocks_wanted)
        self.blocks_lacking = blocks_wanted - int(blocks.size)
        if self._vacated and not blocks.size:
            # Emptied for nothing: somebody else was quicker, and may be again.
            self._can_vacate = False
        block_calls = split_calls(_decrease_blocks, blocks, per_call)
        batch = min(wanted - blocks.size * SUPER_PAGES, (room - len(block_calls)) * per_call)
        if self.blocks_lacking and self._can_vacate:
            # Whole blocks are emptied for the rest; by single pages goes what would be no whole block anyway.
            batch = min(batch, wanted % SUPER_PAGES)
        pages = self._balloon.isolate_pages(max(min(batch, spare - blocks.size * SUPER_PAGES), 0))
        page_calls = split_calls(Decrease, pages, per_call)
        if block_calls or page_calls:
            yield from carry_out(block_calls + page_calls)
        for calls, order in ((block_calls, SUPER_ORDER), (page_calls, 0)):
            for call in calls:
                self._balloon.settle_inflated(call.did, order)
                self._balloon.settle_not_inflated(call.left, order)
                self._note_failure(call)
        gone = before - self._balloon.current_pages
        self.pages_inflated += gone
        return WorkerState.DONE if gone == blocks.size * SUPER_PAGES + batch else WorkerState.AGAIN
