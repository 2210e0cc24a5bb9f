"""The layouts of Xen 4.17's interface to tools on x86-64, made by `tests/hypercalls/make_layouts.py`: do not edit.

A struct has its size and, by field, offset and size, all in bytes.
"""

from collections.abc import Mapping
from typing import Final

from xbd.hypercalls.layout import Structs

STRUCTS: Final[Structs] = {
    "multicall_entry": (
        64,
        {
            "op": (0, 8),
            "result": (8, 8),
            "args": (16, 48),
        },
    ),
    "compile_info": (
        144,
        {
            "compiler": (0, 64),
            "compile_by": (64, 16),
            "compile_domain": (80, 32),
            "compile_date": (112, 32),
        },
    ),
    "platform_parameters": (
        8,
        {
            "virt_start": (0, 8),
        },
    ),
    "feature_info": (
        8,
        {
            "submap_idx": (0, 4),
            "submap": (4, 4),
        },
    ),
    "pod_target": (
        40,
        {
            "target_pages": (0, 8),
            "tot_pages": (8, 8),
            "pod_cache_pages": (16, 8),
            "pod_entries": (24, 8),
            "domid": (32, 2),
        },
    ),
    "memory_reservation": (
        32,
        {
            "extent_start": (0, 8),
            "nr_extents": (8, 8),
            "extent_order": (16, 4),
            "mem_flags": (20, 4),
            "domid": (24, 2),
        },
    ),
    "sysctl": (
        136,
        {
            "cmd": (0, 4),
            "interface_version": (4, 4),
            "u": (8, 128),
        },
    ),
    "readconsole": (
        24,
        {
            "clear": (0, 1),
            "incremental": (1, 1),
            "index": (4, 4),
            "buffer": (8, 8),
            "count": (16, 4),
        },
    ),
    "physinfo": (
        112,
        {
            "threads_per_core": (0, 4),
            "cores_per_socket": (4, 4),
            "nr_cpus": (8, 4),
            "max_cpu_id": (12, 4),
            "nr_nodes": (16, 4),
            "max_node_id": (20, 4),
            "cpu_khz": (24, 4),
            "capabilities": (28, 4),
            "arch_capabilities": (32, 4),
            "total_pages": (40, 8),
            "free_pages": (48, 8),
            "scrub_pages": (56, 8),
            "outstanding_pages": (64, 8),
            "max_mfn": (72, 8),
            "hw_cap": (80, 32),
        },
    ),
    "sched_id": (
        4,
        {
            "sched_id": (0, 4),
        },
    ),
    "getdomaininfolist": (
        24,
        {
            "first_domain": (0, 2),
            "max_domains": (4, 4),
            "buffer": (8, 8),
            "num_domains": (16, 4),
        },
    ),
    "cpuinfo": (
        8,
        {
            "idletime": (0, 8),
        },
    ),
    "getcpuinfo": (
        24,
        {
            "max_cpus": (0, 4),
            "info": (8, 8),
            "nr_cpus": (16, 4),
        },
    ),
    "availheap": (
        24,
        {
            "min_bitwidth": (0, 4),
            "max_bitwidth": (4, 4),
            "node": (8, 4),
            "avail_bytes": (16, 8),
        },
    ),
    "cputopo": (
        12,
        {
            "core": (0, 4),
            "socket": (4, 4),
            "node": (8, 4),
        },
    ),
    "cputopoinfo": (
        16,
        {
            "num_cpus": (0, 4),
            "cputopo": (8, 8),
        },
    ),
    "meminfo": (
        16,
        {
            "memsize": (0, 8),
            "memfree": (8, 8),
        },
    ),
    "numainfo": (
        24,
        {
            "num_nodes": (0, 4),
            "meminfo": (8, 8),
            "distance": (16, 8),
        },
    ),
    "pcitopoinfo": (
        24,
        {
            "num_devs": (0, 4),
            "devs": (8, 8),
            "nodes": (16, 8),
        },
    ),
    "cpupool_op": (
        40,
        {
            "op": (0, 4),
            "cpupool_id": (4, 4),
            "sched_id": (8, 4),
            "domid": (12, 4),
            "cpu": (16, 4),
            "n_dom": (20, 4),
            "bitmap": (24, 8),
            "nr_bits": (32, 4),
        },
    ),
    "scheduler_op": (
        32,
        {
            "cpupool_id": (0, 4),
            "sched_id": (4, 4),
            "cmd": (8, 4),
            "ratelimit_us": (16, 4),
        },
    ),
    "domctl": (
        144,
        {
            "cmd": (0, 4),
            "interface_version": (4, 4),
            "domain": (8, 2),
            "u": (16, 128),
        },
    ),
    "getdomaininfo": (
        112,
        {
            "domain": (0, 2),
            "flags": (4, 4),
            "tot_pages": (8, 8),
            "max_pages": (16, 8),
            "outstanding_pages": (24, 8),
            "shr_pages": (32, 8),
            "paged_pages": (40, 8),
            "shared_info_frame": (48, 8),
            "cpu_time": (56, 8),
            "nr_online_vcpus": (64, 4),
            "max_vcpu_id": (68, 4),
            "ssidref": (72, 4),
            "handle": (76, 16),
            "cpupool": (92, 4),
            "gpaddr_bits": (96, 1),
        },
    ),
    "max_mem": (
        8,
        {
            "max_memkb": (0, 8),
        },
    ),
    "getvcpuinfo": (
        24,
        {
            "vcpu": (0, 4),
            "online": (4, 1),
            "blocked": (5, 1),
            "running": (6, 1),
            "cpu_time": (8, 8),
            "cpu": (16, 4),
        },
    ),
    "vcpuaffinity": (
        40,
        {
            "vcpu": (0, 4),
            "flags": (4, 4),
            "hard_bitmap": (8, 8),
            "hard_nr_bits": (16, 4),
            "soft_bitmap": (24, 8),
            "soft_nr_bits": (32, 4),
        },
    ),
    "nodeaffinity": (
        16,
        {
            "bitmap": (0, 8),
            "nr_bits": (8, 4),
        },
    ),
    "domain_scheduler_op": (
        24,
        {
            "sched_id": (0, 4),
            "cmd": (4, 4),
            "weight": (8, 2),
            "cap": (10, 2),
        },
    ),
}

