"""The machine's state as named arrays, of which some are *saved*.

Theory of operation. What a machine knows of its frames lies in arrays that are made and found here by
name. Those that say what cannot be found out from others (p2m entries, homes, content words, grants,
mappings, inboxes, limits) are saved: they are *columns* of *sections*, and a section lies where a
`Store` keeps it: in a file that outlives the process, or just in memory. All else (heap, owners,
references, counters) is derived, and made anew by `xbd.machine.recovery`.

A step changes saved cells in place. Before it does, it *notes* them: their old values go into the
store's undo log, and only then are they written. `commit` empties the log, by one store of a word. So
whoever dies in the middle of a step leaves a log that says how everything was before it
(`Undo.roll_back`); values are absolute, so rolling back twice is harmless. A section that is made in a
step needs no notes in that step: it is not there before the commit.
Source: the undo log of any database (write-ahead logging, Mohan et al., ARIES, 1992); the order of
writes is the program's, which holds when a process is killed, but not when the machine loses power.
"""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final, Generic

import numpy as np
from numpy.typing import NDArray

from xbd.arrays import Frames, KindT
from xbd.errors import DamagedState, OutOfResources
from xbd.frames import sparse_zeros
from xbd.replaceable import replaceable
from xbd.storage.undo import Undo

# Columns begin at such multiples: a page of memory, so that what was never touched is a hole in a file.
PAGE_WORDS: Final = 512


class Kind(IntEnum):
    """What a section is about; with a number it names the section."""

    HOST = 0
    DOMAIN = 1
    DAEMON = 2
    AGENT = 3
    MANIFEST = 4
    CHECK = 5
    OFFLINE = 6


