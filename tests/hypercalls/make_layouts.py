"""Make the layouts of a Xen release, `xbd/hypercalls/release_4_17.py`, from its public headers and a C compiler.

    python -m tests.hypercalls.make_layouts INCLUDE | ruff format --line-length 120 - > xbd/hypercalls/release_4_17.py

INCLUDE is the directory that has `xen/xen.h`: Debian's libxen-dev has it in /usr/include. The compiler tells each
offset and size, so none is written by hand.
"""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

HEADERS: Final = ("xen.h", "version.h", "memory.h", "sysctl.h", "domctl.h", "sched.h", "errno.h")
# The name that the decoder uses: the C type and its fields, each where it has another name as `name=member`.
STRUCTS: Final[Mapping[str, tuple[str, str]]] = {
    "multicall_entry": ("struct multicall_entry", "op result args"),
    "compile_info": ("struct xen_compile_info", "compiler compile_by compile_domain compile_date"),
    "platform_parameters": ("struct xen_platform_parameters", "virt_start"),
    "feature_info": ("struct xen_feature_info", "submap_idx submap"),
    "pod_target": ("struct xen_pod_target", "target_pages tot_pages pod_cache_pages pod_entries domid"),
    "memory_reservation": ("struct xen_memory_reservation", "extent_start nr_extents extent_order mem_flags domid"),
    "sysctl": ("struct xen_sysctl", "cmd interface_version u"),
    "readconsole": ("struct xen_sysctl_readconsole", "clear incremental index buffer count"),
    "physinfo": (
        "struct xen_sysctl_physinfo",
        (
            "threads_per_core cores_per_socket nr_cpus max_cpu_id nr_nodes max_node_id cpu_khz capabilities "
            "arch_capabilities total_pages free_pages scrub_pages outstanding_pages max_mfn hw_cap"
        ),
    ),
    "sched_id": ("struct xen_sysctl_sched_id", "sched_id"),
    "getdomaininfolist": ("struct xen_sysctl_getdomaininfolist", "first_domain max_domains buffer num_domains"),
    "cpuinfo": ("struct xen_sysctl_cpuinfo", "idletime"),
    "getcpuinfo": ("struct xen_sysctl_getcpuinfo", "max_cpus info nr_cpus"),
    "availheap": ("struct xen_sysctl_availheap", "min_bitwidth max_bitwidth node avail_bytes"),
    "cputopo": ("struct xen_sysctl_cputopo", "core socket node"),
    "cputopoinfo": ("struct xen_sysctl_cputopoinfo", "num_cpus cputopo"),
    "meminfo": ("struct xen_sysctl_meminfo", "memsize memfree"),
    "numainfo": ("struct xen_sysctl_numainfo", "num_nodes meminfo distance"),
    "pcitopoinfo": ("struct xen_sysctl_pcitopoinfo", "num_devs devs nodes"),
    "cpupool_op": (
        "struct xen_sysctl_cpupool_op",
        "op cpupool_id sched_id domid cpu n_dom bitmap=cpumap.bitmap nr_bits=cpumap.nr_bits",
    ),
    "scheduler_op": (
        "struct xen_sysctl_scheduler_op",
        "cpupool_id sched_id cmd ratelimit_us=u.sched_credit2.ratelimit_us",
    ),
    "domctl": ("struct xen_domctl", "cmd interface_version domain u"),
    "getdomaininfo": (
        "struct xen_domctl_getdomaininfo",
        (
            "domain flags tot_pages max_pages outstanding_pages shr_pages paged_pages shared_info_frame cpu_time "
            "nr_online_vcpus max_vcpu_id ssidref handle cpupool gpaddr_bits"
        ),
    ),
    "max_mem": ("struct xen_domctl_max_mem", "max_memkb"),
    "getvcpuinfo": ("struct xen_domctl_getvcpuinfo", "vcpu online blocked running cpu_time cpu"),
    "vcpuaffinity": (
        "struct xen_domctl_vcpuaffinity",
        (
            "vcpu flags hard_bitmap=cpumap_hard.bitmap hard_nr_bits=cpumap_hard.nr_bits "
            "soft_bitmap=cpumap_soft.bitmap soft_nr_bits=cpumap_soft.nr_bits"
        ),
    ),
    "nodeaffinity": ("struct xen_domctl_nodeaffinity", "bitmap=nodemap.bitmap nr_bits=nodemap.nr_bits"),
    "domain_scheduler_op": (
        "struct xen_domctl_scheduler_op",
        "sched_id cmd weight=u.credit2.weight cap=u.credit2.cap",
    ),
}
# Numbers that the decoder uses, by their C names.
_SYSCTLS: Final = (
    "readconsole physinfo sched_id getdomaininfolist getcpuinfo availheap get_pmstat pm_op cputopoinfo numainfo "
    "cpupool_op scheduler_op pcitopoinfo INTERFACE_VERSION CPUPOOL_OP_INFO CPUPOOL_OP_FREEINFO SCHEDOP_getinfo "
    "PHYSCAP_hvm PHYSCAP_pv PHYSCAP_hap PHYSCAP_gnttab_v1 PHYSCAP_gnttab_v2"
)
_DOMCTLS: Final = (
    "destroydomain pausedomain unpausedomain getdomaininfo max_mem getvcpuinfo scheduler_op getvcpuaffinity "
    "getnodeaffinity INTERFACE_VERSION SCHEDOP_getinfo"
)
_OTHERS: Final = (
    "__HYPERVISOR_memory_op __HYPERVISOR_multicall __HYPERVISOR_xen_version __HYPERVISOR_sysctl __HYPERVISOR_domctl "
    "XENMEM_maximum_ram_page XENMEM_current_reservation XENMEM_maximum_reservation XENMEM_set_pod_target "
    "XENMEM_get_pod_target XENMEM_get_sharing_freed_pages XENMEM_get_sharing_shared_pages XENMEM_claim_pages "
    "XENVER_version XENVER_extraversion XENVER_compile_info XENVER_capabilities XENVER_changeset "
    "XENVER_platform_parameters XENVER_get_features XENVER_pagesize XENVER_guest_handle XENVER_commandline "
    "XENVER_build_id XEN_EXTRAVERSION_LEN XEN_CAPABILITIES_INFO_LEN XEN_CHANGESET_INFO_LEN DOMID_SELF "
    "DOMID_FIRST_RESERVED XEN_SCHEDULER_CREDIT2 XEN_INVALID_DEV XEN_VCPUAFFINITY_HARD XEN_VCPUAFFINITY_SOFT "
    "XEN_DOMINF_dying XEN_DOMINF_hvm_guest XEN_DOMINF_shutdown XEN_DOMINF_paused XEN_DOMINF_blocked "
    "XEN_DOMINF_running XEN_DOMINF_hap XEN_DOMINF_shutdownshift SHUTDOWN_poweroff SHUTDOWN_reboot SHUTDOWN_crash"
)
CONSTANTS: Final = (
    *(f"XEN_SYSCTL_{name}" for name in _SYSCTLS.split()),
    *(f"XEN_DOMCTL_{name}" for name in _DOMCTLS.split()),
    *_OTHERS.split(),
)


