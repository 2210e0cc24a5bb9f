"""Claims: frames that are promised to a domain before it allocates them.

A *claim set* promises pages on nodes, and pages of the host wherever they lie; what is promised and not yet used is
*outstanding*, and nobody else can take that much of the free memory, of a node or of the host. The domain's own
populates redeem it: what came from a node first the claim on that node, then the host-wide one, then those on other
nodes. So a large domain that is built slowly does not run out of memory half way because another was quicker, and what
it holds and claims is never more than its limit. A new set replaces the old one.

The old form (`claim`) says instead how many pages a domain may come to hold in all; it is host-wide, and refused while
anything is outstanding.
Source: Xen domain_set_outstanding_pages and domain_adjust_tot_pages, common/page_alloc.c; claim sets: the series
"XEN_DOMCTL_claim_memory" of 2026.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from xbd.errors import BadArgument, OutOfFrames
from xbd.machine.domain import Domain
from xbd.machine.frame_table import FrameTable
from xbd.replaceable import replaceable
from xbd.target_rules import static_max_pages
from xbd.units import exact_size

# The target of a claim: a node, or the host, whichever node it is of.
Target = int | None
HOST_WIDE: Final = None


def most_pages(domain: Domain) -> int:
    """Tell what a domain can come to hold at most: by its limit, and its gfn space."""
    return min(domain.max_pages, static_max_pages(domain.p2m.gfn_count))


def claim(host: FrameTable, domain: Domain, pages: int) -> None:
    """Promise a domain that it can come to hold *pages*, host-wide; 0 takes all of its claims back.

    Raises:
        BadArgument: not above what it holds, above max_pages, or something is outstanding already.
        OutOfFrames: not so much is free and unclaimed. Nothing has changed, whatever is raised.
    """
    if pages == 0:
        release(host, domain)
        return
    if domain.claimed_pages:
        raise BadArgument(
            f"d{domain.domid} has a claim of which {exact_size(domain.claimed_pages)} are outstanding",
            "0 first (`xbd claim DOMAIN none`), to clear it",
        )
    most = most_pages(domain)
    if not domain.tot_pages < pages <= most:
        raise BadArgument(
            f"a claim of {exact_size(pages)} for d{domain.domid}",
            f"more than it holds, {exact_size(domain.tot_pages)}, and at most its limit, {exact_size(most)}",
        )
    outstanding, free = pages - domain.tot_pages, host.free_frames_for(domain)
    if outstanding > free:
        raise OutOfFrames(
            f"d{domain.domid} claims {exact_size(outstanding)} more, {exact_size(free)} are free and unclaimed",
            "a smaller claim, or memory freed by other domains first",
        )
    _set(host, domain, domain.node_claims, outstanding)


def claim_set(host: FrameTable, domain: Domain, entries: Sequence[tuple[int, Target]]) -> None:
    """Promise a domain *entries*, (pages, target) each, beside what it holds, in place of what it claimed; none: nothing.

    Raises:
        BadArgument: an entry of no pages, a target that is named twice or is no node, or more than the domain's limit.
        OutOfFrames: a node, or the host, has not so much that is free and unclaimed. Nothing has changed.
    """
    wanted: dict[Target, int] = {}
    for pages, target in entries:
        if pages < 1:
            raise BadArgument(f"a claim of {pages} pages {where(target)}", "at least a page, or no such entry")
        if target in wanted:
            raise BadArgument(f"two claims {where(target)}", "each target once")
        if target is not HOST_WIDE:
            host.nodes.check(target)
        wanted[target] = pages
    total, most = sum(wanted.values()), most_pages(domain)
    if domain.tot_pages + total > most:
        raise BadArgument(
            f"claims of {exact_size(total)} for d{domain.domid}, which holds {exact_size(domain.tot_pages)}",
            f"together at most its limit, {exact_size(most)}",
        )
    _check_room(host, domain, wanted)
    node_claims = [wanted.get(node, 0) for node in range(host.nodes.count)]
    _set(host, domain, node_claims, total)


def _check_room(host: FrameTable, domain: Domain, wanted: Mapping[Target, int]) -> None:
    """Refuse claims for which the free memory does not suffice, beside those of others: OutOfFrames."""
    for node, own in enumerate(domain.node_claims):
        free = host.free_on(node) - host.node_claims[node] + own
        if wanted.get(node, 0) > free:
            raise OutOfFrames(
                f"d{domain.domid} claims {exact_size(wanted[node])} {where(node)}, {exact_size(max(free, 0))} are free and unclaimed",
                "a smaller claim there, or memory of that node freed first",
            )
    total, free = sum(wanted.values()), host.free_frames_for(domain)
    if total > free:
        raise OutOfFrames(
            f"d{domain.domid} claims {exact_size(total)} in all, {exact_size(max(free, 0))} are free and unclaimed",
            "smaller claims, or memory freed by other domains first",
        )


def where(target: Target) -> str:
    """Say where a claim is, for people."""
    return "of the host" if target is HOST_WIDE else f"on node {target}"


def _set(host: FrameTable, domain: Domain, node_claims: Sequence[int], claimed_pages: int) -> None:
    """Write what a domain claims, on nodes and in all, and count it."""
    host.claimed_pages += claimed_pages - domain.claimed_pages
    host.node_claims = [
        whole - before + now
        for whole, before, now in zip(host.node_claims, domain.node_claims, node_claims, strict=True)
    ]
    domain.claimed_pages, domain.node_claims = claimed_pages, list(node_claims)
    domain.save()


@replaceable
def redeem(host: FrameTable, domain: Domain, before: Sequence[int]) -> None:
    """Count what a domain has just populated against its claims; *before*: what it held on each node."""
    got = [now - then for now, then in zip(domain.node_pages, before, strict=True)]
    claims, host_wide = list(domain.node_claims), domain.host_wide_claim_pages
    for node, pages in enumerate(got):
        used = min(pages, claims[node])
        claims[node] -= used
        got[node] -= used
    rest = sum(got)
    used = min(rest, host_wide)
    host_wide, rest = host_wide - used, rest - used
    for node, pages in enumerate(claims):
        used = min(rest, pages)
        claims[node] -= used
        rest -= used
    if (total := sum(claims) + host_wide) != domain.claimed_pages:
        _set(host, domain, claims, total)


def release(host: FrameTable, domain: Domain) -> None:
    """Take back what is outstanding of a domain's claims."""
    if domain.claimed_pages:
        _set(host, domain, [0] * host.nodes.count, 0)