CONSTANTS: Final[Mapping[str, int]] = {
    "XEN_SYSCTL_readconsole": 1,
    "XEN_SYSCTL_physinfo": 3,
    "XEN_SYSCTL_sched_id": 4,
    "XEN_SYSCTL_getdomaininfolist": 6,
    "XEN_SYSCTL_getcpuinfo": 8,
    "XEN_SYSCTL_availheap": 9,
    "XEN_SYSCTL_get_pmstat": 10,
    "XEN_SYSCTL_pm_op": 12,
    "XEN_SYSCTL_cputopoinfo": 16,
    "XEN_SYSCTL_numainfo": 17,
    "XEN_SYSCTL_cpupool_op": 18,
    "XEN_SYSCTL_scheduler_op": 19,
    "XEN_SYSCTL_pcitopoinfo": 22,
    "XEN_SYSCTL_INTERFACE_VERSION": 21,
    "XEN_SYSCTL_CPUPOOL_OP_INFO": 3,
    "XEN_SYSCTL_CPUPOOL_OP_FREEINFO": 7,
    "XEN_SYSCTL_SCHEDOP_getinfo": 1,
    "XEN_SYSCTL_PHYSCAP_hvm": 1,
    "XEN_SYSCTL_PHYSCAP_pv": 2,
    "XEN_SYSCTL_PHYSCAP_hap": 8,
    "XEN_SYSCTL_PHYSCAP_gnttab_v1": 256,
    "XEN_SYSCTL_PHYSCAP_gnttab_v2": 512,
    "XEN_DOMCTL_destroydomain": 2,
    "XEN_DOMCTL_pausedomain": 3,
    "XEN_DOMCTL_unpausedomain": 4,
    "XEN_DOMCTL_getdomaininfo": 5,
    "XEN_DOMCTL_max_mem": 11,
    "XEN_DOMCTL_getvcpuinfo": 14,
    "XEN_DOMCTL_scheduler_op": 16,
    "XEN_DOMCTL_getvcpuaffinity": 25,
    "XEN_DOMCTL_getnodeaffinity": 69,
    "XEN_DOMCTL_INTERFACE_VERSION": 21,
    "XEN_DOMCTL_SCHEDOP_getinfo": 1,
    "__HYPERVISOR_memory_op": 12,
    "__HYPERVISOR_multicall": 13,
    "__HYPERVISOR_xen_version": 17,
    "__HYPERVISOR_sysctl": 35,
    "__HYPERVISOR_domctl": 36,
    "XENMEM_maximum_ram_page": 2,
    "XENMEM_current_reservation": 3,
    "XENMEM_maximum_reservation": 4,
    "XENMEM_set_pod_target": 16,
    "XENMEM_get_pod_target": 17,
    "XENMEM_get_sharing_freed_pages": 18,
    "XENMEM_get_sharing_shared_pages": 19,
    "XENMEM_claim_pages": 24,
    "XENVER_version": 0,
    "XENVER_extraversion": 1,
    "XENVER_compile_info": 2,
    "XENVER_capabilities": 3,
    "XENVER_changeset": 4,
    "XENVER_platform_parameters": 5,
    "XENVER_get_features": 6,
    "XENVER_pagesize": 7,
    "XENVER_guest_handle": 8,
    "XENVER_commandline": 9,
    "XENVER_build_id": 10,
    "XEN_EXTRAVERSION_LEN": 16,
    "XEN_CAPABILITIES_INFO_LEN": 1024,
    "XEN_CHANGESET_INFO_LEN": 64,
    "DOMID_SELF": 32752,
    "DOMID_FIRST_RESERVED": 32752,
    "XEN_SCHEDULER_CREDIT2": 6,
    "XEN_INVALID_DEV": 4294967294,
    "XEN_VCPUAFFINITY_HARD": 1,
    "XEN_VCPUAFFINITY_SOFT": 2,
    "XEN_DOMINF_dying": 1,
    "XEN_DOMINF_hvm_guest": 2,
    "XEN_DOMINF_shutdown": 4,
    "XEN_DOMINF_paused": 8,
    "XEN_DOMINF_blocked": 16,
    "XEN_DOMINF_running": 32,
    "XEN_DOMINF_hap": 256,
    "XEN_DOMINF_shutdownshift": 16,
    "SHUTDOWN_poweroff": 0,
    "SHUTDOWN_reboot": 1,
    "SHUTDOWN_crash": 3,
}
