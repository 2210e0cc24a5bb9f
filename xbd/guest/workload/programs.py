"""The guest's programs as one: they hold pages, and reach the goals that a workload sets.

A tick's frees and a tick's allocations are one batch each. Page cache is reclaimable: it is dropped
when an allocation would fail or when the balloon wants pages, and grows only from free memory above
the high watermark. An allocation that cannot be served is refused, counted and dropped: the program is taken
to have ended, so it neither asks again nor has anything to free later. `placement` decides which free page goes
where: processes and page cache get their pages in runs, and some processes' memory is huge pages. What was freed last
stays *listed* with a processor: the zone counts it as in use, and the next allocation gets it first. The least that
processes ever wanted is taken to be held by the oldest, and is freed last; of the page cache the oldest goes first.

With *verify* every page's word is stored when it is allocated and checked when it is freed or moved;
the pages are isolated meanwhile. Without, no command is ever issued from here. Procedures that take
pages out of use hold `pages_lock`, so that no two of them ever mean the same page.
"""

from collections.abc import Callable, Generator
from dataclasses import replace
from typing import Final

import numpy as np

from xbd.abi import Frames, Result
from xbd.frames import WHOLE
from xbd.guest.backing import Backing
from xbd.guest.procedures import Lock, Procedure, Request, load_words, store_words
from xbd.guest.settings import GuestSettings
from xbd.guest.state import Clock
from xbd.guest.workload.holdings import Holdings, Picked, Pool
from xbd.guest.workload.past import live_through
from xbd.guest.workload.placement import PROCESSORS, huge_pages_of, listed_most, share_out
from xbd.guest.workload.profiles import Goals
from xbd.guest.workload.queue import Queue
from xbd.guest.zone import Mobility, PageState, Zone
from xbd.units import SUPER_PAGES

# Gets back at least so many of the pages that lie with the host, as far as it has them.
TakeBack = Callable[[int], Generator[Request, list[Result], None]]
_STATE: Final = {
    Pool.ANON: PageState.MOVABLE,
    Pool.CACHE: PageState.MOVABLE,
    Pool.KERNEL: PageState.UNMOVABLE,
    Pool.HUGE: PageState.MOVABLE,
    Pool.LISTED: PageState.MOVABLE,
}
_NO_PAGES: Final[Frames] = np.zeros(0, dtype=np.int64)


