"""The decoder of hypercalls on a real host's core in this process: bytes in, bytes and the host's own state out."""

import errno
from collections.abc import Sequence

import numpy as np
import pytest

from tests.hypercalls.programs import BASE, MEMORY_BYTES, ROOM, UNION_AT, Program
from tests.peer import clock, create, small_host
from xbd.abi import DomainType
from xbd.control.console import CONSOLE_CHARACTERS
from xbd.control.controller import Controller
from xbd.errors import PeerLost
from xbd.hypercalls.caller import MAX_BITMAP_BITS
from xbd.hypercalls.decoder import MAX_MULTICALL, OPERATION_NAMES, Hypercall
from xbd.hypercalls.host import KEPT_S
from xbd.hypercalls.releases import XEN_4_17
from xbd.machine import Machine
from xbd.machine.nodes import Nodes

LAYOUTS, CONSTANTS = XEN_4_17.layouts, XEN_4_17.constants
ENDS = (0, 1, BASE - 1, BASE + MEMORY_BYTES - 1, BASE + MEMORY_BYTES, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)


def host_of(*names: str) -> Program:
    """Make a host with domains of 16 MiB, 8 of them populated, and a program on it."""
    host = small_host()
    for name in names:
        create(host, name)
    return Program(host)


def listed(program: Program, first: int = 0, most: int = 1024) -> list[dict[str, object]]:
    """List domains as libxc does."""
    told = program.ctl(
        "sysctl", "getdomaininfolist", "getdomaininfolist", first_domain=first, max_domains=most, buffer=ROOM
    )
    assert told["result"] == 0
    layout = LAYOUTS["getdomaininfo"]
    return [
        layout.unpack(program.read(ROOM + number * layout.size, layout.size)) for number in range(told["num_domains"])
    ]


def test_domains_are_described_as_the_host_has_them() -> None:
    """Pages, limit, type and state of each, from the number on that is asked for, at most so many."""
    program = host_of("one", "two", "three")
    domains = listed(program)

    assert [one["domain"] for one in domains] == [1, 2, 3]
    assert (domains[0]["tot_pages"], domains[0]["max_pages"]) == (2048, 4096)
    assert domains[0]["flags"] == sum(CONSTANTS[f"XEN_DOMINF_{flag}"] for flag in ("hvm_guest", "hap", "blocked"))
    assert [one["domain"] for one in listed(program, first=2)] == [2, 3]
    assert [one["domain"] for one in listed(program, most=2)] == [1, 2]
    assert [one["domain"] for one in listed(program, first=3, most=1)] == [3]
    assert listed(program, most=0) == []
    # A list of none is no error: so xl says that there is no such domain.
    assert listed(program, first=4, most=1) == []


def test_a_question_about_one_domain_is_one_call() -> None:
    """The host is asked for the domain alone; only where its number is nobody's, for the list, which is kept a little."""
    program = host_of("one", "two", "three")
    program.client.destroy(2)
    program.client.asked.clear()

    assert program.ctl("domctl", "getdomaininfo", "getdomaininfo", domid=1)["domain"] == 1
    assert program.client.asked == ["info"]
    for _ in range(2):
        assert program.ctl("domctl", "getdomaininfo", "getdomaininfo", domid=2)["domain"] == 3
    assert int.from_bytes(program.read(BASE + 8, 2), "little") == 3
    assert program.client.asked == ["info", "info", "list", "info"]
    program.now_s += 2 * KEPT_S
    assert program.ctl("domctl", "getdomaininfo", domid=4)["result"] == -errno.ESRCH
    assert program.client.asked[4:] == ["info", "list"]
    # What was listed answers about vcpus, for a little.
    for waited_s, asked in ((0.0, []), (2 * KEPT_S, ["info"]), (0.0, [])):
        program.client.asked.clear()
        program.now_s += waited_s
        assert program.ctl("domctl", "getvcpuinfo", "getvcpuinfo", domid=1)["result"] == 0
        assert program.client.asked == asked
    # Who asks about one domain after the other is answered from a list.
    for name in range(8):
        create(program.client.controller, f"more{name}")
    program.now_s += 2 * KEPT_S
    program.client.asked.clear()
    for domid in range(4, 12):
        assert program.ctl("domctl", "getvcpuinfo", "getvcpuinfo", domid=domid)["result"] == 0
    assert program.client.asked == ["info"] * 3 + ["list"]
    assert program.ctl("domctl", "destroydomain", domid=1)["result"] == 0
    assert program.ctl("domctl", "getvcpuinfo", "getvcpuinfo", domid=1)["result"] == -errno.ESRCH


