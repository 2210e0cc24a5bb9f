"""The pages that a front end does its I/O through, and their grants.

They are the kernel's own: unmovable, allocated only above the min watermark, and isolated only while
a command names them. Pages whose grants are kept wait here for the next request. A grant that cannot
be ended because it is still mapped is put aside and tried again: its page is not freed before.
Source: Linux drivers/xen/grant-table.c, gnttab_add_deferred.
"""

from typing import Final

import numpy as np

from xbd.abi import EndGrant, Frames
from xbd.guest.io.commands import step_over
from xbd.guest.io.messages import REQUEST_PAGES, RING_REQUESTS
from xbd.guest.procedures import Procedure
from xbd.guest.state import Clock
from xbd.guest.zone import Mobility, PageState, Zone

_END_AGAIN_S: Final = 1.0
# Grants put aside beyond which no new pages are handed out: as many as a ring's requests have.
_DEFERRED_MOST: Final = RING_REQUESTS * REQUEST_PAGES
_NO_PAGES: Final[Frames] = np.zeros(0, dtype=np.int64)
# Pages, (n,) gfns, and their grants, (n,) references, -1 for none.
Granted = tuple[Frames, Frames]


class GrantedPages:
    """The I/O pages of one guest that no request uses."""

    def __init__(self, zone: Zone, clock: Clock) -> None:
        self._zone = zone
        self._clock = clock
        self._kept: Granted = (_NO_PAGES, _NO_PAGES)
        self._deferred: Granted = (_NO_PAGES, _NO_PAGES)
        self._end_at = 0.0

    @property
    def available(self) -> int:
        """Count the pages that `take` could hand out now."""
        if self._deferred[0].size >= _DEFERRED_MOST:
            return 0
        return self._zone.spare_pages(self._zone.watermarks.min_pages) + int(self._kept[0].size)

    def take(self, count: int) -> Granted:
        """Isolate *count* of the `available` pages, those that are granted already first."""
        reused = min(count, self._kept[0].size)
        gfns, refs = self._kept[0][:reused], self._kept[1][:reused]
        self._kept = self._kept[0][reused:], self._kept[1][reused:]
        self._zone.change(gfns, PageState.UNMOVABLE, PageState.ISOLATED)
        fresh = self._zone.allocate(count - reused, Mobility.UNMOVABLE, PageState.ISOLATED)
        assert fresh.size == count - reused, f"{count - reused} pages were free, only {fresh.size} came"
        return np.concatenate((gfns, fresh)), np.concatenate((refs, np.full(fresh.size, -1, dtype=np.int64)))

    def keep(self, gfns: Frames, refs: Frames) -> None:
        """Let isolated pages, all granted, wait for the next request."""
        self._zone.change(gfns, PageState.ISOLATED, PageState.UNMOVABLE)
        self._kept = np.concatenate((self._kept[0], gfns)), np.concatenate((self._kept[1], refs))

    def end(self, gfns: Frames, refs: Frames) -> Procedure:
        """End the grants of isolated pages and free those; what is still mapped is put aside."""
        granted = np.flatnonzero(refs >= 0)
        free = refs < 0
        # By the request's length: where one page of a request is still mapped, most often the others are too.
        free[granted] = yield from step_over(lambda at: EndGrant(refs[granted[at]]), granted // REQUEST_PAGES)
        self._zone.release(gfns[free], PageState.ISOLATED)
        self._zone.change(gfns[~free], PageState.ISOLATED, PageState.UNMOVABLE)
        if not free.all():
            self._put_aside(gfns[~free], refs[~free], _END_AGAIN_S)

    def end_kept(self) -> None:
        """Have the grants that were kept ended, as soon as `end_deferred` runs."""
        kept, self._kept = self._kept, (_NO_PAGES, _NO_PAGES)
        self._put_aside(*kept, 0.0)

    def _put_aside(self, gfns: Frames, refs: Frames, wait_s: float) -> None:
        self._deferred = np.concatenate((self._deferred[0], gfns)), np.concatenate((self._deferred[1], refs))
        self._end_at = self._clock.now + wait_s

    def end_deferred(self) -> Procedure:
        """Try again, if it is time, to end what was put aside."""
        gfns, refs = self._deferred
        if not gfns.size or self._clock.now < self._end_at:
            return
        self._deferred = (_NO_PAGES, _NO_PAGES)
        self._zone.change(gfns, PageState.UNMOVABLE, PageState.ISOLATED)
        yield from self.end(gfns, refs)

    def deadline(self) -> float | None:
        """Say when to try again; None: nothing was put aside."""
        return self._end_at if self._deferred[0].size else None

    @property
    def kept_pages(self) -> int:
        """Count the pages that wait, granted, for the next request."""
        return int(self._kept[0].size)

    @property
    def deferred_pages(self) -> int:
        """Count the pages whose grants could not be ended yet."""
        return int(self._deferred[0].size)

    def held(self) -> list[Granted]:
        """List the pages that wait here, and their grants."""
        return [self._kept, self._deferred]
