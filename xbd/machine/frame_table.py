"""The frame table: heap, owners, content words, and how many frames of each superframe are at home.

Per superframe one entry each: `whole_owner` (the domain that holds it as one leaf, +1),
`at_home` (how many of its frames back the entries that belong there; above 0 means that a block
claims it), `written` (whether any content word in it may be other than 0), `offline` (whether it is out of use) and `pinned` (how many of
its frames are referenced). 4 KiB detail (`frame_owner`) is 0 except for used frames of shattered
superframes; `references` counts how often other domains map a frame, whatever its superframe is.

A superframe is *kept* when a block claims it, all its used frames are that block's at home, and at
least half of it is used: then the heap serves others from it last (`keep_holes`).
"""

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from xbd.abi import MAX_DOMAINS, Frames, Words
from xbd.arrays import MfnKind, Mfns, Superframe, SuperKind, Supers
from xbd.errors import BadArgument, DamagedState
from xbd.frames import FrameAllocator, Groups, NodeHeap, expand_supers
from xbd.machine.content_check import ContentChecks
from xbd.machine.domain import Domain, P2m
from xbd.machine.node_index import NodeIndex, PagesByNode
from xbd.machine.nodes import LOCAL, Affinity, Nodes
from xbd.machine.settings import HOME_FILLS, HostSettings
from xbd.machine.waiting import Waiting
from xbd.storage.image import Column, Image, Layout, Section
from xbd.units import SUPER_ORDER, SUPER_PAGES

# A superframe is "nearly whole" from one half up: below, using the rest gains more than waiting for its owner.
KEPT_MIN_FRAMES = SUPER_PAGES // 2
# Spare words: a few more settings can be added without another layout.
_SETTINGS: Final = 16
_HAS_CHECKS: Final = 6
_HIGH_FIRST: Final = 7
# The superframes of each node, in half words, none where there is but one; then the distances of each pair of nodes, and
# whether superframes are offline, in bytes.
_NODES: Final = slice(8, 12)
_DISTANCES: Final = slice(12, 16)
_HAS_OFFLINE: Final = 31


def host_layout(superframes: int) -> Layout:
    """Lay out what is saved of a host, beside its domains."""
    return Layout(
        {"settings": (1, _SETTINGS), "births": (MAX_DOMAINS + 1, 1), "content": (superframes << SUPER_ORDER, 1)}
    )


# The columns that are read whole at every start.
READ_WHOLE: Final = ("settings", "births")


def save_host(section: Section, superframes: int, settings: HostSettings, nodes: Nodes) -> None:
    """Save the host's size, settings and nodes, which never change, in its new section."""
    column = section.column("settings")
    column.note_row(0)
    column.words[0, :6] = (
        superframes,
        settings.populate_depopulate,
        settings.exchange_translated,
        HOME_FILLS.index(settings.home_fill),
        settings.coalesce,
        settings.keep_holes,
    )
    column.words[0, _HIGH_FIRST] = settings.high_first
    if nodes.count > 1:
        column.words[0, _NODES].view(np.int32)[: nodes.count] = nodes.superframes
        distances = [nodes.distances[one][other] for one, other in _pairs(nodes.count)]
        column.words[0, _DISTANCES].view(np.uint8)[: len(distances)] = distances


def _pairs(nodes: int) -> list[tuple[int, int]]:
    """List the pairs of so many nodes."""
    return [(one, other) for one in range(nodes) for other in range(one)]


def _saved_nodes(words: Frames, superframes: int) -> Nodes:
    """Read the nodes that `save_host` wrote. Raises DamagedState: there cannot be such."""
    sizes = words[_NODES].view(np.int32)
    count = int(np.count_nonzero(sizes))
    if not count:
        return Nodes((superframes,))
    rows = [[LOCAL] * count for _ in range(count)]
    for (one, other), distance in zip(_pairs(count), words[_DISTANCES].view(np.uint8).tolist(), strict=False):
        rows[one][other] = rows[other][one] = distance
    try:
        nodes = Nodes(tuple(sizes[:count].tolist()), tuple(map(tuple, rows)))
    except BadArgument as error:
        raise DamagedState(f"the host's nodes make no sense: {error.message}") from error
    if sum(nodes.superframes) != superframes:
        raise DamagedState(f"the host's nodes have {sum(nodes.superframes)} superframes, it has {superframes}")
    return nodes


