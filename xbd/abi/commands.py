"""What a guest asks its hypervisor for, and what it is answered: commands, results, the boot map, messages."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from xbd.abi.words import MAX_WORDS, DomainType, Stop

if TYPE_CHECKING:
    from xbd.arrays import Frames, Words


@dataclass(frozen=True, slots=True)
class MemopResult:
    """How far an operation came: *done* extents, then *stop* for extent number *done* (None: all done)."""

    done: int
    stop: Stop | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Populate:
    """Back each extent with fresh, zeroed frames (XENMEM_populate_physmap).

    *node*: the node that these come from as long as it has any, then from others; *exact*: from no other. None: as the
    domain's affinity says.
    """

    gfns: Frames
    order: int = 0
    node: int | None = None
    exact: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Decrease:
    """Give the extents' frames back (XENMEM_decrease_reservation)."""

    gfns: Frames
    order: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Exchange:
    """Unback *gives*, back *gets*, the same number of frames (XENMEM_exchange); *node* and *exact* as in `Populate`.

    Without a node each new frame is of the node of the one that it replaces.
    """

    gives: Frames
    gets: Frames
    gives_order: int = 0
    gets_order: int = 0
    node: int | None = None
    exact: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class PopulateDepopulate:
    """For each pair: back *populate[i]*, unback *depopulate[i]*, in one step (xbd's own), on the node of the latter."""

    populate: Frames
    depopulate: Frames
    order: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Load:
    """Read the content words of these pages. A memory access, not a hypercall."""

    gfns: Frames


@dataclass(frozen=True, slots=True, eq=False)
class Store:
    """Write the content words of these pages. A memory access, not a hypercall."""

    gfns: Frames
    words: Words


@dataclass(frozen=True, slots=True, eq=False)
class Deflate:
    """Back each extent with fresh, zeroed frames (virtio-balloon, deflate queue); at most `LIST_EXTENTS`.

    *node* and *exact* as in `Populate`.
    """

    gfns: Frames
    order: int = 0
    node: int | None = None
    exact: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Inflate:
    """Give the extents' frames back (virtio-balloon, inflate queue); at most `LIST_EXTENTS`."""

    gfns: Frames
    order: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Grant:
    """Let domain *to* map these pages, to read or also to write (Xen: entries of the grant table)."""

    gfns: Frames
    to: int
    readonly: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class EndGrant:
    """Take grants back (Linux gnttab_end_foreign_access_ref)."""

    refs: Frames


@dataclass(frozen=True, slots=True, eq=False)
class MapGrant:
    """Map what domain *owner* granted under *refs* at the unpopulated *gfns*, pair by pair (GNTTABOP_map_grant_ref)."""

    owner: int
    refs: Frames
    gfns: Frames
    readonly: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class UnmapGrant:
    """End the mappings at *gfns* (GNTTABOP_unmap_grant_ref; the gfn is the handle)."""

    gfns: Frames


@dataclass(frozen=True, slots=True, eq=False)
class Send:
    """Put a message into domain *to*'s inbox (XEN_ARGO_OP_sendv): 1 to `MAX_MESSAGE_WORDS` words."""

    to: int
    words: Words


@dataclass(frozen=True, slots=True)
class Receive:
    """Take whole messages out of the own inbox, at most *most* words of them; see `split_messages`."""

    most: int = MAX_WORDS


Command = (
    Populate
    | Decrease
    | Exchange
    | PopulateDepopulate
    | Load
    | Store
    | Deflate
    | Inflate
    | Grant
    | EndGrant
    | MapGrant
    | UnmapGrant
    | Send
    | Receive
)


@dataclass(frozen=True, slots=True, eq=False)
class LoadResult:
    """The words read or received: *done* of them, then *stop*."""

    done: int
    stop: Stop | None
    words: Words


@dataclass(frozen=True, slots=True, eq=False)
class GrantResult:
    """The references given to the first *done* pages, (done,) int64; then *stop*."""

    done: int
    stop: Stop | None
    refs: Frames


@dataclass(frozen=True, slots=True)
class Refused:
    """A command of which nothing was tried: errno name and sentence (the wire's RPC error, as a value)."""

    errno: str
    message: str
    expected: str = ""


Result = MemopResult | LoadResult | GrantResult | Refused


@dataclass(frozen=True, slots=True)
class Features:
    """Which operations this host offers to this domain."""

    populate_depopulate: bool = True
    exchange: bool = True
    grants: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class BootInfo:
    """The boot map: what a (re)booting guest is told of its domain.

    *runs*: (n, 2) int64, populated gfns as half-open runs [first, end), ascending, disjoint; what
    is not in a run is the guest's balloon. All memory reads zero.
    """

    domid: int
    name: str
    gfn_count: int
    runs: Frames
    target_pages: int
    max_pages: int
    features: Features = field(default_factory=Features)
    domain_type: DomainType = DomainType.PVH


# A message in an inbox: a word that says who sent it and how long it is, then its words.
_SENDER_SHIFT: Final = 32


def message_header(sender: int, length: int) -> int:
    """Make the word before a message of *length* words; a length of 0 says that *sender* is gone, or has rebooted."""
    return sender << _SENDER_SHIFT | length


def split_header(header: int) -> tuple[int, int]:
    """Split the word before a message into its sender and its length."""
    return header >> _SENDER_SHIFT, header & ((1 << _SENDER_SHIFT) - 1)


def split_messages(received: Words) -> Iterator[tuple[int, Words]]:
    """Split what `Receive` answered into (sender, its words); no words: that domain is gone, or has rebooted."""
    at = 0
    while at < received.size:
        sender, length = split_header(int(received[at]))
        yield sender, received[at + 1 : at + 1 + length]
        at += 1 + length
