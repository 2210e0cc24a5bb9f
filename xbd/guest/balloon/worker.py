"""The balloon worker: brings the guest to its target, one batch per hold of the token.

A batch is up to 8 commands of one list each. Inflation takes wholly free 2 MiB blocks first, then
single pages; deflation goes through the queues that serve it in their order (2 MiB pages first, as
order-9 extents, then single pages), and breaks a 2 MiB page only when there is no single one. If the
host has no whole superframe it goes on by single frames. How a batch ended decides when the next one
comes (see `backoff`).
"""

from collections.abc import Callable, Generator

from xbd.abi import Result
from xbd.guest.balloon.backoff import Backoff, WorkerState
from xbd.guest.balloon.balloon import Balloon
from xbd.guest.balloon.transfers import Extents, Transfers
from xbd.guest.mode import ModeKind
from xbd.guest.procedures import Procedure, Request
from xbd.guest.settings import DriverSettings
from xbd.guest.state import Clock, Directives
from xbd.guest.workload.programs import Programs
from xbd.guest.zone import Zone
from xbd.units import SUPER_ORDER, SUPER_PAGES

# Empties up to so many blocks, so that they are wholly free; returns how many.
Vacate = Callable[[int], Generator[Request, list[Result], int]]
_WhatHappened = Generator[Request, list[Result], WorkerState]


