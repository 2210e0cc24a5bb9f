"""sysctl: what is asked of the host."""

from collections.abc import Callable, Mapping
from typing import Final

from xbd.errors import HypercallError
from xbd.hypercalls.caller import write_array, write_bitmap
from xbd.hypercalls.context import Context
from xbd.hypercalls.host import nodes_of, pack_domain
from xbd.units import PAGE_BYTES

# So many PCI devices are looked at in a call.
_MAX_DEVICES: Final = 1024
# Credit2's.
_RATELIMIT_US: Final = 1000
# The console's index has 32 bits.
_INDEXES: Final = 1 << 32
# -1 as it lies in a field without a sign.
_ANY_NODE: Final = (1 << 32) - 1
_CAPABILITIES: Final = ("hvm", "pv", "hap", "gnttab_v1", "gnttab_v2")


def _physinfo(at: Context, _union: bytes) -> bytes:
    host, processors = at.host.calls.host(), at.host.processors
    capabilities = sum(at.constant(f"XEN_SYSCTL_PHYSCAP_{name}") for name in _CAPABILITIES)
    return at.layout("physinfo").pack(
        threads_per_core=1,
        cores_per_socket=processors.count,
        nr_cpus=processors.count,
        max_cpu_id=processors.count - 1,
        nr_nodes=len(nodes_of(host)),
        max_node_id=len(nodes_of(host)) - 1,
        cpu_khz=processors.khz,
        capabilities=capabilities,
        total_pages=host["frames"],
        free_pages=host["free_frames"],
        outstanding_pages=host["claimed_frames"],
        max_mfn=host["frames"] - 1,
    )


def _sched_id(at: Context, _union: bytes) -> bytes:
    return at.layout("sched_id").pack(sched_id=at.constant("XEN_SCHEDULER_CREDIT2"))


def _getdomaininfolist(at: Context, union: bytes) -> bytes:
    layout = at.layout("getdomaininfolist")
    asked = layout.unpack(union)
    first, most = asked["first_domain"], asked["max_domains"]
    if most == 1:
        domains = at.host.first_from(first) if first < at.constant("DOMID_FIRST_RESERVED") else []
    else:
        domains = [one for one in at.host.all() if one.domid >= first][:most]
    write_array(at.memory, asked["buffer"], b"".join(pack_domain(one, at.release) for one in domains))
    return layout.pack(**{**asked, "num_domains": len(domains)})


def _readconsole(at: Context, union: bytes) -> bytes:
    """Show the last lines of the daemon's log as those of its console; it was read up to *index* before."""
    layout = at.layout("readconsole")
    asked = layout.unpack(union)
    if asked["clear"]:
        raise HypercallError("the daemon's log is not cleared", "to be read alone", errno="EPERM")
    text, first = at.host.calls.console()
    # A byte for each character: the numbers are those of characters.
    lines = text.encode("ascii", "replace")
    start = max(asked["index"] - first, 0) if asked["incremental"] else max(len(lines) - asked["count"], 0)
    shown = lines[start : start + asked["count"]]
    write_array(at.memory, asked["buffer"], shown)
    index = (first + start + len(shown)) % _INDEXES
    return layout.pack(**{**asked, "index": index, "count": len(shown)})


def _getcpuinfo(at: Context, union: bytes) -> bytes:
    """Count processors; how long each was idle is not known of an emulated one."""
    layout = at.layout("getcpuinfo")
    asked = layout.unpack(union)
    count = min(asked["max_cpus"], at.host.processors.count)
    write_array(at.memory, asked["info"], at.layout("cpuinfo").pack() * count)
    return layout.pack(**{**asked, "nr_cpus": count})


def _availheap(at: Context, union: bytes) -> bytes:
    """Tell what is free of the host, or of a node that is asked for."""
    layout = at.layout("availheap")
    asked = layout.unpack(union)
    host = at.host.calls.host()
    nodes = nodes_of(host)
    if asked["node"] >= len(nodes) and asked["node"] != _ANY_NODE:
        raise HypercallError(f"node {asked['node']}", f"0 to {len(nodes) - 1}, or -1 for the host")
    free = host["free_frames"] if asked["node"] == _ANY_NODE else nodes[asked["node"]]["free_frames"]
    return layout.pack(**{**asked, "avail_bytes": free * PAGE_BYTES})


def _no_power(_at: Context, _union: bytes) -> bytes:
    raise HypercallError("no power is managed", "another question", errno="ENODEV")


