"""Slots: gfns without a frame of their own, at which other domains' frames can be mapped.

A device's back end asks for a number of slots and gets all of them or none. They are taken from the ballooned single
pages, else a 2 MiB page is broken, else the balloon inflates a little more. A slot belongs to a
queue of purpose `SLOTS`: it never serves deflation, never migrates and never coalesces. When it
comes back it is an ordinary ballooned page again, and the worker returns it to the guest if the
target is that high.

The number of slots is bounded, and inflating for them spares the driver's floor and the guest's
reserves: a front end that makes the back end map pages cannot make its domain balloon itself out (XSA-300).
Source: Linux drivers/xen/balloon.c, xen_alloc_ballooned_pages, which has no bound.
"""

from collections.abc import Generator
from typing import Final

import numpy as np

from xbd.abi import Frames, Result
from xbd.guest.balloon.balloon import Balloon
from xbd.guest.balloon.queues import Purpose
from xbd.guest.balloon.transfers import Extents, Transfers
from xbd.guest.procedures import Request
from xbd.guest.settings import DriverSettings
from xbd.guest.workload.programs import Programs
from xbd.guest.zone import Zone
from xbd.units import SUPER_ORDER, SUPER_PAGES

# The queue of slots that every driver has by default.
FOREIGN: Final = "foreign"
_NO_SLOTS: Final[Frames] = np.zeros(0, dtype=np.int64)


class ForeignSlots:
    """Hands out slots, and takes them back.

    Attributes: *limit_pages*: how many slots may be out at a time, of all queues together. *refused*: requests that
    got nothing.
    """

    def __init__(
        self, zone: Zone, balloon: Balloon, *, programs: Programs, transfers: Transfers, settings: DriverSettings
    ) -> None:
        self._zone = zone
        self._balloon = balloon
        self._programs = programs
        self._transfers = transfers
        self._floor_pages = settings.floor(zone.gfn_count)
        self._names = frozenset(name for name, queue in balloon.queues.items() if queue.purpose is Purpose.SLOTS)
        self.limit_pages = settings.slots_limit(zone.gfn_count) if self._names else 0
        self.refused = 0

    @property
    def handed_out(self) -> int:
        """Count the slots that are out."""
        return self._balloon.slots_out

    def request(self, count: int, queue: str = FOREIGN) -> Generator[Request, list[Result], Frames]:
        """Hand out *count* slots of *queue*, all or none.

        Waits for the balloon's token; the caller holds neither that nor the programs' lock.

        Returns:
            (count,) gfns, unpopulated, which the caller has until it releases them; or (0,): the bound, the driver's
            floor,
            the guest's reserves or its queues do not allow so many now. Then nothing is taken, and the worker returns
            what
            was inflated for it.
        """
        assert count >= 0, f"{count} slots are wanted"
        slots = _NO_SLOTS
        if count and self._allowed(count, queue):
            yield self._balloon.token
            # Others may have got theirs while this one waited.
            if self._allowed(count, queue) and (yield from self._provide(count)):
                slots = self._balloon.hand_out(queue, count)
            self._balloon.token.release()
        self.refused += slots.size < count
        return slots

    def release(self, gfns: Frames, queue: str = FOREIGN) -> None:
        """Take slots back into the balloon; nothing is mapped there any more. Never waits."""
        self._balloon.take_back(queue, gfns)

    def _allowed(self, count: int, queue: str) -> bool:
        return queue in self._names and count <= self.limit_pages - self.handed_out

    def _provide(self, count: int) -> Generator[Request, list[Result], bool]:
        """Inflate until *count* pages are withheld; says whether they are."""
        lacking = count - self._balloon.withheld_pages
        if lacking > 0 and self._can_spare(lacking):
            needed = lacking - self._spare_pages()
            if needed > 0:
                yield from self._programs.reclaim(needed)
            # The programs may have been quicker.
            if self._spare_pages() >= lacking:
                yield from self._inflate(lacking)
        return self._balloon.withheld_pages >= count

    def _spare_pages(self) -> int:
        return self._zone.spare_pages(self._zone.watermarks.low_pages)

    def _can_spare(self, pages: int) -> bool:
        """Whether the guest can give up so many; if not, no inflation is begun."""
        above_floor = self._balloon.current_pages - self._floor_pages
        return pages <= min(above_floor, self._spare_pages() + self._programs.reclaimable_pages)

    def _inflate(self, pages: int) -> Generator[Request, list[Result], int]:
        """Give up free pages, whole blocks first, as the worker does."""
        blocks = Extents(self._balloon.isolate_blocks(pages // SUPER_PAGES), SUPER_ORDER)
        singles = Extents(self._balloon.isolate_pages(pages - blocks.pages), 0)
        return (yield from self._transfers.unback(blocks, singles))

    def check(self) -> list[str]:
        """Say whether more slots are out than may be."""
        if self.handed_out <= self.limit_pages:
            return []
        return [f"slots: {self.handed_out} are out, {self.limit_pages} may be"]
