"""How a kernel hands pages out to owners that allocate side by side, and what it keeps on the lists of its processors.

Theory of operation. Which blocks are whole again after a load depends little on how much was used
and much on which lifetimes share a block. Page cache and slab outlive the processes that read it, and what
was freed last waits on the lists of the processors; all of these pin the block that they lie in. So
the numbers here are lengths of runs: how many neighbouring pages go to one owner before the next one
gets some. Each follows something that Linux does; none depends on a particular load.

Source: Linux 6.1, mm/page_alloc.c (zone_batchsize, zone_highsize), mm/readahead.c, mm/huge_memory.c.
"""

from typing import Final

import numpy as np

from xbd.abi import Frames
from xbd.guest.watermarks import Watermarks
from xbd.replaceable import replaceable
from xbd.units import SUPER_PAGES

# A processor takes free pages from the zone by the batch (pcp->batch, 63 pages), and a process runs on one processor
# for a while: so process memory comes in runs of this many pages.
ANON_RUN_PAGES: Final = 64
# A file is read ahead in windows of 4 to 32 pages, and written back in extents like it: so page cache, which stays when
# the process that read it has gone, lies in runs of this many pages between the runs of processes.
CACHE_RUN_PAGES: Final = 8
# Of the memory that processes ask for, the share that is mapped in one piece of 2 MiB and more, and comes as transparent
# huge pages: whole blocks in, whole blocks out, however many smaller pieces are free.
HUGE_SHARE: Final = 0.05
# Processors whose lists keep what was freed last: one that ends at a time leaves its pages on one of them. All lists
# together hold up to the low watermark (zone_highsize), see `listed_most`.
PROCESSORS: Final = 4


@replaceable
def listed_most(watermarks: Watermarks) -> int:
    """Say how many pages all the processors' lists hold together."""
    return watermarks.low_pages


def huge_pages_of(pages: int, rng: np.random.Generator) -> int:
    """Say how many of *pages*, new memory of processes, come as huge pages: a number of 2 MiB pages."""
    return int(rng.binomial(pages // SUPER_PAGES, HUGE_SHARE))


@replaceable
def share_out(gfns: Frames, cache_pages: int, rng: np.random.Generator) -> tuple[Frames, Frames]:
    """Deal free pages, as the zone gave them, out to processes and to page cache; returns both, each in its runs.

    The cache's runs lie anywhere between those of the processes.
    """
    if not 0 < cache_pages < gfns.size:
        runs = _in_runs(gfns, CACHE_RUN_PAGES if cache_pages else ANON_RUN_PAGES, rng)
        return (runs[:0], runs) if cache_pages else (runs, runs[:0])
    places = -(-gfns.size // CACHE_RUN_PAGES)
    chosen = np.zeros(places, dtype=np.bool_)
    chosen[rng.choice(places, -(-cache_pages // CACHE_RUN_PAGES), replace=False)] = True
    to_cache = np.repeat(chosen, CACHE_RUN_PAGES)[: gfns.size]
    lacking = cache_pages - int(np.count_nonzero(to_cache))
    # The last run of all may be short, and what the cache asks for is seldom a number of whole runs.
    differing = np.flatnonzero(to_cache if lacking < 0 else ~to_cache)[-abs(lacking) :] if lacking else gfns[:0]
    to_cache[differing] = lacking > 0
    return _in_runs(gfns[~to_cache], ANON_RUN_PAGES, rng), _in_runs(gfns[to_cache], CACHE_RUN_PAGES, rng)


def _in_runs(gfns: Frames, run_pages: int, rng: np.random.Generator) -> Frames:
    """Shuffle runs of pages: owners that allocate at the same time get them by turns."""
    runs = gfns.size // run_pages
    if runs < 2:
        return gfns
    dealt = gfns[: runs * run_pages].reshape(-1, run_pages)[rng.permutation(runs)].reshape(-1)
    return np.concatenate((dealt, gfns[runs * run_pages :])) if gfns.size % run_pages else dealt
