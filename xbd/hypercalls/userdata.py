"""What libxl keeps of a domain that it has created, in a file of its own: here of one that xbd has created."""

import json

from xbd.domain import DOM0, DomainInfo
from xbd.units import PAGE_KIB


def userdata_name(domain: DomainInfo) -> str:
    """Name the file that libxl looks for."""
    return f"userdata-d.{domain.domid}.{domain.uuid}.libxl-json"


def userdata(domain: DomainInfo) -> str:
    """Write a domain's configuration as libxl does, in JSON with a NUL at its end; dom0, which nobody created, has its type alone."""
    # To libxl a guest with a virtio balloon is translated, too.
    kind = "pv" if domain.type == "pv" else "pvh"
    # Source: gen_stub_json_config of xen-init-dom0 (Xen 4.17).
    stub = {"c_info": {"type": kind}, "b_info": {f"type.{kind}": {}}}
    return json.dumps(stub if domain.domid == DOM0 else _guest(domain, kind), indent=4) + "\0"


def _guest(domain: DomainInfo, kind: str) -> dict[str, object]:
    return {
        "c_info": {
            "type": kind,
            "name": domain.name,
            # None was asked for.
            "domid": (1 << 32) - 1,
            "uuid": domain.uuid,
            "run_hotplug_scripts": "True",
        },
        "b_info": {
            "max_vcpus": domain.vcpus,
            "avail_vcpus": list(range(domain.vcpus)),
            "tsc_mode": "native",
            "max_memkb": domain.static_max_pages * PAGE_KIB,
            "target_memkb": domain.target_pages * PAGE_KIB,
            "video_memkb": 0,
            "sched_params": {"sched": "credit2", "weight": 256, "cap": 0},
            "claim_mode": "True",
            f"type.{kind}": {},
            "arch_x86": {"msr_relaxed": "False"},
        },
        "on_reboot": "restart",
        "on_crash": {"destroy": "destroy", "preserve": "preserve"}.get(domain.on_crash, "restart"),
        "on_soft_reset": "soft_reset",
    }
