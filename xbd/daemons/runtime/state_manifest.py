"""Which sections a state directory's host has: a byte of a mapped file for each, so that no file is taken for what it is not.

A section that a step makes is *unsure* before its file is there, and *kept* when the step is committed; one that a step
drops is unsure from before the commit until its file is gone. So whoever is killed, at any instant, leaves a mark with
every file: what is unsure belongs to the host if the host's own tables name it, and else is removed by the next
start; what is kept must be named by them. A file without a mark is nobody's: it is neither used nor removed.

A mark is one byte, whose place on the disk is there from the beginning: to set it cannot fail, and cannot be half done.
"""

import os
from collections.abc import Mapping
from contextlib import suppress
from enum import IntEnum
from pathlib import Path
from typing import Final

import numpy as np
import structlog

from xbd.abi import Frames
from xbd.daemons.runtime.outside import calls
from xbd.daemons.runtime.state_files import (
    HEADER_BYTES,
    WORD_BYTES,
    header,
    map_words,
    remove,
    section_name,
    sections_in,
)
from xbd.errors import ConfigError
from xbd.replaceable import replaceable
from xbd.storage.image import Kind, Layout

_log = structlog.get_logger(__name__)

# A word for each domid, of which each kind has a byte.
LAYOUT: Final = Layout({"marks": (1 << 15, 1)})
NAME: Final = section_name(Kind.MANIFEST, 0)


class Mark(IntEnum):
    """What is known of a section. No flipped bit makes one of another."""

    NONE = 0
    UNSURE = 0x5A
    KEPT = 0xA5


class Manifest:
    """The marks in *words*, (32768,) int64, of a file or of memory."""

    def __init__(self, words: Frames | None = None) -> None:
        words = np.zeros(LAYOUT.words, dtype=np.int64) if words is None else words
        self._marks = words.view(np.uint8).reshape(-1, WORD_BYTES)

    def mark(self, kind: Kind, number: int, mark: Mark) -> None:
        """Say what is known of a section from here on."""
        self._marks[number, kind] = mark

    def of(self, kind: Kind, number: int) -> Mark:
        """Tell what is known of a section."""
        return Mark(int(self._marks[number, kind]))

    @property
    def marks(self) -> dict[tuple[Kind, int], Mark]:
        """List the sections that have a mark. Raises ValueError: a mark is none."""
        return {(Kind(kind), number): self.of(Kind(kind), number) for number, kind in np.argwhere(self._marks).tolist()}


def all_unsure(path: Path) -> Manifest:
    """Make the manifest, in memory, of a directory of the format before: no section was ever marked."""
    manifest = Manifest()
    for key in {*sections_in(path)} - {(Kind.MANIFEST, 0)}:
        manifest.mark(*key, Mark.UNSURE)
    return manifest


def add_manifest(path: Path, manifest: Manifest) -> Manifest | None:
    """Write a manifest from memory; None: there is no room, which is logged, and the directory stays of its format."""
    try:
        # Until state.json says that there is one, the next start makes it anew.
        return make_manifest(path, manifest.marks)
    except OSError as error:
        effect = "the state stays of the format before; the next daemon tries again"
        _log.error("manifest_not_written", directory=str(path), reason=error.strerror, effect=effect)
        return None


@replaceable
def check_marks(path: Path, manifest: Manifest) -> None:
    """Hold the marks against the files of a directory. Raises ConfigError: a mark is none, or a file has none."""
    try:
        marks = manifest.marks
    except ValueError as error:
        raise ConfigError(path / NAME, "", f"is damaged: {error}") from error
    strange = sorted(section_name(*key) for key in {*sections_in(path)} - marks.keys() - {(Kind.MANIFEST, 0)})
    if strange:
        said = f"is no file of this host: {NAME} does not name it; move it away, or put back the {NAME} that does"
        raise ConfigError(path / strange[0], "", said)


def make_manifest(path: Path, marks: Mapping[tuple[Kind, int], Mark]) -> Manifest:
    """Write a directory's manifest, whole or not at all. Raises OSError: nothing is left of it."""
    new = path / f"{NAME}.new"
    remove(new)
    descriptor = calls.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        calls.fallocate(descriptor, 0, HEADER_BYTES + LAYOUT.words * WORD_BYTES)
        calls.pwrite(descriptor, header(Kind.MANIFEST, 0, LAYOUT), 0)
        manifest = Manifest(map_words(descriptor))
        for key, mark in marks.items():
            manifest.mark(*key, mark)
        calls.replace(new, path / NAME)
    except BaseException:
        with suppress(OSError):
            remove(new)
        raise
    finally:
        os.close(descriptor)
    return manifest
