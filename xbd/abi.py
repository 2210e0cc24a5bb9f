"""What guests and hypervisor say to each other: commands, results, errno names, limits.

A guest wants something of its hypervisor by *yielding a command*; a transport (a socket, a direct
call, a simulation) carries it and brings the result back. Both sides import this module and
nothing of each other.

Frame lists are (n,) int64 arrays of extent bases in here; on the wire they travel as
little-endian uint64 (see `xbd.wire.protocol`).
"""

from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

Frames = NDArray[np.int64]
Words = NDArray[np.uint64]

# One hypercall of Linux's driver carries one page of frame numbers: 512 extents.
BATCH_EXTENTS = 512
# A turn is what one domain may do before the others get theirs: one batch of 4 KiB extents.
TURN_EXTENTS = 512
# What an order-9 extent that is not one leaf costs of a turn: 512 frames by batch, about 10 us.
TURN_COST_SHATTERED = 32
# A caller may name more than a turn does (it is told BUDGET and goes on); 64 Ki bases are 512 KiB on the wire.
MAX_EXTENTS = 65_536
# load and store are memory accesses: as many words as one message holds gfns.
MAX_WORDS = 65_536
# Keeps a batch on the wire while another runs and a third waits; more only adds memory per guest.
MAX_IN_FLIGHT = 8
# Xen has 32,752 domids; so many sockets fit a process's descriptors (65,536) twice over.
MAX_DOMAINS = 32_752
# xl takes what XenStore takes; a line of `xbd list` is what counts here.
MAX_NAME_CHARS = 64
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


Command = Populate | Decrease | Exchange | PopulateDepopulate | Load | Store


@dataclass(frozen=True, slots=True, eq=False)
class LoadResult:
    """The words read: *done* of them, then *stop*."""

    done: int
    stop: Stop | None
    words: Words


@dataclass(frozen=True, slots=True)
class Refused:
    """A command of which nothing was tried: errno name and sentence (the wire's RPC error, as a value)."""

    errno: str
    message: str
    expected: str = ""


Result = MemopResult | LoadResult | Refused


@dataclass(frozen=True, slots=True)
class Features:
    """Which operations this host offers to this domain."""

    populate_depopulate: bool = True
    exchange: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class BootInfo:
    """What a (re)booting guest is told of itself.

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
