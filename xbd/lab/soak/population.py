"""The guests of a soak: their settings, drawn at random, and the agent process that runs each."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from xbd.abi import DomainType
from xbd.domain import DomainSpec
from xbd.guest.workload import Trace
from xbd.lab.bench.flooding import FLOOD_MAX_PAGES
from xbd.lab.trace.changes import Likeness, synthesise
from xbd.units import MIB_PAGES, SUPER_PAGES, round_to_superpages

# Agent processes that run many guests each, by the first letter of the guests' names. Those in `RELAYED` are connected
# through a relay, which can cut and slow connections. A guest whose name begins with an s has a process of its own.
GROUPS: Final = ("a", "b", "c", "d")
RELAYED: Final = ("a", "b")
SINGLE: Final = "s"
# Whose targets and limits the autoballoon daemon sets, if it runs.
GOVERNED: Final = ("b", "d")
_SINGLES_MOST: Final = 4
# The name of the checker guest is also in the report's keys, so it stays.
CHECKER: Final = "witness"
FLOODER: Final = "flooder"
# Whoever runs the guests of its group boots it, if it is there for long enough.
STORM: Final = "cstorm"
NOT_GUESTS: Final = ("dom0", CHECKER, FLOODER)
DOM0_PAGES: Final = 256 * MIB_PAGES
CHECKER_PAGES: Final = 16 * SUPER_PAGES
SIZES_MIB: Final = (64, 96, 128)
# No target is below this share of a guest's memory: below it, its programs are killed rather than squeezed.
MIN_TARGET_SHARE: Final = 0.5
# The target of each guest in the end: all guests together then fit into the host.
FINAL_SHARE: Final = 0.7
_IO_SHARE: Final = 0.3
# More guests than that do in all as much as so many: what they lose, leak or do wrong is looked for, not what a machine carries.
_FULL_PACE_GUESTS: Final = 200
# How many guests play a trace, where there are any, and how much of its memory such a guest uses at most.
_TRACE_SHARE: Final = 1 / 3
TRACE_MOST_SHARE: Final = 0.35
_WORKLOADS: Final[tuple[dict[str, object], ...]] = (
    {"profile": "idle", "used": 0.15},
    {"profile": "steady", "used": 0.25, "cache": 0.08, "churn": 0.02},
    {"profile": "bursty", "low": 0.12, "high": 0.3, "period_ticks": 9},
    {"profile": "unmovable", "used": 0.15, "kernel": 0.05, "period_ticks": 9},
)
_TYPES: Final = (DomainType.PVH, DomainType.PVH, DomainType.PVH, DomainType.PV, DomainType.VIRTIO)
_ON_CRASH: Final = ("restart",) * 8 + ("destroy", "preserve")


def draw_guest(
    number: int, rng: np.random.Generator, *, single: bool = False, traces: Sequence[Path] = (), guests: int = 1
) -> DomainSpec:
    """Draw guest number *number*.

    Args:
        number: what its name and its seed are made of.
        rng: what it is drawn from.
        single: its agent has a process of its own.
        traces: as `trace_file` names; some play one.
        guests: how many there are at a time; of many each does less.
    """
    group = SINGLE if single else GROUPS[number % len(GROUPS)]
    max_pages = int(rng.choice(SIZES_MIB)) * MIB_PAGES
    workload = dict(_WORKLOADS[int(rng.integers(len(_WORKLOADS)))])
    slower = max(guests / _FULL_PACE_GUESTS, 1.0)
    workload["tick_s"] = round(float(rng.uniform(0.7, 2.0)) * slower, 2)
    if traces and rng.random() < _TRACE_SHARE:
        path = trace_file(traces[int(rng.integers(len(traces)))], max_pages)
        workload = {
            "trace": str(path),
            "speed": round(float(rng.uniform(1, 20)) / slower, 1),
            "loop": True,
            "offset_s": int(rng.integers(3600)),
        }
    domain_type = _TYPES[int(rng.integers(len(_TYPES)))]
    if domain_type is not DomainType.VIRTIO and rng.random() < _IO_SHARE:
        workload["io_pages_s"] = max(int(rng.integers(2, 16) / slower), 1)
    guest: dict[str, object] = {
        "workload": workload,
        "verify": True,
        "strategy": "stock" if rng.random() < 0.2 else "full",
        "seed": number,
    }
    on_crash = str(rng.choice(_ON_CRASH))
    return DomainSpec(
        f"{group}{number}",
        max_pages,
        draw_target(max_pages, rng),
        type=domain_type,
        autostart=not single,
        guest=guest,
        on_crash=on_crash,
    )


def trace_file(trace: Path, max_pages: int) -> Path:
    """Name the file that is *trace* for a guest of this size."""
    return trace.with_name(f"{trace.stem}-{max_pages // MIB_PAGES}m.csv")


def fit(trace: Trace, max_pages: int) -> str:
    """Make the text of a trace for a guest of this size, whose programs never hold more than they can at every target."""
    used = int(trace.anon_pages.max()) + int(trace.cache_pages.max())
    demand = min(TRACE_MOST_SHARE * trace.total_pages / max(used, 1), 1.0)
    return synthesise(trace, Likeness(scale=max_pages / trace.total_pages, demand=demand))


def draw_target(max_pages: int, rng: np.random.Generator) -> int:
    """Draw a target within a guest's bounds, in whole superpages."""
    return round_to_superpages(int(max_pages * rng.uniform(MIN_TARGET_SHARE, 1.0)))


def final_target(max_pages: int) -> int:
    """Return a guest's target in the end, in pages."""
    return round_to_superpages(int(max_pages * FINAL_SHARE))


def singles_of(guests: int) -> int:
    """Return how many guests have agent processes of their own."""
    return min(_SINGLES_MOST, guests // 4)


def host_memory_pages(guests: int) -> int:
    """Return the host's memory in pages: less than all guests may hold, enough for their targets in the end."""
    mean_pages = sum(SIZES_MIB) / len(SIZES_MIB) * MIB_PAGES
    # Sizes are random: a share more than the mean, and two of the largest.
    theirs = int(guests * mean_pages * (FINAL_SHARE + 0.12)) + 2 * max(SIZES_MIB) * MIB_PAGES
    return round_to_superpages(theirs + DOM0_PAGES + CHECKER_PAGES + FLOOD_MAX_PAGES)
