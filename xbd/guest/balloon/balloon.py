"""The balloon: what the guest withholds from itself, and how many pages it holds.

Pages go into the balloon by being isolated, unbacked and queued; they come out by being taken from
a queue (isolated), backed and freed. This module keeps zone, queues and the count of populated
pages in step, and merges 512 single pages of one block into one 2 MiB page. It issues no commands.
"""

import numpy as np

from xbd.abi import Frames
from xbd.guest.balloon.queues import QUEUES, BalloonQueue, BlockQueue, PageQueue, check_queue_names
from xbd.guest.boot import BootMap
from xbd.guest.procedures import Lock
from xbd.guest.zone import Mobility, PageState, Zone
from xbd.units import SUPER_ORDER, SUPER_PAGES


class Balloon:
    """The queues of one guest.

    Args:
        zone: whose pages are ballooned.
        queue_names: of `QUEUES`, in the order in which deflation serves them; BadArgument if they are no choice.
        unmovable: inflate by unmovable allocations, in descending runs, as Linux does.

    Attributes: *current_pages*: pages that the guest believes are populated. *token*: held by who inflates,
    deflates or migrates. *failed_extents*: extents that the hypervisor refused for another reason than memory.
    """

    def __init__(self, zone: Zone, queue_names: tuple[str, ...], *, unmovable: bool) -> None:
        check_queue_names(queue_names)
        self._zone = zone
        self._mobility = Mobility.UNMOVABLE if unmovable else Mobility.MOVABLE
        self.queues: tuple[BalloonQueue, ...] = tuple(QUEUES[name](zone.gfn_count) for name in queue_names)
        blocks = [queue for queue in self.queues if isinstance(queue, BlockQueue)]
        pages = [queue for queue in self.queues if queue.order == 0]
        self.blocks: BlockQueue | None = blocks[0] if blocks else None
        self.pages: BalloonQueue = pages[0]
        self.token = Lock()
        self.current_pages = 0
        self.failed_extents = 0

    def adopt(self, boot: BootMap) -> None:
        """Take over what is unpopulated at boot."""
        self.current_pages = boot.populated
        if self.blocks is None:
            blocks = ((boot.balloon_blocks << SUPER_ORDER)[:, None] + np.arange(SUPER_PAGES)).reshape(-1)
            pages = np.concatenate((boot.balloon_pages, blocks))
        else:
            self._zone.adopt_blocks(boot.balloon_blocks, PageState.BALLOON_2M)
            self.blocks.put(boot.balloon_blocks << SUPER_ORDER)
            pages = boot.balloon_pages
        self._zone.adopt(pages, PageState.BALLOON_4K)
        self.pages.put(pages)

    # -- looking

    @property
    def block_pages(self) -> int:
        """Count the pages on the 2 MiB queue."""
        return self.blocks.extents * SUPER_PAGES if self.blocks is not None else 0

    @property
    def empty(self) -> bool:
        """Whether no page can be returned."""
        return self.pages.extents == 0 and self.block_pages == 0

    def partly_ballooned(self) -> int:
        """Count the blocks with ballooned single pages beyond the least possible number: the score of compaction."""
        blocks = np.count_nonzero(self._zone.counts[PageState.BALLOON_4K])
        return int(blocks) - -(-self._zone.total(PageState.BALLOON_4K) // SUPER_PAGES)

    # -- inflation: isolate, (unback), settle

    def isolate_blocks(self, count: int) -> Frames:
        """Isolate up to *count* wholly free blocks for inflation; returns their first gfns."""
        if self.blocks is None or count <= 0:
            return np.zeros(0, dtype=np.int64)
        return self._zone.allocate_blocks(count) << SUPER_ORDER

    def isolate_pages(self, count: int) -> Frames:
        """Isolate up to *count* free pages for inflation."""
        gfns = self._zone.allocate(count, self._mobility, PageState.ISOLATED)
        return np.sort(gfns)[::-1] if self._mobility is Mobility.UNMOVABLE else gfns

    def settle_inflated(self, gfns: Frames, order: int) -> None:
        """Queue isolated extents that are unbacked now."""
        self.current_pages -= gfns.size << order
        self._queue(gfns, order)

    def settle_not_inflated(self, gfns: Frames, order: int) -> None:
        """Free isolated extents that are still, or again, backed."""
        if order:
            self._zone.change_blocks(gfns >> SUPER_ORDER, PageState.ISOLATED, PageState.FREE)
        else:
            self._zone.release(gfns, PageState.ISOLATED)

    # -- deflation: take, (back), settle

    def take_blocks(self, count: int) -> Frames:
        """Isolate up to *count* ballooned blocks for deflation; returns their first gfns."""
        if self.blocks is None:
            return np.zeros(0, dtype=np.int64)
        gfns = self.blocks.take(count)
        self._zone.change_blocks(gfns >> SUPER_ORDER, PageState.BALLOON_2M, PageState.ISOLATED)
        return gfns

    def take_pages(self, count: int) -> Frames:
        """Isolate up to *count* ballooned single pages for deflation; no block is broken for them."""
        gfns = self.pages.take(count)
        self._zone.change(gfns, PageState.BALLOON_4K, PageState.ISOLATED)
        return gfns

    def split_block(self) -> bool:
        """Break the first ballooned block into single pages of the 4 KiB queue; says whether there was one."""
        if self.blocks is None or not self.blocks.extents:
            return False
        gfns = self.blocks.take(1)
        self._zone.split_blocks(gfns >> SUPER_ORDER, PageState.BALLOON_2M, PageState.BALLOON_4K)
        # Not merged again here: they were split to be used.
        self.pages.put(np.arange(gfns[0], gfns[0] + SUPER_PAGES, dtype=np.int64))
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
        assert isinstance(self.pages, PageQueue), "only the 4 KiB queue by block migrates"
        self.pages.remove(gfns)
        self._zone.change(gfns, PageState.BALLOON_4K, PageState.ISOLATED)

    def settle_migrated(self, old: Frames, new: Frames) -> None:
        """Free *old*, which is backed now, and queue *new*, which is unbacked now."""
        self._zone.release(old, PageState.ISOLATED)
        self._queue(new, 0)

    def _queue(self, gfns: Frames, order: int) -> None:
        if gfns.size == 0:
            return
        if order:
            assert self.blocks is not None, "a whole block came into a balloon without a 2 MiB queue"
            self._zone.change_blocks(gfns >> SUPER_ORDER, PageState.ISOLATED, PageState.BALLOON_2M)
            self.blocks.put(gfns)
            return
        self._zone.change(gfns, PageState.ISOLATED, PageState.BALLOON_4K)
        self.pages.put(gfns)
        self._coalesce(gfns)

    def _coalesce(self, gfns: Frames) -> None:
        """Move blocks that these pages made wholly ballooned to the 2 MiB queue."""
        if self.blocks is None or not isinstance(self.pages, PageQueue):
            return
        counts = self._zone.counts[PageState.BALLOON_4K]
        touched = gfns >> SUPER_ORDER
        whole = touched[counts[touched] == SUPER_PAGES]
        if whole.size == 0:
            return
        whole = np.unique(whole)
        self.pages.remove(((whole << SUPER_ORDER)[:, None] + np.arange(SUPER_PAGES)).reshape(-1))
        self._zone.merge_blocks(whole, PageState.BALLOON_4K, PageState.BALLOON_2M)
        self.blocks.put(whole << SUPER_ORDER)

    # -- bookkeeping

    def check(self) -> list[str]:
        """Say where queues and zone disagree; *current_pages* is checked when nothing is isolated."""
        wrong = [line for queue in self.queues for line in queue.check()]
        for queue in self.queues:
            pages = queue.extents << queue.order
            if pages != self._zone.total(queue.state):
                wrong.append(f"balloon: {pages} pages queued, {self._zone.total(queue.state)} are {queue.state.name}")
            members = queue.members()
            states = self._zone.unit[members >> SUPER_ORDER] if queue.order else self._zone.state[members]
            if (states != queue.state).any():
                wrong.append(f"balloon: a page on the queue of order {queue.order} is no {queue.state.name}")
        held = self._zone.gfn_count - self.block_pages - self.pages.extents - self._zone.total(PageState.SLOT)
        if not self._zone.total(PageState.ISOLATED) and held != self.current_pages:
            wrong.append(f"balloon: {self.current_pages} pages counted as populated, {held} are")
        return wrong