def program() -> str:
    """Write the C program that prints the layouts, as entries of Python tables."""
    lines = ["#include <stddef.h>", "#include <stdint.h>", "#include <stdio.h>", "#define __XEN_TOOLS__ 1"]
    lines += [f"#include <xen/{name}>" for name in HEADERS]
    lines += ["int main(void) {", '    printf("STRUCTS: Final[Structs] = {\\n");']
    for name, (c_type, fields) in STRUCTS.items():
        lines.append(f'    printf("    \\"{name}\\": (%zu, {{", sizeof({c_type}));')
        for field in fields.split():
            own, _, member = field.partition("=")
            member = member or own
            told = f"offsetof({c_type}, {member}), sizeof((({c_type} *)0)->{member})"
            lines.append(f'    printf("\\"{own}\\": (%zu, %zu), ", {told});')
        lines.append('    printf("}),\\n");')
    lines.append('    printf("}\\n\\nCONSTANTS: Final[Mapping[str, int]] = {\\n");')
    lines += [f'    printf("    \\"{name}\\": %llu,\\n", (unsigned long long)({name}));' for name in CONSTANTS]
    lines += ['    printf("}\\n");', "    return 0;", "}"]
    return "\n".join(lines) + "\n"


HEAD: Final = '''"""The layouts of Xen 4.17's interface to tools on x86-64, made by `tests/hypercalls/make_layouts.py`: do not edit.

A struct has its size and, by field, offset and size, all in bytes.
"""

from collections.abc import Mapping
from typing import Final

from xbd.hypercalls.layout import Structs

'''


def make(include: Path, directory: Path) -> str:
    """Compile and run the program in *directory*; return the module, not yet formatted. Raises CalledProcessError: no such headers."""
    source, binary = directory / "layouts.c", directory / "layouts"
    source.write_text(program(), encoding="utf-8")
    subprocess.run(["gcc", "-I", str(include), "-o", str(binary), str(source)], check=True, timeout=60)  # noqa: S603, S607 - our own program
    printed = subprocess.run([str(binary)], check=True, capture_output=True, text=True, timeout=60).stdout  # noqa: S603 - our own program
    return HEAD + printed


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as made_in:
        sys.stdout.write(make(Path(sys.argv[1]), Path(made_in)))