def test_max_mem_and_pod_target_as_libxl_sends_them() -> None:
    """The limit is the host's; a PoD target above it, or of a PV domain, is refused, one within moves nothing and tells what there is."""
    program = host_of("web")
    assert program.ctl("domctl", "max_mem", "max_mem", domid=1, max_memkb=8 << 10)["result"] == 0
    assert program.client.info(1).max_pages == 2048
    pod = LAYOUTS["pod_target"]
    entry = LAYOUTS["multicall_entry"]

    def set_pod_target(pages: int, domid: int = 1) -> tuple[int, dict[str, object]]:
        program.write(ROOM, pod.pack(domid=domid, target_pages=pages))
        words = b"".join(word.to_bytes(8, "little") for word in (CONSTANTS["XENMEM_set_pod_target"], ROOM))
        program.write(BASE, entry.pack(op=CONSTANTS["__HYPERVISOR_memory_op"], args=words))
        assert program.call("multicall", BASE, 1) == 0
        result = entry.unpack(program.read(BASE, entry.size))["result"]
        return result - (1 << 64) if result >> 63 else result, pod.unpack(program.read(ROOM, pod.size))

    assert set_pod_target(2048) == (
        0,
        {"target_pages": 2048, "tot_pages": 2048, "pod_cache_pages": 0, "pod_entries": 0, "domid": 1},
    )
    assert set_pod_target(2049)[0] == -errno.EINVAL
    assert program.client.info(1).target_pages == 2048
    program.client.create("pv", domain_type=DomainType.PV, max_pages=2048, target_pages=2048)
    assert set_pod_target(1024, domid=2)[0] == -errno.EINVAL


def test_a_domain_ends() -> None:
    """Destroydomain ends it; a number that is nobody's, or no domain's, is ESRCH, and dom0 itself EINVAL."""
    program = host_of("web")
    assert program.ctl("domctl", "destroydomain", domid=1)["result"] == 0
    assert [one["domain"] for one in listed(program)] == []
    assert program.ctl("domctl", "destroydomain", domid=1)["result"] == -errno.ESRCH
    assert program.ctl("domctl", "destroydomain", domid=0x7FF1)["result"] == -errno.ESRCH
    assert program.ctl("domctl", "destroydomain", domid=0)["result"] == -errno.EINVAL


@pytest.mark.parametrize(("reason", "code"), [("poweroff", 0), ("reboot", 1)])
def test_why_a_domain_has_stopped_is_its_shutdown_code(reason: str, code: int) -> None:
    """In the bits of its flags where Xen has it."""
    program = host_of("web")
    program.client.shutdown(1, reason)
    flags = listed(program)[0]["flags"]
    assert isinstance(flags, int)
    assert flags & CONSTANTS["XEN_DOMINF_shutdown"]
    assert flags >> CONSTANTS["XEN_DOMINF_shutdownshift"] == code


def test_a_domain_is_paused_and_unpaused() -> None:
    """Its flags say so, as often as it was paused; there is nothing to take back of one that runs, and dom0 asks itself."""
    program = host_of("web")
    translated = sum(CONSTANTS[f"XEN_DOMINF_{flag}"] for flag in ("hvm_guest", "hap"))
    flags = []
    for operation in ("pausedomain", "pausedomain", "unpausedomain", "unpausedomain"):
        assert program.ctl("domctl", operation, domid=1)["result"] == 0
        flags.append(listed(program)[0]["flags"])
    paused, blocked = (translated + CONSTANTS[f"XEN_DOMINF_{flag}"] for flag in ("paused", "blocked"))
    assert flags == [paused, paused, paused, blocked]
    assert program.ctl("domctl", "unpausedomain", domid=1)["result"] == -errno.EINVAL
    assert program.ctl("domctl", "pausedomain", domid=0)["result"] == -errno.EINVAL
    assert program.ctl("domctl", "pausedomain", domid=2)["result"] == -errno.ESRCH


@pytest.mark.parametrize(
    ("told", "cpu_time_ns"),
    [({"cpu_ms": 1500}, 1_500_000_000), ({"cpu_ms": -1}, 0), ({"cpu_ms": 1 << 62}, (1 << 63) - 1), ({}, 0)],
)
def test_processor_time_is_what_the_guest_reports(told: dict[str, int], cpu_time_ns: int) -> None:
    """Whatever it reports, the number is one that Xen could tell."""
    program = host_of("web")
    program.client.controller.reported(program.client.controller.record(1), told)
    assert listed(program)[0]["cpu_time"] == cpu_time_ns


