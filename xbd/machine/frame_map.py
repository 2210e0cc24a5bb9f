"""The host's frames as a map: kind, owner and use of each superframe; the frames of one; the blocks of one domain."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from xbd.errors import BadArgument
from xbd.machine.domain import Domain
from xbd.machine.frame_table import FrameTable
from xbd.units import SUPER_PAGES

FREE: Final = 0
WHOLE: Final = 1
SHATTERED: Final = 2
OFFLINE: Final = 3
# So many superframes' detail is sorted at a time: 4 MiB, which stays in a processor's cache.
_CHUNK: Final = 4096


@dataclass(frozen=True, slots=True, eq=False)
class FrameMap:
    """Per superframe, (n,): *kind* uint8 (`FREE`, `WHOLE`: one leaf, `SHATTERED`, `OFFLINE`); *owner* uint16, domid + 1 of who holds
    it, or most of it, 0 for nobody; *used* uint16, frames that are not free.
    """  # noqa: D205 - one sentence

    kind: NDArray[np.uint8]
    owner: NDArray[np.uint16]
    used: NDArray[np.uint16]


def frame_map(host: FrameTable) -> FrameMap:
    """Compute the map of a host; only shattered superframes are looked at frame by frame."""
    used = (SUPER_PAGES - host.heap.free_count).astype(np.uint16)
    whole = host.whole_owner > 0
    kind = np.where(whole, WHOLE, np.where(used > 0, SHATTERED, FREE)).astype(np.uint8)
    kind[host.offline] = OFFLINE
    owner = host.whole_owner.copy()
    shattered = np.flatnonzero(kind == SHATTERED)
    for first in range(0, shattered.size, _CHUNK):
        supers = shattered[first : first + _CHUNK]
        owner[supers] = _holders_of_most(host.owner_rows[supers])
    return FrameMap(kind, owner, used)


def superframe_owners(host: FrameTable, index: int) -> NDArray[np.uint16]:
    """Tell who holds each frame of one superframe: (512,) domid + 1, 0 nobody. Raises BadArgument: there is no such one."""
    superframes = host.whole_owner.size
    if index >= superframes:
        raise BadArgument(f"there is no superframe {index}", f"0 to {superframes - 1}")
    whole = host.whole_owner[index]
    return np.full(SUPER_PAGES, whole) if whole else host.owner_rows[index].copy()


@dataclass(frozen=True, slots=True, eq=False)
class BlockMap:
    """Per 2 MiB block of a domain's gfns, (n,): *kind* uint8 (`FREE`: nothing is populated, `WHOLE`: one leaf, `SHATTERED`);
    *populated* and *slots* uint16, entries that are populated, and slots in use.
    """  # noqa: D205 - one sentence

    kind: NDArray[np.uint8]
    populated: NDArray[np.uint16]
    slots: NDArray[np.uint16]


def block_map(domain: Domain) -> BlockMap:
    """Compute the map of a domain's blocks, from its counters; no entry is looked at."""
    p2m = domain.p2m
    in_pieces = np.where(p2m.populated > 0, SHATTERED, FREE)
    kind = np.where(p2m.leaf > 0, WHOLE, in_pieces).astype(np.uint8)
    return BlockMap(kind, p2m.populated, p2m.slots)


def _holders_of_most(rows: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """Find the most frequent owner in each row of (n, 512) owners, 0 being none; any one of several equals."""
    ordered = np.sort(rows, axis=1).reshape(-1)
    starts = np.flatnonzero(
        np.concatenate(([True], ordered[1:] != ordered[:-1])) | (np.arange(ordered.size) % SUPER_PAGES == 0)
    )
    lengths = np.diff(np.concatenate((starts, [ordered.size])))
    owners, in_row = ordered[starts], starts // SUPER_PAGES
    lengths[owners == 0] = 0
    # The last run of each row, when runs are in the order of rows and, in each, of lengths.
    order = np.lexsort((lengths, in_row))
    last = np.concatenate((in_row[order][1:] != in_row[order][:-1], [True]))
    most: NDArray[np.uint16] = owners[order[last]]
    return most
