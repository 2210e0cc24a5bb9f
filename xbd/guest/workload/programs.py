"""The guest's programs as one: they hold pages, and reach the goals that a workload sets.

A tick's frees and a tick's allocations are one batch each. Page cache is reclaimable: it is dropped
when an allocation would fail or when the balloon wants pages, and grows only from free memory above
the high watermark. An allocation that cannot be served is refused, counted and dropped: the program is taken
to have ended, so it neither asks again nor has anything to free later. `placement` decides which free page goes
where: processes and page cache get their pages in runs, some processes' memory is huge pages, and a few of the
pages that they free stay *listed*, which the zone counts as in use. The least that was ever wanted is taken to
be held by the oldest programs, and is freed last.

With *verify* every page's word is stored when it is allocated and checked when it is freed or moved;
the pages are isolated meanwhile. Without, no command is ever issued from here. Procedures that take
pages out of use hold `pages_lock`, so that no two of them ever mean the same page.
"""

from collections.abc import Generator
from typing import Final

import numpy as np

from xbd.abi import Frames, Result
from xbd.frames import WHOLE
from xbd.guest.procedures import Lock, Procedure, Request, load_words, store_words
from xbd.guest.workload.holdings import Holdings, Picked, Pool
from xbd.guest.workload.placement import FREED_PER_LISTED, huge_pages_of, share_out, split_listed
from xbd.guest.workload.profiles import Goals
from xbd.guest.zone import Mobility, PageState, Zone
from xbd.units import SUPER_PAGES

_STATE: Final = {
    Pool.ANON: PageState.MOVABLE,
    Pool.CACHE: PageState.MOVABLE,
    Pool.KERNEL: PageState.UNMOVABLE,
    Pool.HUGE: PageState.MOVABLE,
    Pool.LISTED: PageState.MOVABLE,
}
# The pools that a goal for anonymous memory is about.
_PROCESSES: Final = (Pool.ANON, Pool.HUGE, Pool.LISTED)
# Files are dropped whatever their age, while among processes the youngest are the first to end.
_CACHE_YOUNG_SHARE: Final = 0.0


