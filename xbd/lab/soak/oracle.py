"""The oracle of the checker guest: it knows what each page of a guest of a few superpages must hold.

It draws commands on 2 MiB blocks, with one call in flight on each block, so that no result depends on another call in
flight. Each store writes numbers that were never written before. Answers update the expected content, and later loads
are compared with it.
"""

from collections.abc import Iterator
from typing import Final

import numpy as np

from xbd.abi import Command, Decrease, Frames, Load, LoadResult, MemopResult, Populate, Refused, Result, Stop, Store
from xbd.units import SUPER_ORDER, SUPER_PAGES

_LOAD_PAGES: Final = 4096
# Reasons for a partial result that are correct: the turn was over, or the host has no memory left.
_STOPS: Final = (None, Stop.BUDGET, Stop.ENOMEM)


class Oracle:
    """The expected memory of the checker guest.

    Args:
        gfn_count: the guest's pages, whole superpages.
        rng: for the commands.

    Attributes: *populated* and *words*, per gfn; *stored*: how many words were written.
    """

    def __init__(self, gfn_count: int, rng: np.random.Generator) -> None:
        self._rng = rng
        self.populated = np.zeros(gfn_count, dtype=bool)
        self.words = np.zeros(gfn_count, dtype=np.uint64)
        self.stored = 0
        self._busy: set[int] = set()

    def boot(self, runs: Frames) -> None:
        """Reset to *runs* of populated pages, (n, 2) half-open, whose words are zero."""
        self.populated[:] = False
        self.words[:] = 0
        self._busy.clear()
        for first, end in runs.reshape(-1, 2).tolist():
            self.populated[first:end] = True

    @property
    def tot_pages(self) -> int:
        """The number of populated pages."""
        return int(self.populated.sum())

    def draw(self) -> Command | None:
        """Draw a command on a block that has none in flight; None: every block has one."""
        free = [block for block in range(self.populated.size // SUPER_PAGES) if block not in self._busy]
        if not free:
            return None
        block = int(self._rng.choice(free))
        self._busy.add(block)
        gfns = np.arange(block * SUPER_PAGES, (block + 1) * SUPER_PAGES, dtype=np.int64)
        there = gfns[self.populated[gfns]]
        if there.size == 0:
            return Populate(gfns[:1], SUPER_ORDER) if self._rng.random() < 0.5 else Populate(self._some(gfns))
        share = self._rng.random()
        if share < 0.3 and there.size < SUPER_PAGES:
            return Populate(self._some(gfns[~self.populated[gfns]]))
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

    def apply(self, command: Command, result: Result) -> str | None:
        """Apply a result; returns what is wrong about it, None: nothing."""
        assert isinstance(command, Populate | Decrease | Store | Load), f"the checker never sends {command}"
        self._busy.discard(int(command.gfns[0]) // SUPER_PAGES)
        if isinstance(result, Refused):
            return f"{type(command).__name__} was refused: {result.errno} {result.message}"
        if result.stop not in _STOPS:
            return f"{type(command).__name__} of {command.gfns.size} extents stopped at {result.done}: {result.stop}"
        return self._done(command, result)

    def _done(self, command: Populate | Decrease | Store | Load, result: MemopResult | Result) -> str | None:
        assert not isinstance(result, Refused), "a refused command has no effect"
        done = command.gfns[: result.done]
        match command:
            case Populate(_, order) | Decrease(_, order):
                pages = (done[:, None] + np.arange(1 << order)).reshape(-1)
                self.populated[pages] = isinstance(command, Populate)
                self.words[pages] = 0
            case Store(_, words):
                self.words[done] = words[: result.done]
            case Load() if isinstance(result, LoadResult):
                wrong = np.flatnonzero(result.words != self.words[done])
                if wrong.size:
                    first = wrong[0]
                    return (
                        f"{wrong.size} of {done.size} words are not what was written: g{int(done[first]):#x} holds"
                        f" {int(result.words[first])}, expected {int(self.words[done[first]])}"
                    )
        return None

    def loads(self) -> Iterator[Load]:
        """Iterate over the loads that read all populated pages; no call may be in flight."""
        assert not self._busy, "all memory is to be read while calls are in flight"
        gfns = np.flatnonzero(self.populated)
        for first in range(0, gfns.size, _LOAD_PAGES):
            yield Load(gfns[first : first + _LOAD_PAGES])
