"""The guests of a soak: what each is, drawn by lot, and who plays it."""

from dataclasses import dataclass, field
from typing import Final

import numpy as np

from xbd.abi import DomainType
from xbd.lab.bench.flooding import FLOOD_MAX_PAGES
from xbd.units import MIB_PAGES, SUPER_PAGES, round_to_superpages

# Processes that play many guests each, by the first letter of their names; the guests of those in `RELAYED` are
# connected through a relay, which cuts and slows. Who begins with an s has a process of its own.
GROUPS: Final = ("a", "b", "c", "d")
RELAYED: Final = ("a", "b")
SINGLE: Final = "s"
_SINGLES_MOST: Final = 4
CHECKER: Final = "witness"
FLOODER: Final = "flooder"
NO_GUESTS: Final = ("dom0", CHECKER, FLOODER)
DOM0_PAGES: Final = 256 * MIB_PAGES
CHECKER_PAGES: Final = 16 * SUPER_PAGES
_SIZES_MIB: Final = (64, 96, 128)
# No guest is told to hold less of its memory than this: below it, its programs are killed rather than squeezed.
LEAST_SHARE: Final = 0.5
# What guests come to when all is over: all of them together fit into the host.
LAST_SHARE: Final = 0.7
_IO_SHARE: Final = 0.3
_WORKLOADS: Final[tuple[dict[str, object], ...]] = (
    {"profile": "idle", "used": 0.15},
    {"profile": "steady", "used": 0.25, "cache": 0.08, "churn": 0.02},
    {"profile": "bursty", "low": 0.12, "high": 0.3, "period_ticks": 9},
    {"profile": "unmovable", "used": 0.15, "kernel": 0.05, "period_ticks": 9},
)
_TYPES: Final = (DomainType.PVH, DomainType.PVH, DomainType.PVH, DomainType.PV, DomainType.VIRTIO)
_ON_CRASH: Final = ("restart",) * 8 + ("destroy", "preserve")


@dataclass(frozen=True, slots=True)
class Spec:
    """One guest: what `create` is told of it."""

    name: str
    max_pages: int
    target_pages: int
    domain_type: DomainType
    on_crash: str
    guest: dict[str, object] = field(hash=False)

    @property
    def group(self) -> str:
        """Tell who plays it."""
        return self.name[0]

    @property
    def autostart(self) -> bool:
        """Whether an agent host starts its agent."""
        return self.group != SINGLE


def draw_guest(number: int, rng: np.random.Generator, *, alone: bool = False) -> Spec:
    """Draw guest number *number*; *alone*: it has a process of its own."""
    group = SINGLE if alone else GROUPS[number % len(GROUPS)]
    max_pages = int(rng.choice(_SIZES_MIB)) * MIB_PAGES
    workload = dict(_WORKLOADS[int(rng.integers(len(_WORKLOADS)))])
    workload["tick_s"] = round(float(rng.uniform(0.7, 2.0)), 2)
    domain_type = _TYPES[int(rng.integers(len(_TYPES)))]
    if domain_type is not DomainType.VIRTIO and rng.random() < _IO_SHARE:
        workload["io_pages_s"] = int(rng.integers(2, 16))
    guest: dict[str, object] = {
        "workload": workload,
        "verify": True,
        "strategy": "stock" if rng.random() < 0.2 else "full",
        "seed": number,
    }
    on_crash = str(rng.choice(_ON_CRASH))
    return Spec(f"{group}{number}", max_pages, draw_target(max_pages, rng), domain_type, on_crash, guest)


def draw_target(max_pages: int, rng: np.random.Generator) -> int:
    """Draw a target within a guest's bounds, in whole superpages."""
    return round_to_superpages(int(max_pages * rng.uniform(LEAST_SHARE, 1.0)))


def last_target(max_pages: int) -> int:
    """Tell what a guest is to hold when all is over."""
    return round_to_superpages(int(max_pages * LAST_SHARE))


def singles_of(guests: int) -> int:
    """Tell how many guests have processes of their own."""
    return min(_SINGLES_MOST, guests // 4)


def host_memory_pages(guests: int) -> int:
    """Say how much memory the host has: short of what all guests may hold, enough for what they hold in the end."""
    mean_pages = sum(_SIZES_MIB) / len(_SIZES_MIB) * MIB_PAGES
    # The guests are drawn by lot: a share more than the mean, and two of the largest.
    theirs = int(guests * mean_pages * (LAST_SHARE + 0.12)) + 2 * max(_SIZES_MIB) * MIB_PAGES
    return round_to_superpages(theirs + DOM0_PAGES + CHECKER_PAGES + FLOOD_MAX_PAGES)
