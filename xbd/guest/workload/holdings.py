"""What the guest's programs hold: a flat table of slots, each with the gfn of one page.

Theory of operation. A slot is a page as the program sees it; its gfn may change under it when
compaction moves the page. Slots come in *chunks* of 512, and a chunk belongs to one pool (anonymous
memory, page cache, the kernel's own) and is filled from its start: programs allocate and free by the
chunk, so that lifetimes cluster as they do in real guests. Per pool the chunks are kept in the order
of their age. A free of some pages takes whole chunks, the youngest and some that came one after the other
(a program that ends), or the oldest (files that were not read for long), and the tail of one more. The very oldest can
be spared: pages that were there before a load outlast it. What is known of chunks is in Python's own lists, for a tick
concerns two or three of them; their pages are slices of one array.

A chunk that was filled at once with neighbouring pages, as a kernel's at boot, is noted by its first one, and spelt out when
a page of it moves. Which slot holds a page is asked when pages move, and where there are content words: the table of that is made when it is
first asked, and dropped when it was not for long.

The content word of a page is derived from its slot and the chunk's *generation*, so nothing has to
be stored to know what a page should say, and a page that is moved keeps its word.
"""

from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from itertools import chain
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from xbd.abi import Frames, Words
from xbd.arrays import repeats
from xbd.frames import sparse_zeros
from xbd.units import SUPER_ORDER, SUPER_PAGES

CHUNK_SLOTS: Final = SUPER_PAGES
_NO_FRAMES: Final[Frames] = np.zeros(0, dtype=np.int64)
# Odd constants of splitmix64: neighbouring inputs give unrelated words.
_GOLDEN: Final = np.uint64(0x9E3779B97F4A7C15)
_MIX_A: Final = np.uint64(0xBF58476D1CE4E5B9)
_MIX_B: Final = np.uint64(0x94D049BB133111EB)
_OFFSETS: Final = np.arange(CHUNK_SLOTS)
# Chunks left partly filled by frees, per pool; above it those are freed first. Bounds the table.
_PARTIAL_MIN: Final = 16
_PARTIAL_SHIFT: Final = 4
# After so many frees in a row in which nobody asked which slot holds a page, the table of that goes.
_FREES_UNASKED: Final = 64


class Pool(IntEnum):
    """What a page is used for."""

    ANON = 0
    CACHE = 1
    KERNEL = 2
    # Processes' memory that came as whole huge pages, and what is on the lists of the processors.
    HUGE = 3
    LISTED = 4


def _is_run(gfns: Frames) -> bool:
    """Whether pages are neighbours, one after the other."""
    is_long = int(gfns[-1]) - int(gfns[0]) == gfns.size - 1
    return is_long and np.count_nonzero(gfns[1:] - gfns[:-1] == 1) == gfns.size - 1


def mix_words(keys: Words) -> Words:
    """Hash (n,) uint64 to unrelated words (splitmix64's finalizer)."""
    mixed = keys * _GOLDEN
    mixed ^= mixed >> np.uint64(30)
    mixed *= _MIX_A
    mixed ^= mixed >> np.uint64(27)
    mixed *= _MIX_B
    mixed ^= mixed >> np.uint64(31)
    return mixed


@dataclass(frozen=True, slots=True, eq=False)
class Picked:
    """Pages taken out of their pool, to be freed: (n,) gfns, and (n,) words that they should hold (if asked for)."""

    pool: Pool
    gfns: Frames
    words: Words | None
    chunks: list[int]


