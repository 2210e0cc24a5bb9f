"""The undo log of a step: what saved cells held before it wrote them.

The log is a flat array of words that its owner keeps (in a file, or in memory): word 0 says how many
words of notes follow from `FIRST` on; 0: no step is under way. A note is a header of five words
(kind and number of the section, the column's first word, words in a row, rows) followed by the rows' indexes and their old
values. Word 0 is written after the note and before the cells that it is about, so every changed cell has
its old value in the log.
"""

import struct
from collections.abc import Callable
from typing import Final

import numpy as np

from xbd.abi import Frames

# Word 0 is the length; the rest of its cache line is unused.
FIRST: Final = 8
_HEADER: Final = struct.Struct("=5q")
_HEADER_WORDS: Final = 5
# A header, one row, one word: the usual note of a single cell, written in one go.
_WORD_NOTE: Final = struct.Struct("=7q")
# (kind and number of the section, first word of the column, words in a row)
Where = tuple[int, int, int, int]


class Rewound:
    """A step that was rolled back, and what its cells held before that.

    Attributes: *notes*: how many there were.
    """

    def __init__(self, notes: int, cells: list[tuple[Frames, Frames, Frames]]) -> None:
        self.notes = notes
        self._cells = cells

    def put_back(self) -> None:
        """Leave the step half done again, as it was found."""
        for words, at, new in self._cells:
            words[at] = new


class Undo:
    """Notes old values in *words*, (n,) int64; *grow* returns a larger array with the same contents.

    Attributes: *on_note*: called after each note, before the cells are written (a simulation crashes there).
    """

    def __init__(self, words: Frames, grow: Callable[[int], Frames]) -> None:
        self._words = words
        self._grow = grow
        self._end = FIRST + int(words[0])
        self.on_note: Callable[[], None] | None = None

    @property
    def noted_words(self) -> int:
        """Count the words of notes of the step that is under way; 0: there is none."""
        return self._end - FIRST

    def note(self, where: Where, cells: Frames, rows: Frames) -> None:
        """Note (n,) rows of a column, *cells* (rows,) or (rows, width)."""
        kind, number, offset, width = where
        count = rows.size
        log = self._reserve(count * (1 + width))
        _HEADER.pack_into(log.data, 8 * self._end, kind, number, offset, width, count)
        at = self._end + _HEADER_WORDS
        log[at : at + count] = rows
        at += count
        if width == 1:
            cells.take(rows, out=log[at : at + count], mode="clip")
        else:
            log[at : at + count * width].reshape(count, width)[:] = cells[rows]
        self._publish(at + count * width)

    def note_row(self, where: Where, cells: Frames, row: int) -> None:
        """Note one row of a column."""
        kind, number, offset, width = where
        log = self._reserve(1 + width)
        at = self._end
        if width == 1:
            _WORD_NOTE.pack_into(log.data, 8 * at, kind, number, offset, 1, 1, row, cells[row])
        else:
            _HEADER.pack_into(log.data, 8 * at, kind, number, offset, width, 1)
            at += _HEADER_WORDS
            log[at] = row
            log[at + 1 : at + 1 + width] = cells[row]
        self._publish(self._end + _HEADER_WORDS + 1 + width)

    def reserve(self, words: int) -> None:
        """Make room for *words* words of notes. Raises what `grow` raises: nothing has changed."""
        self._reserve(words)

    def _reserve(self, words: int) -> Frames:
        needed = self._end + _HEADER_WORDS + words
        if needed > self._words.size:
            self._words = self._grow(needed)
        return self._words

    def _publish(self, end: int) -> None:
        self._end = end
        self._words[0] = end - FIRST
        if self.on_note is not None:
            self.on_note()

    def clear(self) -> None:
        """Forget the notes: the step is done."""
        if self._end != FIRST:
            self._words[0] = 0
            self._end = FIRST

    def move(self, words: Frames) -> None:
        """Note into other words from here on; no step is under way."""
        assert self._end == FIRST, "the log was moved in the middle of a step"
        self._words = words

    def roll_back(self, find: Callable[[int, int], Frames | None]) -> int:
        """Write the old values back, as `rewind`, and forget the notes; returns how many there were."""
        notes = self.rewind(find).notes
        self.clear()
        return notes

    def rewind(self, find: Callable[[int, int], Frames | None]) -> "Rewound":
        """Write the old values back, the latest note first, and keep the notes.

        If the process dies before the notes are cleared, nothing is lost: old values are absolute, and rewinding again
        is harmless.

        Args:
            find: returns the words of a section by kind and number; None: the section is gone, and its notes are
            skipped.

        Raises:
            ValueError: the log makes no sense; nothing has been written.
        """
        notes = self._read()
        found = {key: find(*key) for key in {(kind, number) for kind, number, *_ in notes}}
        for kind, number, offset, width, rows, _ in notes:
            words = found[kind, number]
            if words is not None and rows.size:
                first, last = int(rows.min()), int(rows.max())
                if first < 0 or offset + (last + 1) * width > words.size:
                    raise ValueError(f"a note about rows {first} to {last}, beyond the section")
        written = []
        for kind, number, offset, width, rows, old in notes:
            words = found[kind, number]
            if words is not None:
                at = (offset + rows[:, None] * width + np.arange(width)).reshape(-1)
                written.append((words, at, words[at], old))
        for words, at, _, old in reversed(written):
            words[at] = old
        return Rewound(len(notes), [(words, at, new) for words, at, new, _ in written])

    def _read(self) -> list[tuple[int, int, int, int, Frames, Frames]]:
        notes = []
        at, end = FIRST, self._end
        if not FIRST <= end <= self._words.size:
            raise ValueError(f"{end - FIRST} words of notes in a log of {self._words.size}")
        while at < end:
            kind, number, offset, width, count = (int(word) for word in self._words[at : at + _HEADER_WORDS])
            first = at + _HEADER_WORDS
            if width < 1 or count < 0 or offset < 0 or first + count * (1 + width) > end:
                raise ValueError(f"a note of {count} rows of {width} words at {at} of {end}")
            rows = self._words[first : first + count]
            old = self._words[first + count : first + count * (1 + width)]
            notes.append((kind, number, offset, width, rows, old))
            at = first + count * (1 + width)
        return notes
