"""A domain as the daemon describes it, as a typed value.

A client trusts its daemon, but the daemon may be of another version: a map that lacks a field needed here is a
`RemoteProtocolError`. All fields, known here or not, are kept as they came, for `--json` and `info`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from xbd.errors import RemoteProtocolError
from xbd.target_rules import static_max_pages

# Two of the states that a domain can be in; `methods` lists them all.
RUNNING: Final = "running"
ZOMBIE: Final = "zombie"
# The control domain's number.
DOM0: Final = 0


@dataclass(frozen=True, slots=True)
class DomainView:
    """A domain as the daemon listed it; *raw* is the whole map as it came."""

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
    raw: Mapping[str, Any]

    @property
    def static_max_pages(self) -> int:
        """Its maximum, in whole superframes (xl's static-max)."""
        return static_max_pages(self.gfn_count)

    @property
    def report(self) -> Mapping[str, Any]:
        """The last statistics that its guest reported, untrusted; empty when there were none."""
        untrusted = self.raw.get("report")
        return untrusted if isinstance(untrusted, dict) else {}

    @property
    def settings(self) -> Mapping[str, Any]:
        """The settings that its guest runs with."""
        settings = self.raw.get("guest")
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


def domain_view(raw: object) -> DomainView:
    """Read a domain map. Raises RemoteProtocolError: it is no map, or a field is missing or of another type."""
    if not isinstance(raw, dict):
        raise RemoteProtocolError(f"a domain of type {type(raw).__name__}", "a map")
    for name, kind in _FIELDS.items():
        if not isinstance(raw.get(name), kind):
            raise RemoteProtocolError(f"a domain whose {name} is {raw.get(name)!r:.80}", f"of type {kind.__name__}")
    return DomainView(**{name: raw[name] for name in _FIELDS}, raw=raw)
