"""What the autoballoon daemon's `status` says of a host's domains, read; pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from xbd.domain import DomainInfo


@dataclass(frozen=True, slots=True)
class PolicyStatus:
    """Whether the daemon *runs*, what it says of each domain (by domid), who is excluded (by life), and the *trouble* with asking it, a sentence."""

    runs: bool = False
    domains: Mapping[str, Any] = field(default_factory=dict)
    trouble: str = ""
    excluded: frozenset[str] = frozenset()

    def of(self, domain: DomainInfo) -> Mapping[str, Any] | None:
        """Return what it says of a domain; None: it does not govern it, or is not known to."""
        told = self.domains.get(str(domain.domid))
        return told if isinstance(told, dict) and told.get("life") in (None, domain.life) else None


def read_status(raw: Mapping[str, Any]) -> PolicyStatus:
    """Read the answer to `status`; what is not as it should be is left out."""
    details, excluded = raw.get("details"), raw.get("excluded")
    return PolicyStatus(
        runs=True,
        domains=details if isinstance(details, dict) else {},
        excluded=frozenset(map(str, excluded)) if isinstance(excluded, list) else frozenset(),
    )
