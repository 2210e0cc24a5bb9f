"""What the autoballoon daemon of a host says of its domains, for commands that can do without it."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from xbd.cli.common import group_socket
from xbd.client.blocking import connect
from xbd.client.discovery import NotRunning, find_socket
from xbd.client.runtime_dir import autoballoon_socket
from xbd.domain import DomainInfo
from xbd.errors import XbdError

# It answers in milliseconds; a command that can do without it waits no longer.
_PATIENCE_S: Final = 2.0


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


def autoballoon_status(socket_path: str | None) -> PolicyStatus:
    """Ask the autoballoon daemon beside the hypervisor's socket; what hinders that is told, not raised."""
    try:
        path = autoballoon_socket(find_socket(socket_path or group_socket(), os.environ).parent)
        with connect(path, patience_s=_PATIENCE_S) as client:
            status = client.call("status", timeout_s=_PATIENCE_S)
    except NotRunning:
        return PolicyStatus()
    except XbdError as error:
        return PolicyStatus(trouble=str(error))
    details, excluded = status.get("details"), status.get("excluded")
    return PolicyStatus(
        runs=True,
        domains=details if isinstance(details, dict) else {},
        excluded=frozenset(map(str, excluded)) if isinstance(excluded, list) else frozenset(),
    )