@dataclass(frozen=True, slots=True)
class Layout:
    """The columns of a section, in order: name to (rows, words of 8 bytes in a row)."""

    columns: Mapping[str, tuple[int, int]]

    def offsets(self) -> dict[str, int]:
        """Tell at which word each column begins."""
        offsets, at = {}, 0
        for name, (rows, width) in self.columns.items():
            offsets[name] = at
            at += -(-rows * width // PAGE_WORDS) * PAGE_WORDS
        return offsets

    @property
    def words(self) -> int:
        """Count the words of a whole section."""
        return sum(-(-rows * width // PAGE_WORDS) * PAGE_WORDS for rows, width in self.columns.values())


class Column(Generic[KindT]):
    """A column of a section: rows of words, numbered by one kind of index, that are noted before they are written.

    Attributes: *words* (rows,) int64 of a kind that its owner says, or (rows, width) where a row has more than one word.
    """

    __slots__ = ("_undo", "_where", "words")

    def __init__(self, words: Frames, undo: Undo | None, where: tuple[int, int, int, int]) -> None:
        self.words: NDArray[Any] = words
        self._undo = undo
        self._where = where

    def note(self, rows: NDArray[KindT]) -> None:
        """Note (n,) rows, which are about to be written."""
        if self._undo is not None:
            self._undo.note(self._where, self.words, rows)

    def note_row(self, row: int) -> None:
        """Note one row, which is about to be written."""
        if self._undo is not None:
            self._undo.note_row(self._where, self.words, row)

    def arm(self, undo: Undo) -> None:
        """Note from here on: the section is there."""
        self._undo = undo


class Section:
    """A saved part of the state: its columns lie one after the other in *words*.

    Args:
        key: what it is about.
        layout: its columns.
        words: (layout.words,) int64.
        undo: where to note; None while it is new, or where nothing is noted.
    """

    def __init__(self, key: tuple[Kind, int], layout: Layout, words: Frames, undo: Undo | None) -> None:
        self.key = key
        self.layout = layout
        self.words = words
        self._undo = undo
        self._offsets = layout.offsets()
        self._columns: list[Column[Any]] = []

    @replaceable
    def column(self, name: str, *, width: int | None = None) -> Column[Any]:
        """Return a column, or, with another *width*, the same words seen as rows of so many."""
        rows, own_width = self.layout.columns[name]
        width = width or own_width
        rows = rows * own_width // width
        offset = self._offsets[name]
        words = self.words[offset : offset + rows * width]
        if width > 1:
            words = words.reshape(rows, width)
        column: Column[Any] = Column(words, self._undo, (*self.key, offset, width))
        self._columns.append(column)
        return column

    def span(self, name: str) -> tuple[int, int]:
        """Tell where a column's words begin and end."""
        rows, width = self.layout.columns[name]
        return self._offsets[name], self._offsets[name] + rows * width

    def arm(self, undo: Undo) -> None:
        """Note from here on what is written."""
        self._undo = undo
        for column in self._columns:
            column.arm(undo)


class Image:
    """A machine's arrays: derived ones, made here, and sections, which its *store* keeps."""

    def __init__(self, store: "Store | None" = None) -> None:
        self.store: Store = store or Store()
        self.sections: dict[tuple[Kind, int], Section] = {}
        self._derived: dict[str, NDArray[Any]] = {}
        self._new: list[Section] = []
        self._gone: dict[tuple[Kind, int], Section] = {}
        self._allocated: dict[tuple[Kind, int], set[tuple[int, int]]] = {}
        # Whether what it holds was there before, saved by an earlier process.
        self.is_recovered = False

    @property
    def arrays(self) -> dict[str, NDArray[Any]]:
        """Name all arrays there are: the derived ones, and each section's words."""
        saved = {f"{kind.name.lower()}.{number}": section.words for (kind, number), section in self.sections.items()}
        return self._derived | saved

    def make(self, name: str, count: int, dtype: Any) -> NDArray[Any]:  # noqa: ANN401 - as numpy's own
        """Add a derived array: (count,) zeros of *dtype* under a *name* that is not taken."""
        assert name not in self._derived, f"array {name} exists"
        array = self._derived[name] = sparse_zeros(count, dtype)
        return array

    def drop(self, prefix: str) -> None:
        """Forget every derived array whose name begins with *prefix*."""
        for name in [name for name in self._derived if name.startswith(prefix)]:
            del self._derived[name]

    def add_section(self, kind: Kind, number: int, layout: Layout) -> Section:
        """Make a section of zeros, which is there for good with the next commit."""
        key = (kind, number)
        assert key not in self.sections, f"section {kind.name} {number} exists"
        # Its words may still be needed, if this step is rolled back.
        assert key not in self._gone, f"section {kind.name} {number} went in the same step"
        section = self.sections[key] = Section(key, layout, self.store.create(kind, number, layout), None)
        if self.store.undo is not None:
            self._new.append(section)
        return section

    def open_section(self, kind: Kind, number: int) -> Section:
        """Find a section that is held, or that an earlier process left. Raises DamagedState: it cannot be used."""
        section = self.sections.get((kind, number))
        if section is None:
            layout, words = self.store.open(kind, number)
            self.is_recovered = True
            section = self.sections[kind, number] = Section((kind, number), layout, words, self.store.undo)
        return section

    def drop_section(self, kind: Kind, number: int) -> None:
        """Forget a section; it is gone for good after the next commit, or at once if this step has made it."""
        section = self.sections.pop((kind, number))
        self._allocated.pop((kind, number), None)
        if section in self._new:
            # It was made in this step: there are no notes of it, and no committed state names it.
            self._new.remove(section)
            self.store.discard(kind, number)
        elif self.store.undo is not None:
            self._gone[kind, number] = section

    def reserve(self, what: str, *, notes_words: int, scratch_bytes: int) -> None:
        """Reserve what a step may need before it changes anything, so that the step cannot fail half way.

        Args:
            what: the sentence's subject if this is refused, such as "d5 is not destroyed".
            notes_words: the most words of undo notes that the step writes.
            scratch_bytes: the most temporary memory that the step takes; it is probed and not kept.

        Raises:
            OutOfResources: nothing has changed.
        """
        try:
            sparse_zeros(scratch_bytes, np.uint8)
            if self.store.undo is not None:
                self.store.undo.reserve(notes_words)
        except (OSError, MemoryError) as error:
            raise OutOfResources.because(what, error) from error

    def allocate(self, section: Section, *spans: tuple[int, int]) -> None:
        """Allocate disk space for words of a section, given as (first, end) spans, before they are first written.

        A page without disk space ends the process when it is written (SIGBUS). Raises OSError: nothing has changed.
        """
        if spans:
            self.store.allocate(*section.key, spans)

    @replaceable
    def allocate_once(self, section: Section, *spans: tuple[int, int]) -> None:
        """Allocate disk space for what of a section is read whole, before it is first read in this process.

        On tmpfs reading a hole takes a page, too. Raises OSError: nothing has changed.
        """
        allocated = self._allocated.setdefault(section.key, set())
        self.allocate(section, *(span for span in spans if span not in allocated))
        allocated.update(spans)

    def sweep(self) -> None:
        """Discard the stored sections that were not opened: the step that made them was rolled back.

        Raises DamagedState: one of them was committed, and is not to be discarded.
        """
        self.store.sweep(self.sections.keys())

    def touched_pages(self, section: Section, name: str) -> Frames:
        """List the pages of a column (of 512 words, counted from its start) that may hold anything other than 0."""
        first, end = section.span(name)
        pages = self.store.touched(section.key[0], section.key[1], section.words, first, end)
        return pages - first // PAGE_WORDS

    @property
    def is_at_rest(self) -> bool:
        """Whether nothing is noted: no step has written anything since the last commit."""
        return self.store.undo is None or not self.store.undo.noted_words

    def roll_back(self) -> None:
        """Undo the step: saved cells and sections are as at the last commit; derived arrays are forgotten, to be made anew.

        Only where the store has an undo log.
        """
        undo = self.store.undo
        assert undo is not None, "there are no notes to roll back by"
        self._derived.clear()
        self.sections |= self._gone
        self._gone.clear()
        undo.roll_back(lambda kind, number: self.sections[Kind(kind), number].words)
        for section in tuple(self._new):
            self.drop_section(*section.key)

    def commit(self) -> None:
        """End the step: nothing done since the last commit is rolled back from here on."""
        undo = self.store.undo
        if undo is None:
            return
        for key in self._gone:
            self.store.doubt(*key)
        undo.clear()
        if self._new:
            for section in self._new:
                section.arm(undo)
                self.store.keep(*section.key)
            self._new.clear()
        if self._gone:
            for kind, number in self._gone:
                self.store.discard(kind, number)
            self._gone.clear()


class Store:
    """Where sections are kept. This base class keeps nothing: its sections end with the process, and need no notes.

    Attributes: *undo*: the log of the step that is under way, or None.
    """

    undo: Undo | None = None

    def create(self, kind: Kind, number: int, layout: Layout) -> Frames:
        """Make a new section of zeros, in place of any older one of that name.

        Raises OSError, MemoryError: there is no room for it; nothing is left behind.
        """
        del kind, number
        words: Frames = sparse_zeros(layout.words, np.int64)
        return words

    def allocate(self, kind: Kind, number: int, spans: Sequence[tuple[int, int]]) -> None:
        """Allocate disk space for (first, end) spans of words. Raises OSError: there is not enough."""

    def open(self, kind: Kind, number: int) -> tuple[Layout, Frames]:
        """Find a section that was committed. Raises DamagedState: it is not there, or cannot be used."""
        raise DamagedState(f"nothing is kept of {kind.name.lower()} {number}")

    def keep(self, kind: Kind, number: int) -> None:
        """Note that a section is committed: from here on only a step that drops it removes it."""

    def doubt(self, kind: Kind, number: int) -> None:
        """Note that a section goes with the commit that follows; who comes after that, or without it, can tell which."""

    def discard(self, kind: Kind, number: int) -> None:
        """Remove a section for good; called after the commit."""

    def sweep(self, opened: AbstractSet[tuple[Kind, int]]) -> None:
        """Discard what is stored beside the sections that were *opened*. Raises DamagedState: one was committed."""
        for kind, number in sorted(self.kept() - opened):
            self.discard(kind, number)

    def kept(self) -> set[tuple[Kind, int]]:
        """List the stored sections, including those made in a step that was never committed."""
        return set()

    def touched(self, kind: Kind, number: int, words: Frames, first: int, end: int) -> Frames:
        """List the pages between two words of a section that may hold anything other than 0, ascending."""
        del kind, number
        rows = words[first : first + -(-(end - first) // PAGE_WORDS) * PAGE_WORDS].reshape(-1, PAGE_WORDS)
        return np.flatnonzero(rows.any(axis=1)) + first // PAGE_WORDS
