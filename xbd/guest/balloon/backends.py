"""The driver's back ends: for each kind of hypervisor the commands that move memory.

Queues, migration, compaction and foreign slots know no hypervisor; they ask the back end for a
command, and this is the only module of the guest that knows the commands that move memory. A back
end says how many extents a list may name, how a list is backed and unbacked, and which *ways* there
are to migrate a ballooned page in one step, best first. Two calls (back the old pages, then unback
the new ones) need no way of their own: they are always the last resort.

A back end does not know whether a way works: a host may not keep what it promised, and `migration`
finds that out.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from xbd.abi import (
    BATCH_EXTENTS,
    LIST_EXTENTS,
    BootInfo,
    Command,
    Decrease,
    Deflate,
    DomainType,
    Exchange,
    Frames,
    Inflate,
    Populate,
    PopulateDepopulate,
)
from xbd.units import SUPER_ORDER

# The name of migration by two calls, which is no `Way`.
TWO_CALLS: Final = "two_calls"


@dataclass(frozen=True, slots=True)
class Way:
    """A way to migrate in one step; *make(old, new)* is the command that backs *old* and unbacks *new*, pair by pair."""

    name: str
    make: Callable[[Frames, Frames], Command]


@dataclass(frozen=True, slots=True)
class BackEnd:
    """A kind of hypervisor, as the balloon driver sees it.

    *list_extents*: the most that one command may name. *populate*, *decrease*: make the command that backs, or
    unbacks, extents of an order. *ways*: to migrate in one step, best first. *grants*: other domains' pages can be
    mapped, and own ones granted.
    """

    name: str
    list_extents: int
    populate: Callable[[Frames, int], Command]
    decrease: Callable[[Frames, int], Command]
    ways: tuple[Way, ...]
    grants: bool
    exchange_block: Callable[[Frames, Frames], Command] | None = None

    def populating(self, order: int) -> Callable[[Frames], Command]:
        """Return the maker of commands that back extents of *order*."""
        return lambda gfns: self.populate(gfns, order)

    def decreasing(self, order: int) -> Callable[[Frames], Command]:
        """Return the maker of commands that unback extents of *order*."""
        return lambda gfns: self.decrease(gfns, order)


_POPULATE_DEPOPULATE: Final = Way("populate_depopulate", PopulateDepopulate)
_EXCHANGE: Final = Way("exchange", lambda old, new: Exchange(gives=new, gets=old))


def _exchange_block(pages: Frames, block: Frames) -> Command:
    """Make the command that backs 512 single *pages* and unbacks a *block*."""
    return Exchange(gives=block, gets=pages, gives_order=SUPER_ORDER)


def back_end_of(boot: BootInfo) -> BackEnd:
    """Choose the back end by the domain's type, with what the host offers to this domain."""
    if boot.domain_type is DomainType.VIRTIO:
        return BackEnd("virtio", LIST_EXTENTS, Deflate, Inflate, ways=(), grants=False)
    offered = ((_POPULATE_DEPOPULATE, boot.features.populate_depopulate), (_EXCHANGE, boot.features.exchange))
    ways = tuple(way for way, has in offered if has)
    exchange_block = _exchange_block if boot.features.exchange else None
    return BackEnd("xen", BATCH_EXTENTS, Populate, Decrease, ways, boot.features.grants, exchange_block)
