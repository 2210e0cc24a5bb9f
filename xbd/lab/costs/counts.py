"""The counts of primitives that a run gives, for prices to be applied to."""

from dataclasses import astuple, dataclass

import numpy as np
from numpy.typing import NDArray

from xbd.testing.virtual_host import VirtualHost
from xbd.units import SUPER_PAGES


@dataclass(frozen=True, slots=True)
class Counts:
    """How often what was done for one guest's memory, or between two moments.

    *calls*: hypercalls, or requests of a virtio balloon. *taken*: extents that the guest gave up, *given*: those it got
    back, by size. *migrated*: ballooned pages that changed places with free ones; *exchanged*: blocks that took the place of
    512 single pages. *moved*: pages in use that the kernel moved. *faults*: first touches since the memory came from
    the host; *touched_4k*, *touched_2m*: of what was taken, what had been touched. These four need a guest with `count_faults`.
    """

    calls: int = 0
    taken_4k: int = 0
    taken_2m: int = 0
    given_4k: int = 0
    given_2m: int = 0
    migrated: int = 0
    exchanged: int = 0
    moved: int = 0
    faults_4k: int = 0
    faults_2m: int = 0
    touched_4k: int = 0
    touched_2m: int = 0

    def since(self, before: "Counts") -> "Counts":
        """Return what was counted after *before*."""
        return Counts(*(now - then for now, then in zip(astuple(self), astuple(before), strict=True)))

    def as_array(self) -> NDArray[np.int64]:
        """Return the counts in the order of the fields: (12,) int64."""
        return np.array(astuple(self), dtype=np.int64)


def counts_of(host: VirtualHost, domid: int) -> Counts:
    """Count what was done for a guest since it was created."""
    guest = host.guest(domid)
    told, backing = guest.statistics(), guest.backing
    calls, _ = host.machine.domain(domid).counts.told()
    # Half done: the old page came back, the new one has not gone. By two calls each is an extent of its own.
    return Counts(
        calls=sum(calls.values()),
        taken_4k=told.pages_inflated - told.blocks_inflated * SUPER_PAGES,
        taken_2m=told.blocks_inflated,
        given_4k=told.pages_deflated - told.blocks_deflated * SUPER_PAGES + told.pages_half_done,
        given_2m=told.blocks_deflated,
        migrated=told.pages_migrated,
        exchanged=told.blocks_exchanged,
        moved=told.pages_moved,
        faults_4k=backing.faults_4k if backing else 0,
        faults_2m=backing.faults_2m if backing else 0,
        touched_4k=backing.touched_4k_taken if backing else 0,
        touched_2m=backing.touched_2m_taken if backing else 0,
    )