def test_the_host_is_described() -> None:
    """Memory, claims, processors, nodes and topology are those of the host and of its machine."""
    program = host_of("web")
    program.client.claim(1, 4096)
    told = program.ctl("sysctl", "physinfo", "physinfo")
    assert (told["total_pages"], told["free_pages"], told["outstanding_pages"]) == (32768, 30720, 2048)
    assert (told["nr_cpus"], told["max_cpu_id"], told["cpu_khz"], told["nr_nodes"]) == (2, 1, 2_400_000, 1)
    assert program.ctl("sysctl", "cputopoinfo", "cputopoinfo")["num_cpus"] == 2
    program.ctl("sysctl", "cputopoinfo", "cputopoinfo", num_cpus=64, cputopo=ROOM)
    assert [int.from_bytes(program.read(ROOM + 12 * number, 4), "little") for number in range(3)] == [0, 1, 0]
    program.ctl("sysctl", "numainfo", "numainfo", num_nodes=4, meminfo=ROOM, distance=ROOM + 64)
    node = LAYOUTS["meminfo"].unpack(program.read(ROOM, 16))
    assert node == {"memsize": 128 << 20, "memfree": 120 << 20}
    assert program.read(ROOM + 64, 8) == bytes([10, 0, 0, 0, 0, 0, 0, 0])
    pool = program.ctl(
        "sysctl", "cpupool_op", "cpupool_op", op=CONSTANTS["XEN_SYSCTL_CPUPOOL_OP_INFO"], bitmap=ROOM, nr_bits=8
    )
    assert (pool["sched_id"], pool["n_dom"], program.read(ROOM, 1)) == (CONSTANTS["XEN_SCHEDULER_CREDIT2"], 1, b"\x03")
    assert program.ctl("sysctl", "cpupool_op", "cpupool_op", op=3, cpupool_id=1)["result"] == -errno.ENOENT
    assert program.ctl("sysctl", "pm_op")["result"] == -errno.ENODEV


def test_the_console_is_read_at_once_or_piece_by_piece() -> None:
    """The end of what the daemon logged; or what has come since, also when the oldest lines are gone by then."""
    program = host_of()
    console = program.client.controller.console

    def read(count: int, **asked: int) -> tuple[bytes, int]:
        told = program.ctl("sysctl", "readconsole", "readconsole", buffer=ROOM, count=count, **asked)
        assert told["result"] == 0
        return program.read(ROOM, told["count"]), told["index"]

    assert read(64) == (b"", 0)
    console.add("one\n")
    console.add("t\u00fc\n")
    assert read(64) == (b"one\nt?\n", 7)
    assert read(3) == (b"t?\n", 7)
    assert read(2, incremental=1) == (b"on", 2)
    assert read(64, incremental=1, index=2) == (b"e\nt?\n", 7)
    console.add("x" * CONSOLE_CHARACTERS + "\n")
    whole, index = read(2 * CONSOLE_CHARACTERS, incremental=1, index=7)
    assert (len(whole), whole[-2:], index) == (CONSOLE_CHARACTERS, b"x\n", 8 + CONSOLE_CHARACTERS)
    assert read(64, incremental=1, index=index) == (b"", index)
    assert program.ctl("sysctl", "readconsole", "readconsole", buffer=ROOM, count=9, clear=1)["result"] == -errno.EPERM


def test_a_domain_has_as_many_vcpus_as_it_was_made_with() -> None:
    """The first has its processor time; there is none beyond them, and each may run everywhere."""
    program = host_of()
    program.client.create("web", max_pages=512, target_pages=512, vcpus=3)
    program.client.controller.reported(program.client.controller.record(1), {"cpu_ms": 1500})
    assert (listed(program)[0]["nr_online_vcpus"], listed(program)[0]["max_vcpu_id"]) == (3, 2)
    told = [program.ctl("domctl", "getvcpuinfo", "getvcpuinfo", domid=1, vcpu=vcpu) for vcpu in range(4)]
    assert [one["result"] for one in told] == [0, 0, 0, -errno.EINVAL]
    assert [(one["online"], one["blocked"], one["cpu_time"]) for one in told[:3]] == [
        (1, 1, 1_500_000_000),
        (1, 1, 0),
        (1, 1, 0),
    ]
    for vcpu, result in ((2, 0), (3, -errno.EINVAL)):
        assert program.ctl("domctl", "getvcpuaffinity", "vcpuaffinity", domid=1, vcpu=vcpu, flags=1)["result"] == result