class Programs:
    """All that runs in one guest and uses memory.

    Args:
        zone: where the pages come from.
        settings: whether content words are stored and checked, how worn the guest begins, and whether it has huge pages.
        seed, rng: for content words, and for what is freed when.
        young_share: of the chunks that a free takes, the share of the youngest.
        clock: for who has patience; None: time stands still.
        backing: counts first touches; None: nothing does.

    Attributes: *pages_allocated*, *pages_freed*, *pages_denied*, *cache_dropped*, *pages_refaulted*, *content_errors*:
    counts. *queue*: who waits for memory.
    """

    def __init__(
        self,
        zone: Zone,
        settings: GuestSettings,
        seed: int,
        rng: np.random.Generator,
        *,
        young_share: float,
        clock: Clock | None = None,
        backing: Backing | None = None,
    ) -> None:
        self._zone = zone
        self._settings = settings
        self._rng = rng
        self._verify = settings.verify
        self._young_share = young_share
        self.holdings = Holdings(zone.gfn_count, seed, words=self._verify)
        self._backing = backing
        self.pages_lock = Lock()
        self.pages_allocated = 0
        self.pages_freed = 0
        self.pages_denied = 0
        self.cache_dropped = 0
        self.pages_refaulted = 0
        self.queue = Queue(settings.patience_s)
        self._clock = clock or Clock()
        self.content_errors = 0
        # Gets back what lies with the host, inside the allocation that lacks it.
        self.take_back: TakeBack | None = None
        # By pool, the pages of the last goals that were refused: they are not held and not to be freed.
        self._refused = [0 for _ in Pool]
        self._goals = [0 for _ in Pool]
        self._listed_most = listed_most(zone.watermarks)
        # What was freed while goals are being reached and is to be listed: the pages are on their way, in no pool.
        self._freed_last = _NO_PAGES
        # The least that processes wanted since there were goals.
        self._residents_pages = zone.gfn_count

    @property
    def reclaimable_pages(self) -> int:
        """Count the page cache, which can be had for the asking."""
        return self.holdings.pages[Pool.CACHE]

    @property
    def unmet_pages(self) -> int:
        """Count what the last goals ask for and was refused."""
        return sum(self._refused)

    # -- reaching goals

    def begin(self, goals: Goals) -> Procedure:
        """Reach the first goals: one kind of memory after the other, as at boot, and then as much of a past as there is wear."""
        yield from self.reach(replace(goals, cache_pages=0, churn_pages=0))
        yield from self.reach(goals)
        yield from live_through(self._settings.wear, goals, self._zone, self.reach)

    def reach(self, goals: Goals) -> Procedure:
        """Free and allocate until the goals are reached or refused."""
        if self.take_back is not None:
            # Before the lock: who has the balloon's token may wait for that.
            lacking = goals.anon_pages + goals.cache_pages + goals.kernel_pages - sum(self.holdings.pages)
            yield from self.take_back(lacking + self._zone.watermarks.high_pages - self._zone.free.free_frames)
        yield self.pages_lock
        missed_pages = self._missed(goals)
        wanted = self._wanted(Pool.ANON, goals.anon_pages)
        kernel_lacking = self._wanted(Pool.KERNEL, goals.kernel_pages) - self.holdings.pages[Pool.KERNEL]
        cache_surplus = self.holdings.pages[Pool.CACHE] - goals.cache_pages
        yield from self._free(Pool.CACHE, cache_surplus, list_some=True)
        self._residents_pages = min(self._residents_pages, goals.anon_pages)
        if goals.at_random:
            yield from self._free_at_random(self._process_pages() - wanted)
        yield from self._free_processes(self._process_pages() - wanted, residents_pages=self._residents_pages)
        yield from self._free_processes(min(goals.churn_pages, self._process_pages()), residents_pages=0)
        yield from self._free(Pool.KERNEL, -kernel_lacking)
        kernel_grow, grow = max(kernel_lacking, 0), max(wanted - self._process_pages(), 0)
        yield from self._make_room(kernel_grow + grow)
        cache_pages = self.holdings.pages[Pool.CACHE]
        yield from self._grow(kernel_grow, grow, goals.cache_pages)
        self.pages_refaulted += min(max(self.holdings.pages[Pool.CACHE] - cache_pages, 0), missed_pages)
        listed, self._freed_last = self._freed_last, _NO_PAGES
        self.pages_allocated += listed.size
        yield from self._put_in_use([(Pool.LISTED, listed)])
        self.pages_lock.release()

    def _missed(self, goals: Goals) -> int:
        """Count the pages of files that were wanted before and still are, and are not there; note those that are read again."""
        before, self._goals[Pool.CACHE] = self._goals[Pool.CACHE], goals.cache_pages
        missed_pages = max(min(before, goals.cache_pages) - self.holdings.pages[Pool.CACHE], 0)
        if missed_pages and goals.cache_reads:
            self.pages_refaulted += goals.cache_reads * missed_pages // goals.cache_pages
        # Where it is not said what is read, what comes back is.
        return missed_pages if goals.cache_reads is None else 0

    def _wanted(self, pool: Pool, goal: int) -> int:
        """Set the goal of a pool; returns how many pages it is to hold: what was refused is not, and falls with the goal."""
        previous, self._goals[pool] = self._goals[pool], goal
        if goal < previous:
            gone = min(round(self._refused[pool] * (previous - goal) / previous), self._refused[pool])
            self._refused[pool] -= gone
        return goal - self._refused[pool]

    def _process_pages(self) -> int:
        held = self.holdings.pages
        return held[Pool.ANON] + held[Pool.HUGE] + self._listed_pages()

    def _listed_pages(self) -> int:
        return self.holdings.pages[Pool.LISTED] + self._freed_last.size

    def _make_room(self, pages: int) -> Procedure:
        """Drain the processors' lists and drop page cache where an allocation of *pages* would fail."""
        lacking = pages - self._zone.spare_pages(self._zone.watermarks.min_pages)
        if lacking > 0:
            yield from self._drop_cache(lacking)

    def _grow(self, kernel: int, anon: int, cache_goal: int) -> Procedure:
        """Allocate, and then store the words of, what the pools want and the zone can give."""
        listed = yield from self._take_listed(anon + max(cache_goal - self.holdings.pages[Pool.CACHE], 0))
        spare = self._zone.spare_pages(self._zone.watermarks.min_pages)
        kernel_had, anon_had = min(kernel, spare), min(anon, spare - min(kernel, spare))
        refused = self.queue.wait(kernel - kernel_had + anon - anon_had, self._clock.now)
        self._refuse(Pool.KERNEL, min(refused, kernel - kernel_had))
        self._refuse(Pool.ANON, refused - min(refused, kernel - kernel_had))
        above_high = max(self._zone.spare_pages(self._zone.watermarks.high_pages) - kernel_had - anon_had, 0)
        cache_had = min(max(cache_goal - self.holdings.pages[Pool.CACHE], 0), above_high)
        parts: list[tuple[Pool, Frames]] = []
        if kernel_had:
            parts.append((Pool.KERNEL, self._allocate(kernel_had, Mobility.UNMOVABLE)))
        if anon_had + cache_had + listed.size:
            huge = self._allocate_huge(anon_had)
            movable = self._allocate(anon_had + cache_had - huge.size, Mobility.MOVABLE)
            to_processes, to_cache = share_out(np.concatenate((listed, movable)), cache_had, self._rng)
            parts += [(Pool.HUGE, huge), (Pool.ANON, to_processes), (Pool.CACHE, to_cache)]
        yield from self._put_in_use(parts)

    def _refuse(self, pool: Pool, pages: int) -> None:
        self._refused[pool] += pages
        self.pages_denied += pages

    def _allocate(self, count: int, mobility: Mobility) -> Frames:
        gfns = self._zone.allocate_smallest(count, mobility, self._on_its_way(mobility), self._rng)
        assert gfns.size == count, f"{count} pages were free, only {gfns.size} came"
        self.pages_allocated += count
        return gfns

    def _allocate_huge(self, anon: int) -> Frames:
        """Take huge pages for the share of *anon* new pages that wants them, as far as there are whole blocks."""
        if not self._settings.huge_pages:
            return _NO_PAGES
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
            self.holdings.place(pool, gfns)
            if self._backing is not None:
                self._backing.use(gfns)
            if self._verify:
                self.content_errors += yield from store_words(gfns, self.holdings.words_of(gfns))
                self._zone.change(gfns, PageState.ISOLATED, _STATE[pool])

    # -- giving pages up

    def _free_processes(self, pages: int, *, residents_pages: int) -> Procedure:
        """Let processes have *pages* less: huge pages by their share, and of the others, which are listed first, the rest."""
        if pages <= 0:
            return
        held = self.holdings.pages
        huge = pages * held[Pool.HUGE] // self._process_pages()
        huge -= huge % SUPER_PAGES
        yield from self._free(Pool.HUGE, huge)
        left = self._process_pages() - pages + huge
        room = max(min(self._listed_most // PROCESSORS, self._listed_most - self._listed_pages()), 0)
        yield from self._free(
            Pool.ANON, min(pages - huge + room, held[Pool.ANON]), residents_pages=residents_pages, list_some=True
        )
        # If the processes hold nothing more, what is listed is freed.
        yield from self._free_listed(self._process_pages() - left)
        yield from self._free(Pool.HUGE, min(self._process_pages() - left, held[Pool.HUGE]))

    def _free_at_random(self, pages: int) -> Procedure:
        """Let the youngest process give *pages* back, each wherever it lies among twice as many."""
        pages = min(pages, self.holdings.pages[Pool.ANON])
        if pages <= 0:
            return
        picked = self._pick(Pool.ANON, 2 * pages, young_share=1.0)
        state = PageState.MOVABLE
        if self._verify:
            self._zone.change(picked.gfns, state, PageState.ISOLATED)
            state = PageState.ISOLATED
            yield from self._verify_words(picked)
        self.holdings.forget(picked)
        freed = np.zeros(picked.gfns.size, dtype=np.bool_)
        freed[self._rng.permutation(freed.size)[:pages]] = True
        # What stays keeps its pages, in another place of the table.
        yield from self._put_in_use([(Pool.ANON, picked.gfns[~freed])])
        self._zone.release(picked.gfns[freed], state)
        self.pages_freed += pages

    def _take_listed(self, pages: int) -> Generator[Request, list[Result], Frames]:
        """Take up to *pages* off the processors' lists, the last that came first; they are in no pool then."""
        left = max(self._freed_last.size - pages, 0)
        self._freed_last, taken = self._freed_last[:left], self._freed_last[left:]
        self.pages_allocated += taken.size
        picked = self._pick(Pool.LISTED, pages - taken.size, young_share=1.0)
        if self._verify and picked.gfns.size:
            self._zone.change(picked.gfns, PageState.MOVABLE, PageState.ISOLATED)
            yield from self._verify_words(picked)
        self.holdings.forget(picked)
        self.pages_allocated += picked.gfns.size
        self.pages_freed += picked.gfns.size
        return np.concatenate((picked.gfns, taken)) if picked.gfns.size else taken

    def _pick(self, pool: Pool, pages: int, young_share: float | None, residents_pages: int = 0) -> Picked:
        return self.holdings.pick(pool, pages, self._rng, young_share, residents_pages=residents_pages)

    def _free(self, pool: Pool, pages: int, *, residents_pages: int = 0, list_some: bool = False) -> Procedure:
        """Free *pages* of one pool, the oldest *residents_pages* last; with *list_some* the last that are freed are listed."""
        if pages <= 0:
            return
        young_share = None if pool in (Pool.CACHE, Pool.LISTED) else self._young_share
        picked = self._pick(pool, pages, young_share, residents_pages)
        state = _STATE[pool]
        if self._verify and picked.gfns.size:
            self._zone.change(picked.gfns, state, PageState.ISOLATED)
            state = PageState.ISOLATED
            yield from self._verify_words(picked)
        self.holdings.forget(picked)
        freed = picked.gfns
        if list_some and self._listed_most >= PROCESSORS:
            most = self._listed_most // PROCESSORS
            # For the zone they were never free; for counts and checks of content they come into use anew.
            freed, listed = freed[:-most], freed[-most:]
            self._freed_last = np.concatenate((self._freed_last, listed)) if self._freed_last.size else listed
            yield from self._free_listed(self._listed_pages() - self._listed_most)
        self._zone.release(freed, state)
        self.pages_freed += picked.gfns.size

    def _free_listed(self, pages: int) -> Procedure:
        """Give up to *pages* of the processors' lists back to the zone, the first that came first."""
        before = self.holdings.pages[Pool.LISTED]
        yield from self._free(Pool.LISTED, min(pages, before))
        left = max(pages - before, 0)
        freed, self._freed_last = self._freed_last[:left], self._freed_last[left:]
        self._zone.release(freed, self._on_its_way(Mobility.MOVABLE))

    def _verify_words(self, picked: Picked) -> Procedure:
        words, unreadable = yield from load_words(picked.gfns)
        assert picked.words is not None, "the words to compare with were not asked for"
        self.content_errors += max(int(np.count_nonzero(words != picked.words)), unreadable)

    def _drop_cache(self, pages: int) -> Procedure:
        """Give *pages* back to the zone: what the processors' lists hold first, then page cache."""
        listed = self._listed_pages()
        yield from self._free_listed(pages)
        pages -= min(pages, listed)
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
        if self._backing is not None:
            self._backing.use(new)
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
