"""What the page of `xbd web` is told of a domain and of its host, as values for JSON; pure.

What a guest reports is its own word: figures of it that make no sense are left out here, and its texts are texts to
whoever shows them.
"""

from collections.abc import Mapping
from typing import Any, Final

from xbd.control.explain import Reason, hindrances, target_reasons, workload_reasons
from xbd.control.policy_status import PolicyStatus
from xbd.domain import DomainInfo
from xbd.target_rules import is_reached

Row = dict[str, Any]
# Keys of the host's map that the page shows.
_HOST: Final = (
    *("name", "uuid", "version", "domains", "guests_wait", "frames", "free_frames", "claimed_frames"),
    *("superframes", "free_superframes", "shattered_superframes"),
)


def host_row(host: Mapping[str, Any]) -> Row:
    """Say what is shown of a host."""
    return {key: host.get(key) for key in _HOST}


def domain_row(domain: DomainInfo, host: Mapping[str, Any]) -> Row:
    """Say what the list of domains shows of one: figures in pages, and the most decisive reason why it is not at its target."""
    used, unmet = domain.used_pages, _count(domain.reported.get("unmet_pages"))
    reason = next(iter(hindrances(domain, host)), Reason("", ""))
    return {
        "domid": domain.domid,
        "name": domain.name,
        "life": domain.life,
        "state": domain.state,
        "held": domain.tot_pages,
        "target": domain.target_pages,
        "limit": domain.max_pages,
        "superpages": domain.leaves,
        "coverage": round(domain.superpage_coverage, 4),
        # By the guest's own word: what its programs and kernel hold, and what they asked for and did not get.
        "demand": None if used is None else used + (unmet or 0),
        "why": reason.text,
        "code": reason.code,
    }


def depends_on_host(domain: DomainInfo) -> bool:
    """Tell whether what is said of a domain may change although nothing of it does: the reason names what its host has."""
    return not is_reached(domain.tot_pages, domain.target_pages)


def domain_details(domain: DomainInfo, host: Mapping[str, Any], policy: PolicyStatus) -> Row:
    """Say all that is shown of one domain, beside its blocks: *word* is what its guest reports, as it came."""
    why_target = target_reasons(domain, policy.of(domain), excluded=domain.life in policy.excluded)
    reasons = [*why_target, *hindrances(domain, host), *workload_reasons(domain)]
    if policy.trouble:
        reasons.append(Reason("policy-unknown", f"what autoballoon decides is not known: {policy.trouble}"))
    return {
        **domain_row(domain, host),
        "type": domain.type,
        "least": domain.min_pages,
        "maximum": domain.static_max_pages,
        "gfn_count": domain.gfn_count,
        "claimed": domain.claimed_pages,
        "grants": domain.grants,
        "mapped_grants": domain.mapped_grants,
        "referenced": domain.referenced_pages,
        "mode": domain.mode,
        "agent": domain.agent,
        "started_at_s": domain.started_at_s,
        "hypercalls": dict(domain.hypercalls),
        "extents": dict(domain.extents),
        "reasons": [reason._asdict() for reason in reasons],
        "word": {str(name): _plain(figure) for name, figure in domain.reported.items()},
        "word_age_s": domain.report_age_s,
    }


def _plain(untrusted: object) -> object:
    """Keep what JSON has; anything else as text."""
    return untrusted if isinstance(untrusted, bool | int | str) or untrusted is None else str(untrusted)


def _count(untrusted: object) -> int | None:
    return untrusted if type(untrusted) is int and untrusted >= 0 else None
