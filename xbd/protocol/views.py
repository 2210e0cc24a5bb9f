"""What the daemon says of its host and domains, as values.

The daemon is trusted, its version may not be: a map that lacks what is needed here is a
`RemoteProtocolError`, everything else in it is kept as it came, for `--json` and `info`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from xbd.errors import RemoteProtocolError
from xbd.units import SUPER_PAGES

# States of a domain in which nobody will move it.
RUNNING: Final = "running"
ZOMBIE: Final = "zombie"
# The control domain's number.
DOM0: Final = 0


@dataclass(frozen=True, slots=True)
class DomainView:
    """A domain as the daemon listed it; *told* is the whole map."""

    domid: int
    name: str
    type: str
    state: str
    tot_pages: int
    target_pages: int
    min_pages: int
    max_pages: int
    gfn_count: int
    superpage_coverage: float
    leaves: int
    agent: bool
    told: Mapping[str, Any]

    @property
    def static_max_pages(self) -> int:
        """The most that it can ever have, in whole superframes (xl's static-max)."""
        return -(-self.gfn_count // SUPER_PAGES) * SUPER_PAGES

    @property
    def report(self) -> Mapping[str, Any]:
        """What its guest last said of itself, untrusted; empty when it has said nothing."""
        untrusted = self.told.get("report")
        return untrusted if isinstance(untrusted, dict) else {}

    @property
    def settings(self) -> Mapping[str, Any]:
        """The settings that its guest runs with."""
        settings = self.told.get("guest")
        return settings if isinstance(settings, dict) else {}


_FIELDS: Final[dict[str, type]] = {
    "domid": int,
    "name": str,
    "type": str,
    "state": str,
    "tot_pages": int,
    "target_pages": int,
    "min_pages": int,
    "max_pages": int,
    "gfn_count": int,
    "superpage_coverage": float,
    "leaves": int,
    "agent": bool,
}


def domain_view(told: object) -> DomainView:
    """Read a domain map. Raises RemoteProtocolError when something that is needed is missing."""
    if not isinstance(told, dict):
        raise RemoteProtocolError(f"a domain of type {type(told).__name__}", "a map")
    for name, kind in _FIELDS.items():
        if not isinstance(told.get(name), kind):
            raise RemoteProtocolError(f"a domain whose {name} is {told.get(name)!r:.80}", f"of type {kind.__name__}")
    return DomainView(**{name: told[name] for name in _FIELDS}, told=told)