def test_vcpus_and_affinity() -> None:
    """Each domain has vcpu 0, which may run everywhere; others are EINVAL."""
    program = host_of("web")
    told = program.ctl("domctl", "getvcpuinfo", "getvcpuinfo", domid=1)
    assert (told["result"], told["online"], told["blocked"], told["running"]) == (0, 1, 1, 0)
    assert program.ctl("domctl", "getvcpuinfo", "getvcpuinfo", domid=1, vcpu=1)["result"] == -errno.EINVAL
    asked = {"flags": 3, "hard_bitmap": ROOM, "hard_nr_bits": 16, "soft_bitmap": ROOM + 8, "soft_nr_bits": 1}
    assert program.ctl("domctl", "getvcpuaffinity", "vcpuaffinity", domid=1, **asked)["result"] == 0
    assert (program.read(ROOM, 2), program.read(ROOM + 8, 1)) == (b"\x03\x00", b"\x01")
    told = program.ctl("domctl", "scheduler_op", "domain_scheduler_op", domid=1, sched_id=6, cmd=1)
    assert (told["weight"], told["cap"]) == (256, 0)


def test_xen_tells_its_version() -> None:
    """4.17, with texts that end within their room."""
    program = host_of()
    version = {name.removeprefix("XENVER_"): number for name, number in CONSTANTS.items() if name.startswith("XENVER_")}
    assert program.call("xen_version", version["version"]) == 4 << 16 | 17
    assert program.call("xen_version", version["pagesize"]) == 4096
    for name in ("extraversion", "compile_info", "capabilities", "changeset", "platform_parameters", "commandline"):
        assert program.call("xen_version", version[name], ROOM) == 0, name
    program.call("xen_version", version["capabilities"], ROOM)
    assert program.read(ROOM, 15) == b"xen-3.0-x86_64 "
    assert (
        program.call("xen_version", version["get_features"], ROOM) == -errno.EINVAL
    )  # the room says feature 2020618616
    length = program.call("xen_version", version["build_id"])
    program.write(ROOM, (length - 1).to_bytes(4, "little"))
    assert program.call("xen_version", version["build_id"], ROOM) == -errno.ENOBUFS
    program.write(ROOM, length.to_bytes(4, "little"))
    assert program.call("xen_version", version["build_id"], ROOM) == length
    assert program.call("xen_version", 99) == -errno.ENOSYS


def test_what_is_not_there_is_refused_as_xen_refuses_it() -> None:
    """Another interface version is EACCES; an unknown operation or hypercall ENOSYS; a list in a list, too."""
    program = host_of("web")
    for kind in ("sysctl", "domctl"):
        program.write(BASE, LAYOUTS[kind].pack(cmd=3, interface_version=0x14))
        assert program.call(kind, BASE) == -errno.EACCES
        program.write(BASE, LAYOUTS[kind].pack(cmd=999, interface_version=0x15))
        assert program.call(kind, BASE) == -errno.ENOSYS
    entry = LAYOUTS["multicall_entry"]
    program.write(BASE, entry.pack(op=CONSTANTS["__HYPERVISOR_multicall"], args=bytes(48)))
    assert program.call("multicall", BASE, 1) == 0
    assert entry.unpack(program.read(BASE, 64))["result"] == (1 << 64) - errno.ENOSYS


def test_the_nodes_of_a_host_are_described() -> None:
    """Each node's memory, distances and a domain's nodes; who has room for fewer nodes is told of so many."""
    host = Controller(Machine(8, nodes=Nodes((3, 5), ((10, 17), (17, 10)))), clock=clock)
    with host.step():
        host.call("create", {"name": "web", "max_pages": 1024, "target_pages": 1024, "nodes": [1]})
        host.call("create", {"name": "any", "max_pages": 512, "target_pages": 512})
    program = Program(host)
    told = program.ctl("sysctl", "physinfo", "physinfo")
    assert (told["nr_nodes"], told["max_node_id"]) == (2, 1)
    assert program.ctl("sysctl", "numainfo", "numainfo")["num_nodes"] == 2
    assert (
        program.ctl("sysctl", "numainfo", "numainfo", num_nodes=9, meminfo=ROOM, distance=ROOM + 64)["num_nodes"] == 2
    )
    sizes = [tuple(LAYOUTS["meminfo"].unpack(program.read(ROOM + at, 16)).values()) for at in (0, 16)]
    assert sizes == [(6 << 20, 4 << 20), (10 << 20, 6 << 20)]
    assert [int.from_bytes(program.read(ROOM + 64 + 4 * at, 4), "little") for at in range(4)] == [10, 17, 17, 10]
    assert program.ctl("sysctl", "numainfo", "numainfo", num_nodes=1, distance=ROOM)["num_nodes"] == 1
    assert program.read(ROOM, 4) == bytes([10, 0, 0, 0])
    for domid, bits in ((1, 0b10), (2, 0b11)):
        program.ctl("domctl", "getnodeaffinity", "nodeaffinity", domid=domid, bitmap=ROOM, nr_bits=8)
        assert program.read(ROOM, 1)[0] == bits
    every = (1 << 32) - 1
    free = [program.ctl("sysctl", "availheap", "availheap", node=node)["avail_bytes"] >> 20 for node in (0, 1, every)]
    assert free == [4, 6, 10]
    assert program.ctl("sysctl", "availheap", "availheap", node=2)["result"] == -errno.EINVAL


