"""QubesOS's qmemman: every guest gets 1.3 times what it uses, and a share of the rest in proportion to that.

Facts: `memory/meminfo` is the guest's word of what it uses, heard if it changed by 30 MB. A guest's preference is
max(min(1.3 x used, maximum), 200 MiB); dom0's min(1.3 x used + 350 MiB, maximum). With enough memory a target is
0.999 x (preference + a share of the surplus in proportion to it), at most the maximum, and what is beyond a maximum is
shared equally by the others. With too little, donors go to their preference, and acceptors share the rest by theirs.
Transfers of less than 150 MiB in all are left undone, unless one below its preference gets 15 MiB. 50 MiB are left
free, of what is free 1/1.00781 counts (the rest is Xen's overhead), and it is looked every 3 s. A guest that reports nothing, or does not move, is
left out.

What the original does beside that, and this does not: it sends memory at 100 MB/s, and waits for each donor.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Final

from xbd.policy.model import DomainSnapshot, SetTarget, Snapshot
from xbd.settings import number
from xbd.units import MIB_PAGES

_SHARED: Final = 0.999
_OVERHEAD: Final = 1 / 1.00781
_LEAST_PAGES: Final = 200 * MIB_PAGES
_DOM0_MORE_PAGES: Final = 350 * MIB_PAGES
_LEFT_FREE_PAGES: Final = 50 * MIB_PAGES
_WORTH_IT_PAGES: Final = 150 * MIB_PAGES
_WORTH_IT_FOR_ONE_PAGES: Final = 15 * MIB_PAGES
_HEARD_PAGES: Final = 30 * MIB_PAGES


@dataclass(frozen=True, slots=True)
class Heard:
    """What it remembers: the use that it last heard of each domain, by life, and when it last balanced."""

    used: Mapping[str | int, int]
    balanced_s: float


@dataclass(frozen=True, slots=True)
class Qmemman:
    """By what guests use: 1.3 times that to each, and the rest in proportion to it (QubesOS)."""

    factor: Annotated[float, number("how many times what it uses a guest should have", 1, 10)] = 1.3
    check_s: Annotated[float, number("how often it looks, if no use has changed by 30 MiB", 0, 3600, "seconds")] = 3.0

    def step(self, state: Heard | None, snapshot: Snapshot, now: float) -> tuple[Heard, Sequence[SetTarget]]:
        """Balance, if some use has changed, or it is time."""
        before = {} if state is None else state.used
        heard: dict[str | int, int] = {}
        changed = False
        for domain in snapshot.domains:
            used, key = domain.guest.used_pages, domain.life or domain.domid
            if used is None:
                continue
            news = key not in before or abs(used - before[key]) >= _HEARD_PAGES
            heard[key] = used if news else before[key]
            changed = changed or news
        if state is not None and not changed and now - state.balanced_s < self.check_s:
            return Heard(heard, state.balanced_s), []
        members = [domain for domain in snapshot.domains if (domain.life or domain.domid) in heard and domain.moves]
        preferred = [self._preference(domain, heard[domain.life or domain.domid]) for domain in members]
        free = int((snapshot.free_pages - snapshot.claimed_pages) * _OVERHEAD) - _LEFT_FREE_PAGES
        targets = _balance(members, preferred, free)
        return Heard(heard, now), targets if _worth_it(members, preferred, targets) else []

    def _preference(self, domain: DomainSnapshot, used: int) -> int:
        wanted = int(self.factor * used)
        if domain.domid == 0:
            return min(wanted + _DOM0_MORE_PAGES, domain.static_max_pages)
        return max(min(wanted, domain.static_max_pages), _LEAST_PAGES)


def _balance(members: Sequence[DomainSnapshot], preferred: Sequence[int], free: int) -> list[SetTarget]:
    """Set targets: with enough memory for all preferences, or with too little."""
    surplus = free + sum(domain.tot_pages for domain in members) - sum(preferred)
    if surplus > 0:
        return _with_enough(members, preferred, surplus)
    return _with_too_little(members, preferred, free)


def _with_enough(members: Sequence[DomainSnapshot], preferred: Sequence[int], surplus: int) -> list[SetTarget]:
    goals, beyond = [], 0
    for domain, pages in zip(members, preferred, strict=True):
        goal = int(_SHARED * (pages + surplus * pages / sum(preferred)))
        beyond += max(goal - domain.static_max_pages, 0)
        goals.append(min(goal, domain.static_max_pages))
    while beyond > 0:
        open_ones = [at for at, domain in enumerate(members) if goals[at] < domain.static_max_pages]
        each = int(_SHARED * beyond / len(open_ones)) if open_ones else 0
        if not each:
            break
        beyond = 0
        for at in open_ones:
            beyond += max(goals[at] + each - members[at].static_max_pages, 0)
            goals[at] = min(goals[at] + each, members[at].static_max_pages)
    why = "its preference, and a share of what is left in proportion to it"
    return [SetTarget(domain.domid, goal, why) for domain, goal in zip(members, goals, strict=True)]


def _with_too_little(members: Sequence[DomainSnapshot], preferred: Sequence[int], free: int) -> list[SetTarget]:
    donors = [(domain, pages) for domain, pages in zip(members, preferred, strict=True) if domain.tot_pages > pages]
    acceptors = [(domain, pages) for domain, pages in zip(members, preferred, strict=True) if domain.tot_pages <= pages]
    targets = [SetTarget(domain.domid, pages, "a donor: it goes to its preference") for domain, pages in donors]
    rest = free + sum(domain.tot_pages - pages for domain, pages in donors)
    if rest <= 0:
        return targets
    of_all = sum(pages for _, pages in acceptors)
    for domain, pages in acceptors:
        goal = min(int(domain.tot_pages + rest * pages / of_all), domain.static_max_pages)
        targets.append(SetTarget(domain.domid, goal, "an acceptor: what donors give is shared by preference"))
    return targets


def _worth_it(members: Sequence[DomainSnapshot], preferred: Sequence[int], targets: Sequence[SetTarget]) -> bool:
    """Whether so much moves that it is done: 150 MiB in all, or 15 MiB to one below its preference."""
    prefers = {domain.domid: (domain.target_pages, pages) for domain, pages in zip(members, preferred, strict=True)}
    in_all = 0
    for target in targets:
        now_pages, pages = prefers[target.domid]
        in_all += abs(target.pages - now_pages)
        if now_pages < pages and target.pages - now_pages > _WORTH_IT_FOR_ONE_PAGES:
            return True
    return in_all >= _WORTH_IT_PAGES
