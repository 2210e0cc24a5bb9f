"""A store in memory, for simulations and tests that play a process's death without ending one."""

from typing import Final

import numpy as np

from xbd.abi import Frames
from xbd.errors import DamagedState
from xbd.frames import sparse_zeros
from xbd.storage.image import PAGE_WORDS, Kind, Layout, Store
from xbd.storage.undo import Undo

_LOG_WORDS: Final = 1 << 12


class Crash(BaseException):
    """Stands for the death of the process: only what is in the store survives."""


class MemoryStore(Store):
    """Keeps sections in memory, where the next machine finds them; *make_undo* makes the log of a step."""

    undo: Undo

    def __init__(self, make_undo: type[Undo] = Undo) -> None:
        self._make_undo = make_undo
        self._log: Frames = np.zeros(_LOG_WORDS, dtype=np.int64)
        self.undo = make_undo(self._log, self._grow)
        self._sections: dict[tuple[Kind, int], tuple[Layout, Frames]] = {}

    def _grow(self, words: int) -> Frames:
        larger = np.zeros(2 * words, dtype=np.int64)
        larger[: self._log.size] = self._log
        self._log = larger
        return larger

    def create(self, kind: Kind, number: int, layout: Layout) -> Frames:
        """Make a section of zeros."""
        words: Frames = sparse_zeros(layout.words, np.int64)
        self._sections[kind, number] = (layout, words)
        return words

    def open(self, kind: Kind, number: int) -> tuple[Layout, Frames]:
        """Find a section. Raises DamagedState: it is not there."""
        try:
            return self._sections[kind, number]
        except KeyError:
            raise DamagedState(f"nothing is kept of {kind.name.lower()} {number}") from None

    def discard(self, kind: Kind, number: int) -> None:
        """Forget a section."""
        del self._sections[kind, number]

    def kept(self) -> set[tuple[Kind, int]]:
        """Name the sections."""
        return set(self._sections)

    def crash_after(self, notes: int, error: type[BaseException] = Crash) -> None:
        """Raise *error* at the note number *notes* from here, before the cells that it is about are written."""
        left = notes

        def count() -> None:
            nonlocal left
            left -= 1
            if left == 0:
                self.undo.on_note = None
                raise error

        self.undo.on_note = count

    def roll_back(self) -> int:
        """Undo the step that was under way; returns how many notes there were of it."""
        # The dead process's variables are gone: only what is written in the log counts.
        self.undo = self._make_undo(self._log, self._grow)

        def find(kind: int, number: int) -> Frames | None:
            kept = self._sections.get((Kind(kind), number))
            return None if kept is None else kept[1]

        return self.undo.roll_back(find)

    def copy(self) -> "MemoryStore":
        """Make another one of the same contents."""
        other = MemoryStore()
        other._log = self._log.copy()
        other.undo = Undo(other._log, other._grow)
        for key, (layout, words) in self._sections.items():
            twin: Frames = sparse_zeros(words.size, np.int64)
            pages = self.touched(*key, words, 0, words.size)
            twin.reshape(-1, PAGE_WORDS)[pages] = words.reshape(-1, PAGE_WORDS)[pages]
            other._sections[key] = (layout, twin)
        return other
