"""What the guest's programs hold: a flat table of slots, each with the gfn of one page.

Theory of operation. A slot is a page as the program sees it; its gfn may change under it when
compaction moves the page. Slots come in *chunks* of 512, and a chunk belongs to one pool (anonymous
memory, page cache, the kernel's own) and is filled from its start: programs allocate and free by the
chunk, so that lifetimes cluster as they do in real guests. Per pool the chunks are kept in the order
of their age. A free of some pages takes whole chunks, the youngest and some that came one after the other
(a program that ends), or the oldest (files that were not read for long), and the tail of one more. The very oldest can
be spared: pages that were there before a load outlast it.

The content word of a page is derived from its slot and the chunk's *generation*, so nothing has to
be stored to know what a page should say, and a page that is moved keeps its word.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

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
_OFFSETS: Final = np.arange(CHUNK_SLOTS, dtype=np.int64)
# Chunks left partly filled by frees, per pool; above it those are freed first. Bounds the table.
_PARTIAL_MIN: Final = 16
_PARTIAL_SHIFT: Final = 4


class Pool(IntEnum):
    """What a page is used for."""

    ANON = 0
    CACHE = 1
    KERNEL = 2
    # Processes' memory that came as whole huge pages, and what is on the lists of the processors.
    HUGE = 3
    LISTED = 4


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
    chunks: Frames


class Holdings:
    """The slot table of one guest.

    Args:
        gfn_count: gfns of the guest, an upper bound of the pages held.
        seed: makes the content words this guest's own.

    Attributes: *pages*, by pool. *slot_of* (gfns,) int32, 0 for a page that no slot holds.
    """

    def __init__(self, gfn_count: int, seed: int) -> None:
        full = -(-gfn_count // CHUNK_SLOTS)
        self._partial_max = max(_PARTIAL_MIN, full >> _PARTIAL_SHIFT)
        # Per pool: its partial chunks, an open one and one that is being cut. Chunk 0 stays unused: slot 0 is none.
        self.chunk_count = 1 + full + len(Pool) * (self._partial_max + 3)
        self.slot_of: NDArray[np.int32] = sparse_zeros(gfn_count, np.int32)
        self._gfn_of: NDArray[np.int32] = sparse_zeros(self.chunk_count * CHUNK_SLOTS, np.int32)
        self._rows = self._gfn_of.reshape(-1, CHUNK_SLOTS)
        self._filled: NDArray[np.int64] = np.zeros(self.chunk_count, dtype=np.int64)
        self._generation: NDArray[np.int64] = np.zeros(self.chunk_count, dtype=np.int64)
        self._key: Words = np.zeros(self.chunk_count, dtype=np.uint64)
        self._seed = np.uint64(seed & 0xFFFF_FFFF_FFFF_FFFF)
        self._spare_chunks = list(range(self.chunk_count - 1, 0, -1))
        self._chunks = [_NO_FRAMES for _ in Pool]
        self._open = [0 for _ in Pool]
        self.pages = [0 for _ in Pool]

    # -- placing

    def place(self, pool: Pool, gfns: Frames) -> Frames:
        """Hold these pages in *pool*; returns their slots."""
        count = gfns.size
        if count == 0:
            return _NO_FRAMES
        parts: list[Frames] = []
        room = self._room_in_open(pool)
        if room:
            chunk, taken = self._open[pool], min(room, count)
            first = chunk * CHUNK_SLOTS + int(self._filled[chunk])
            parts.append(np.arange(first, first + taken, dtype=np.int64))
            self._filled[chunk] += taken
            count -= taken
        if count:
            parts.append(self._open_chunks(pool, count))
        slots = parts[0] if len(parts) == 1 else np.concatenate(parts)
        self._gfn_of[slots] = gfns
        self.slot_of[gfns] = slots
        self.pages[pool] += gfns.size
        return slots

    def _room_in_open(self, pool: Pool) -> int:
        return CHUNK_SLOTS - int(self._filled[self._open[pool]]) if self._open[pool] else 0

    def _open_chunks(self, pool: Pool, count: int) -> Frames:
        number = -(-count // CHUNK_SLOTS)
        assert number <= len(self._spare_chunks), f"{number} chunks wanted, {len(self._spare_chunks)} are left"
        chunks = np.array(self._spare_chunks[-number:][::-1], dtype=np.int64)
        del self._spare_chunks[-number:]
        last_fill = count - (number - 1) * CHUNK_SLOTS
        self._filled[chunks] = CHUNK_SLOTS
        self._filled[chunks[-1]] = last_fill
        self._generation[chunks] += 1
        names = (chunks << 32 | self._generation[chunks]).astype(np.uint64)
        self._key[chunks] = mix_words(names ^ mix_words(np.array([self._seed])))
        self._chunks[pool] = np.concatenate((self._chunks[pool], chunks))
        self._open[pool] = int(chunks[-1]) if last_fill < CHUNK_SLOTS else 0
        return ((chunks * CHUNK_SLOTS)[:, None] + _OFFSETS).reshape(-1)[:count]

    # -- freeing

    def pick(
        self,
        pool: Pool,
        count: int,
        rng: np.random.Generator,
        young_share: float | None,
        *,
        words: bool,
        residents_pages: int = 0,
    ) -> Picked:
        """Take up to *count* pages out of *pool*, for the caller to free and then to `forget`.

        *young_share* of the chunks are the youngest, the rest neighbours in age wherever the draw falls; None: the
        oldest first. The very oldest, *residents_pages*, are spared as long as there are others; the last chunk is cut
        at its tail.
        """
        count = min(count, self.pages[pool])
        if count == 0:
            return Picked(pool, _NO_FRAMES, np.zeros(0, dtype=np.uint64) if words else None, _NO_FRAMES)
        positions = self._choose(pool, count, rng, young_share, residents_pages)
        chunks = self._chunks[pool][positions]
        fills = self._filled[chunks]
        reached = np.cumsum(fills)
        used = int(np.searchsorted(reached, count)) + 1
        positions, chunks, fills = positions[:used], chunks[:used], fills[:used]
        excess = int(reached[used - 1]) - count
        slots = self._slots_of(chunks, fills, excess)
        emptied = chunks
        if excess:
            cut = int(chunks[-1])
            self._filled[cut] = excess
            # What was cut is not filled again: its slots' words have been used in this generation.
            self._open[pool] = 0 if self._open[pool] == cut else self._open[pool]
            positions, emptied = positions[:-1], chunks[:-1]
        if self._open[pool] and (emptied == self._open[pool]).any():
            self._open[pool] = 0
        keep = np.ones(self._chunks[pool].size, dtype=np.bool_)
        keep[positions] = False
        self._chunks[pool] = self._chunks[pool][keep]
        self.pages[pool] -= count
        gfns = self._gfn_of[slots].astype(np.int64)
        return Picked(pool, gfns, self.words_of_slots(slots) if words else None, emptied)

    def _choose(
        self, pool: Pool, count: int, rng: np.random.Generator, young_share: float | None, residents_pages: int
    ) -> Frames:
        """Name positions in the pool's list of chunks that hold at least *count* pages together, in the order of use."""
        fills = self._filled[self._chunks[pool]]
        first = int(np.searchsorted(np.cumsum(fills), residents_pages, side="right")) if residents_pages else 0
        residents = np.arange(min(first, fills.size) - 1, -1, -1)
        if young_share is None:
            return np.concatenate((np.arange(residents.size, fills.size), residents))
        partial = fills[first:] < CHUNK_SLOTS
        if int(partial.sum()) > self._partial_max:
            positions, rest = np.flatnonzero(partial), np.flatnonzero(~partial)
            return np.concatenate((rng.permutation(positions) + first, rest[::-1] + first, residents))
        size = partial.size
        wanted = count // CHUNK_SLOTS + 1
        young = min(round(wanted * young_share), size)
        old = size - young
        drawn = (
            (rng.integers(old) + np.arange(min(wanted - young, old))) % old if old and wanted > young else _NO_FRAMES
        )
        newest = np.arange(size - 1, old - 1, -1)
        positions = np.concatenate((newest, drawn))
        rng.shuffle(positions)
        if int(fills[positions + first].sum()) >= count:
            return positions + first
        others = np.ones(size, dtype=np.bool_)
        others[positions] = False
        return np.concatenate((positions + first, np.flatnonzero(others)[::-1] + first, residents))

    def _slots_of(self, chunks: Frames, fills: Frames, excess: int) -> Frames:
        """Spell out the slots of the chunks; of the last one all but the first *excess*."""
        slots = (chunks * CHUNK_SLOTS)[:, None] + _OFFSETS
        if int(fills.min()) == CHUNK_SLOTS and not excess:
            return slots.reshape(-1)
        mask = fills[:, None] > _OFFSETS
        mask[-1, :excess] = False
        return slots[mask]

    def forget(self, picked: Picked) -> None:
        """Remove pages that are freed now; their chunks may be used again."""
        self.slot_of[picked.gfns] = 0
        self._filled[picked.chunks] = 0
        self._spare_chunks += picked.chunks.tolist()

    # -- words, and pages that move

    def words_of_slots(self, slots: Frames) -> Words:
        """Return the words that the pages in these slots should hold: (n,) uint64."""
        words: Words = self._key[slots >> SUPER_ORDER] + slots.astype(np.uint64) * _GOLDEN
        return words

    def words_of(self, gfns: Frames) -> Words:
        """Return the words that these held pages should hold."""
        return self.words_of_slots(self.slot_of[gfns].astype(np.int64))

    def move(self, old: Frames, new: Frames) -> None:
        """Make the slots that hold the pages *old* hold *new* instead, pair by pair."""
        slots = self.slot_of[old]
        self.slot_of[old] = 0
        self.slot_of[new] = slots
        self._gfn_of[slots] = new

    # -- bookkeeping

    def held(self) -> Frames:
        """List every gfn that a slot holds, in no order."""
        held = [self._slots_of(chunks, self._filled[chunks], 0) for chunks in self._chunks if chunks.size]
        gfns: Frames = self._gfn_of[np.concatenate([_NO_FRAMES, *held])].astype(np.int64)
        return gfns

    def check(self) -> list[str]:
        """Say where slots, gfns and counters disagree. Not meaningful while picked pages are not yet forgotten."""
        wrong = []
        for pool in Pool:
            filled = int(self._filled[self._chunks[pool]].sum())
            if filled != self.pages[pool]:
                wrong.append(f"holdings: {pool.name} counts {self.pages[pool]} pages, its chunks {filled}")
        gfns = self.held()
        slots = self.slot_of[gfns].astype(np.int64)
        if (self._gfn_of[slots] != gfns).any() or (slots == 0).any():
            wrong.append("holdings: a slot's page does not point back to it")
        if repeats(gfns).size:
            wrong.append("holdings: two slots hold one page")
        in_pools = sum(chunks.size for chunks in self._chunks)
        if in_pools + len(self._spare_chunks) + 1 != self.chunk_count:
            wrong.append(f"holdings: {in_pools} chunks used, {len(self._spare_chunks)} spare, of {self.chunk_count}")
        return wrong
