"""What a new domain may be, checked before anything is made; and how it is built."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xbd.abi import MAX_DOMAIN_PAGES, MAX_DOMAINS
from xbd.errors import AlreadyExists, BadArgument, OutOfFrames
from xbd.frames import group_by_super
from xbd.machine import mapping, placement
from xbd.machine.domain import Domain
from xbd.machine.domains import DomainTable
from xbd.machine.frame_table import FrameTable
from xbd.machine.nodes import Affinity
from xbd.units import SUPER_ORDER, SUPER_PAGES, exact_size


@dataclass(frozen=True, slots=True)
class Asked:
    """A domain that is asked for, in pages; *gfn_count* is its gfn space, *affinity* where its memory should lie."""

    name: str
    domid: int
    max_pages: int
    target_pages: int
    min_pages: int
    gfn_count: int
    affinity: Affinity


def check_creation(asked: Asked, domains: DomainTable, free_pages: int) -> None:
    """Check a domain that is asked for, against those that there are and the pages that are free and unclaimed.

    Raises:
        BadArgument, AlreadyExists, OutOfFrames: it cannot be made.
    """
    domains.check_name(asked.name)
    _check_sizes(asked)
    if len(domains.domains) >= MAX_DOMAINS:
        raise OutOfFrames(f"{len(domains.domains)} domains exist", f"at most {MAX_DOMAINS}")
    if asked.domid in domains.domains:
        raise AlreadyExists(f"domid {asked.domid} is taken by {domains.domains[asked.domid].name!r}")
    if not 0 <= asked.domid < MAX_DOMAINS:
        raise BadArgument(f"domid {asked.domid}", f"0 to {MAX_DOMAINS - 1}")
    if asked.target_pages > free_pages:
        nodes = ", ".join(map(str, asked.affinity.nodes))
        who = f"the nodes of its hard affinity, {nodes}, have" if asked.affinity.is_hard else "the host has"
        raise OutOfFrames(
            f"domain {asked.name!r} needs {exact_size(asked.target_pages)}, "
            f"{who} {exact_size(free_pages)} free and unclaimed",
            "a smaller target, or memory freed by other domains first",
        )


def _check_sizes(asked: Asked) -> None:
    most, target, least = asked.max_pages, asked.target_pages, asked.min_pages
    sizes = f"target {exact_size(target)}, maximum {exact_size(most)}"
    if most % SUPER_PAGES or target % SUPER_PAGES:
        raise BadArgument(sizes, "multiples of 2 MiB")
    if not 0 < target <= most:
        raise BadArgument(sizes, "0 < target <= maximum")
    # As in set_max_pages: the cap may reach the end of the last block, not beyond.
    smallest = max(target, most - SUPER_PAGES + 1)
    if not smallest <= asked.gfn_count <= MAX_DOMAIN_PAGES:
        raise BadArgument(
            f"a gfn space of {exact_size(asked.gfn_count)}", f"{exact_size(smallest)} to {exact_size(MAX_DOMAIN_PAGES)}"
        )
    if least % SUPER_PAGES or not 0 <= least <= target:
        raise BadArgument(
            f"minimum {exact_size(least)}, target {exact_size(target)}", "whole 2 MiB, at most the target"
        )


def build(host: FrameTable, domain: Domain, pages: int) -> None:
    """Populate a new domain from the bottom: by superframes of its nodes, then by single frames; there are so many."""
    nodes = domain.sequence
    whole = placement.obtainable(host, domain, nodes, SUPER_ORDER)
    supers = placement.take_superframes(host, domain, min(pages >> SUPER_ORDER, whole), nodes)
    if supers.size:
        blocks: NDArray[Any] = np.arange(supers.size, dtype=np.int64)
        mapping.map_leaves(host, domain, blocks, supers)
    rest: NDArray[Any] = np.arange(supers.size << SUPER_ORDER, pages, dtype=np.int64)
    if rest.size:
        frames = placement.take(host, domain, rest.size, nodes)
        groups = group_by_super(rest)
        mapping.map_frames(host, domain, rest, groups, frames)
        mapping.settle(host, domain, groups[0])
