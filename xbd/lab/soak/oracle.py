"""The witness's book: a guest of a few superpages that knows what each of its pages must hold.

It works block by block of 2 MiB, a call at a time on each, so that what a call finds never depends on another
that is in flight. Each store writes numbers that were never written before. What the answers say is done
goes into the book; what the memory says later is held against it.
"""

from collections.abc import Iterator
from typing import Final

import numpy as np

from xbd.abi import Command, Decrease, Frames, Load, LoadResult, MemopResult, Populate, Refused, Result, Stop, Store
from xbd.units import SUPER_ORDER, SUPER_PAGES

_LOAD_PAGES: Final = 4096
# Ways of a call to end early that say nothing against the host: the turn was over, the host has no memory left.
_STOPS: Final = (None, Stop.BUDGET, Stop.ENOMEM)


class Oracle:
    """What the witness knows of its memory.

    Args:
        gfn_count: its pages, whole superpages.
        rng: what it draws from.

    Attributes: *populated* and *words*, per gfn; *stored*: how many words were written.
    """

    def __init__(self, gfn_count: int, rng: np.random.Generator) -> None:
        self._rng = rng
        self.populated = np.zeros(gfn_count, dtype=bool)
        self.words = np.zeros(gfn_count, dtype=np.uint64)
        self.stored = 0
        self._busy: set[int] = set()

    def boot(self, runs: Frames) -> None:
        """Begin with a map of *runs*, (n, 2) half-open, that reads zero."""
        self.populated[:] = False
        self.words[:] = 0
        self._busy.clear()
        for first, end in runs.reshape(-1, 2).tolist():
            self.populated[first:end] = True

    @property
    def tot_pages(self) -> int:
        """Count what is populated."""
        return int(self.populated.sum())

    def draw(self) -> Command | None:
        """Draw the next call, on a block that has none in flight; None when all have."""
        free = [block for block in range(self.populated.size // SUPER_PAGES) if block not in self._busy]
        if not free:
            return None
        block = int(self._rng.choice(free))
        self._busy.add(block)
        gfns = np.arange(block * SUPER_PAGES, (block + 1) * SUPER_PAGES, dtype=np.int64)
        there = gfns[self.populated[gfns]]
        if there.size == 0:
            return Populate(gfns[:1], SUPER_ORDER) if self._rng.random() < 0.5 else Populate(self._some(gfns))
        chance = self._rng.random()
        if chance < 0.3 and there.size < SUPER_PAGES:
            return Populate(self._some(gfns[~self.populated[gfns]]))
        if chance < 0.5:
            whole = there.size == SUPER_PAGES and self._rng.random() < 0.5
            return Decrease(gfns[:1], SUPER_ORDER) if whole else Decrease(self._some(there))
        some = self._some(there)
        if chance < 0.6:
            return Load(some)
        self.stored += some.size
        return Store(some, np.arange(self.stored - some.size + 1, self.stored + 1, dtype=np.uint64))

    def _some(self, gfns: Frames) -> Frames:
        """Draw some of (n,) gfns, at least one, in no order."""
        count = int(self._rng.integers(1, gfns.size + 1))
        return self._rng.permutation(gfns)[:count]

    def apply(self, command: Command, result: Result) -> str | None:
        """Take in what a call did; returns what is wrong about its answer, if anything is."""
        assert isinstance(command, Populate | Decrease | Store | Load), f"the witness never sends {command}"
        self._busy.discard(int(command.gfns[0]) // SUPER_PAGES)
        if isinstance(result, Refused):
            return f"{type(command).__name__} was refused: {result.errno} {result.message}"
        if result.stop not in _STOPS:
            return f"{type(command).__name__} of {command.gfns.size} extents stopped at {result.done}: {result.stop}"
        return self._done(command, result)

    def _done(self, command: Populate | Decrease | Store | Load, result: MemopResult | Result) -> str | None:
        assert not isinstance(result, Refused), "a refusal does nothing"
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
        """List calls that read all there is; none may be in flight before."""
        assert not self._busy, "all of the memory is read while calls are in flight"
        gfns = np.flatnonzero(self.populated)
        for first in range(0, gfns.size, _LOAD_PAGES):
            yield Load(gfns[first : first + _LOAD_PAGES])
