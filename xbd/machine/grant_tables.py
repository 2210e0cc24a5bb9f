"""The grant table (what a domain lets others map) and the mapping table (what it maps of others).

Both are arrays with one row per reference or handle, made when they are first used. Free rows are
kept in a frame allocator, which hands out the lowest ones, by the batch. A row is in use exactly
while its `gfn` is not 0.

A grant names its receiver by domid and by *birth*: domids are used again, and a grant to a domain that
is gone must not be usable by the next one with its domid.
Source: Xen common/grant_table.c: the shared table, the active table, maptrack.
"""

from typing import Any, Final, Generic

import numpy as np
from numpy.typing import NDArray

from xbd.arrays import (
    Cell,
    Frames,
    GfnKind,
    Gfns,
    HandleKind,
    Handles,
    KindT,
    MfnKind,
    Mfns,
    RefKind,
    Refs,
    from_cells,
)
from xbd.frames import FrameAllocator, sparse_zeros
from xbd.storage.image import Image, Section

# Whole words, so that a row can be saved.
_GRANT: Final = np.dtype(
    [
        ("gfn", np.int64),
        ("birth", np.int64),
        # Earlier versions keep the number of mappings of a grant here; like this one they recount it at start.
        ("spare", np.uint32),
        ("to", np.uint16),
        ("readonly", np.bool_),
        ("unused", np.uint8),
    ]
)
_MAPPING: Final = np.dtype(
    [
        ("gfn", np.int64),
        ("mfn", np.int64),
        ("ref", np.int32),
        ("owner", np.uint16),
        ("readonly", np.bool_),
        ("unused", np.uint8),
    ]
)
GRANT_WORDS: Final = _GRANT.itemsize // 8
MAPPING_WORDS: Final = _MAPPING.itemsize // 8


class _Table(Generic[KindT]):
    """Saved rows of one kind of number, taken and given back by the batch; each is noted in the undo log before it is written.

    Raises OSError: there is no disk space for them.
    """

    def __init__(self, image: Image, section: Section, name: str, dtype: np.dtype[Any]) -> None:
        # All of it, because all of it is read.
        image.allocate_once(section, section.span(name))
        self._column = section.column(name)
        self.rows: NDArray[Any] = self._column.words.view(dtype).reshape(-1)
        self.gfn: NDArray[Cell[GfnKind]] = self.rows["gfn"]
        self.free: FrameAllocator[KindT, Any] = FrameAllocator(self.rows.size)

    def recover(self) -> None:
        """Rebuild the set of free rows of a saved table."""
        self.free.take_exactly(self.in_use())

    @property
    def count(self) -> int:
        """Count the rows in use."""
        return self.rows.size - self.free.free_frames

    def take(self, count: int) -> NDArray[KindT]:
        """Take *count* free rows; the caller fills them at once."""
        taken = self.free.take(count)
        assert taken.size == count, f"{count} rows were free, only {taken.size} came"
        self._column.note(taken)
        return taken

    def note(self, indexes: NDArray[KindT]) -> None:
        """Note rows in use, which are about to be written."""
        self._column.note(indexes)

    def give(self, indexes: NDArray[KindT]) -> None:
        """Empty rows that are in use."""
        self._column.note(indexes)
        self.rows[indexes] = 0
        self.free.give(indexes)

    def in_use(self) -> NDArray[KindT]:
        """List the rows in use, ascending."""
        rows: NDArray[Any] = np.flatnonzero(self.gfn)
        return rows


class GrantTable(_Table[RefKind]):
    """What a domain lets others map.

    Attributes, per reference (`MAX_GRANTS`,): *gfn* int64, +1, 0 for a free row; *to* uint16 and *birth* int64, the
    domain that may map it; *readonly* bool; *mapped* uint32, how often it is mapped: derived from the mapping tables,
    and not saved.
    """

    def __init__(self, image: Image, section: Section) -> None:
        super().__init__(image, section, "grants", _GRANT)
        self.to: NDArray[np.uint16] = self.rows["to"]
        self.birth: Frames = self.rows["birth"]
        self.readonly: NDArray[np.bool_] = self.rows["readonly"]
        self.mapped: NDArray[np.uint32] = sparse_zeros(self.rows.size, np.uint32)

    def are_for(self, refs: Refs, domid: int, birth: int) -> NDArray[np.bool_]:
        """Say for each of (n,) rows whether it names that domain."""
        named: NDArray[np.bool_] = (self.to[refs] == domid) & (self.birth[refs] == birth)
        return named

    def mapped_gfns(self) -> Gfns:
        """List the gfns that others map, ascending."""
        return np.unique(from_cells(self.gfn[self.mapped > 0]))

    def give(self, indexes: Refs) -> None:
        """Empty rows that are in use."""
        super().give(indexes)
        self.mapped[indexes] = 0


class MappingTable(_Table[HandleKind]):
    """What a domain maps of others (Xen's maptrack); a p2m entry of a slot in use is -(handle + 1).

    Attributes, per handle (`MAX_MAPPINGS`,): *gfn* int64, the slot, +1, 0 for a free row; *mfn* int64, +1, 0 for a
    mapping that was cut off; *owner* uint16 and *ref* int32, the grant; *readonly* bool.
    """

    def __init__(self, image: Image, section: Section) -> None:
        super().__init__(image, section, "mappings", _MAPPING)
        self.mfn: NDArray[Cell[MfnKind]] = self.rows["mfn"]
        self.owner: NDArray[np.uint16] = self.rows["owner"]
        self.ref: NDArray[np.int32] = self.rows["ref"]
        self.readonly: NDArray[np.bool_] = self.rows["readonly"]

    def of(self, owner: int) -> Handles:
        """List the handles that still reach frames of domain *owner*."""
        handles: NDArray[Any] = np.flatnonzero((self.gfn > 0) & (self.owner == owner) & (self.mfn > 0))
        return handles

    def cut_off(self, owner: int) -> Mfns:
        """Let no mapping reach frames of domain *owner* any more; returns the frames, each as often as it was mapped."""
        handles = self.of(owner)
        mfns = from_cells(self.mfn[handles])
        self.note(handles)
        self.mfn[handles] = 0
        return mfns