def saved_host(section: Section) -> tuple[int, HostSettings, Nodes]:
    """Read what `save_host` wrote: superframes, settings and nodes. Raises DamagedState: the values are impossible."""
    if section.layout.columns.get("settings") != (1, _SETTINGS):
        raise DamagedState("the host is laid out as another version of xbd does")
    words = section.column("settings").words[0].tolist()
    superframes, populate_depopulate, exchange, home_fill, coalesce, keep_holes = words[:6]
    # 0 in what earlier versions saved.
    high_first = words[_HIGH_FIRST]
    flags = {populate_depopulate, exchange, coalesce, keep_holes, high_first}
    fits = superframes >= 1 and section.layout == host_layout(superframes)
    if flags - {0, 1} or not 0 <= home_fill < len(HOME_FILLS) or not fits:
        raise DamagedState("the host's settings make no sense")
    settings = HostSettings(
        populate_depopulate=bool(populate_depopulate),
        exchange_translated=bool(exchange),
        home_fill=HOME_FILLS[home_fill],
        coalesce=bool(coalesce),
        keep_holes=bool(keep_holes),
        high_first=bool(high_first),
    )
    return superframes, settings, _saved_nodes(section.column("settings").words[0], superframes)


def has_offline(section: Section) -> bool:
    """Tell whether it is saved which superframes are offline: some are, or have been."""
    return bool(section.column("settings").words[0, _DISTANCES].view(np.uint8)[_HAS_OFFLINE])


def save_has_offline(section: Section) -> None:
    """Save that it is saved which superframes are offline."""
    column = section.column("settings")
    column.note_row(0)
    column.words[0, _DISTANCES].view(np.uint8)[_HAS_OFFLINE] = 1


def has_checks(section: Section) -> bool:
    """Tell whether a host's content words have checks. Raises DamagedState: the value is impossible."""
    flag = int(section.column("settings").words[0, _HAS_CHECKS])
    if flag not in (0, 1):
        raise DamagedState(f"the host's content words have {flag} kinds of checks")
    return bool(flag)


def save_has_checks(section: Section) -> None:
    """Save that a host's content words have checks from the commit of this step on."""
    column = section.column("settings")
    column.note_row(0)
    column.words[0, _HAS_CHECKS] = 1


