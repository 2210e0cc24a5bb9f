"""The commands of the checker guest, a guest of a few superpages whose memory an oracle follows.

They are drawn on 2 MiB blocks, with one call in flight on each block, so that no result depends on another call in
flight. Each store writes numbers that were never written before.
"""

from collections.abc import Iterator
from typing import Final

import numpy as np

from xbd.abi import Command, Decrease, Frames, Load, Populate, Refused, Result, Stop, Store
from xbd.testing.oracle import Oracle, Violation
from xbd.units import SUPER_ORDER, SUPER_PAGES

_DRAWN: Final = (Populate, Decrease, Store, Load)
_LOAD_PAGES: Final = 4096
# Reasons for a partial result that are correct: the turn was over, or the host has no memory left.
_STOPS: Final = (None, Stop.BUDGET, Stop.ENOMEM)


class CheckerCommands:
    """The commands of the checker guest, whose memory *oracle* follows; *rng* draws them.

    Attributes: *stored*: how many words were written.
    """

    def __init__(self, oracle: Oracle, rng: np.random.Generator) -> None:
        self._oracle = oracle
        self._rng = rng
        self.stored = 0

    def draw(self) -> Command | None:
        """Draw a command on a block that has none in flight; None: every block has one."""
        populated = self._oracle.populated
        busy = {
            int(command.gfns[0]) // SUPER_PAGES for command in self._oracle.in_flight if isinstance(command, _DRAWN)
        }
        free = [block for block in range(populated.size // SUPER_PAGES) if block not in busy]
        if not free:
            return None
        block = int(self._rng.choice(free))
        gfns = np.arange(block * SUPER_PAGES, (block + 1) * SUPER_PAGES, dtype=np.int64)
        there = gfns[populated[gfns]]
        if there.size == 0:
            return Populate(gfns[:1], SUPER_ORDER) if self._rng.random() < 0.5 else Populate(self._some(gfns))
        share = self._rng.random()
        if share < 0.3 and there.size < SUPER_PAGES:
            return Populate(self._some(gfns[~populated[gfns]]))
        if share < 0.5:
            whole = there.size == SUPER_PAGES and self._rng.random() < 0.5
            return Decrease(gfns[:1], SUPER_ORDER) if whole else Decrease(self._some(there))
        some = self._some(there)
        if share < 0.6:
            return Load(some)
        self.stored += some.size
        return Store(some, np.arange(self.stored - some.size + 1, self.stored + 1, dtype=np.uint64))

    def _some(self, gfns: Frames) -> Frames:
        """Draw at least one of (n,) gfns, in random order."""
        count = int(self._rng.integers(1, gfns.size + 1))
        return self._rng.permutation(gfns)[:count]

    def loads(self) -> Iterator[Load]:
        """Iterate over the loads that read all populated pages; no call may be in flight."""
        assert not self._oracle.in_flight, "all memory is to be read while calls are in flight"
        gfns = np.flatnonzero(self._oracle.populated)
        for first in range(0, gfns.size, _LOAD_PAGES):
            yield Load(gfns[first : first + _LOAD_PAGES])


def check_stop(command: Command, result: Result) -> None:
    """Check how a command of the checker ended. Raises Violation: it was refused, or stopped for another reason than memory."""
    if isinstance(result, Refused):
        raise Violation(f"{type(command).__name__} was refused: {result.errno} {result.message}")
    if result.stop not in _STOPS:
        raise Violation(f"{type(command).__name__} stopped after {result.done} extents: {result.stop}")
