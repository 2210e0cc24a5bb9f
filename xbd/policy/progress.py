"""Judge domains by their progress toward what they should hold: willing, stuck, uncooperative, willing again.

Theory of operation. A domain's *gap* is how far it is from its aim. Whenever the gap is smaller than ever since
the aim was set, the clock is reset. With no progress for 5 s (`stuck_after_s`) a domain is stuck: the policy does not
wait for it, and counts it with what it holds. At 20 s (`uncooperative_after_s`) it has refused: what it would not go
below, or above, is remembered as its floor or ceiling in the balance, so that it is not asked again for what it
refused; and its target is set to what it holds. After 60 s (`retry_after_s`) it is asked again, for 2 MiB. Once it
has moved 2 MiB beyond what it refused, the refusal is forgotten.

Assumptions:
    1. tot_pages is the hypervisor's count: a guest can move it only by moving.
    2. A willing domain moves by at least a page within `stuck_after_s` of its last move; a slower one is judged
       stuck, and willing again when it has moved: late, not wrong.
    3. A new aim in the same direction does not reset the clock: else frequent changes would hide a domain that does not
    move.
    4. An agent that went and came back is a guest that rebooted: its former refusals no longer count.
"""

from dataclasses import replace

from xbd.policy.model import DomainSnapshot, Progress, Safety, Settings
from xbd.replaceable import replaceable
from xbd.target_rules import Approach
from xbd.units import SUPER_PAGES, round_down, round_up


def gap(tot_pages: int, aim_pages: int) -> int:
    """Tell how far a domain is from its aim: 0 from less than a superpage below it up to exactly there.

    Above its aim, every page is missing elsewhere; below, the memory is still promised to it.
    """
    return tot_pages - aim_pages if tot_pages > aim_pages else max(aim_pages - tot_pages - SUPER_PAGES + 1, 0)


@replaceable
def observe(before: Progress | None, domain: DomainSnapshot, settings: Settings, now: float) -> Progress:
    """Update what is remembered of a domain; None, or what is remembered of another domain of its number: it is new."""
    if before is not None and before.life != domain.life:
        before = None
    able = domain.can_balloon or not settings.on(Safety.ABLE_ONLY)
    aim = min(domain.target_pages, domain.max_pages)
    if before is None or not able or not before.able:
        moved_s = None if before is None else before.moved_s
        return Progress(aim, Approach(gap(domain.tot_pages, aim), now), able=able, moved_s=moved_s, life=domain.life)
    # A stuck domain is capped at what it holds; that does not mean that it has reached its aim.
    after = aimed(before, domain.tot_pages, domain.target_pages if before.stuck else aim, now)
    after = _forgive(after, domain.tot_pages)
    if after.approach.is_stuck(now, settings.stuck_after_s) and settings.on(Safety.LEAVE_OUT_STUCK):
        target = domain.target_pages
        approach = replace(after.approach, nearest_pages=gap(domain.tot_pages, target))
        return replace(after, stuck=True, aim_pages=target, approach=approach)
    return after


def aimed(before: Progress, tot_pages: int, aim_pages: int, now: float) -> Progress:
    """Judge a domain by its old aim, then give it this one, which may be the same."""
    distance = gap(tot_pages, before.aim_pages)
    approach = before.approach.seen(distance, now)
    if aim_pages == before.aim_pages:
        return before if approach is before.approach else replace(before, approach=approach, stuck=False)
    left = gap(tot_pages, aim_pages)
    same_way = (aim_pages > tot_pages) == (before.aim_pages > tot_pages)
    if approach is not before.approach or distance == 0 or not same_way or left == 0:
        return replace(before, aim_pages=aim_pages, approach=Approach(left, now), stuck=False)
    return replace(before, aim_pages=aim_pages, approach=replace(approach, nearest_pages=left))


def overdue(progress: Progress, settings: Settings, now: float) -> bool:
    """Whether a stuck domain's time is up."""
    return progress.able and progress.stuck and now - progress.approach.since_s >= settings.uncooperative_after_s


def refuse(progress: Progress, tot_pages: int, settings: Settings, now: float) -> Progress:
    """Remember what a domain would not go below, or above."""
    if not settings.on(Safety.REMEMBER_REFUSALS):
        return progress
    if tot_pages > progress.aim_pages:
        return replace(progress, least_pages=round_up(tot_pages), refused_s=now)
    return replace(progress, most_pages=round_down(tot_pages), refused_s=now)


def retry_due(progress: Progress, settings: Settings, now: float) -> bool:
    """Whether what a domain refused may be tried again."""
    return progress.refused and settings.on(Safety.RETRY) and now - progress.refused_s >= settings.retry_after_s


def _forgive(progress: Progress, tot_pages: int) -> Progress:
    """Forget what was refused by one that has moved beyond it since."""
    least, most = progress.least_pages, progress.most_pages
    beyond = (least is not None and tot_pages <= least - SUPER_PAGES) or (
        most is not None and tot_pages >= most + SUPER_PAGES
    )
    return replace(progress, least_pages=None, most_pages=None) if beyond else progress