class Holdings:
    """The slot table of one guest.

    Args:
        gfn_count: gfns of the guest, an upper bound of the pages held.
        seed: makes the content words this guest's own.
        words: whether words are asked for; without, none are computed.

    Attributes: *pages*, by pool.
    """

    def __init__(self, gfn_count: int, seed: int, *, words: bool = True) -> None:
        full = -(-gfn_count // CHUNK_SLOTS)
        self._partial_max = max(_PARTIAL_MIN, full >> _PARTIAL_SHIFT)
        # Per pool: its partial chunks, an open one and one that is being cut. Chunk 0 stays unused: slot 0 is none.
        self.chunk_count = 1 + full + len(Pool) * (self._partial_max + 3)
        self._gfn_count = gfn_count
        # (gfns,) int32, 0 for a page that no slot holds; None: not needed at present.
        self._slot_of: NDArray[np.int32] | None = sparse_zeros(gfn_count, np.int32) if words else None
        self._frees_since_asked = 0
        self._gfn_of: NDArray[np.int32] = sparse_zeros(self.chunk_count * CHUNK_SLOTS, np.int32)
        self._filled = array("H", bytes(2 * self.chunk_count))
        # The first page of each chunk that is a run of pages.
        self._runs: dict[int, int] = {}
        self._has_words = words
        with_words = self.chunk_count if words else 0
        self._generation: NDArray[np.int64] = np.zeros(with_words, dtype=np.int64)
        self._key: Words = np.zeros(with_words, dtype=np.uint64)
        self._mixed_seed = mix_words(np.array([seed & 0xFFFF_FFFF_FFFF_FFFF], dtype=np.uint64))
        # Chunks that were used before, and the first of those that never were.
        self._spare_chunks: list[int] = []
        self._first_unused = 1
        self._chunks: list[list[int]] = [[] for _ in Pool]
        self._open = [0 for _ in Pool]
        self.pages = [0 for _ in Pool]

    # -- placing

    def place(self, pool: Pool, gfns: Frames) -> None:
        """Hold these pages in *pool*."""
        chunk, at = self._open[pool], 0
        while at < gfns.size:
            if not chunk:
                chunk = self._take_chunk()
                self._chunks[pool].append(chunk)
            filled = self._filled[chunk]
            part = gfns[at : at + CHUNK_SLOTS - filled]
            first, end = chunk * CHUNK_SLOTS + filled, chunk * CHUNK_SLOTS + filled + part.size
            if part.size == CHUNK_SLOTS and _is_run(part):
                self._runs[chunk] = int(part[0])
            else:
                self._gfn_of[first:end] = part
            if self._slot_of is not None:
                self._slot_of[part] = np.arange(first, end)
            self._filled[chunk] = filled + part.size
            at += part.size
            self._open[pool] = chunk = chunk if filled + part.size < CHUNK_SLOTS else 0
        self.pages[pool] += gfns.size

    def _take_chunk(self) -> int:
        """Return an empty chunk, in a generation of its own."""
        if self._spare_chunks:
            chunk = self._spare_chunks.pop()
        else:
            chunk, self._first_unused = self._first_unused, self._first_unused + 1
        if self._has_words:
            self._generation[chunk] += 1
            name = np.array([chunk << 32 | int(self._generation[chunk])], dtype=np.uint64)
            self._key[chunk] = mix_words(name ^ self._mixed_seed)[0]
        return chunk

    # -- freeing

    def pick(
        self,
        pool: Pool,
        count: int,
        rng: np.random.Generator,
        young_share: float | None,
        *,
        residents_pages: int = 0,
    ) -> Picked:
        """Take up to *count* pages out of *pool*, for the caller to free and then to `forget`.

        *young_share* of the chunks are the youngest, the rest neighbours in age wherever the draw falls; None: the
        oldest first. The very oldest, *residents_pages*, are spared as long as there are others; the last chunk is cut
        at its tail.
        """
        count = min(count, self.pages[pool])
        if count == 0:
            return Picked(pool, _NO_FRAMES, self.words_of(_NO_FRAMES) if self._has_words else None, [])
        mine = self._chunks[pool]
        emptied: list[int] = []
        parts: list[NDArray[Any]] = []
        left = count
        for position in self._in_order_of_use(pool, count, rng, young_share, residents_pages):
            chunk = mine[position]
            filled = self._filled[chunk]
            kept = max(filled - left, 0)
            parts.append(self._pages_of(chunk, kept))
            left -= filled - kept
            if chunk == self._open[pool]:
                # What was cut is not filled again: its slots' words have been used in this generation.
                self._open[pool] = 0
            if kept:
                self._filled[chunk] = kept
            else:
                emptied.append(position)
            if not left:
                break
        chunks = [mine[position] for position in emptied]
        for position in sorted(emptied, reverse=True):
            del mine[position]
        self.pages[pool] -= count
        gfns = np.concatenate(parts, dtype=np.int64)
        return Picked(pool, gfns, self.words_of(gfns) if self._has_words else None, chunks)

    def _pages_of(self, chunk: int, first: int = 0) -> NDArray[Any]:
        """List the pages of a chunk, from its slot *first* on."""
        end = self._filled[chunk]
        if (run := self._runs.get(chunk)) is not None:
            return np.arange(run + first, run + end)
        return self._gfn_of[chunk * CHUNK_SLOTS + first : chunk * CHUNK_SLOTS + end]

    def _in_order_of_use(
        self, pool: Pool, count: int, rng: np.random.Generator, young_share: float | None, residents_pages: int
    ) -> Iterator[int]:
        """Name positions in the pool's list of chunks, all of them, in the order in which a free uses them."""
        mine, filled = self._chunks[pool], self._filled
        first = residents = 0
        end = len(mine)
        while first < end and residents + filled[mine[first]] <= residents_pages:
            residents += filled[mine[first]]
            first += 1
        if young_share is None or count == self.pages[pool]:
            yield from range(first, end)
        else:
            partial = [position for position in range(first, end) if filled[mine[position]] < CHUNK_SLOTS]
            if len(partial) > self._partial_max:
                chosen = partial
            else:
                wanted = min(count // CHUNK_SLOTS + 1, end - first)
                young = round(wanted * young_share)
                old = end - first - young
                chosen = list(range(end - 1, end - 1 - young, -1))
                if wanted > young:
                    begin = int(rng.integers(old))
                    chosen += [first + (begin + more) % old for more in range(wanted - young)]
            rng.shuffle(chosen)
            yield from chosen
            used = set(chosen)
            yield from (position for position in range(end - 1, first - 1, -1) if position not in used)
        yield from range(first - 1, -1, -1)

    def forget(self, picked: Picked) -> None:
        """Remove pages that are freed now; their chunks may be used again."""
        if self._slot_of is not None:
            self._slot_of[picked.gfns] = 0
            self._frees_since_asked += 1
            if self._frees_since_asked > _FREES_UNASKED and not self._has_words:
                self._slot_of = None
        for chunk in picked.chunks:
            self._filled[chunk] = 0
            self._runs.pop(chunk, None)
        self._spare_chunks += picked.chunks

    def _slots(self, gfns: Frames) -> NDArray[np.int32]:
        """Look up the slots of held pages."""
        self._frees_since_asked = 0
        if self._slot_of is None:
            self._slot_of = sparse_zeros(self._gfn_count, np.int32)
            for chunk in chain.from_iterable(self._chunks):
                pages = self._pages_of(chunk)
                self._slot_of[pages] = np.arange(chunk * CHUNK_SLOTS, chunk * CHUNK_SLOTS + pages.size)
        return self._slot_of[gfns]

    # -- words, and pages that move

    def words_of(self, gfns: Frames) -> Words:
        """Return the words that these held pages should hold: (n,) uint64."""
        slots = self._slots(gfns).astype(np.uint64)
        words: Words = self._key[slots >> np.uint64(SUPER_ORDER)] + slots * _GOLDEN
        return words

    def move(self, old: Frames, new: Frames) -> None:
        """Make the slots that hold the pages *old* hold *new* instead, pair by pair."""
        slots = self._slots(old)
        assert self._slot_of is not None, "the table was just asked"
        self._slot_of[old] = 0
        self._slot_of[new] = slots
        if self._runs:
            for chunk in self._runs.keys() & set((slots >> SUPER_ORDER).tolist()):
                pages = self._pages_of(chunk)
                self._gfn_of[chunk * CHUNK_SLOTS : chunk * CHUNK_SLOTS + pages.size] = pages
                del self._runs[chunk]
        self._gfn_of[slots] = new

    # -- bookkeeping

    def held(self) -> Frames:
        """List every gfn that a slot holds, in no order."""
        return np.concatenate([_NO_FRAMES, *map(self._pages_of, chain.from_iterable(self._chunks))])

    def check(self) -> list[str]:
        """Say where slots, gfns and counters disagree. Not meaningful while picked pages are not yet forgotten."""
        wrong = []
        for pool in Pool:
            filled = sum(self._filled[chunk] for chunk in self._chunks[pool])
            if filled != self.pages[pool]:
                wrong.append(f"holdings: {pool.name} counts {self.pages[pool]} pages, its chunks {filled}")
        gfns = self.held()
        chunks = np.array([*chain.from_iterable(self._chunks)], dtype=np.int64)
        slots = (chunks[:, None] * CHUNK_SLOTS + _OFFSETS)[np.array(self._filled)[chunks][:, None] > _OFFSETS]
        if (self._slots(gfns) != slots).any():
            wrong.append("holdings: a slot's page does not point back to it")
        if repeats(gfns).size:
            wrong.append("holdings: two slots hold one page")
        in_pools, spare = sum(map(len, self._chunks)), len(self._spare_chunks)
        if in_pools + spare + 1 != self._first_unused or self._first_unused > self.chunk_count:
            wrong.append(f"holdings: {in_pools} chunks used, {spare} spare, of {self._first_unused - 1}")
        return wrong
