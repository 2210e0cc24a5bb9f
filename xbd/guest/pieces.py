"""The free memory of a zone as its buddy allocator sees it: aligned pieces of 1, 2, 4, ... 256 pages.

Theory of operation. A buddy allocator serves a page from the smallest free piece that there is, and knows nothing of the
2 MiB block around it: scattered holes are filled before a larger piece, or a whole block, is broken. Of every block that is
neither wholly free nor used up a row says how many of its free pages lie in pieces of each order, a piece being the
largest aligned run of free pages around them. Rows are counted anew when they are asked for, and only where something
changed, so a tick pays for the blocks that it touched.

Source: Linux mm/page_alloc.c, __rmqueue_smallest and __free_one_page.
"""

from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from xbd.abi import Frames
from xbd.frames import sparse_zeros
from xbd.units import SUPER_ORDER, SUPER_PAGES

_NO_PAGES: Final[Frames] = np.zeros(0, dtype=np.int64)
# Two free halves, as numpy sees two bools at once.
_BOTH: Final = np.uint16(0x0101)
# Sixteen pages are one word, and what is to be known of it is looked up: which of its pages lie in pieces of an order up
# to 4 and larger, and how many in pieces of each, in fields of a number that are wide enough for the sum over a block.
_WORD_ORDER: Final = 4
_FULL_WORD: Final = np.uint16(0xFFFF)
_FIELD_BITS: Final = 12
_FIELD_MASK: Final = (1 << _FIELD_BITS) - 1
_FIELDS: Final = np.arange(_WORD_ORDER + 1) * _FIELD_BITS


def _pieces_of(free: NDArray[np.bool_], orders: int = SUPER_ORDER) -> list[NDArray[np.bool_]]:
    """Find the free aligned pieces of (n, pages) pages, for so many *orders*: for order k (n, pages >> k) bool."""
    levels = [free]
    for _ in range(1, orders):
        levels.append(levels[-1].view(np.uint16) == _BOTH)
    return levels


@cache
def _pages_at_least() -> NDArray[np.uint16]:
    """Tell of every word of 16 pages, a bit of 1 for a free one, those in pieces of an order and larger: (5, 65536) words."""
    words = np.arange(1 << (1 << _WORD_ORDER), dtype=np.uint16)
    free = np.unpackbits(words.view(np.uint8), bitorder="little").view(np.bool_).reshape(words.size, -1)
    levels = _pieces_of(free, _WORD_ORDER + 1)
    return np.array([_as_words(np.repeat(level, 1 << order, axis=1))[:, 0] for order, level in enumerate(levels)])


@cache
def _pages_just() -> NDArray[np.uint16]:
    """Tell of every word those in pieces of just an order, which are of 8 pages at most: (4, 65536) words."""
    at_least = _pages_at_least()
    return at_least[:-1] & ~at_least[1:]


@cache
def _pages_below() -> NDArray[np.uint16]:
    """Tell of every word those in pieces below an order: (5, 65536) words."""
    at_least = _pages_at_least()
    below: NDArray[np.uint16] = at_least[0] & ~at_least
    return below


@cache
def _pages_by_word() -> Frames:
    """Count every word's pages by order, in fields: (65536,) int64."""
    bits = np.unpackbits(_pages_at_least().view(np.uint8)).reshape(_WORD_ORDER + 1, -1, 1 << _WORD_ORDER)
    pages = np.count_nonzero(bits, axis=2)
    pages[:-1] -= pages[1:]
    fields: Frames = np.bitwise_or.reduce(pages << _FIELDS[:, None], axis=0)
    return fields


def _pages_by_order(words: NDArray[np.uint16]) -> Frames:
    """Add up the pages, by order, of rows of words: (n, words) to (n, 5) int64."""
    fields = np.add.reduce(_pages_by_word().take(words), axis=1)
    pages: Frames = fields[:, None] >> _FIELDS & _FIELD_MASK
    return pages


def _as_words(bits: NDArray[np.bool_]) -> NDArray[np.uint16]:
    """Pack rows of bools into words of 16."""
    return np.packbits(bits, axis=1, bitorder="little").view(np.uint16)


def _at_least(words: NDArray[np.uint16], order: int) -> NDArray[np.uint16]:
    """Keep, of (n, 32) words of blocks, the pages that lie in pieces of *order* and larger."""
    kept: NDArray[np.uint16]
    if order <= _WORD_ORDER:
        kept = _pages_at_least()[order].take(words)
    elif order < SUPER_ORDER:
        pieces = _pieces_of(words == _FULL_WORD, order - _WORD_ORDER + 1)[-1]
        kept = np.repeat(pieces, 1 << (order - _WORD_ORDER), axis=1) * _FULL_WORD
    else:
        kept = np.zeros_like(words)
    return kept


