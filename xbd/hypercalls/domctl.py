"""domctl: what is asked of one domain, and what is done to it."""

from collections.abc import Callable, Mapping
from typing import Final

from xbd.abi import MAX_DOMAIN_PAGES
from xbd.domain import DOM0, DomainInfo
from xbd.errors import HypercallError, NoSuchDomain
from xbd.hypercalls.caller import write_bitmap, write_bits
from xbd.hypercalls.context import Context
from xbd.hypercalls.host import cpu_time_ns, pack_domain
from xbd.units import PAGE_KIB

# Credit2's weight of a domain that was given none.
_WEIGHT: Final = 256
# An operation takes number and arguments; it returns the number of the domain that it was about, and its answer.
Answer = tuple[int, bytes]


def _check_another(domid: int) -> None:
    if domid == DOM0:
        raise HypercallError("dom0 does not do this to itself", "another domain")


def _destroy(at: Context, domid: int, _union: bytes) -> Answer:
    _check_another(domid)
    at.host.destroy(domid)
    return domid, b""


def _pause(at: Context, domid: int, _union: bytes) -> Answer:
    _check_another(domid)
    at.host.calls.pause(domid)
    return domid, b""


def _unpause(at: Context, domid: int, _union: bytes) -> Answer:
    at.host.calls.unpause(domid)
    return domid, b""


def _getdomaininfo(at: Context, domid: int, _union: bytes) -> Answer:
    """Describe the first domain whose number is at least the one that was asked for, as Xen does."""
    found = at.host.first_from(domid)
    if not found:
        raise NoSuchDomain(f"there is no domain {domid} or later", "a domain's number")
    return found[0].domid, pack_domain(found[0], at.release)


def _max_mem(at: Context, domid: int, union: bytes) -> Answer:
    pages = at.layout("max_mem").unpack(union)["max_memkb"] // PAGE_KIB
    at.host.calls.set_max(domid, min(pages, MAX_DOMAIN_PAGES))
    return domid, b""


def _getvcpuinfo(at: Context, domid: int, union: bytes) -> Answer:
    layout, domain = at.layout("getvcpuinfo"), at.host.recent(domid)
    vcpu = layout.unpack(union)["vcpu"]
    _check_vcpu(domain, vcpu)
    # The first one of dom0 is that which asks, and the first of each does what a guest does.
    is_asking = domid == DOM0 and vcpu == 0
    cpu_time = 0 if vcpu else cpu_time_ns(domain)
    return domid, layout.pack(vcpu=vcpu, online=1, blocked=not is_asking, running=is_asking, cpu_time=cpu_time, cpu=0)


def _check_vcpu(domain: DomainInfo, vcpu: int) -> None:
    if vcpu >= domain.vcpus:
        raise HypercallError(f"vcpu {vcpu} of d{domain.domid}", f"0 to {domain.vcpus - 1}")


def _getvcpuaffinity(at: Context, domid: int, union: bytes) -> Answer:
    """Tell that a vcpu runs on any processor."""
    asked = at.layout("vcpuaffinity").unpack(union)
    _check_vcpu(at.host.recent(domid), asked["vcpu"])
    kinds = {"hard": at.constant("XEN_VCPUAFFINITY_HARD"), "soft": at.constant("XEN_VCPUAFFINITY_SOFT")}
    if asked["flags"] & ~sum(kinds.values()) or not asked["flags"]:
        raise HypercallError(f"affinity flags {asked['flags']:#x}", "hard, soft or both")
    for kind, flag in kinds.items():
        if asked["flags"] & flag:
            write_bitmap(at.memory, asked[f"{kind}_bitmap"], asked[f"{kind}_nr_bits"], at.host.processors.count)
    return domid, at.layout("vcpuaffinity").pack(**asked)


def _getnodeaffinity(at: Context, domid: int, union: bytes) -> Answer:
    """Tell the nodes that a domain's memory should lie on; one without an affinity has all of them."""
    asked = at.layout("nodeaffinity").unpack(union)
    domain = at.host.recent(domid)
    nodes = domain.nodes or range(max(len(domain.node_pages), 1))
    write_bits(at.memory, asked["bitmap"], asked["nr_bits"], sum(1 << node for node in nodes))
    return domid, b""


def _scheduler_op(at: Context, domid: int, union: bytes) -> Answer:
    """Tell the scheduler's settings of a domain: all have the same."""
    layout = at.layout("domain_scheduler_op")
    asked = layout.unpack(union)
    at.host.recent(domid)
    if asked["sched_id"] != at.constant("XEN_SCHEDULER_CREDIT2"):
        raise HypercallError(f"scheduler {asked['sched_id']}", "credit2")
    if asked["cmd"] != at.constant("XEN_DOMCTL_SCHEDOP_getinfo"):
        raise HypercallError("weights are not kept", "to be asked for them", errno="EOPNOTSUPP")
    return domid, layout.pack(**{**asked, "weight": _WEIGHT, "cap": 0})


OPERATIONS: Final[Mapping[str, Callable[[Context, int, bytes], Answer]]] = {
    "XEN_DOMCTL_destroydomain": _destroy,
    "XEN_DOMCTL_pausedomain": _pause,
    "XEN_DOMCTL_unpausedomain": _unpause,
    "XEN_DOMCTL_getdomaininfo": _getdomaininfo,
    "XEN_DOMCTL_max_mem": _max_mem,
    "XEN_DOMCTL_getvcpuinfo": _getvcpuinfo,
    "XEN_DOMCTL_getvcpuaffinity": _getvcpuaffinity,
    "XEN_DOMCTL_getnodeaffinity": _getnodeaffinity,
    "XEN_DOMCTL_scheduler_op": _scheduler_op,
}
