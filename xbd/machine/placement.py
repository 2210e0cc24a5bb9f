"""Where frames come from on a host of several nodes: a request's nodes, what each of them has for a domain, taking it.

What others may take of a node is free there less all claims on it; of the host, free less all claims. A domain's own
claims do not stand in its way. On a host of one node a request is None, and all of this is one call of the heap.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from xbd.arrays import Gfns, Mfns, Supers, from_cells
from xbd.errors import BadArgument
from xbd.frames import NodeHeap
from xbd.machine.domain import Domain
from xbd.machine.frame_table import FrameTable
from xbd.replaceable import replaceable
from xbd.units import SUPER_ORDER, SUPER_PAGES

Request = tuple[int, ...] | None
# Of the frames that are wanted, leaves of those that are free the ones that may be taken.
Restriction = Callable[[Mfns, NDArray[np.bool_]], None]
_NONE: Final[NDArray[Any]] = np.zeros(0, dtype=np.int64)


def request(host: FrameTable, domain: Domain, node: int | None, *, exact: bool) -> Request:
    """Say from which nodes frames may come for a domain, in which sequence: from *node* first, if one is asked for.

    Raises:
        BadArgument: there is no such node; exactly none is asked for, or one where the domain's memory must not lie.
    """
    if node is None:
        if exact:
            raise BadArgument("exactly no node", "a node, or not exactly")
        return domain.sequence
    host.nodes.check(node)
    if domain.sequence is None:
        return None
    permitted = domain.sequence
    if exact and node not in permitted:
        nodes = ", ".join(map(str, permitted))
        raise BadArgument(f"node {node} for d{domain.domid}", f"one of its hard affinity: {nodes}")
    return (node,) if exact else tuple(one for one in host.nodes.nearest_first(node) if one in permitted)


def extents_on(host: FrameTable, domain: Domain | None, nodes: tuple[int, ...], order: int) -> list[int]:
    """Count the extents that each of *nodes* has for a domain (None: one without claims): free, and not claimed by others."""
    heap = host.node_heap
    extents = []
    for node in nodes:
        pages = max(heap.free_on(node) - host.claimed_by_others(node, domain), 0)
        extents.append(min(heap.free_superframes_on(node), pages >> SUPER_ORDER) if order else pages)
    return extents


def obtainable(host: FrameTable, domain: Domain | None, nodes: Request, order: int) -> int:
    """Count the extents that a domain (None: one without claims) can get by a request."""
    if nodes is None:
        free = host.heap.free_superframes if order else host.heap.free_frames
        return min(free, max(host.free_frames_for(domain), 0) >> order) if host.claimed_pages else free
    return min(sum(extents_on(host, domain, nodes, order)), max(host.free_frames_for(domain), 0) >> order)


def take(host: FrameTable, domain: Domain, count: int, nodes: Request) -> Mfns:
    """Take *count* single frames by a request, which has so many."""
    heap = host.heap
    if not isinstance(heap, NodeHeap):
        return heap.take(count)
    assert nodes is not None
    return _joined(heap.take_on(node, part) for node, part in _parts(host, domain, nodes, 0, count))


def take_superframes(host: FrameTable, domain: Domain, count: int, nodes: Request) -> Supers:
    """Take *count* whole superframes by a request, which has so many."""
    heap = host.heap
    if not isinstance(heap, NodeHeap):
        return heap.take_superframes(count)
    assert nodes is not None
    return _joined(
        heap.take_superframes_on(node, part) for node, part in _parts(host, domain, nodes, SUPER_ORDER, count)
    )


def _parts(
    host: FrameTable, domain: Domain | None, nodes: tuple[int, ...], order: int, count: int
) -> Iterator[tuple[int, int]]:
    """Divide *count* extents among nodes in sequence, as many from each as it has."""
    for node, extents in zip(nodes, extents_on(host, domain, nodes, order), strict=True):
        part = min(count, extents)
        if part:
            yield node, part
            count -= part


def _joined(parts: Iterable[NDArray[Any]]) -> NDArray[Any]:
    taken = list(parts)
    return taken[0] if len(taken) == 1 else np.concatenate([_NONE, *taken])


def within_room(host: FrameTable, domain: Domain, nodes: Request, wanted: Mfns, free: NDArray[np.bool_]) -> None:
    """Leave of the *free* ones among (n,) *wanted* frames only those that a request may have: in place."""
    assert nodes is not None
    of = host.index.of(np.maximum(wanted, 0))
    rooms = dict(zip(nodes, extents_on(host, domain, nodes, 0), strict=True))
    for node in np.unique(of[free]).tolist():
        mine = np.flatnonzero(free & (of == node))
        free[mine[rooms.get(node, 0) :]] = False


@replaceable
def on_the_same_node(host: FrameTable, own: Mfns, wanted: Mfns, free: NDArray[np.bool_]) -> None:
    """Leave of the *free* ones among (n,) *wanted* frames only those on the node of the *own* one each: in place."""
    free &= host.index.of(np.maximum(wanted, 0)) == host.index.of(own)


# -- frames that stand for others


def _frames_of(domain: Domain, gfns: Gfns) -> Mfns:
    return from_cells(domain.p2m.lookup(gfns))


def exchangeable(host: FrameTable, domain: Domain, gfns: Gfns, nodes: Request, *, is_asked: bool) -> int:
    """Count the first of (n,) populated gfns that can get another frame before theirs is given back.

    *nodes* are those of a request where one *is_asked* for: then what is unclaimed there. Else it is of the same node.
    """
    heap = host.heap
    if not isinstance(heap, NodeHeap):
        return min(gfns.size, heap.free_frames)
    if is_asked and nodes is not None:
        return min(gfns.size, sum(extents_on(host, None, nodes, 0)))
    of = host.index.of(_frames_of(domain, gfns))
    most = gfns.size
    for node in range(host.nodes.count):
        mine = np.flatnonzero(of == node)
        free = heap.free_on(node)
        if mine.size > free:
            most = min(most, int(mine[free]))
    return most


def take_others(host: FrameTable, domain: Domain, gfns: Gfns, nodes: Request, *, is_asked: bool) -> Mfns:
    """Take another frame for each of (n,) populated gfns, all of them `exchangeable`."""
    heap = host.heap
    if not isinstance(heap, NodeHeap):
        return heap.take(gfns.size)
    if is_asked and nodes is not None:
        return _joined(heap.take_on(node, part) for node, part in _parts(host, None, nodes, 0, gfns.size))
    of = host.index.of(_frames_of(domain, gfns))
    taken: NDArray[Any] = np.empty(gfns.size, dtype=np.int64)
    for node in np.unique(of).tolist():
        mine = of == node
        taken[mine] = heap.take_on(node, int(np.count_nonzero(mine)))
    return taken


def take_other_block(host: FrameTable, domain: Domain, gfns: Gfns, nodes: Request, *, is_asked: bool) -> Supers:
    """Take a superframe that stands for the frames of 512 populated gfns, on the node of most of them; (0,): there is none."""
    heap = host.heap
    if not isinstance(heap, NodeHeap):
        return heap.take_superframes(1)
    if is_asked and nodes is not None:
        return _joined(heap.take_superframes_on(node, part) for node, part in _parts(host, None, nodes, SUPER_ORDER, 1))
    held = host.index.count(_frames_of(domain, gfns))
    node = int(held.argmax())
    # What comes from other nodes is given back there, and what is claimed here stays free.
    more = SUPER_PAGES - int(held[node])
    fits = not more or heap.free_on(node) - host.node_claims[node] >= more
    return heap.take_superframes_on(node, 1 if fits else 0)