class Worker:
    """The worker of one guest.

    Attributes: *running*: a procedure of it is under way. *blocks_lacking*: 2 MiB blocks that the last inflation
    would have taken had they been free.
    """

    def __init__(
        self,
        zone: Zone,
        balloon: Balloon,
        *,
        transfers: Transfers,
        programs: Programs,
        directives: Directives,
        settings: DriverSettings,
        clock: Clock,
        vacate: Vacate,
    ) -> None:
        self._zone = zone
        self._balloon = balloon
        self._transfers = transfers
        self._programs = programs
        self._directives = directives
        self._settings = settings
        self._clock = clock
        self._vacate = vacate
        self.floor_pages = settings.floor(zone.gfn_count)
        self.backoff = Backoff(settings.delay_max_s, settings.retry_max)
        self.running = False
        self.blocks_lacking = 0
        # False after emptying blocks brought nothing: then it is not tried again in this inflation.
        self._can_vacate = True
        self._vacated = 0
        self._wake_at: float | None = None
        self._slept_credit = 0
        self._slept_free = 0
        self._not_before = 0.0
        self._retry_after_batch = False

    # -- when to run

    @property
    def wakes_when_told(self) -> bool:
        """Whether it tries again, when an event says that this may succeed, what was refused."""
        return self._settings.wake_when_told

    def retry_on_target(self) -> None:
        """Try again what was refused, because the target was set, maybe to the same value."""
        if self.wakes_when_told:
            self._try_again()

    def retry_on_room(self) -> None:
        """Try to grow again, if growing was refused, because the host has memory or the limit was set."""
        if self.wakes_when_told and self.credit() > 0:
            self._try_again()

    def _try_again(self) -> None:
        # A batch that is under way may be refused although things have changed since it was sent.
        self._retry_after_batch = self.running
        if not self.running and self.backoff.state is not WorkerState.DONE:
            self.backoff.restart()
            self._wake_at = self._clock.now

    @property
    def aim_pages(self) -> int:
        """The pages that the driver aims at: what it is to hold, as far as gfns are not out as slots."""
        return min(self._due_pages(), self._zone.gfn_count - self._balloon.slots_out)

    def _due_pages(self) -> int:
        """Return what the guest is to hold: its target, bounded by mode, floor, the guest's size, and a limit it keeps to."""
        wanted = self._directives.mode.bound(max(self._directives.target_pages, self.floor_pages))
        limit_pages = self._directives.limit_pages if self._settings.keeps_to_limit else self._zone.gfn_count
        # A limit keeps a guest from growing; it is the target that makes it shrink, and its floor that ends that.
        most = max(limit_pages, self._balloon.current_pages)
        return min(wanted, most, self._zone.gfn_count)

    def credit(self) -> int:
        """Return the pages still to get (above 0) or to give (below)."""
        return self.aim_pages - self._balloon.current_pages

    def _waits_for_slots(self) -> bool:
        """Whether the guest is to hold more, but every gfn that it could get back is out as a slot."""
        return self._balloon.slots_out > 0 and self.credit() == 0 and self._due_pages() > self._balloon.current_pages

    def due(self) -> bool:
        """Whether a batch is to be started now."""
        if self.running or self._directives.mode.kind is ModeKind.STUCK or self._clock.now < self._not_before:
            return False
        if self._settings.report_free_s:
            # Memory goes and comes by itself (`reporting`), whatever the target is.
            return False
        credit = self.credit()
        if self.backoff.state is WorkerState.DONE:
            return credit != 0 or self._waits_for_slots()
        if credit != self._slept_credit or (self._wake_at is not None and self._clock.now >= self._wake_at):
            return True
        return self.backoff.state is WorkerState.CANCELLED and self._freed_enough(credit)

    def _freed_enough(self, credit: int) -> bool:
        needed = self._settings.wake_on_free_pages
        return bool(needed) and credit < 0 and self._zone.free.free_frames >= self._slept_free + needed

    def deadline(self) -> float | None:
        """Say when to look again though nothing happens; None when there is nothing to look for."""
        if self.running or self._directives.mode.kind is ModeKind.STUCK or self._settings.report_free_s:
            return None
        if self.backoff.state is WorkerState.DONE:
            return self._not_before if self.credit() or self._waits_for_slots() else None
        if self._wake_at is None:
            return None
        return max(self._wake_at, self._not_before)

    # -- what to do

    def run(self) -> Procedure:
        """Level until the credit is 0 or a batch does not end in DONE."""
        self.running = True
        self._can_vacate = True
        self._vacated = 0
        state = WorkerState.DONE
        while (
            state is WorkerState.DONE
            and not self._directives.stopping
            and self._directives.mode.kind is not ModeKind.STUCK
        ):
            yield self._balloon.token
            before = self._balloon.current_pages
            self._retry_after_batch = False
            outcome = yield from self._batch()
            state = self.backoff.note(outcome)
            self._balloon.token.release()
            if self._pace(abs(self._balloon.current_pages - before)) or self.credit() == 0:
                break
            if state is WorkerState.DONE and self.blocks_lacking and self._can_vacate:
                self._vacated = yield from self._vacate(self.blocks_lacking)
                self._can_vacate = self._vacated > 0
        if state is WorkerState.DONE and self._waits_for_slots():
            self.backoff.note(WorkerState.WAIT)
        if self._retry_after_batch and state is not WorkerState.DONE:
            self.backoff.restart()
            pause_s: float | None = 0.0
        else:
            pause_s = self.backoff.pause_s
        self._wake_at = None if pause_s is None else self._clock.now + pause_s
        self._slept_credit = self.credit()
        self._slept_free = self._zone.free.free_frames
        self.running = False

    def _pace(self, moved_pages: int) -> bool:
        """Under mode slow, put the next batch off for as long as this one should have taken."""
        if self._directives.mode.kind is not ModeKind.SLOW:
            self._not_before = 0.0
            return False
        self._not_before = self._clock.now + moved_pages / self._directives.mode.pages_per_s
        return moved_pages > 0

    def _most_pages(self) -> int:
        """Bound a batch: under mode slow to what one second may move, but never to less than one 2 MiB page."""
        if self._directives.mode.kind is ModeKind.SLOW:
            return max(int(self._directives.mode.pages_per_s), SUPER_PAGES)
        return self._zone.gfn_count

    def _batch(self) -> _WhatHappened:
        self.blocks_lacking = 0
        credit = self.credit()
        if credit > 0:
            return (yield from self._deflate(min(credit, self._most_pages())))
        if credit < 0:
            return (yield from self._inflate(min(-credit, self._most_pages())))
        return WorkerState.DONE

    # -- deflation

    def _deflate(self, wanted: int) -> _WhatHappened:
        """Populate up to *wanted* pages from the balloon; DONE even if only part came, AGAIN if nothing did."""
        before = self._balloon.current_pages
        without_superframes = yield from self._transfers.back(*self._take(wanted))
        if without_superframes:
            left = min(wanted - (self._balloon.current_pages - before), self._most_extents())
            yield from self._transfers.back(self._take_pages(left))
        return WorkerState.DONE if self._balloon.current_pages > before else WorkerState.AGAIN

    def _take(self, wanted: int) -> list[Extents]:
        """Take the extents of one batch from the queues that deflation serves, in their order."""
        parts: list[Extents] = []
        room = self._settings.commands_in_flight
        for queue in self._balloon.withheld:
            most = min(wanted >> queue.order, room * self._transfers.list_extents)
            taken = Extents(self._balloon.take(queue, most), queue.order)
            parts.append(taken)
            wanted -= taken.pages
            room -= self._transfers.lists(taken)
        if wanted and room and not any(part.gfns.size for part in parts if part.order == 0):
            parts.append(self._take_pages(min(wanted, room * self._transfers.list_extents)))
        return parts

    def _take_pages(self, wanted: int) -> Extents:
        """Take single pages from the balloon; only if there is none is a 2 MiB page broken."""
        if wanted > 0 and not self._balloon.pages.extents:
            self._balloon.split_block()
        return Extents(self._balloon.take(self._balloon.pages, wanted), 0)

    def _most_extents(self) -> int:
        """Bound a batch: as many lists as may be in flight."""
        return self._settings.commands_in_flight * self._transfers.list_extents

    # -- inflation

    def _inflate(self, wanted: int) -> _WhatHappened:
        """Give up to *wanted* pages; AGAIN unless the whole batch could be had."""
        low = self._zone.watermarks.low_pages
        lacking = wanted - self._zone.spare_pages(low)
        if lacking > 0 and self._programs.reclaimable_pages:
            yield from self._programs.reclaim(lacking)
            # The target may have moved while the cache was being dropped.
            wanted = min(wanted, max(-self.credit(), 0))
        spare = min(wanted, self._zone.spare_pages(low))
        blocks_wanted = min(spare // SUPER_PAGES, self._most_extents()) if self._balloon.blocks is not None else 0
        blocks = Extents(self._balloon.isolate_blocks(blocks_wanted), SUPER_ORDER)
        self.blocks_lacking = blocks_wanted - int(blocks.gfns.size)
        if self._vacated and not blocks.gfns.size:
            # Emptied in vain: another allocation took the block, and may do so again.
            self._can_vacate = False
        room = self._settings.commands_in_flight - self._transfers.lists(blocks)
        batch = min(wanted - blocks.pages, room * self._transfers.list_extents)
        if self.blocks_lacking and self._can_vacate:
            # Whole blocks are emptied for the rest; only what is less than a block is given up by single pages.
            batch = min(batch, wanted % SUPER_PAGES)
        pages = self._balloon.isolate_pages(max(min(batch, spare - blocks.pages), 0))
        gone = yield from self._transfers.unback(blocks, Extents(pages, 0))
        return WorkerState.DONE if gone == blocks.pages + batch else WorkerState.AGAIN
