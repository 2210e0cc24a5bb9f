"""memory_op: the operations that tools ask for. Guests have theirs on their own sockets."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from xbd.abi import DomainType
from xbd.domain import DomainInfo
from xbd.errors import HypercallError
from xbd.hypercalls.context import Context

# What a claim's struct says beside its pages.
_ONE_PAGE: Final = 0


def _pod_target(at: Context, address: int) -> tuple[dict[str, Any], DomainInfo]:
    """Read a pod_target; returns it, and its domain. Raises HypercallError: it is a PV one; NoSuchDomain, BadAddress."""
    asked = at.layout("pod_target").unpack(at.read("pod_target", address))
    domain = at.domain(asked["domid"])
    if domain.type == DomainType.PV:
        raise HypercallError(f"d{domain.domid} is a PV domain, and has no PoD target", "a translated domain")
    return asked, domain


def _set_pod_target(at: Context, address: int) -> int:
    """Check a target against the limit, and tell what the domain has: without PoD entries Xen moves nothing either."""
    asked, domain = _pod_target(at, address)
    if asked["target_pages"] > domain.max_pages:
        raise HypercallError(f"a target of {asked['target_pages']} pages", f"at most {domain.max_pages}, its limit")
    return _tell_pod_target(at, address, asked, domain.tot_pages)


def _get_pod_target(at: Context, address: int) -> int:
    asked, domain = _pod_target(at, address)
    return _tell_pod_target(at, address, asked, domain.tot_pages)


def _tell_pod_target(at: Context, address: int, asked: dict[str, Any], tot_pages: int) -> int:
    told = {**asked, "tot_pages": tot_pages, "pod_cache_pages": 0, "pod_entries": 0}
    at.memory.write(address, at.layout("pod_target").pack(**told))
    return 0


def _reservation(at: Context, address: int) -> DomainInfo:
    return at.domain(int.from_bytes(at.memory.read(address, 2), "little"))


def _claim(at: Context, address: int) -> int:
    asked = at.layout("memory_reservation").unpack(at.read("memory_reservation", address))
    if asked["extent_order"] != _ONE_PAGE or asked["extent_start"] or asked["mem_flags"]:
        raise HypercallError("a claim of extents", "a number of pages alone")
    at.host.calls.claim(at.domid(asked["domid"]), asked["nr_extents"])
    return 0


OPERATIONS: Final[Mapping[str, Callable[[Context, int], int]]] = {
    "XENMEM_maximum_ram_page": lambda at, _from: int(at.host.calls.host()["frames"]) - 1,
    "XENMEM_current_reservation": lambda at, whose: int(_reservation(at, whose).tot_pages),
    "XENMEM_maximum_reservation": lambda at, whose: int(_reservation(at, whose).max_pages),
    "XENMEM_set_pod_target": _set_pod_target,
    "XENMEM_get_pod_target": _get_pod_target,
    # No page is shared between domains.
    "XENMEM_get_sharing_freed_pages": lambda _at, _from: 0,
    "XENMEM_get_sharing_shared_pages": lambda _at, _from: 0,
    "XENMEM_claim_pages": _claim,
}