def test_counts_and_bitmaps_are_bounded() -> None:
    """What would make the listener write or do more than any tool asks for is EINVAL."""
    program = host_of("web")
    assert program.call("multicall", BASE, MAX_MULTICALL + 1) == -errno.EINVAL
    for bits in (MAX_BITMAP_BITS + 1, (1 << 32) - 1):
        told = program.ctl("domctl", "getnodeaffinity", "nodeaffinity", domid=1, bitmap=ROOM, nr_bits=bits)
        assert told["result"] == -errno.EINVAL
    told = program.ctl("sysctl", "pcitopoinfo", "pcitopoinfo", num_devs=(1 << 32) - 1, nodes=ROOM)
    assert (told["result"], told["num_devs"]) == (0, 1024)
    assert program.ctl("sysctl", "getcpuinfo", "getcpuinfo", max_cpus=(1 << 32) - 1, info=ROOM)["nr_cpus"] == 2
    assert len(listed(program, most=(1 << 32) - 1)) == 1


def test_a_host_that_is_gone_is_enodev(monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon that cannot be asked any more fails the call, one of another version too, and nothing else."""
    program = host_of("web")

    def lost() -> None:
        raise PeerLost("the connection broke")

    monkeypatch.setattr(program.client, "host", lost)
    assert program.ctl("sysctl", "physinfo")["result"] == -errno.ENODEV
    for told in ({}, *({"frames": frames, "free_frames": 0, "claimed_frames": 0} for frames in (-1, 1 << 64, "many"))):
        monkeypatch.setattr(program.client, "host", lambda told=told: told)
        assert program.ctl("sysctl", "physinfo")["result"] == -errno.EIO
    assert len(listed(program)) == 1


@pytest.mark.parametrize("seed", range(4))
def test_whatever_a_program_passes_it_gets_a_value_or_an_errno(seed: int) -> None:
    """Random operations on random structs, with addresses at every edge, are answered, and the host stays sound."""
    program = host_of("one", "two")
    rng = np.random.default_rng(seed)
    operations = [number for name, number in CONSTANTS.items() if name.startswith(("XEN_SYSCTL_", "XEN_DOMCTL_"))]
    numbers = [number for name, number in CONSTANTS.items() if name.startswith("__HYPERVISOR_")]
    edges = (0, 1, 2, 16, BASE, ROOM, *ENDS)

    def pick(choices: Sequence[int]) -> int:
        return choices[int(rng.integers(len(choices)))]

    def word() -> int:
        return pick(edges) if rng.random() < 0.7 else int.from_bytes(rng.bytes(8), "little")

    answers = set()
    for _ in range(1500):
        kind = "sysctl" if rng.random() < 0.5 else "domctl"
        whose = {"domain": pick((0, 1, 2, 3, 0x7FF0, 0xFFFF))} if kind == "domctl" else {}
        union = b"".join(word().to_bytes(8, "little") for _ in range(16))
        head = {"cmd": pick(operations) & 0xFFFFFFFF, "interface_version": 0x15}
        program.write(BASE, LAYOUTS[kind].pack(**head, **whose, u=union))
        if rng.random() < 0.6:
            answers.add(program.call(kind, BASE if rng.random() < 0.9 else pick(ENDS)))
        else:
            answers.add(program.decoder.answer(Hypercall(pick(numbers), [word() for _ in range(5)]), program))
    assert answers >= {0, -errno.EFAULT, -errno.EINVAL, -errno.ENOSYS}
    assert all(answer > -4096 for answer in answers)
    assert program.client.audit() == []


def test_every_operation_has_one_name() -> None:
    """Faults name operations by these: none is taken twice, but that two families may call one alike."""
    assert {"max_mem", "physinfo", "getdomaininfolist", "set_pod_target", "version", "scheduler_op"} <= OPERATION_NAMES
    assert {kind: LAYOUTS[kind].offsets["u"] for kind in UNION_AT} == UNION_AT