class Programs:
    """All that runs in one guest and uses memory.

    Args:
        zone: where the pages come from.
        seed, rng: for content words, and for what is freed when.
        verify: whether content words are stored and checked.
        young_share: of the chunks that a free takes, the share of the youngest.

    Attributes: *pages_allocated*, *pages_freed*, *pages_denied*, *cache_dropped*, *content_errors*: counts.
    """

    def __init__(self, zone: Zone, seed: int, rng: np.random.Generator, *, verify: bool, young_share: float) -> None:
        self._zone = zone
        self._rng = rng
        self._verify = verify
        self._young_share = young_share
        self.holdings = Holdings(zone.gfn_count, seed)
        self.pages_lock = Lock()
        self.pages_allocated = 0
        self.pages_freed = 0
        self.pages_denied = 0
        self.cache_dropped = 0
        self.content_errors = 0
        # By pool, the pages of the last goals that were refused: they are not held and not to be freed.
        self._refused = [0 for _ in Pool]
        self._goals = [0 for _ in Pool]
        # The least that was wanted since there were goals, by pool.
        self._residents: list[int | None] = [None for _ in Pool]

    @property
    def reclaimable_pages(self) -> int:
        """Count the page cache, which can be had for the asking."""
        return self.holdings.pages[Pool.CACHE]

    # -- reaching goals

    def reach(self, goals: Goals) -> Procedure:
        """Free and allocate until the goals are reached or refused."""
        yield self.pages_lock
        shrink, grow = self._plan(Pool.ANON, goals.anon_pages)
        kernel_shrink, kernel_grow = self._plan(Pool.KERNEL, goals.kernel_pages)
        cache_surplus = self.holdings.pages[Pool.CACHE] - goals.cache_pages
        churn = min(goals.churn_pages, self._process_pages() - shrink)
        yield from self._free_processes(shrink, residents_pages=self._resident_pages(Pool.ANON, goals.anon_pages))
        yield from self._free_processes(churn, residents_pages=0)
        yield from self._free(Pool.KERNEL, kernel_shrink)
        yield from self._free(
            Pool.CACHE, cache_surplus, residents_pages=self._resident_pages(Pool.CACHE, goals.cache_pages)
        )
        yield from self._make_room(kernel_grow + grow + churn)
        yield from self._grow(kernel_grow, grow + churn, goals.cache_pages)
        self.pages_lock.release()

    def _plan(self, pool: Pool, goal: int) -> tuple[int, int]:
        """Return how much the pool is to shrink and to grow, by the change of its goal; refused pages do not count."""
        previous, self._goals[pool] = self._goals[pool], goal
        if goal >= previous:
            return 0, goal - previous
        gone = min(round(self._refused[pool] * (previous - goal) / previous), self._refused[pool])
        self._refused[pool] -= gone
        held = self._process_pages() if pool is Pool.ANON else self.holdings.pages[pool]
        return min(previous - goal - gone, held), 0

    def _process_pages(self) -> int:
        return sum(self.holdings.pages[pool] for pool in _PROCESSES)

    def _resident_pages(self, pool: Pool, goal: int) -> int:
        """Say how many of the oldest pages have been there ever since, now that *goal* is wanted."""
        previous = self._residents[pool]
        self._residents[pool] = least = goal if previous is None else min(previous, goal)
        return least

    def _make_room(self, pages: int) -> Procedure:
        """Drop page cache where an allocation of *pages* would fail."""
        lacking = pages - self._zone.spare_pages(self._zone.watermarks.min_pages)
        if lacking > 0:
            yield from self._drop_cache(lacking)

    def _grow(self, kernel: int, anon: int, cache_goal: int) -> Procedure:
        """Allocate, and then store the words of, what the pools want and the zone can give."""
        spare = self._zone.spare_pages(self._zone.watermarks.min_pages)
        kernel_had, anon_had = min(kernel, spare), min(anon, spare - min(kernel, spare))
        self._refuse(Pool.KERNEL, kernel - kernel_had)
        self._refuse(Pool.ANON, anon - anon_had)
        above_high = max(self._zone.spare_pages(self._zone.watermarks.high_pages) - kernel_had - anon_had, 0)
        cache_had = min(max(cache_goal - self.holdings.pages[Pool.CACHE], 0), above_high)
        parts: list[tuple[Pool, Frames]] = []
        if kernel_had:
            parts.append((Pool.KERNEL, self._allocate(kernel_had, Mobility.UNMOVABLE)))
        if anon_had + cache_had:
            huge = self._allocate_huge(anon_had)
            movable = self._allocate(anon_had + cache_had - huge.size, Mobility.MOVABLE)
            to_processes, to_cache = share_out(movable, cache_had, self._rng)
            parts += [(Pool.HUGE, huge), (Pool.ANON, to_processes), (Pool.CACHE, to_cache)]
        yield from self._put_in_use(parts)

    def _refuse(self, pool: Pool, pages: int) -> None:
        self._refused[pool] += pages
        self.pages_denied += pages

    def _allocate(self, count: int, mobility: Mobility) -> Frames:
        if mobility is Mobility.MOVABLE:
            gfns = self._zone.allocate_scattered(count, self._on_its_way(mobility), self._rng)
        else:
            gfns = self._zone.allocate(count, mobility, self._on_its_way(mobility))
        assert gfns.size == count, f"{count} pages were free, only {gfns.size} came"
        self.pages_allocated += count
        return gfns

    def _allocate_huge(self, anon: int) -> Frames:
        """Take huge pages for the share of *anon* new pages that wants them, as far as there are whole blocks."""
        blocks = min(huge_pages_of(anon, self._rng), self._zone.free.free_superframes)
        on_its_way = self._on_its_way(Mobility.MOVABLE)
        gfns = self._zone.allocate(blocks * SUPER_PAGES, Mobility.MOVABLE, on_its_way, sources=(WHOLE,))
        self.pages_allocated += gfns.size
        return gfns

    def _on_its_way(self, mobility: Mobility) -> PageState:
        """Name the state of pages that are being put in use: isolated while their words are stored."""
        if self._verify:
            return PageState.ISOLATED
        return PageState.MOVABLE if mobility is Mobility.MOVABLE else PageState.UNMOVABLE

    def _put_in_use(self, parts: list[tuple[Pool, Frames]]) -> Procedure:
        for pool, gfns in parts:
            if not gfns.size:
                continue
            slots = self.holdings.place(pool, gfns)
            if self._verify:
                yield from self._store(gfns, slots)
                self._zone.change(gfns, PageState.ISOLATED, _STATE[pool])

    def _store(self, gfns: Frames, slots: Frames) -> Procedure:
        self.content_errors += yield from store_words(gfns, self.holdings.words_of_slots(slots))

    # -- giving pages up

    def _free_processes(self, pages: int, *, residents_pages: int) -> Procedure:
        """Free *pages* of processes: huge pages by their share, and of the others leave a few listed in place of older ones."""
        if pages <= 0:
            return
        held = self.holdings.pages
        huge = pages * held[Pool.HUGE] // self._process_pages()
        huge -= huge % SUPER_PAGES
        yield from self._free(Pool.HUGE, huge)
        left = pages - huge
        listed = min(left, held[Pool.ANON]) // FREED_PER_LISTED
        unlisted = max(held[Pool.LISTED] + listed - self._zone.watermarks.low_pages, 0)
        small = min(left + listed - unlisted, held[Pool.ANON])
        before = self._process_pages()
        yield from self._free(Pool.ANON, small, residents_pages=residents_pages, list_some=True)
        left -= before - self._process_pages()
        # Listed pages are freed whatever their age; if the processes hold nothing more, all listed pages are freed.
        for pool in (Pool.LISTED, Pool.HUGE):
            freed = min(max(left, 0), held[pool])
            yield from self._free(pool, freed)
            left -= freed

    def _free(self, pool: Pool, pages: int, *, residents_pages: int = 0, list_some: bool = False) -> Procedure:
        """Free *pages* of one pool, the oldest *residents_pages* last; *list_some* leaves a few of them listed."""
        if pages <= 0:
            return
        young_share = _CACHE_YOUNG_SHARE if pool in (Pool.CACHE, Pool.LISTED) else self._young_share
        picked = self.holdings.pick(
            pool, pages, self._rng, young_share, words=self._verify, residents_pages=residents_pages
        )
        state = _STATE[pool]
        if self._verify and picked.gfns.size:
            self._zone.change(picked.gfns, state, PageState.ISOLATED)
            state = PageState.ISOLATED
            yield from self._verify_words(picked)
        self.holdings.forget(picked)
        freed = picked.gfns
        if list_some:
            freed, listed = split_listed(freed)
            # For the zone they were never free; for counts and checks of content they come into use anew.
            self.pages_allocated += listed.size
            yield from self._put_in_use([(Pool.LISTED, listed)])
        self._zone.release(freed, state)
        self.pages_freed += picked.gfns.size

    def _verify_words(self, picked: Picked) -> Procedure:
        words, unreadable = yield from load_words(picked.gfns)
        assert picked.words is not None, "the words to compare with were not asked for"
        self.content_errors += max(int(np.count_nonzero(words != picked.words)), unreadable)

    def _drop_cache(self, pages: int) -> Procedure:
        before = self.holdings.pages[Pool.CACHE]
        yield from self._free(Pool.CACHE, pages)
        self.cache_dropped += before - self.holdings.pages[Pool.CACHE]

    def reclaim(self, pages: int) -> Procedure:
        """Drop up to *pages* of page cache, for the balloon."""
        yield self.pages_lock
        yield from self._drop_cache(pages)
        self.pages_lock.release()

    # -- pages that compaction moves

    def move(self, old: Frames, new: Frames) -> Generator[Request, list[Result], bool]:
        """Copy the pages *old* to *new*, pair by pair, and let the programs use *new*.

        The caller holds `pages_lock` and has isolated both sides; it settles their states. Returns
        whether they moved; if a word could not be copied nothing has.
        """
        if self._verify:
            words, unreadable = yield from load_words(old)
            self.content_errors += max(int(np.count_nonzero(words != self.holdings.words_of(old))), unreadable)
            unwritten = yield from store_words(new, words)
            if unreadable or unwritten:
                return False
        self.holdings.move(old, new)
        return True

    def check(self) -> list[str]:
        """Say where the pages held and the zone's states disagree; meaningful when nothing is in flight."""
        wrong = self.holdings.check()
        gfns = self.holdings.held()
        states = self._zone.state[gfns]
        kernel = int(np.count_nonzero(states == PageState.UNMOVABLE))
        movable = int(np.count_nonzero(states == PageState.MOVABLE))
        if kernel != self.holdings.pages[Pool.KERNEL] or kernel + movable != gfns.size:
            wrong.append(f"programs: hold {gfns.size} pages, {movable} are movable and {kernel} unmovable in the zone")
        if self._zone.total(PageState.MOVABLE) != movable:
            wrong.append(f"programs: {self._zone.total(PageState.MOVABLE)} pages are movable, programs hold {movable}")
        return wrong
