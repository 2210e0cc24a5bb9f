"""Claims: frames that are promised to a domain before it allocates them.

A claim says how many pages a domain may come to hold; those that it does not hold yet are *outstanding*,
and nobody else can take that much of the free memory. The domain's own populates consume the claim. So a
large domain that is built slowly does not run out of memory half way because another was quicker.
Source: Xen domain_set_outstanding_pages and domain_adjust_tot_pages, common/page_alloc.c.
"""

from xbd.errors import BadArgument, OutOfFrames
from xbd.machine.domain import Domain
from xbd.machine.frame_table import FrameTable
from xbd.target_rules import static_max_pages
from xbd.units import exact_size


def claim(host: FrameTable, domain: Domain, pages: int) -> None:
    """Promise a domain that it can come to hold *pages*; 0 takes the promise back.

    Raises:
        BadArgument: not above what it holds, above max_pages, or a claim is outstanding already.
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
    most = min(domain.max_pages, static_max_pages(domain.p2m.gfn_count))
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
    domain.claimed_pages = outstanding
    domain.save()
    host.claimed_pages += outstanding


def consume(host: FrameTable, domain: Domain, pages: int) -> None:
    """Count pages that a domain has just populated against its claim."""
    used = min(pages, domain.claimed_pages)
    if used:
        domain.claimed_pages -= used
        domain.save()
        host.claimed_pages -= used


def release(host: FrameTable, domain: Domain) -> None:
    """Take back what is outstanding of a domain's claim."""
    consume(host, domain, domain.claimed_pages)
