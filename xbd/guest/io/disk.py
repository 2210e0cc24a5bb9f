"""A front end's model of its disk: the words that each sector should hold, and where the next request goes.

Requests go to whole runs of 32 sectors, in an order drawn once and then by turns, and no two that are
under way to the same run: so each read has one right answer, whatever order the back end works in.
A word is derived from the guest's seed, its sector and the number of the write, and not stored.
"""

from collections import deque
from typing import Final

import numpy as np

from xbd.abi import Frames, Words
from xbd.guest.io.messages import REQUEST_PAGES
from xbd.guest.workload.holdings import mix_words

# 16 MiB: small enough that what was written is soon read again.
DISK_SECTORS: Final = 4096
_NUMBER_SHIFT: Final = np.uint64(32)


class Disk:
    """A disk that is empty at first: every sector holds 0.

    Args:
        seed: makes the words this guest's own.
        rng: draws the order of the runs, and which requests write.
    """

    def __init__(self, seed: int, rng: np.random.Generator) -> None:
        self._key = mix_words(np.array([seed & 0xFFFF_FFFF_FFFF_FFFF], dtype=np.uint64))
        self._rng = rng
        # The number of the last write to each sector, 0 for none.
        self._written: Frames = np.zeros(DISK_SECTORS, dtype=np.int64)
        self._writes = 0
        self._runs = deque((rng.permutation(DISK_SECTORS // REQUEST_PAGES) * REQUEST_PAGES).tolist())

    def take_runs(self, count: int) -> list[tuple[int, int]]:
        """Take the runs of the next requests: (first sector, number of the write or 0 for a read) each."""
        writes = int(self._rng.binomial(count, 0.5))
        taken = []
        for at in range(count):
            self._writes += at < writes
            taken.append((self._runs.popleft(), self._writes if at < writes else 0))
        return taken

    def give_run(self, sector: int) -> None:
        """Let later requests go to that run again."""
        self._runs.append(sector)

    def note_written(self, sector: int, pages: int, write: int) -> None:
        """Take note that write number *write* was done."""
        self._written[sector : sector + pages] = write

    def words_to_write(self, sector: int, pages: int, write: int) -> Words:
        """Make the words of a write: (pages,) uint64."""
        return self._words(np.arange(sector, sector + pages), np.full(pages, write))

    def words_expected(self, sector: int, pages: int) -> Words:
        """Return the words that these sectors should hold."""
        written = self._written[sector : sector + pages]
        return np.where(written > 0, self._words(np.arange(sector, sector + pages), written), np.uint64(0))

    def _words(self, sectors: Frames, writes: Frames) -> Words:
        keys = (writes.astype(np.uint64) << _NUMBER_SHIFT) | sectors.astype(np.uint64)
        return mix_words(keys ^ self._key)
