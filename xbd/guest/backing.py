"""What of a guest's memory its host has had to back because it was touched, as under a hypervisor that backs by faults.

Theory of operation. Such a host backs a page when the guest first touches it. A block of which nothing was touched since
boot, or since it was given up as one 2 MiB page, is backed by one fault; a page that was given up by itself by a fault of
its own, for the page table above it stays. Giving up what was never touched frees nothing. Only counts come of this: the
machine of xbd backs a page when it populates it.
"""

import numpy as np
from numpy.typing import NDArray

from xbd.abi import Frames
from xbd.frames import sparse_zeros
from xbd.units import SUPER_ORDER, SUPER_PAGES


class Backing:
    """Counts the faults of one guest, and what it gives up that had been touched.

    Attributes: *faults_4k*, *faults_2m*: first touches, by the size of what they back. *touched_4k_taken*,
    *touched_2m_taken*: extents given up that had been touched, at least in part.
    """

    def __init__(self, gfn_count: int) -> None:
        blocks = -(-gfn_count // SUPER_PAGES)
        self._touched: NDArray[np.bool_] = sparse_zeros(blocks * SUPER_PAGES, np.bool_)
        self._rows = self._touched.reshape(-1, SUPER_PAGES)
        self._whole: NDArray[np.bool_] = np.ones(blocks, dtype=np.bool_)
        self.faults_4k = 0
        self.faults_2m = 0
        self.touched_4k_taken = 0
        self.touched_2m_taken = 0

    def use(self, gfns: Frames) -> None:
        """Note that these pages are put in use."""
        new = gfns[~self._touched[gfns]]
        if not new.size:
            return
        whole = np.unique((new >> SUPER_ORDER)[self._whole[new >> SUPER_ORDER]])
        if whole.size:
            self.faults_2m += whole.size
            self._rows[whole] = True
            self._whole[whole] = False
            new = new[~self._touched[new]]
        self.faults_4k += new.size
        self._touched[new] = True

    def take(self, gfns: Frames, order: int) -> None:
        """Note that these extents were given up."""
        if order:
            blocks = gfns >> SUPER_ORDER
            self.touched_2m_taken += int(np.count_nonzero(self._rows[blocks].any(axis=1)))
            self._rows[blocks] = False
            self._whole[blocks] = True
        else:
            self.touched_4k_taken += int(np.count_nonzero(self._touched[gfns]))
            self._touched[gfns] = False
