"""A domain: its limits, its counters and its p2m.

The p2m has two levels. Per 2 MiB block of gfns: how many entries are populated, the block's home,
and, if it is one leaf, where that lies. Per gfn an entry, mfn + 1, which is 0 except in shattered
blocks; so a domain of superpages touches no detail at all. An entry below 0 is a slot in use: a
mapping of another domain's frame, -(handle + 1) (see `tables`); it is not populated.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from xbd.abi import MAX_DOMAINS, MAX_NAME_CHARS, MAX_NODES, DomainType, Features, Frames
from xbd.arrays import (
    BlockKind,
    Blocks,
    Cell,
    GfnKind,
    Gfns,
    Handles,
    MfnKind,
    Mfns,
    SuperKind,
    Supers,
    from_cells,
    supers_of,
)
from xbd.limits import Limits
from xbd.machine.counts import COUNTS, Counts
from xbd.machine.grant_tables import GRANT_WORDS, MAPPING_WORDS, GrantTable, MappingTable
from xbd.machine.inbox import Inbox, inbox_column_words
from xbd.machine.node_index import PagesByNode
from xbd.machine.nodes import ANYWHERE, Affinity
from xbd.storage.image import Column, Image, Layout, Section
from xbd.units import OFFSET_MASK, SUPER_ORDER, SUPER_PAGES

# Blocks that are looked at together: their entries, and what is made of them, stay in the processor's cache.
_PIECE_BLOCKS: Final = 64
_ALL: Final = slice(None)
# Of a guest that knows its map.
NO_RUNS: Final = np.zeros((0, 2), dtype=np.int64)
# A character of UTF-8 has four bytes at most; the name's length in bytes comes before it.
_NAME_WORDS: Final = 1 + MAX_NAME_CHARS * 4 // 8
# The UUID's words lie behind those of the limits. Spare words: a few more can be added without another layout.
LIMITS_SHAPE: Final = (1, 16)
_UUID: Final = slice(8, 10)
# Then its affinity: a bit for each node, and one that says that it is hard; and what it claims on each node, in half words.
_AFFINITY: Final = 10
_HARD: Final = 1 << 32
_NODE_CLAIMS: Final = slice(11, 15)
# The columns that are read whole at every start, and whenever a domain is told; the others only where they were touched.
READ_WHOLE: Final = ("limits", "name", "counts", "blocks")


def domain_layout(gfn_count: int, limits: Limits) -> Layout:
    """Lay out what is saved of a domain."""
    blocks = -(-gfn_count // SUPER_PAGES)
    return Layout(
        {
            "limits": LIMITS_SHAPE,
            "name": (1, _NAME_WORDS),
            "counts": (COUNTS, 1),
            "peers": (MAX_DOMAINS, 1),
            # leaf, home
            "blocks": (blocks, 2),
            "entry": (blocks << SUPER_ORDER, 1),
            "grants": (limits.grants, GRANT_WORDS),
            "mappings": (limits.mappings, MAPPING_WORDS),
            "inbox": (inbox_column_words(limits.inbox_words), 1),
        }
    )


# An entry: a frame, none, or below 0 a slot in use.
Entries = NDArray[Cell[MfnKind]]


class P2m:
    """gfn to mfn of one domain.

    Attributes: per block (k,): *populated* uint16; *slots* uint16, entries that are slots in use; *home* int64,
    superframe + 1 or 0; *leaf* int64, first mfn + 1 of the leaf or 0. Per gfn: *entry* int64, mfn + 1, 0, or a slot.
    Leaf, home and entry are saved, and noted before they are written: *blocks*, *entries*, or whole *entry_rows*.
    """

    def __init__(self, gfn_count: int, image: Image, section: Section) -> None:
        self.gfn_count = gfn_count
        blocks = -(-gfn_count // SUPER_PAGES)
        domid = section.key[1]
        self.populated: NDArray[np.uint16] = image.make(f"domain.{domid}.populated", blocks, np.uint16)
        self.slots: NDArray[np.uint16] = image.make(f"domain.{domid}.slots", blocks, np.uint16)
        self.blocks: Column[BlockKind] = section.column("blocks")
        self.leaf: NDArray[Cell[MfnKind]] = self.blocks.words[:, 0]
        self.home: NDArray[Cell[SuperKind]] = self.blocks.words[:, 1]
        self.entries: Column[GfnKind] = section.column("entry")
        self.entry_rows: Column[BlockKind] = section.column("entry", width=SUPER_PAGES)
        self.entry: Entries = self.entries.words
        self.rows: Entries = self.entry_rows.words

    def lookup(self, gfns: Gfns) -> Entries:
        """Translate (n,) gfns: mfn + 1, 0 where nothing is populated, below 0 for a slot in use."""
        leaves = self.leaf[gfns >> SUPER_ORDER]
        in_leaves = np.count_nonzero(leaves)
        if in_leaves == 0:
            return self.entry[gfns]
        at_offset: NDArray[Any] = leaves + (gfns & OFFSET_MASK)
        return at_offset if in_leaves == gfns.size else np.where(leaves > 0, at_offset, self.entry[gfns])

    def first_taken(self, gfns: Gfns) -> int:
        """Index of the first of (n,) gfns that is populated or a slot in use, or n."""
        entries = self.lookup(gfns)
        return int((entries != 0).argmax()) if np.count_nonzero(entries) else gfns.size

    def home_frames(self, gfns: Gfns) -> Mfns:
        """Name the frame in which each gfn is at home: (n,) mfn, negative where its block has no home."""
        homes = from_cells(self.home[gfns >> SUPER_ORDER])
        mfns: NDArray[Any] = (homes << SUPER_ORDER) + (gfns & OFFSET_MASK)
        return mfns

    def runs(self, piece: slice = _ALL) -> Frames:
        """List what is populated in a *piece* of the blocks as half-open runs of gfns: (n, 2) int64, ascending, disjoint, not touching."""
        first_gfn = (piece.start or 0) << SUPER_ORDER
        populated = self.populated[piece]
        full = populated == SUPER_PAGES
        partial = np.flatnonzero((populated > 0) & ~full)
        edge = np.diff(np.concatenate(([False], full, [False])).astype(np.int8))
        starts = first_gfn + (np.flatnonzero(edge == 1) << SUPER_ORDER)
        ends = first_gfn + (np.flatnonzero(edge == -1) << SUPER_ORDER)
        if not partial.size:
            return np.stack((starts, ends), axis=1)
        pieces = [
            self._runs_in(partial[at : at + _PIECE_BLOCKS] + (first_gfn >> SUPER_ORDER))
            for at in range(0, partial.size, _PIECE_BLOCKS)
        ]
        starts, ends = (
            np.concatenate((whole, *parts))
            for whole, parts in zip((starts, ends), zip(*pieces, strict=True), strict=True)
        )
        order = np.argsort(starts)
        starts, ends = starts[order], ends[order]
        joined = starts[1:] == ends[:-1]
        starts = starts[np.concatenate(([True], ~joined))]
        ends = ends[np.concatenate((~joined, [True]))]
        return np.stack((starts, ends), axis=1)

    def _runs_in(self, blocks: Blocks) -> tuple[Frames, Frames]:
        """List the first gfns and the ends of what is populated in blocks that are no leaves, each block by itself."""
        populated = np.zeros((blocks.size, SUPER_PAGES + 2), dtype=np.bool_)
        populated[:, 1:-1] = self.rows[blocks] > 0
        row, edge = np.nonzero(populated[:, 1:] != populated[:, :-1])
        edges: Frames = (blocks[row] << SUPER_ORDER) + edge
        return edges[::2], edges[1::2]

    def populated_in(self, blocks: Blocks) -> Gfns:
        """List the populated gfns of (n,) blocks that are no leaves, block by block."""
        flat = np.flatnonzero(self.rows[blocks] > 0)
        gfns: NDArray[Any] = (blocks[flat >> SUPER_ORDER] << SUPER_ORDER) + (flat & OFFSET_MASK)
        return gfns

    def frames(self, piece: slice = _ALL) -> Mfns:
        """List every mfn of the shattered ones (leaves not included) of a *piece* of the blocks, by gfn."""
        shattered = np.flatnonzero((self.populated[piece] > 0) & (self.leaf[piece] == 0)) + (piece.start or 0)
        pieces: list[NDArray[Any]] = [np.zeros(0, dtype=np.int64)]
        for at in range(0, shattered.size, _PIECE_BLOCKS):
            entries = self.rows[shattered[at : at + _PIECE_BLOCKS]]
            pieces.append(from_cells(entries[entries > 0]))
        return np.concatenate(pieces)

    def leaf_supers(self, piece: slice = _ALL) -> Supers:
        """List the superframes of the leaves in a *piece* of the blocks, by block."""
        leaves = self.leaf[piece]
        return supers_of(from_cells(leaves[leaves > 0]))


def slots_of(handles: Handles) -> Entries:
    """Encode handles as entries of slots in use."""
    entries: NDArray[Any] = -(handles + 1)
    return entries


def handles_in(slots: Entries) -> Handles:
    """Decode the entries of slots in use."""
    handles: NDArray[Any] = -slots - 1
    return handles


class DomainState(StrEnum):
    """Where a domain stands between its creation and its end."""

    RUNNING = "running"
    # Destroyed, but others still map pages of it; it vanishes when the last of these is unmapped.
    ZOMBIE = "zombie"


_STATES: Final = tuple(DomainState)
_TYPES: Final = tuple(DomainType)


@dataclass(slots=True, eq=False)
class Domain:
    """A domain's tables.

    *tot_pages*, *leaves*, *mapped* (slots in use) and *referenced* (own frames that others map) are fast counters that
    `audit` recomputes. *claimed_pages*: what is outstanding of its claims, and *node_claims*, of these on each node of its
    host. *affinity*: where its memory should lie; on a host of several nodes *sequence* says from which nodes it comes, and *by_node* counts what lies on
    each. *grants*, *mappings* and *inbox* are None until they are first used. *birth* numbers the
    domains of a host in the order of creation: a domid is used again, a birth is not. *peers* (`MAX_DOMAINS`,): by
    domid the birth
    of each domain that it exchanged messages with, else 0. *section*: its saved part; call `save` after changing a
    limit, the claim or the state. *uuid*: no other domain of any host has it.
    """

    domid: int
    name: str
    p2m: P2m
    section: Section
    max_pages: int
    target_pages: int
    min_pages: int = 0
    domain_type: DomainType = DomainType.PVH
    features: Features = field(default_factory=Features)
    birth: int = 0
    uuid: str = ""
    tot_pages: int = 0
    leaves: int = 0
    mapped: int = 0
    referenced: int = 0
    claimed_pages: int = 0
    node_claims: list[int] = field(default_factory=lambda: [0])
    affinity: Affinity = ANYWHERE
    sequence: tuple[int, ...] | None = None
    by_node: PagesByNode | None = None
    grants: GrantTable | None = None
    mappings: MappingTable | None = None
    inbox: Inbox | None = None
    state: DomainState = DomainState.RUNNING
    counts: Counts = field(init=False)
    peers: Column[Any] = field(init=False)
    _limits: Column[Any] = field(init=False)

    def __post_init__(self) -> None:
        self.counts = Counts(self.section.column("counts"))
        self.peers = self.section.column("peers")
        self._limits = self.section.column("limits")

    def save(self) -> None:
        """Write what is saved of limits and state."""
        self._limits.note_row(0)
        limits = (
            self.birth,
            self.p2m.gfn_count,
            self.max_pages,
            self.target_pages,
            self.min_pages,
            self.claimed_pages,
            _TYPES.index(self.domain_type),
            _STATES.index(self.state),
        )
        self._limits.words[0, : len(limits)] = limits
        self._limits.words[0, _NODE_CLAIMS].view(np.int32)[: len(self.node_claims)] = self.node_claims

    def save_identity(self) -> None:
        """Write its UUID, its affinity and its name."""
        self._limits.note_row(0)
        bits = sum(1 << node for node in self.affinity.nodes)
        self._limits.words[0, _AFFINITY] = bits | (_HARD if self.affinity.is_hard else 0)
        self._limits.words[0, _UUID] = np.frombuffer(UUID(self.uuid).bytes, dtype=np.int64)
        column = self.section.column("name")
        column.note_row(0)
        encoded = self.name.encode()
        column.words[0] = 0
        column.words[0, 0] = len(encoded)
        column.words[0, 1:].view(np.uint8)[: len(encoded)] = np.frombuffer(encoded, dtype=np.uint8)

    def granted_pages(self) -> Gfns:
        """List the gfns that others map, ascending."""
        nothing: NDArray[Any] = np.zeros(0, dtype=np.int64)
        return self.grants.mapped_gfns() if self.referenced and self.grants is not None else nothing

    @property
    def lacking_pages(self) -> int:
        """Pages that it is still to get, within its target and its limit; 0 or less: none."""
        return min(self.target_pages, self.max_pages) - self.tot_pages

    @property
    def node_pages(self) -> list[int]:
        """What it holds on each node of its host."""
        return [self.tot_pages] if self.by_node is None else self.by_node.pages.tolist()

    @property
    def host_wide_claim_pages(self) -> int:
        """What of its claims is outstanding on no node in particular."""
        return self.claimed_pages - sum(self.node_claims)

    @property
    def locality(self) -> float:
        """Share of what it holds that lies on the nodes of its affinity, or, without one, on that which has most of it."""
        held = self.node_pages
        local = sum(held[node] for node in self.affinity.nodes) if self.affinity.nodes else max(held)
        return local / self.tot_pages if self.tot_pages else 1.0

    @property
    def superpage_coverage(self) -> float:
        """Share of what the domain holds that lies in leaves; 1.0 when it holds nothing."""
        return SUPER_PAGES * self.leaves / self.tot_pages if self.tot_pages else 1.0


def saved_uuid(section: Section) -> str:
    """Read a domain's UUID; where an earlier version saved none, its birth, which no other domain of its host has."""
    words = section.column("limits").words[0]
    return str(UUID(bytes=words[_UUID].tobytes()) if words[_UUID].any() else UUID(int=int(words[0])))


