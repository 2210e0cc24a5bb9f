"""A check byte for each content word of a saved host, so that a bit that flips while no daemon runs, or is killed, is found.

Content words can be anything, so nothing else of the host says that one is wrong. The check is the highest byte of the
word's product with a factor in which no eight bits in a row are equal: a flipped bit changes the product by some power of
two times the factor, whose highest byte is then neither 0 nor 255, so no single flipped bit keeps the check. It is noted and committed with the word, in a section of its own,
and the words are held against it when a host is taken up. A page of checks is touched when one of its words is first
written; where there is none there is no word, either.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from xbd.abi import Frames, Words
from xbd.errors import DamagedState
from xbd.frames import expand_supers
from xbd.storage.image import PAGE_WORDS, Image, Kind, Layout, Section
from xbd.units import SUPER_PAGES

# 2^64 divided by the golden ratio: Knuth's factor for multiplicative hashing.
_FACTOR: Final = np.uint64(0x9E3779B97F4A7C15)
_CHECK_SHIFT: Final = np.uint64(56)
_BYTES_PER_WORD_SHIFT: Final = 3
_ROW_WORDS: Final = SUPER_PAGES >> _BYTES_PER_WORD_SHIFT
_SUPERS_PER_PAGE: Final = PAGE_WORDS // _ROW_WORDS


def check_layout(superframes: int) -> Layout:
    """Lay out the checks of a host's content words."""
    return Layout({"checks": (superframes * _ROW_WORDS, 1)})


def open_checks(image: Image, superframes: int) -> Section:
    """Find the checks of a host that has them. Raises DamagedState: they are not there, or another host's."""
    section = image.open_section(Kind.CHECK, 0)
    if section.layout != check_layout(superframes):
        raise DamagedState("the checks of content words are laid out for another host")
    return section


def checks_of(words: Words) -> Words:
    """Compute the check of each of (n,) content words."""
    checks: Words = words * _FACTOR >> _CHECK_SHIFT
    return checks


class ContentChecks:
    """The checks in *section*: written with each content word, and scrubbed with it."""

    def __init__(self, section: Section) -> None:
        self._saved = section.column("checks")
        self._saved_rows = section.column("checks", width=_ROW_WORDS)
        self._checks = self._saved.words.view(np.uint8)

    def write(self, frames: Frames, words: Words) -> None:
        """Write the checks of the words of single frames."""
        self._saved.note(frames >> _BYTES_PER_WORD_SHIFT)
        self._checks[frames] = checks_of(words)

    def scrub(self, frames: Frames) -> None:
        """Zero the checks of single frames."""
        self._saved.note(frames >> _BYTES_PER_WORD_SHIFT)
        self._checks[frames] = 0

    def scrub_superframes(self, supers: Frames) -> None:
        """Zero the checks of whole superframes."""
        self._saved_rows.note(supers)
        self._saved_rows.words[supers] = 0

    def wrong(self, supers: Frames, content_rows: Words, touched: Frames) -> Frames:
        """List the frames of some superframes whose words differ from their checks.

        Args:
            supers: (n,) int64.
            content_rows: (n, 512), their words.
            touched: the pages of checks that were ever written; no other is read.
        """
        expected = np.zeros((supers.size, SUPER_PAGES), dtype=np.uint8)
        there = np.isin(supers // _SUPERS_PER_PAGE, touched)
        expected[there] = self._checks.reshape(-1, SUPER_PAGES)[supers[there]]
        differs = checks_of(content_rows.reshape(-1)) != expected.reshape(-1)
        frames: Frames = expand_supers(supers)[differs]
        return frames


def add_checks(image: Image, written: NDArray[np.bool_], content_rows: Words) -> ContentChecks:
    """Make the checks of a host that has none, in the step that is under way. Raises OSError: nothing has changed.

    Args:
        image: of the host.
        written: (superframes,) which superframes may have words other than 0.
        content_rows: (superframes, 512) words.
    """
    section = image.add_section(Kind.CHECK, 0, check_layout(written.size))
    checks = ContentChecks(section)
    supers = np.flatnonzero(written)
    try:
        for page in np.unique(supers // _SUPERS_PER_PAGE).tolist():
            image.allocate(section, (page * PAGE_WORDS, (page + 1) * PAGE_WORDS))
            there = supers[supers // _SUPERS_PER_PAGE == page]
            checks.write(expand_supers(there), content_rows[there].reshape(-1))
    except OSError:
        image.drop_section(Kind.CHECK, 0)
        raise
    return checks