def _cputopoinfo(at: Context, union: bytes) -> bytes:
    layout, count = at.layout("cputopoinfo"), at.host.processors.count
    asked = layout.unpack(union)
    if asked["cputopo"]:
        told = b"".join(at.layout("cputopo").pack(core=number) for number in range(min(asked["num_cpus"], count)))
        write_array(at.memory, asked["cputopo"], told)
    return layout.pack(**{**asked, "num_cpus": count})


def _numainfo(at: Context, union: bytes) -> bytes:
    layout = at.layout("numainfo")
    asked = layout.unpack(union)
    nodes = nodes_of(at.host.calls.host())
    # A table of distances has as many columns as it has rows. Who has room for nothing asks how many there are.
    told = nodes[: asked["num_nodes"]] if asked["meminfo"] or asked["distance"] else nodes
    if asked["meminfo"]:
        sizes = [(int(node["frames"]) * PAGE_BYTES, int(node["free_frames"]) * PAGE_BYTES) for node in told]
        packed = [at.layout("meminfo").pack(memsize=size, memfree=free) for size, free in sizes]
        write_array(at.memory, asked["meminfo"], b"".join(packed))
    if asked["distance"]:
        distances = [int(distance) for node in told for distance in node["distances"][: len(told)]]
        write_array(at.memory, asked["distance"], b"".join(one.to_bytes(4, "little") for one in distances))
    return layout.pack(**{**asked, "num_nodes": len(told)})


def _pcitopoinfo(at: Context, union: bytes) -> bytes:
    """Tell that no device is Xen's."""
    layout = at.layout("pcitopoinfo")
    asked = layout.unpack(union)
    count = min(asked["num_devs"], _MAX_DEVICES)
    write_array(at.memory, asked["nodes"], at.constant("XEN_INVALID_DEV").to_bytes(4, "little") * count)
    return layout.pack(**{**asked, "num_devs": count})


def _cpupool_op(at: Context, union: bytes) -> bytes:
    """Tell of the one pool, which has all processors and all domains."""
    layout = at.layout("cpupool_op")
    asked = layout.unpack(union)
    if asked["op"] == at.constant("XEN_SYSCTL_CPUPOOL_OP_FREEINFO"):
        write_bitmap(at.memory, asked["bitmap"], asked["nr_bits"], 0)
        return layout.pack(**asked)
    if asked["op"] != at.constant("XEN_SYSCTL_CPUPOOL_OP_INFO"):
        raise HypercallError("there is one cpupool, and it stays as it is", "to be asked for it", errno="EOPNOTSUPP")
    if asked["cpupool_id"]:
        raise HypercallError(f"no cpupool {asked['cpupool_id']} or later", "0", errno="ENOENT")
    write_bitmap(at.memory, asked["bitmap"], asked["nr_bits"], at.host.processors.count)
    told = {"cpupool_id": 0, "sched_id": at.constant("XEN_SCHEDULER_CREDIT2"), "n_dom": at.host.calls.host()["domains"]}
    return layout.pack(**{**asked, **told})


def _scheduler_op(at: Context, union: bytes) -> bytes:
    layout = at.layout("scheduler_op")
    asked = layout.unpack(union)
    if asked["cpupool_id"]:
        raise HypercallError(f"no cpupool {asked['cpupool_id']}", "0", errno="ESRCH")
    if asked["sched_id"] != at.constant("XEN_SCHEDULER_CREDIT2"):
        raise HypercallError(f"scheduler {asked['sched_id']}", "credit2")
    if asked["cmd"] != at.constant("XEN_SYSCTL_SCHEDOP_getinfo"):
        raise HypercallError("the scheduler stays as it is", "to be asked for it", errno="EOPNOTSUPP")
    return layout.pack(**{**asked, "ratelimit_us": _RATELIMIT_US})


OPERATIONS: Final[Mapping[str, Callable[[Context, bytes], bytes]]] = {
    "XEN_SYSCTL_readconsole": _readconsole,
    "XEN_SYSCTL_physinfo": _physinfo,
    "XEN_SYSCTL_sched_id": _sched_id,
    "XEN_SYSCTL_getdomaininfolist": _getdomaininfolist,
    "XEN_SYSCTL_getcpuinfo": _getcpuinfo,
    "XEN_SYSCTL_availheap": _availheap,
    "XEN_SYSCTL_get_pmstat": _no_power,
    "XEN_SYSCTL_pm_op": _no_power,
    "XEN_SYSCTL_cputopoinfo": _cputopoinfo,
    "XEN_SYSCTL_numainfo": _numainfo,
    "XEN_SYSCTL_cpupool_op": _cpupool_op,
    "XEN_SYSCTL_scheduler_op": _scheduler_op,
    "XEN_SYSCTL_pcitopoinfo": _pcitopoinfo,
}
