"""By what guests need: what they use and a quarter more, and the page cache that they read again; what is left, evenly.

Theory of operation. What a guest uses is known by its word; of its page cache nobody knows what is needed, until it is
dropped and has to be read again. What is read again within `again_s` is what the cache lacks, so the cache that is there and
that together is what is needed. That is remembered, and forgotten over `forget_s` unless it shows again: cache that nobody
reads is worthless, however much there is.

If all of that fits, each guest gets it, and what is left raises those at the lowest fraction of their ranges. If the caches
do not fit, each gets the same part of what its cache needs; if what they use does not, it is as `balance.by_demand` says. A
guest in which hardly anything is left that its programs could get does not wait for its turn: it grows at once, by a part
of what it holds, until it says what it needs.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Final, NamedTuple

from xbd.policy.balance import by_demand, claimants_of, fair
from xbd.policy.model import DomainSnapshot, SetTarget, Snapshot
from xbd.settings import number
from xbd.units import MIB_PAGES, format_pages

# Less that is read again is noise, or the end of a file.
_NOTICED_PAGES: Final = MIB_PAGES


class Cache(NamedTuple):
    """What it remembers of a guest: pages read again since it booted, what its cache needs, and when that was seen."""

    refaulted_pages: int
    needed_pages: float
    seen_s: float


@dataclass(frozen=True, slots=True)
class Demand:
    """To each what its guest uses, a quarter more, and cache that it reads again, as far as there is; what is left, evenly."""

    again_s: Annotated[float, number("cache that was read again within it was needed", 1, 3600, "seconds")] = 20.0
    forget_s: Annotated[float, number("what a cache needs is forgotten over it", 1, 86400, "seconds")] = 600.0
    stall: Annotated[float, number("a guest stalls with less than this part of what it holds left", 0, 1)] = 1 / 32
    stall_grow: Annotated[float, number("what a stalled guest gets at once, a share of it", 0, 4)] = 0.5

    def step(
        self, state: Mapping[str | int, Cache] | None, snapshot: Snapshot, now: float
    ) -> tuple[Mapping[str | int, Cache], list[SetTarget]]:
        """Share all out by need; the state is what is known of caches, by life."""
        caches: dict[str | int, Cache] = {}
        claimants = claimants_of(snapshot)
        stalled, wanted = [], []
        for at, domain in enumerate(snapshot.domains):
            key = domain.life or domain.domid
            caches[key] = cache = self._cache(None if state is None else state.get(key), domain, now)
            stalled.append(domain.demand_pages is not None and self._stalls(domain))
            if stalled[-1]:
                more = int(domain.tot_pages * (1 + self.stall_grow))
                claimants[at] = replace(claimants[at], demand=max(claimants[at].demand or 0, more))
            wanted.append(int(cache.needed_pages))
        pages = snapshot.usable_pages + sum(domain.tot_pages for domain in snapshot.domains)
        evenly = fair(claimants, pages)
        used = [each.within(even if each.demand is None else each.demand) for each, even in zip(claimants, evenly, strict=True)]  # fmt: skip
        whole = [each.within(need + cache) for each, need, cache in zip(claimants, used, wanted, strict=True)]
        if sum(whole) <= pages:
            goals = fair([replace(each, floor=goal) for each, goal in zip(claimants, whole, strict=True)], pages)
        elif sum(used) <= pages:
            room, spare = sum(whole) - sum(used), pages - sum(used)
            goals = [need + (goal - need) * spare // room for need, goal in zip(used, whole, strict=True)]
        else:
            goals = by_demand(claimants, pages)
        return caches, [
            SetTarget(domain.domid, max(goal, 0), _reason(domain, cache, stalls=stalls), stalls)
            for domain, goal, cache, stalls in zip(snapshot.domains, goals, wanted, stalled, strict=True)
        ]

    def _cache(self, before: Cache | None, domain: DomainSnapshot, now: float) -> Cache:
        """Judge what a guest's cache needs."""
        refaulted = domain.guest.refaulted_pages or 0
        if before is None or now <= before.seen_s:
            return Cache(refaulted, 0.0 if before is None else before.needed_pages, now)
        since_s = now - before.seen_s
        needed = before.needed_pages * max(1 - since_s / self.forget_s, 0.0)
        lacks = max(refaulted - before.refaulted_pages, 0) * self.again_s / since_s
        if lacks > _NOTICED_PAGES:
            needed = max(needed, min((domain.guest.cache_pages or 0) + lacks, domain.static_max_pages))
        return Cache(refaulted, needed, now)

    def _stalls(self, domain: DomainSnapshot) -> bool:
        """Whether hardly anything is left in it, and no growth is under way."""
        left = domain.guest.available_pages
        return left is not None and left < domain.tot_pages * self.stall and domain.target_pages <= domain.tot_pages


def _reason(domain: DomainSnapshot, cache_pages: int, *, stalls: bool) -> str:
    if stalls:
        return "it is about to stall: hardly anything is left"
    asked = "" if domain.demand_pages is None else f" ({format_pages(domain.demand_pages)})"
    also = f", and cache that it reads again ({format_pages(cache_pages)})" if cache_pages >= _NOTICED_PAGES else ""
    return f"by what its guest asks for{asked}{also}"