def saved_affinity(section: Section) -> tuple[Affinity, list[int]]:
    """Read a domain's affinity, and what it claims on each of `MAX_NODES` nodes; an earlier version saved neither."""
    words = section.column("limits").words[0]
    bits = int(words[_AFFINITY])
    nodes = tuple(node for node in range(MAX_NODES) if bits >> node & 1)
    return Affinity(nodes, bool(bits & _HARD)), words[_NODE_CLAIMS].view(np.int32).tolist()


def told_of(domain: Domain) -> dict[str, Any]:
    """Say what is told of a domain as far as the machine knows it (parts of `DomainInfo`)."""
    hypercalls, extents = domain.counts.told()
    return {
        "domid": domain.domid,
        "name": domain.name,
        "type": domain.domain_type.value,
        "state": domain.state.value,
        "gfn_count": domain.p2m.gfn_count,
        "tot_pages": domain.tot_pages,
        "target_pages": domain.target_pages,
        "min_pages": domain.min_pages,
        "max_pages": domain.max_pages,
        "leaves": domain.leaves,
        "superpage_coverage": domain.superpage_coverage,
        "grants": domain.grants.count if domain.grants else 0,
        "mapped_grants": domain.mapped,
        "referenced_pages": domain.referenced,
        "claimed_pages": domain.claimed_pages,
        "node_claims": list(domain.node_claims),
        "nodes": list(domain.affinity.nodes),
        "affinity": "hard" if domain.affinity.is_hard else "soft",
        "node_pages": domain.node_pages,
        "locality": domain.locality,
        "uuid": domain.uuid,
        "birth": domain.birth,
        "hypercalls": hypercalls,
        "extents": extents,
    }
