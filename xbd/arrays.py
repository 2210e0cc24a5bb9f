"""The arrays that travel between guests and hypervisor; apart from `xbd.abi`, which does not need numpy itself.

Index spaces are kinds of numbers: to mypy an array of gfns is none of frames, though both are int64 when the program
runs. What is sliced, masked, sorted or joined keeps its kind; a function that leads from one space to another says so.
`Frames` may be of any kind: what is not checked yet, and what fits all.
"""

from typing import Any, Generic, NewType, TypeVar

import numpy as np
from numpy.typing import NDArray

from xbd.units import SUPER_ORDER

# Extent bases, references of grants: (n,) int64.
Frames = NDArray[np.int64]
# Content words, words of messages: (n,) uint64.
Words = NDArray[np.uint64]


class GfnKind(np.int64):
    """A guest's frame number."""


class MfnKind(np.int64):
    """The number of one of the machine's frames."""


class BlockKind(np.int64):
    """The number of a 2 MiB block of gfns."""


class SuperKind(np.int64):
    """The number of a superframe: 2 MiB of the machine's frames."""


class RefKind(np.int64):
    """The reference of a grant: its row in the grant table of who made it."""


class HandleKind(np.int64):
    """The handle of a mapping: its row in the mapping table of who has it."""


KindT = TypeVar("KindT", bound=np.int64)


class Cell(np.int64, Generic[KindT]):
    """An index as it is stored: one more than it is, and 0 for none; so what was never written says none."""

    def __class_getitem__(cls, kind: Any) -> Any:  # noqa: ANN401 - numpy's own takes another kind of argument
        """Be the same class for each kind: kinds are there for mypy."""
        del kind
        return cls


Gfns = NDArray[GfnKind]
Mfns = NDArray[MfnKind]
Blocks = NDArray[BlockKind]
Supers = NDArray[SuperKind]
Refs = NDArray[RefKind]
Handles = NDArray[HandleKind]
# One of them.
Block = NewType("Block", int)
Superframe = NewType("Superframe", int)


def blocks_of(gfns: Gfns) -> Blocks:
    """Name the block that each gfn lies in."""
    blocks: NDArray[Any] = gfns >> SUPER_ORDER
    return blocks


def supers_of(mfns: Mfns) -> Supers:
    """Name the superframe that each frame lies in."""
    supers: NDArray[Any] = mfns >> SUPER_ORDER
    return supers


def repeats(numbers: Frames) -> Frames:
    """List what (n,) numbers name more than once, ascending; most batches rise or fall throughout, and name none.

    By sorting: numpy's own `unique` takes ten times as long for all gfns of a guest.
    """
    before, after = numbers[:-1], numbers[1:]
    rising = np.count_nonzero(after > before)
    if rising == after.size or (rising == 0 and np.count_nonzero(after < before) == after.size):
        return numbers[:0]
    ordered = np.sort(numbers)
    again: Frames = ordered[1:][ordered[1:] == ordered[:-1]]
    return again


def to_cells(indexes: NDArray[KindT]) -> NDArray[Cell[KindT]]:
    """Encode indexes, to be stored."""
    return indexes + 1  # type: ignore[return-value]  # the other half of the pair


def from_cells(cells: NDArray[Cell[KindT]]) -> NDArray[KindT]:
    """Decode stored indexes; where there is none it is -1."""
    return cells - 1  # type: ignore[return-value]  # as above