def fit(host: FrameTable, domain: Domain) -> None:
    """Take back what of a domain's claims is beyond its limit, host-wide first."""
    excess = domain.claimed_pages - max(most_pages(domain) - domain.tot_pages, 0)
    _recall(host, domain, excess, (HOST_WIDE, *range(host.nodes.count)))


def fit_node(host: FrameTable, domains: Sequence[Domain], node: int) -> dict[int, int]:
    """Take back claims for which the free memory does not suffice any more, since some of a node went offline.

    What the node itself cannot keep goes in any case; what else the host cannot keep is taken from host-wide claims. Of
    the *domains* the first ones lose theirs; returns how many pages each lost, by domid.
    """
    before = {domain.domid: domain.claimed_pages for domain in domains}
    for domain in domains:
        _recall(host, domain, min(host.node_claims[node] - host.free_on(node), domain.node_claims[node]), (node,))
    for domain in domains:
        _recall(host, domain, min(-host.free_frames_for(None), domain.host_wide_claim_pages), (HOST_WIDE,))
    return {domain.domid: lost for domain in domains if (lost := before[domain.domid] - domain.claimed_pages)}


def _recall(host: FrameTable, domain: Domain, pages: int, targets: Iterable[Target]) -> None:
    """Take so many pages of a domain's claims back, from *targets* in sequence."""
    if pages <= 0:
        return
    # Whoever tells of domains has to tell this one anew.
    host.touched.add(domain.domid)
    claims, total = list(domain.node_claims), domain.claimed_pages
    for target in targets:
        there = domain.host_wide_claim_pages if target is HOST_WIDE else claims[target]
        used = min(pages, there)
        pages, total = pages - used, total - used
        if target is not HOST_WIDE:
            claims[target] -= used
    _set(host, domain, claims, total)


def told(domain: Domain) -> list[tuple[int, Target]]:
    """Read a domain's claims back, as `claim_set` takes them: by node, then host-wide."""
    on_nodes: list[tuple[int, Target]] = [(pages, node) for node, pages in enumerate(domain.node_claims) if pages]
    return on_nodes + ([(domain.host_wide_claim_pages, HOST_WIDE)] if domain.host_wide_claim_pages else [])
