"""Why a domain holds what it holds: its reasons, from what the daemons tell of it; pure.

A reason has a stable code, for programs, and a sentence. `xbd explain`, `xbd mem-set --wait`, `xbd wait` and `xbd top`
show these. What a guest reports is its own word and is called so; a number that makes no sense is left out.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from xbd.domain import HARD, PAUSED, RUNNING, ZOMBIE, DomainInfo, plays_trace
from xbd.target_rules import is_reached
from xbd.units import counted, format_pages

# How often Linux's driver tries before it gives up, for reports that do not say.
_LINUX_RETRIES: Final = 4
# The states of a worker that was refused memory.
_REFUSED: Final = ("cancelled", "again")
_NOTHING: Final[Mapping[str, Any]] = {}
# Why the policy left a domain alone: `Kept` in `xbd.policy.cases`, in words.
_POLICY: Final = {
    "headroom": "it should get more, but what is free beyond headroom, claims and reservations does not suffice",
    "threshold": "the change would be smaller than the policy's threshold",
    "interval": "it was moved just before; it is left alone until the policy's min_interval_s has passed",
    "two-phases": "it should get more, and waits until others have given up what they are to give",
    "unable": "it cannot balloon: no agent runs",
    "stuck": "it makes no progress, so the policy does not ask it for more",
}


def kept_words(kept: str) -> str:
    """Say why the policy left a domain alone, by the word of its status; nothing where it did not, or is content."""
    return _POLICY.get(kept, "")


class Reason(NamedTuple):
    """One reason: a *code* that stays, and a *text* for people, which may change."""

    code: str
    text: str


def target_reasons(domain: DomainInfo, policy: Mapping[str, Any] | None, *, excluded: bool = False) -> list[Reason]:
    """Say why its target is what it is; *policy*: what the autoballoon daemon's status says of it, None: it does not govern it; *excluded*: it was told to leave it out."""
    target = format_pages(domain.target_pages)
    if domain.target_set_by:
        reasons = [Reason("target-set-by", f"its target, {target}, was set by {domain.target_set_by}")]
    else:
        reasons = [
            Reason("target-set-by", f"who set its target, {target}, is not known since the hypervisor was started")
        ]
    if domain.target_pages == domain.min_pages:
        reasons.append(Reason("minimum", f"its target is its minimum, {target}: none is set below that"))
    if excluded:
        helps = f"`xbd autoballoon include {domain.name}` ends that"
        reasons.append(Reason("excluded", f"autoballoon was told to leave it out; {helps}"))
    return reasons if policy is None else [*reasons, *_policy_reasons(domain, policy)]


def _policy_reasons(domain: DomainInfo, policy: Mapping[str, Any]) -> Iterator[Reason]:
    yield Reason("governed", governed([domain.name]))
    verdict, goal = policy.get("verdict"), _count(policy, "goal_pages")
    if goal is not None:
        yield Reason("policy-goal", f"the policy finds it {verdict} and would have it hold {format_pages(goal)}")
    if isinstance(reason := policy.get("reason"), str) and reason:
        yield Reason("policy-reason", f"why: {reason}")
    for key, code, words in (("least_pages", "refused-floor", "below"), ("most_pages", "refused-ceiling", "above")):
        if (refused := _count(policy, key)) is not None:
            rest = _count(policy, "rests_s") or 0
            when = f"in {rest} s" if rest else "as soon as there is a reason"
            yield Reason(code, f"it refused to go {words} {format_pages(refused)}; it is asked again {when}")
    kept = policy.get("kept")
    if isinstance(kept, str) and kept in _POLICY:
        yield Reason(f"policy-{kept}", _POLICY[kept])


def governed(names: Sequence[str]) -> str:
    """Say that the autoballoon daemon may set other targets."""
    who = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return f"autoballoon governs {who} and may set another target; `xbd autoballoon exclude NAME` lets one keep its own"


