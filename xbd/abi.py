"""What guests and hypervisor say to each other: commands, results, errno names, limits.

A guest asks its hypervisor for something by *yielding a command*; a transport (a socket, a direct call, a
simulation) carries it and returns the result. Both sides import this module, and neither imports the other.

Frame lists are (n,) int64 arrays of extent bases in here; on the wire they travel as
little-endian uint64 (see `xbd.protocol.methods`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from xbd.lazy import lazily

if TYPE_CHECKING:
    from xbd.arrays import Frames as Frames  # noqa: PLC0414 - so that it is a name of this module, too
    from xbd.arrays import Words as Words  # noqa: PLC0414 - as above

# Limits and types of domains are for those, too, who handle no arrays: they do not wait for numpy.
__getattr__, __dir__ = lazily(__name__, {"xbd.arrays": ("Frames", "Words")})

# One hypercall of Linux's driver carries one page of frame numbers: 512 extents.
BATCH_EXTENTS = 512
# A turn is what one domain may do before the others get theirs: one batch of 4 KiB extents.
TURN_EXTENTS = 512
# What an order-9 extent that is not one leaf costs of a turn: 512 frames by batch, about 10 us.
TURN_COST_SHATTERED = 32
# Superpages that the single pages of a turn break, or put together again: each takes some 15 us the first time.
TURN_LEAVES = 32
# So much of a turn, in extents, one of them counts.
TURN_COST_LEAF = TURN_EXTENTS // TURN_LEAVES
# A caller may name more than a turn does (it is told BUDGET and goes on); 64 Ki bases are 512 KiB on the wire.
MAX_EXTENTS = 65_536
# load and store are memory accesses: as many words as one message holds gfns.
MAX_WORDS = 65_536
# Keeps a batch on the wire while another runs and a third waits; more only adds memory per guest.
MAX_IN_FLIGHT = 8
# Xen's default: 64 frames of grant table, 512 entries of version 1 in each.
MAX_GRANTS = 32_768
# Xen's default: 1024 frames of maptrack, 256 entries in each; what one domain maps of others.
MAX_MAPPINGS = 262_144
# What Linux's virtio_balloon puts on its inflate or deflate queue at a time (VIRTIO_BALLOON_ARRAY_PFNS_MAX).
LIST_EXTENTS = 256
# A message is a ring's request: a few words and up to 32 grant references; one batch of references at most.
MAX_MESSAGE_WORDS = 512
# Room for 1,024 senders that have used up their share; untouched, it costs nothing.
INBOX_WORDS = 1 << 20
# What of it one sender may fill: some 30 requests of 32 pages, as many as a ring of Xen's block device has.
SENDER_WORDS = 1024
# Xen has 32,752 domids; so many sockets fit a process's descriptors (65,536) twice over.
MAX_DOMAINS = 32_752
# xl takes what XenStore takes; a line of `xbd list` is what counts here.
MAX_NAME_CHARS = 64
# What becomes of a guest whose agent dies: another boots it; its domain is destroyed; it stays to be looked at (xl.cfg, on_crash).
ON_CRASH = ("restart", "destroy", "preserve")
# As many processors as a translated guest of Xen can have.
MAX_VCPUS = 128
# Why a guest stops, in Xen's words; one that reboots is booted again.
POWEROFF, REBOOT = SHUTDOWN_REASONS = ("poweroff", "reboot")
# 16 GiB guests are 4 Mi gfns; 2 TiB is what a 32-bit count of 4 KiB pages in a zone can hold with room.
MAX_DOMAIN_PAGES = 1 << 29


class Stop(StrEnum):
    """Why an operation stopped before its last extent."""

    BUDGET = "BUDGET"
    E2BIG = "E2BIG"
    ENOMEM = "ENOMEM"
    EEXIST = "EEXIST"
    ENOENT = "ENOENT"
    EBUSY = "EBUSY"
    EFAULT = "EFAULT"
    EACCES = "EACCES"
    ENOSPC = "ENOSPC"
    EBADF = "EBADF"
    EAGAIN = "EAGAIN"


class DomainType(StrEnum):
    """How a domain talks to its hypervisor: Xen's hypercalls (translated or not), or a virtio balloon."""

    PV = "pv"
    PVH = "pvh"
    VIRTIO = "virtio"


@dataclass(frozen=True, slots=True)
class MemopResult:
    """How far an operation came: *done* extents, then *stop* for extent number *done* (None: all done)."""

    done: int
    stop: Stop | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Populate:
    """Back each extent with fresh, zeroed frames (XENMEM_populate_physmap)."""

    gfns: Frames
    order: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Decrease:
    """Give the extents' frames back (XENMEM_decrease_reservation)."""

    gfns: Frames
    order: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Exchange:
    """Unback *gives*, back *gets*, the same number of frames (XENMEM_exchange)."""

    gives: Frames
    gets: Frames
    gives_order: int = 0
    gets_order: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class PopulateDepopulate:
    """For each pair: back *populate[i]*, unback *depopulate[i]*, in one step (xbd's own)."""

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
    """Back each extent with fresh, zeroed frames (virtio-balloon, deflate queue); at most `LIST_EXTENTS`."""

    gfns: Frames
    order: int = 0


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
_SENDER_SHIFT = 32


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