def _below(words: NDArray[np.uint16], order: int) -> NDArray[np.uint16]:
    """Keep, of (n, 32) words of blocks, the free pages that lie in pieces below *order*."""
    kept: NDArray[np.uint16] = (
        _pages_below()[order].take(words) if order <= _WORD_ORDER else words & ~_at_least(words, order)
    )
    return kept


def _just(words: NDArray[np.uint16], order: int) -> NDArray[np.uint16]:
    """Keep, of (n, 32) words of blocks, the free pages that lie in pieces of just this *order*."""
    if order < _WORD_ORDER:
        kept: NDArray[np.uint16] = _pages_just()[order].take(words)
        return kept
    return _at_least(words, order) & ~_at_least(words, order + 1)


class FreePieces:
    """The free pages of mixed blocks, by the order of the piece that they lie in.

    Args:
        states: (blocks, 512) uint8, 0 for a free page; meaningful in mixed blocks only.

    Attributes: *pages* (blocks, 9) uint16, and *words* (blocks, 32) uint16, a bit for each page that is free, to be read
    after `count`.
    """

    def __init__(self, states: NDArray[np.uint8]) -> None:
        self._states = states
        self.pages: NDArray[np.uint16] = sparse_zeros(states.shape[0] * SUPER_ORDER, np.uint16).reshape(-1, SUPER_ORDER)
        self.words: NDArray[np.uint16] = sparse_zeros(states.size >> _WORD_ORDER, np.uint16).reshape(
            states.shape[0], -1
        )
        self._changed: NDArray[np.bool_] = np.zeros(states.shape[0], dtype=np.bool_)

    def note(self, blocks: Frames) -> None:
        """Note that free pages of these blocks came or went."""
        self._changed[blocks] = True

    def count(self, is_mixed: NDArray[np.bool_]) -> None:
        """Count anew what changed; (blocks,) bool says which blocks have free pages and are not wholly free."""
        changed = np.flatnonzero(self._changed)
        self._changed[changed] = False
        self.pages[changed] = 0
        blocks = changed[is_mixed[changed]]
        if not blocks.size:
            return
        words = self.words[blocks] = _as_words(self._states[blocks] == 0)
        # What fills whole words is counted by the word, as a word's pages are by the page.
        self.pages[blocks, :_WORD_ORDER] = _pages_by_order(words)[:, :_WORD_ORDER]
        self.pages[blocks, _WORD_ORDER:] = _pages_by_order(_as_words(words == _FULL_WORD)) << _WORD_ORDER

    def find(self, count: int, blocks: Frames, rng: np.random.Generator | None) -> Frames:
        """Choose up to *count* free pages of these mixed blocks, those of the smallest pieces first.

        Of the pieces of the largest order that is needed some are taken, of blocks drawn by *rng* or, without
        it, of the highest. Returns (<= count,) gfns.
        """
        pages = self.pages[blocks]
        reached = np.add.reduce(pages, axis=0, dtype=np.int64).cumsum()
        order = int(reached.searchsorted(count))
        if order == SUPER_ORDER:
            return _gfns(self.words[blocks], blocks)
        smaller = blocks[np.logical_or.reduce(pages[:, :order], axis=1)]
        left = count - (int(reached[order - 1]) if order else 0)
        of_order = pages[:, order]
        having = of_order.nonzero()[0]
        drawn = having[::-1] if rng is None else having[rng.permutation(having.size)]
        used = int(of_order[drawn].cumsum(dtype=np.int64).searchsorted(left)) + 1
        split = blocks[drawn[:used]]
        # Of the first of these blocks their pages below the order, of the others those of just this order.
        words = np.concatenate((_below(self.words[smaller], order), _just(self.words[split], order)))
        return _gfns(words, np.concatenate((smaller, split)))[:count]

    def check(self, is_mixed: NDArray[np.bool_], free_count: NDArray[np.uint16]) -> list[str]:
        """Say where the rows and the blocks' free counts disagree."""
        self.count(is_mixed)
        wrong = np.flatnonzero(self.pages.sum(axis=1) != np.where(is_mixed, free_count, 0))
        return [
            f"zone: the pieces of block {block:#x} hold {self.pages[block].sum()} pages" for block in wrong.tolist()
        ]


def _gfns(words: NDArray[np.uint16], blocks: Frames) -> Frames:
    """Name the pages of (n, 32) *words* of these blocks."""
    flat = np.unpackbits(words.view(np.uint8), bitorder="little").nonzero()[0]
    return (blocks << SUPER_ORDER)[flat >> SUPER_ORDER] + (flat & (SUPER_PAGES - 1)) if flat.size else _NO_PAGES