def workload_reasons(domain: DomainInfo) -> list[Reason]:
    """Say what the trace that its guest plays wants and does not get, and what its agent cannot keep up with."""
    workload: Any = domain.guest.get("workload")
    if not plays_trace(domain.guest):
        return []
    report = domain.reported
    if not domain.agent:
        helps = "`xbd trace check` says whether the file can be played, its agent's log why it does not"
        return [Reason("trace", f"it is to play {workload['trace']}; {helps}")]
    reasons = [Reason("trace", f"it plays {workload['trace']}, at {_count(report, 'trace_s') or 0} s by its report")]
    if (unmet := _count(report, "unmet_pages")) is not None:
        denied = format_pages(_count(report, "pages_denied") or unmet)
        lacks = f"of what the trace asks for now it has not got {format_pages(unmet)}, since it booted {denied} were refused"
        reasons.append(Reason("demand-unmet", f"{lacks}; a higher target lets it hold what it asks for from then on"))
    late, skipped = _count(report, "ticks_late"), _count(report, "ticks_skipped")
    if late or skipped:
        ticks, worst = counted(_count(report, "ticks") or 0, "sample"), (_count(report, "tick_worst_ms") or 0) / 1000
        lags = f"its agent was late with {late or 0} of {ticks}, by {worst:g} s at worst, and left {skipped or 0} out"
        reasons.append(Reason("trace-lag", f"{lags}; a lower speed, or fewer guests, lets it keep up"))
    return reasons


def hindrances(domain: DomainInfo, host: Mapping[str, Any] = _NOTHING) -> list[Reason]:
    """Say why it does not hold what its target says, the most decisive first; nothing where it does.

    Args:
        domain: as it is told now.
        host: as it is told; without it nothing is said of what the host has.
    """
    if is_reached(domain.tot_pages, domain.target_pages):
        return []
    reasons = []
    if waits := host.get("guests_wait"):
        # An agent that connects anew waits for that, too.
        reasons.append(Reason("guests-wait", f"{waits}; no guest's calls are answered until that is over"))
    if not domain.agent or domain.state != RUNNING:
        return [*reasons, _no_agent(domain)]
    if domain.mode != "normal":
        mode = f"its guest's mode is {domain.mode!r}; `xbd guest-mode {domain.name} normal` ends that"
        reasons.append(Reason("mode", mode))
    grows = domain.target_pages > domain.tot_pages
    refused_by = "the host had no memory for it" if grows else "it had no free memory to give"
    if grows and domain.tot_pages >= domain.max_pages:
        refused_by = "it holds all that its limit lets it"
    reasons += _worker(domain, refused_by)
    reasons += _growing(domain, host) if grows else _shrinking(domain)
    if not reasons:
        moves = "gets" if grows else "gives up"
        reasons.append(
            Reason("moving", f"nothing hinders it that can be seen: its guest {moves} memory at its own pace")
        )
    return reasons


def why_stuck(domain: DomainInfo, host: Mapping[str, Any] = _NOTHING) -> str:
    """Say in one sentence why a domain makes no progress toward its target."""
    reasons = [reason for reason in hindrances(domain, host) if reason.code != "moving"]
    if reasons:
        return "; ".join(reason.text for reason in reasons)
    if domain.target_pages > domain.tot_pages:
        return "its guest gets no more memory, and what it reports does not say why"
    return f"its guest gives up no more, and what it reports does not say why; `xbd info {domain.name}` shows it"


def why_not(domain: DomainInfo, host: Mapping[str, Any] = _NOTHING) -> str:
    """Say in short why a domain is not at its target: the most decisive reason; nothing where it is."""
    return next((reason.text for reason in hindrances(domain, host)), "")


def _no_agent(domain: DomainInfo) -> Reason:
    if domain.state == ZOMBIE:
        kept = format_pages(domain.tot_pages)
        return Reason("zombie", f"it was destroyed, and others still map {kept} of it; it vanishes when they let go")
    if domain.state == PAUSED:
        return Reason("paused", f"it is paused; `xbd unpause {domain.name}` lets it go on")
    if domain.agent:
        return Reason("agent-silent", "its agent does not answer; is its process stopped, or its machine overloaded?")
    helps = f"start one with `xbd guest {domain.name}`"
    return Reason("no-agent", f"no agent is connected (the domain is {domain.state}); {helps}")


