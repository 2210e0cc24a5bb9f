"""Recompute all that the machine counts, from the bottom, and name what disagrees.

Every frame has exactly one owner; free + owned = machine; p2m and owner agree; counters agree.
Two-level like the rest: leaves are checked by the superframe, detail only where it means something.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from xbd.arrays import Mfns, Supers, from_cells, supers_of
from xbd.frames import expand_supers, sparse_zeros
from xbd.machine.claims import most_pages
from xbd.machine.domain import Domain
from xbd.machine.frame_table import FrameTable
from xbd.units import OFFSET_MASK, SUPER_ORDER, SUPER_PAGES

_NONE: Final[NDArray[Any]] = np.zeros(0, dtype=np.int64)


def audit(host: FrameTable, domains: Sequence[Domain]) -> list[str]:
    """Name every violated invariant of the host and its domains; empty when all is well."""
    wrong = host.heap.check()
    superframes = host.heap.superframe_count
    # One list for all domains each: a thousand passes over every superframe would take a minute.
    all_leaves, all_frames, all_homes, all_at_home = [_NONE], [_NONE], [_NONE], [_NONE]
    owned = 0
    for domain in domains:
        outside = _check_range(domain, superframes)
        wrong += outside
        owned += domain.tot_pages
        wrong += _check_claims_of(domain)
        if outside:
            continue
        wrong += _check_p2m(domain)
        leaves, frames = domain.p2m.leaf_supers(), domain.p2m.frames()
        wrong += _check_owners(host, domain, leaves, frames)
        if domain.by_node is not None:
            on_nodes = domain.by_node.count_again(frames, leaves).tolist()
            if on_nodes != domain.node_pages:
                wrong.append(f"d{domain.domid}: {domain.node_pages} pages counted by node, {on_nodes} are")
            outside = sum(pages for node, pages in enumerate(on_nodes) if node not in domain.affinity.nodes)
            if domain.affinity.is_hard and outside:
                wrong.append(f"d{domain.domid}: {outside} pages lie on other nodes than those of its hard affinity")
        all_leaves.append(leaves)
        all_frames.append(frames)
        all_homes.append(from_cells(domain.p2m.home[domain.p2m.home > 0]))
        all_at_home.append(frames_at_home(domain))
    frames = np.concatenate(all_frames)
    whole = np.bincount(np.concatenate(all_leaves), minlength=superframes)
    used = np.bincount(frames >> SUPER_ORDER, minlength=superframes)
    at_home = np.bincount(np.concatenate(all_at_home) >> SUPER_ORDER, minlength=superframes) + whole * SUPER_PAGES
    wrong += _check_host(host, used, whole, at_home)
    wrong += _check_homes(host, np.bincount(np.concatenate(all_homes), minlength=superframes))
    wrong += _check_scrubbed(host)
    seen = sparse_zeros(host.heap.frame_count, np.bool_)
    seen[frames] = True
    distinct = int(np.count_nonzero(seen.reshape(-1, SUPER_PAGES)[used > 0]))
    if distinct != frames.size:
        wrong.append(f"{frames.size - distinct} frames are mapped more than once")
    wrong += _check_claims(host, domains)
    offline = int(np.count_nonzero(host.offline)) << SUPER_ORDER
    if host.heap.free_frames + owned + offline != host.heap.frame_count:
        wrong.append(
            f"{host.heap.free_frames} free + {owned} owned + {offline} offline frames are not the machine's {host.heap.frame_count}"
        )
    return wrong


def _check_range(domain: Domain, superframes: int) -> list[str]:
    p2m, who = domain.p2m, f"d{domain.domid}"
    wrong = []
    for what, numbers, most in (
        ("home", p2m.home, superframes),
        ("leaf", p2m.leaf, superframes << SUPER_ORDER),
        ("entry", p2m.frames() + 1, superframes << SUPER_ORDER),
    ):
        if numbers.size and not 0 <= int(numbers.min()) <= int(numbers.max()) <= most:
            wrong.append(f"{who}: a {what} lies outside the machine")
    return wrong


def _check_p2m(domain: Domain) -> list[str]:
    p2m, who = domain.p2m, f"d{domain.domid}"
    is_leaf = p2m.leaf > 0
    shattered = np.flatnonzero((p2m.populated > 0) & ~is_leaf)
    rows = p2m.rows[shattered] > 0
    wrong = []
    if (rows.sum(axis=1) != p2m.populated[shattered]).any():
        wrong.append(f"{who}: the populated count of a shattered block is wrong")
    if (p2m.populated[is_leaf] != SUPER_PAGES).any() or (
        from_cells(p2m.home[is_leaf]) != supers_of(from_cells(p2m.leaf[is_leaf]))
    ).any():
        wrong.append(f"{who}: a leaf is not wholly populated, or not at home")
    if (from_cells(p2m.leaf[is_leaf]) & OFFSET_MASK).any():
        wrong.append(f"{who}: a leaf is misaligned")
    if int(is_leaf.sum()) != domain.leaves:
        wrong.append(f"{who}: {domain.leaves} leaves counted, {int(is_leaf.sum())} are")
    pages = int(p2m.populated.sum(dtype=np.int64))
    if pages != domain.tot_pages:
        wrong.append(f"{who}: tot_pages {domain.tot_pages}, its p2m holds {pages}")
    if (p2m.home[p2m.populated == 0] > 0).any():
        wrong.append(f"{who}: an empty block has a home")
    tail = p2m.gfn_count & OFFSET_MASK
    if tail and p2m.rows[-1, tail:].any():
        wrong.append(f"{who}: a gfn beyond the gfn space is populated")
    return wrong


def _check_owners(host: FrameTable, domain: Domain, leaves: Supers, frames: Mfns) -> list[str]:
    wrong = []
    if (host.whole_owner[leaves] != domain.domid + 1).any():
        wrong.append(f"d{domain.domid}: a leaf's superframe has another owner")
    if (host.frame_owner[frames] != domain.domid + 1).any():
        wrong.append(f"d{domain.domid}: a frame in its p2m has another owner")
    return wrong


def frames_at_home(domain: Domain) -> Mfns:
    """List the frames of shattered blocks that are at home."""
    p2m = domain.p2m
    gfns = expand_supers(np.flatnonzero((p2m.home > 0) & (p2m.leaf == 0)))
    frames = from_cells(p2m.entry[gfns])
    at_home: Mfns = frames[p2m.home_frames(gfns) == frames]
    return at_home


def _check_host(host: FrameTable, used: np.ndarray, whole: np.ndarray, at_home: np.ndarray) -> list[str]:
    wrong = []
    if (whole > 1).any():
        wrong.append(f"superframe {int((whole > 1).argmax()):#x} is a leaf more than once")
    total = used + whole * SUPER_PAGES + host.heap.free_count + host.offline * SUPER_PAGES
    if (total != SUPER_PAGES).any():
        bad = int((total != SUPER_PAGES).argmax())
        wrong.append(
            f"superframe {bad:#x}: {int(total[bad])} frames are free, mapped or offline, expected {SUPER_PAGES}"
        )
    if (at_home != host.at_home).any():
        bad = int((at_home != host.at_home).argmax())
        wrong.append(f"superframe {bad:#x}: {int(host.at_home[bad])} frames counted at home, {int(at_home[bad])} are")
    if np.count_nonzero(host.whole_owner) != int(whole.sum()):
        wrong.append("a superframe has a whole owner but is nobody's leaf")
    shattered = np.flatnonzero(used)
    owned = np.count_nonzero(host.owner_rows[shattered])
    if owned != int(used.sum()):
        wrong.append(f"{owned} frames of shattered superframes have an owner, {int(used.sum())} are mapped")
    return wrong


def _check_claims_of(domain: Domain) -> list[str]:
    wrong = []
    if domain.host_wide_claim_pages < 0 or min(domain.node_claims) < 0:
        wrong.append(f"d{domain.domid}: {domain.node_claims} pages claimed on nodes, {domain.claimed_pages} in all")
    if domain.claimed_pages > max(most_pages(domain) - domain.tot_pages, 0):
        wrong.append(
            f"d{domain.domid}: holds {domain.tot_pages} and claims {domain.claimed_pages}, its limit is {most_pages(domain)}"
        )
    return wrong


def _check_claims(host: FrameTable, domains: Iterable[Domain]) -> list[str]:
    """Compare what is claimed, on each node and in all, with what domains claim, and with what is free."""
    wrong = []
    claims = [(domain.claimed_pages, *domain.node_claims) for domain in domains]
    in_all, *on_nodes = map(sum, zip(*claims, strict=True)) if claims else (0,) * (host.nodes.count + 1)
    if not 0 <= host.claimed_pages <= host.heap.free_frames or host.claimed_pages != in_all:
        wrong.append(f"{host.claimed_pages} pages counted as claimed, {in_all} are, {host.heap.free_frames} are free")
    for node, (counted, claimed) in enumerate(zip(host.node_claims, on_nodes, strict=True)):
        if not 0 <= counted <= host.free_on(node) or counted != claimed:
            wrong.append(
                f"node {node}: {counted} pages counted as claimed, {claimed} are, {host.free_on(node)} are free"
            )
    return wrong


def _check_homes(host: FrameTable, claims: np.ndarray) -> list[str]:
    wrong = []
    if (claims > 1).any():
        wrong.append(f"superframe {int((claims > 1).argmax()):#x} is the home of more than one block")
    if ((claims > 0) != (host.at_home > 0)).any():
        bad = int(((claims > 0) != (host.at_home > 0)).argmax())
        wrong.append(
            f"superframe {bad:#x}: {int(claims[bad])} blocks claim it, {int(host.at_home[bad])} frames are at home"
        )
    if host.settings.coalesce and ((host.at_home == SUPER_PAGES) & (host.whole_owner == 0)).any():
        wrong.append("a block is wholly at home, but no leaf")
    return wrong


def _check_scrubbed(host: FrameTable) -> list[str]:
    """Look for words that a former owner left in free frames; only where anything was ever written."""
    supers = np.flatnonzero(host.written & (host.heap.free_count > 0))
    dirty = host.heap.is_free(expand_supers(supers)) & (host.content_rows[supers].reshape(-1) != 0)
    return [f"{np.count_nonzero(dirty)} free frames are not scrubbed"] if dirty.any() else []