class FrameTable:
    """The frames of a host of *nodes*; derived arrays lie in *image*, content words in *section*.

    Attributes: *claimed_pages*: what is free, but promised to a domain; *node_claims*: of these, what is promised on each
    node. *index* finds nodes, and is there only where there are several.
    """

    def __init__(self, nodes: Nodes, settings: HostSettings, image: Image, section: Section) -> None:
        self.nodes = nodes
        superframes = sum(nodes.superframes)
        self.settings = settings
        shelf_of = self._shelf_of if settings.keep_holes else None
        self.heap: FrameAllocator[MfnKind, SuperKind] | NodeHeap[MfnKind, SuperKind]
        if nodes.count > 1:
            self.index = NodeIndex(nodes)
            self.heap = NodeHeap(nodes.superframes, shelf_of=shelf_of, high_first=settings.high_first)
        else:
            self.heap = FrameAllocator(superframes << SUPER_ORDER, shelf_of=shelf_of, high_first=settings.high_first)
        self.claimed_pages = 0
        self.node_claims = [0] * nodes.count
        self.waiting = Waiting()
        # Those that wait for memory of some nodes alone, by these.
        self.waiting_for: dict[frozenset[int], Waiting] = {}
        # Domids of which something that is told of them may have changed; emptied by whoever tells it.
        self.touched: set[int] = set()
        frames = superframes << SUPER_ORDER
        self.whole_owner: NDArray[np.uint16] = image.make("host.whole_owner", superframes, np.uint16)
        self.at_home: NDArray[np.uint16] = image.make("host.at_home", superframes, np.uint16)
        self.written: NDArray[np.bool_] = image.make("host.written", superframes, np.bool_)
        self.offline: NDArray[np.bool_] = image.make("host.offline", superframes, np.bool_)
        self.pinned: NDArray[np.uint16] = image.make("host.pinned", superframes, np.uint16)
        self.references: NDArray[np.uint32] = image.make("host.references", frames, np.uint32)
        self.frame_owner: NDArray[np.uint16] = image.make("host.frame_owner", frames, np.uint16)
        self._saved_content: Column[MfnKind] = section.column("content")
        self._saved_content_rows: Column[SuperKind] = section.column("content", width=SUPER_PAGES)
        self.content: Words = self._saved_content.words.view(np.uint64)
        self.content_rows: Words = self._saved_content_rows.words.view(np.uint64)
        self.owner_rows = self.frame_owner.reshape(-1, SUPER_PAGES)
        self.checks: ContentChecks | None = None

    def _shelf_of(self, supers: NDArray[Any]) -> Frames:
        at_home = self.at_home[supers]
        heap = self.heap
        free = heap.free_counts(supers) if isinstance(heap, NodeHeap) else heap.free_count[supers]
        used = SUPER_PAGES - free
        kept: NDArray[np.bool_] = (at_home == used) & (at_home >= KEPT_MIN_FRAMES)
        return kept.astype(np.int64)

    def add_at_home(self, groups: Groups[SuperKind], sign: int) -> None:
        """Count frames, given as groups, as being at home (+1) or no longer (-1)."""
        supers, counts = groups
        self.at_home[supers] = self.at_home[supers] + sign * counts
        self.heap.reshelve(supers)

    def is_unclaimed(self, superframe: Superframe) -> bool:
        """Say whether no block has its home in a superframe."""
        return not self.at_home[superframe]

    def room_pages(self, domain: Domain) -> int:
        """Count the pages that a domain may have beside those it has."""
        return max(domain.max_pages - domain.tot_pages, 0)

    def free_frames_for(self, domain: Domain | None) -> int:
        """Count the free frames that are not claimed for another domain than this one (None: for any)."""
        own = 0 if domain is None else domain.claimed_pages
        return self.heap.free_frames - self.claimed_pages + own

    def wait(self, domain: Domain, order: int, nodes: tuple[int, ...] | None) -> None:
        """Queue a domain whose populate of *order* stopped for want of memory, of some nodes or of all (None)."""
        self.stop_waiting(domain.domid)
        among_all = nodes is None or len(nodes) == self.nodes.count
        queue = self.waiting if among_all else self.waiting_for.setdefault(frozenset(nodes or ()), Waiting())
        queue.refuse(domain.domid, order, domain.lacking_pages)

    @property
    def has_waiting(self) -> bool:
        """Whether any domain waits for memory, or has been offered some."""
        if not self.waiting.is_empty:
            return True
        return bool(self.waiting_for) and any(not queue.is_empty for queue in self.waiting_for.values())

    def stop_waiting(self, domid: int) -> None:
        """Remove a domain from those that wait, and what it was offered: it got memory, reboots, or ends."""
        self.waiting.forget(domid)
        for queue in self.waiting_for.values():
            queue.forget(domid)

    def queues(self) -> Iterator[tuple[Waiting, int, int]]:
        """List who waits, with the free frames that are not claimed, and the free superframes, that they wait for."""
        if self.nodes.count == 1 and not self.waiting.is_empty:
            yield self.waiting, self.free_frames_for(None), self.heap.free_superframes
        if self.nodes.count == 1:
            return
        unclaimed = [max(self.free_on(node) - claimed, 0) for node, claimed in enumerate(self.node_claims)]
        supers = [min(self.free_superframes_on(node), free >> SUPER_ORDER) for node, free in enumerate(unclaimed)]
        for nodes, queue in ((range(self.nodes.count), self.waiting), *self.waiting_for.items()):
            if not queue.is_empty:
                free = min(sum(unclaimed[node] for node in nodes), max(self.free_frames_for(None), 0))
                yield queue, free, sum(supers[node] for node in nodes)

    def claimed_by_others(self, node: int, domain: Domain | None) -> int:
        """Count what is claimed on a node by other domains than this one (None: by any)."""
        return self.node_claims[node] - (0 if domain is None else domain.node_claims[node])

    @property
    def node_heap(self) -> NodeHeap[MfnKind, SuperKind]:
        """The heap, where there are several nodes."""
        assert isinstance(self.heap, NodeHeap)
        return self.heap

    def sequence(self, affinity: Affinity) -> tuple[int, ...] | None:
        """Say from which nodes the memory of a domain of that affinity comes; None: there is but one."""
        return affinity.sequence(self.nodes, high_first=self.settings.high_first) if self.nodes.count > 1 else None

    def pages_by_node(self) -> PagesByNode | None:
        """Make the counts of a domain that holds nothing; None: there is but one node."""
        return PagesByNode(self.index, self.nodes.count) if self.nodes.count > 1 else None

    def free_on(self, node: int) -> int:
        """Count the free frames of a node."""
        return self.heap.free_on(node) if isinstance(self.heap, NodeHeap) else self.heap.free_frames

    def free_superframes_on(self, node: int) -> int:
        """Count the superframes of a node that are free as a whole."""
        return self.heap.free_superframes_on(node) if isinstance(self.heap, NodeHeap) else self.heap.free_superframes

    def are_referenced(self, mfns: Mfns) -> NDArray[np.bool_]:
        """Say for each of (n,) frames, or of (n, 512), whether others map it."""
        referenced: NDArray[np.bool_] = self.references[mfns] > 0
        return referenced

    def are_pinned(self, supers: Supers) -> NDArray[np.bool_]:
        """Say for each of (n,) superframes whether others map any frame of it."""
        pinned: NDArray[np.bool_] = self.pinned[supers] > 0
        return pinned

    def write(self, frames: Mfns, words: Words) -> None:
        """Write the content words of single frames."""
        self._saved_content.note(frames)
        self.content[frames] = words
        self.written[frames >> SUPER_ORDER] = True
        if self.checks is not None:
            self.checks.write(frames, words)

    def scrub(self, frames: Mfns, groups: Groups[SuperKind] | None = None) -> None:
        """Zero the content words of single frames; *groups*, if known, are `group_by_super` of them."""
        if groups is not None and not np.count_nonzero(self.written[groups[0]]):
            return
        written = self.written[frames >> SUPER_ORDER]
        if np.count_nonzero(written):
            # Only these: where nothing was ever written the file has a hole, and writing zeros there would take disk
            # space.
            dirty = frames[written]
            self._saved_content.note(dirty)
            self.content[dirty] = 0
            if self.checks is not None:
                self.checks.scrub(dirty)

    def scrub_superframes(self, supers: Supers) -> None:
        """Zero the content words of whole superframes."""
        written = self.written[supers]
        if np.count_nonzero(written):
            dirty = supers[written]
            self._saved_content_rows.note(dirty)
            self.content_rows[dirty] = 0
            self.written[dirty] = False
            if self.checks is not None:
                self.checks.scrub_superframes(dirty)

    def scrub_moved(self, frames: Mfns) -> None:
        """Zero the content words of single frames that their owner keeps, at other gfns."""
        self.scrub(frames)

    def scrub_rebooted(self, p2m: P2m, piece: slice) -> None:
        """Zero the content words of all that a *piece* of a p2m's blocks has."""
        self.scrub_superframes(p2m.leaf_supers(piece))
        self.scrub(p2m.frames(piece))

    def shatter(self, supers: Supers, owner: int) -> None:
        """Move the ownership of leaves down to their single frames."""
        self.whole_owner[supers] = 0
        self.owner_rows[supers] = owner + 1

    def make_whole(self, supers: Supers, owner: int) -> None:
        """Move the ownership of 512 frames each up to one entry."""
        self.owner_rows[supers] = 0
        self.whole_owner[supers] = owner + 1

    def give(self, frames: Mfns, groups: Groups[SuperKind] | None = None) -> None:
        """Return single frames to the heap, scrubbed and unowned; *groups*, if known, are `group_by_super` of them."""
        self.scrub(frames, groups)
        self.frame_owner[frames] = 0
        self.heap.give(frames, groups)

    def give_superframes(self, supers: Supers) -> None:
        """Return leaves to the heap, scrubbed, unowned and unclaimed."""
        self.scrub_superframes(supers)
        self.whole_owner[supers] = 0
        self.at_home[supers] = 0
        self.heap.give_superframes(supers)

    def owners(self) -> NDArray[np.uint16]:
        """Spell out who owns each frame: (frames,) uint16, domid + 1, 0 for free."""
        owners = self.frame_owner.copy()
        whole = np.flatnonzero(self.whole_owner)
        owners[expand_supers(whole)] = np.repeat(self.whole_owner[whole], SUPER_PAGES)
        return owners
