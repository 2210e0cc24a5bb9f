"""Free page reporting: a guest tells its host of wholly free blocks, and the host has them until the guest needs them.

No target moves anything: what was free for two seconds goes, 2 MiB at a time, and comes back inside the allocation
that takes it. So here an allocation waits, for the host; if the host is full it is refused, and counted as denied: a
host that gives its memory out like this has to have it, or to swap. In 2 MiB pages or, where the host has no whole superframe
left, in single pages.

Source: Linux 6.1 mm/page_reporting.c: PAGE_REPORTING_DELAY, page_reporting_cycle, page_reporting_process_zone.
"""

from collections.abc import Generator
from typing import Final

from xbd.abi import Result
from xbd.guest.balloon.balloon import Balloon
from xbd.guest.balloon.transfers import Extents, Transfers
from xbd.guest.procedures import Procedure, Request
from xbd.guest.settings import DriverSettings
from xbd.guest.state import Clock, Directives
from xbd.guest.zone import Zone
from xbd.units import SUPER_ORDER, SUPER_PAGES

# Blocks are told in lists of so many; a turn tells a 16th of those that are free.
_CAPACITY: Final = 32
_TURNS: Final = 16


class Reporting:
    """Free page reporting of one guest.

    Attributes: *running*: a procedure of it is under way.
    """

    def __init__(
        self,
        zone: Zone,
        balloon: Balloon,
        transfers: Transfers,
        *,
        directives: Directives,
        settings: DriverSettings,
        clock: Clock,
    ) -> None:
        self._zone = zone
        self._balloon = balloon
        self._transfers = transfers
        self._directives = directives
        self._clock = clock
        self._delay_s = settings.report_free_s
        # So much stays, for what allocations cannot wait for.
        self._keeps_pages = zone.watermarks.low_pages + _CAPACITY * SUPER_PAGES
        self._report_at: float | None = None
        self.running = False

    def due(self) -> bool:
        """Whether blocks are to be told now."""
        if not self._delay_s or self.running or self._directives.stopping:
            return False
        if not self._most():
            self._report_at = None
            return False
        if self._report_at is None:
            self._report_at = self._clock.now + self._delay_s
        return self._clock.now >= self._report_at

    def deadline(self) -> float | None:
        """Say when to look again; None while there is nothing to tell."""
        return None if self.running else self._report_at

    def _most(self) -> int:
        """Count the blocks that may go in one turn."""
        free = self._zone.free.free_superframes
        lists = -(-free // (_CAPACITY * _TURNS))
        return min(free, lists * _CAPACITY, self._zone.spare_pages(self._keeps_pages) // SUPER_PAGES)

    def run(self) -> Procedure:
        """Tell the host of free blocks, which are its own from then on."""
        self.running = True
        yield self._balloon.token
        blocks = self._balloon.isolate_blocks(self._most())
        if blocks.size:
            yield from self._transfers.unback(Extents(blocks, SUPER_ORDER))
        self._balloon.token.release()
        self._report_at = None
        self.running = False

    def take_back(self, pages: int) -> Generator[Request, list[Result], None]:
        """Get back what an allocation lacks, *pages* or more, as far as the host has it."""
        queue = self._balloon.blocks
        if not self._delay_s or pages <= 0 or queue is None:
            return
        yield self._balloon.token
        goal = self._balloon.current_pages + pages
        blocks = self._balloon.take(queue, -(-pages // SUPER_PAGES))
        lacks_superframes = yield from self._transfers.back(Extents(blocks, SUPER_ORDER))
        while lacks_superframes and (lacking := goal - self._balloon.current_pages) > 0:
            if not self._balloon.pages.extents and not self._balloon.split_block():
                break
            before = self._balloon.current_pages
            singles = self._balloon.take(self._balloon.pages, min(lacking, SUPER_PAGES))
            yield from self._transfers.back(Extents(singles, 0))
            lacks_superframes = self._balloon.current_pages > before
        self._balloon.token.release()