def _worker(domain: DomainInfo, refused_by: str) -> Iterator[Reason]:
    """Say what its balloon's worker waits for, by its report."""
    report = domain.reported
    match report.get("worker_state"):
        case "cancelled":
            times = counted(_count(report, "max_retry_count") or _LINUX_RETRIES, "refusal")
            if report.get("wake_when_told"):
                helps = "it goes on when there is, or when it is told its target again"
            else:
                helps = (
                    "as Linux's, it tries again only for another target: neither the same one nor free memory wakes it"
                )
            yield Reason("cancelled", f"its balloon was cancelled after {times}: {refused_by}; {helps}")
        case "again":
            delay = _count(report, "schedule_delay")
            when = f" in at most {delay} s" if delay else " later"
            yield Reason("backing-off", f"its balloon was refused memory and tries again{when}: {refused_by}")
        case "wait":
            yield Reason("slots", "its balloon waits until slots come back: all that it could get back is out as slots")


def _growing(domain: DomainInfo, host: Mapping[str, Any]) -> Iterator[Reason]:
    missing = domain.target_pages - domain.tot_pages
    if domain.max_pages < domain.target_pages:
        limit = format_pages(domain.max_pages)
        yield Reason("limit", f"its limit, {limit}, is below its target; `xbd mem-max {domain.name}` raises it")
    if nodes_full := _nodes_are_full(domain, host, missing):
        yield nodes_full
        return
    free, claimed = _count(host, "free_frames"), _count(host, "claimed_frames") or 0
    if free is not None and free - claimed + domain.claimed_pages < missing:
        others = max(claimed - domain.claimed_pages, 0)
        taken = f", {format_pages(others)} of that claimed for others" if others else ""
        lacks = f"it lacks {format_pages(missing)}, the host has {format_pages(free)} free{taken}"
        yield Reason("host-full", f"{lacks}; `xbd mem-set` others to less")
    elif free is not None and domain.reported.get("worker_state") in _REFUSED:
        yield Reason("host-free", f"the host has {format_pages(free)} free by now")
    slots = _count(domain.reported, "slots")
    if slots and domain.gfn_count - slots < domain.target_pages:
        yield Reason("slots", f"{format_pages(slots)} of it are slots for pages of other domains")


def _nodes_are_full(domain: DomainInfo, host: Mapping[str, Any], missing: int) -> Reason | None:
    """Say that the nodes that a domain's memory must lie on lack what it lacks, whatever others have; None: they do not."""
    nodes = host.get("nodes") or []
    if domain.affinity != HARD or not domain.nodes or max(domain.nodes) >= min(len(nodes), len(domain.node_claims)):
        return None
    rooms = [
        nodes[node]["free_frames"] - nodes[node]["claimed_frames"] + domain.node_claims[node] for node in domain.nodes
    ]
    if sum(max(room, 0) for room in rooms) >= missing:
        return None
    where = ", ".join(map(str, domain.nodes))
    free = format_pages(sum(nodes[node]["free_frames"] for node in domain.nodes))
    lacks = f"it lacks {format_pages(missing)}, and may lie on node {where} alone, where {free} are free"
    return Reason("node-full", f"{lacks}; `xbd mem-set` others there to less")


def _shrinking(domain: DomainInfo) -> Iterator[Reason]:
    used, aim = domain.used_pages, _count(domain.reported, "aim_pages")
    if used is not None and used > domain.target_pages:
        holds = f"its programs and kernel hold {format_pages(used)}, by its report"
        yield Reason("guest-holds", f"{holds}, which is more than its target, {format_pages(domain.target_pages)}")
    if aim is not None and aim > domain.target_pages and domain.mode == "normal":
        yield Reason("driver-floor", f"its balloon driver goes no lower than {format_pages(aim)}")
    if domain.referenced_pages:
        mapped = format_pages(domain.referenced_pages)
        yield Reason("mapped-by-others", f"others map {mapped} of it, which it cannot give up before they let go")
    if domain.mapped_grants:
        yield Reason("maps-others", f"it maps {counted(domain.mapped_grants, 'page')} of others in its slots")


def _count(untrusted: Mapping[str, Any], key: str) -> int | None:
    """Read a number of something; None: there is none that makes sense."""
    found = untrusted.get(key)
    return found if type(found) is int and found > 0 else None
