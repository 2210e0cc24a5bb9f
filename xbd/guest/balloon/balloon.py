"""The balloon: what the guest withholds from itself, and how many pages it holds.

Pages go into the balloon by being isolated, unbacked and queued; they come out by being taken from
a queue (isolated), backed and freed. Single pages of it can be handed out as slots, and come back.
This module keeps zone, queues and the count of populated pages in step, and merges 512 single pages
of one block into one 2 MiB page. It issues no commands.
"""

import numpy as np

from xbd.abi import Frames
from xbd.frames import expand_supers
from xbd.guest.balloon.queues import QUEUES, BalloonQueue, Purpose, can_serve
from xbd.guest.boot import BootMap
from xbd.guest.procedures import Lock
from xbd.guest.zone import Mobility, PageState, Zone
from xbd.replaceable import replaceable
from xbd.units import SUPER_ORDER, SUPER_PAGES


class Balloon:
    """The queues of one guest.

    Args:
        zone: whose pages are ballooned.
        queue_names: of `QUEUES`, in the order in which deflation serves them; as `can_serve` demands.
        unmovable: inflate by unmovable allocations, in descending runs, as Linux does.
        smallest_first: inflate by such allocations as programs make, from the smallest free pieces.

    Attributes: *queues*, by name. *withheld*: those that deflation serves, in its order; *pages* is the one of single
    pages, *blocks* that of 2 MiB pages, if there is one. *current_pages*: pages that the guest believes are populated.
    *token*: held by who inflates, deflates, migrates or asks for slots.
    """

    def __init__(
        self, zone: Zone, queue_names: tuple[str, ...], *, unmovable: bool, smallest_first: bool = False
    ) -> None:
        assert can_serve(queue_names), f"no balloon can be made of queues {queue_names}"
        self.zone = zone
        self._smallest_first = smallest_first
        self._mobility = Mobility.UNMOVABLE if unmovable else Mobility.MOVABLE
        self.queues: dict[str, BalloonQueue] = {name: QUEUES[name](zone.gfn_count) for name in queue_names}
        self.withheld = tuple(queue for queue in self.queues.values() if queue.purpose is Purpose.WITHHELD)
        self._of_order = {queue.order: queue for queue in self.withheld}
        self.pages = self._of_order[0]
        self.blocks = self._of_order.get(SUPER_ORDER)
        self.token = Lock()
        self.current_pages = 0

    def adopt(self, boot: BootMap) -> None:
        """Take over what is unpopulated at boot."""
        self.current_pages = boot.populated
        if self.blocks is None:
            pages = np.concatenate((boot.balloon_pages, expand_supers(boot.balloon_blocks)))
        else:
            self.zone.adopt_blocks(boot.balloon_blocks, PageState.BALLOON_2M)
            self.blocks.put(boot.balloon_blocks << SUPER_ORDER)
            pages = boot.balloon_pages
        self.zone.adopt(pages, PageState.BALLOON_4K)
        self.pages.put(pages)

    # -- queries

    @property
    def block_pages(self) -> int:
        """Count the pages on the 2 MiB queue."""
        return self.blocks.extents * SUPER_PAGES if self.blocks is not None else 0

    @property
    def withheld_pages(self) -> int:
        """Count the pages that deflation, or a request for slots, can take."""
        return self.pages.extents + self.block_pages

    @property
    def slots_out(self) -> int:
        """Count the slots that are handed out."""
        return self.zone.total(PageState.SLOT)

    def partly_ballooned(self) -> int:
        """Count the blocks with ballooned single pages beyond the least possible number: the score of compaction."""
        pages = self.zone.total(PageState.BALLOON_4K)
        if not pages:
            # Asked at every step, and mostly so.
            return 0
        return int(np.count_nonzero(self.zone.counts[PageState.BALLOON_4K])) - -(-pages // SUPER_PAGES)

    # -- inflation: isolate, (unback), settle

    def isolate_blocks(self, count: int) -> Frames:
        """Isolate up to *count* wholly free blocks for inflation; returns their first gfns."""
        if self.blocks is None or count <= 0:
            return np.zeros(0, dtype=np.int64)
        return self.zone.allocate_blocks(count) << SUPER_ORDER

    @replaceable
    def isolate_pages(self, count: int) -> Frames:
        """Isolate up to *count* free pages for inflation; unmovable ones as Linux names them, the last allocated first."""
        if self._smallest_first:
            return self.zone.allocate_smallest(count, self._mobility, PageState.ISOLATED)
        gfns = self.zone.allocate(count, self._mobility, PageState.ISOLATED)
        return gfns[::-1] if self._mobility is Mobility.UNMOVABLE else gfns

    def settle_inflated(self, gfns: Frames, order: int) -> None:
        """Queue isolated extents that are unbacked now."""
        self.current_pages -= gfns.size << order
        self._queue(gfns, order)

    def settle_not_inflated(self, gfns: Frames, order: int) -> None:
        """Free isolated extents that are still, or again, backed."""
        self._change(gfns, order, PageState.ISOLATED, PageState.FREE)

    # -- deflation: take, (back), settle

    def take(self, queue: BalloonQueue, count: int) -> Frames:
        """Isolate up to *count* of the extents that *queue* withholds, for deflation; no block is broken for them."""
        gfns = queue.take(count)
        self._change(gfns, queue.order, queue.state, PageState.ISOLATED)
        return gfns

    def split_block(self) -> bool:
        """Break the first ballooned block into single pages of the 4 KiB queue; says whether there was one."""
        if self.blocks is None or not self.blocks.extents:
            return False
        gfns = self.blocks.take(1)
        self.zone.split_blocks(gfns >> SUPER_ORDER, PageState.BALLOON_2M, PageState.BALLOON_4K)
        # Not merged again here: they were split to be used.
        self.pages.put(expand_supers(gfns >> SUPER_ORDER))
        return True

    def settle_deflated(self, gfns: Frames, order: int) -> None:
        """Free isolated extents that are backed now."""
        self.current_pages += gfns.size << order
        self.settle_not_inflated(gfns, order)

    def settle_not_deflated(self, gfns: Frames, order: int) -> None:
        """Put isolated extents that are still unbacked back into the balloon."""
        self._queue(gfns, order)

    # -- migration: pages that take another's place in the balloon

    def isolate_for_migration(self, gfns: Frames) -> None:
        """Isolate just these ballooned single pages."""
        assert self.pages.migrates, "the pages of this queue do not migrate"
        self.pages.remove(gfns)
        self.zone.change(gfns, PageState.BALLOON_4K, PageState.ISOLATED)

    def settle_migrated(self, old: Frames, new: Frames) -> None:
        """Free *old*, which is backed now, and queue *new*, which is unbacked now."""
        self.zone.release(old, PageState.ISOLATED)
        self._queue(new, 0)

    # -- slots: single pages that are handed out as they are, unpopulated

    def hand_out(self, name: str, count: int) -> Frames:
        """Make *count* single pages slots of the queue *name*; 2 MiB pages are broken if the single ones do not do.

        The caller holds the token, and knows that there are so many.
        """
        while self.pages.extents < count and self.split_block():
            pass
        gfns = self.pages.take(count)
        assert gfns.size == count, f"{count} slots are wanted of a balloon of {gfns.size} pages"
        self.zone.change(gfns, self.pages.state, PageState.SLOT)
        self.queues[name].put(gfns)
        return gfns

    def take_back(self, name: str, gfns: Frames) -> None:
        """Withhold slots of the queue *name* again, as any ballooned single pages."""
        self.queues[name].remove(gfns)
        self.zone.change(gfns, PageState.SLOT, PageState.ISOLATED)
        self._queue(gfns, 0)

    # -- what all of these have in common

    def _change(self, gfns: Frames, order: int, old: PageState, new: PageState) -> None:
        if order:
            self.zone.change_blocks(gfns >> SUPER_ORDER, old, new)
        else:
            self.zone.change(gfns, old, new)

    def _queue(self, gfns: Frames, order: int) -> None:
        if gfns.size == 0:
            return
        queue = self._of_order[order]
        self._change(gfns, order, PageState.ISOLATED, queue.state)
        queue.put(gfns)
        if order == 0:
            self._coalesce(gfns)

    def _coalesce(self, gfns: Frames) -> None:
        """Move blocks that these pages made wholly ballooned to the 2 MiB queue."""
        if self.blocks is None or not self.pages.migrates:
            return
        counts = self.zone.counts[self.pages.state]
        touched = gfns >> SUPER_ORDER
        whole = touched[counts[touched] == SUPER_PAGES]
        if whole.size == 0:
            return
        whole = np.unique(whole)
        self.pages.remove(expand_supers(whole))
        self.zone.merge_blocks(whole, self.pages.state, self.blocks.state)
        self.blocks.put(whole << SUPER_ORDER)

    # -- bookkeeping

    def check(self) -> list[str]:
        """Say where queues and zone disagree; *current_pages* is checked when nothing is isolated."""
        wrong = [line for queue in self.queues.values() for line in queue.check()]
        queued = dict.fromkeys((PageState.BALLOON_4K, PageState.BALLOON_2M, PageState.SLOT), 0)
        for name, queue in self.queues.items():
            queued[queue.state] += queue.extents << queue.order
            members = queue.members()
            states = self.zone.unit[members >> SUPER_ORDER] if queue.order else self.zone.state[members]
            if (states != queue.state).any():
                wrong.append(f"balloon: a page on the queue {name} is no {queue.state.name}")
        for state, pages in queued.items():
            if pages != self.zone.total(state):
                wrong.append(f"balloon: {pages} pages queued, {self.zone.total(state)} are {state.name}")
        if self.blocks is not None and self.pages.migrates:
            whole = int(np.count_nonzero(self.zone.counts[self.pages.state] == SUPER_PAGES))
            if whole:
                wrong.append(f"balloon: {whole} whole blocks are on the queue of single pages")
        held = self.zone.gfn_count - sum(queued.values())
        if not self.zone.total(PageState.ISOLATED) and held != self.current_pages:
            wrong.append(f"balloon: {self.current_pages} pages counted as populated, {held} are")
        return wrong
