"""Domains as the daemon would list them, for tests."""

from typing import Any

from xbd.domain import DomainInfo, read_domain

MIB = 256


def told(**changes: object) -> dict[str, Any]:
    """Make a domain map: 512 MiB, at its target, all superpages; *changes* replace entries."""
    return {
        "domid": 1,
        "name": "web1",
        "type": "pvh",
        "state": "running",
        "tot_pages": 512 * MIB,
        "target_pages": 512 * MIB,
        "min_pages": 0,
        "max_pages": 512 * MIB,
        "gfn_count": 512 * MIB,
        "leaves": 256,
        "superpage_coverage": 1.0,
        "grants": 0,
        "mapped_grants": 0,
        "referenced_pages": 0,
        "agent": True,
        "autostart": True,
        "mode": "normal",
        "guest": {"strategy": "full"},
        "hypercalls": {"decrease:done": 3},
        "extents": {"decrease": 1024},
        "report": None,
    } | changes


def domain(**changes: object) -> DomainInfo:
    """Make a view of a domain; see `told`."""
    return read_domain(told(**changes))
