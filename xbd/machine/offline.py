"""Superframes that are taken out of use, node by node: nobody gets them until they are taken back.

Only what is free as a whole can go. Claims for which the rest does not suffice any more are taken back, those of the
youngest domains first. What is offline is saved: one word for each superframe, in a section that is there from the
first time on.
Source: Xen offline_page and the recall of claims, common/page_alloc.c.
"""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from xbd.arrays import Supers
from xbd.errors import BadArgument, DamagedState, OutOfFrames
from xbd.frames import NodeHeap
from xbd.machine import claims
from xbd.machine.domain import Domain
from xbd.machine.frame_table import FrameTable, has_offline, save_has_offline
from xbd.machine.provision import refused
from xbd.storage.image import PAGE_WORDS, Image, Kind, Layout, Section
from xbd.units import SUPER_ORDER, SUPER_PAGES, exact_size

# A superframe's word and its row; a domain's limits and their row.
_NOTES_PER_SUPER: Final = 2
_NOTES_PER_DOMAIN: Final = 24
_NOTES_APART: Final = 4096
_SCRATCH_PER_SUPER_BYTES: Final = 64


def _layout(host: FrameTable) -> Layout:
    return Layout({"offline": (host.heap.superframe_count, 1)})


def _section(host: FrameTable, image: Image) -> Section:
    section = image.sections.get((Kind.OFFLINE, 0))
    if section is None:
        section = image.add_section(Kind.OFFLINE, 0, _layout(host))
        save_has_offline(image.sections[Kind.HOST, 0])
    return section


def _superframes_of(host: FrameTable, node: int, pages: int) -> int:
    """Count the superframes of so many pages of a node. Raises BadArgument."""
    host.nodes.check(node)
    if pages < 1 or pages % SUPER_PAGES:
        raise BadArgument(f"{exact_size(pages)} of node {node}", "whole 2 MiB, at least one")
    return pages >> SUPER_ORDER


def go_offline(host: FrameTable, image: Image, domains: Sequence[Domain], node: int, pages: int) -> dict[int, int]:
    """Take free superframes of a node out of use; returns how many claimed pages each domain lost by that, by domid.

    Raises:
        BadArgument: there is no such node, or these are not whole superframes.
        OutOfFrames: not so many of them are free as a whole.
        OutOfResources: there is no room to save it. Nothing has changed, whatever is raised.
    """
    count = _superframes_of(host, node, pages)
    free = host.free_superframes_on(node)
    if count > free:
        raise OutOfFrames(
            f"node {node} has {exact_size(free << SUPER_ORDER)} in superframes that are free as a whole, "
            f"{exact_size(pages)} are to go offline",
            "less, or memory of that node freed first",
        )
    what = f"no memory of node {node} goes offline"
    notes_words = _NOTES_APART + _NOTES_PER_SUPER * count + _NOTES_PER_DOMAIN * len(domains)
    image.reserve(what, notes_words=notes_words, scratch_bytes=_SCRATCH_PER_SUPER_BYTES * count)
    supers = (
        host.heap.take_superframes_on(node, count)
        if isinstance(host.heap, NodeHeap)
        else host.heap.take_superframes(count)
    )
    with refused(what):
        try:
            section = _section(host, image)
            pages_of_words = np.unique(supers // PAGE_WORDS).tolist()
            image.allocate(section, *((page * PAGE_WORDS, (page + 1) * PAGE_WORDS) for page in pages_of_words))
        except BaseException:
            host.heap.give_superframes(supers)
            raise
    _save(section, supers, 1)
    host.offline[supers] = True
    return claims.fit_node(host, sorted(domains, key=lambda domain: -domain.birth), node)


def come_online(host: FrameTable, image: Image, node: int, pages: int) -> None:
    """Take superframes of a node into use again, the lowest first. Raises BadArgument, OutOfFrames: not so many are offline."""
    count = _superframes_of(host, node, pages)
    supers = offline_on(host, node)
    if count > supers.size:
        raise OutOfFrames(
            f"{exact_size(supers.size << SUPER_ORDER)} of node {node} are offline, {exact_size(pages)} are to come online",
            "as much, or less",
        )
    supers = supers[:count]
    image.reserve(
        f"no memory of node {node} comes online",
        notes_words=_NOTES_APART + _NOTES_PER_SUPER * count,
        scratch_bytes=_SCRATCH_PER_SUPER_BYTES * count,
    )
    _save(image.sections[Kind.OFFLINE, 0], supers, 0)
    host.offline[supers] = False
    host.heap.give_superframes(supers)


def offline_on(host: FrameTable, node: int) -> Supers:
    """List the superframes of a node that are offline, ascending."""
    first = sum(host.nodes.superframes[:node])
    supers: NDArray[Any] = first + np.flatnonzero(host.offline[first : first + host.nodes.superframes[node]])
    return supers


def _save(section: Section, supers: Supers, word: int) -> None:
    column = section.column("offline")
    column.note(supers)
    column.words[supers] = word


def recover_offline(host: FrameTable, image: Image) -> None:
    """Take what is saved as offline out of the heap, of which nothing else is taken yet. Raises DamagedState."""
    if not has_offline(image.sections[Kind.HOST, 0]):
        return
    section = image.open_section(Kind.OFFLINE, 0)
    if section.layout != _layout(host):
        raise DamagedState("what is offline is saved of another host")
    words = section.column("offline").words
    for page in image.touched_pages(section, "offline").tolist():
        at = slice(page * PAGE_WORDS, (page + 1) * PAGE_WORDS)
        host.offline[at] = words[at] != 0
    supers: NDArray[Any] = np.flatnonzero(host.offline)
    host.heap.take_superframes_exactly(supers)
