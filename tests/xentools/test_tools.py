"""Debian's Xen 4.17 tools, as they are, on a real host: what they print, field by field, and what they do."""

import json
import os
import re
import shutil
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pexpect  # type: ignore[import-untyped]  # it has no annotations
import pytest
import trio

from tests import forked
from tests.blackbox.host import beside
from xbd.client.client import Client
from xbd.testing.processes import running_host

HANGS_AFTER_S = 60.0
MIB = 256
HOST = """
[host]
memory = "4g"
[dom0]
maximum = "1g"
[[guest]]
name = "hv1"
maximum = "512m"
workload = { profile = "idle", used = 0.1, cache = 0.02 }
[[guest]]
name = "pv1"
type = "pv"
maximum = "256m"
workload = { profile = "idle", used = 0.1, cache = 0.02 }
"""
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("tools")]


NODES = """[[node]]
memory = "1g"
distances = [10, 21]
[[node]]
memory = "3g"
distances = [21, 10]
"""


@asynccontextmanager
async def xen_host(directory: Path, host: str = HOST) -> AsyncIterator[Client]:
    """Run a host and its XenStore; hands out a client when names and targets are in the store."""
    async with running_host(host, directory) as client:
        with beside(directory / "run", "xenstored"):
            xl = Tools(directory)
            with trio.fail_after(HANGS_AFTER_S):
                while "pv1" not in await xl.said("xl", "list"):  # noqa: ASYNC110 - other processes
                    await trio.sleep(0.05)
            yield client


class Tools:
    """Xen's tools on the host in a directory."""

    def __init__(self, directory: Path) -> None:
        self.socket = str(directory / "run")

    async def run(self, *command: str) -> tuple[int, str, str]:
        """Run one; returns its exit code and what it wrote."""
        arguments = ["xen", "--socket", self.socket, *command]
        done = await trio.to_thread.run_sync(forked.run, arguments, HANGS_AFTER_S)
        return done.returncode, done.stdout, done.stderr

    async def said(self, *command: str) -> str:
        """Run one that does well; returns what it printed."""
        code, out, error = await self.run(*command)
        assert (code, error) == (0, ""), (command, error)
        return out

    async def rows(self, *command: str, without: Sequence[str] = ()) -> list[list[str]]:
        """Run one that prints a table; returns its rows, times and UUIDs as words of their own."""
        out = re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "UUID", await self.said(*command))
        rows = [
            re.sub(r"\b(?:\d+ days?, +)?\d+:\d\d:\d\d\b|\b\d+\.\d\b", "TIME", line).split() for line in out.splitlines()
        ]
        return [row for row in rows if not set(row) & set(without)]


async def check_configurations(xl: Tools, uuid: str) -> None:
    """Check what xl lists of domains at length; *uuid* is that of hv1."""
    # Of dom0, which it did not create, libxl knows no more.
    (dom0,) = json.loads(await xl.said("xl", "list", "-l", "0"))
    assert [list(dom0["config"]), list(dom0["config"]["c_info"]), list(dom0["config"]["b_info"])] == [
        ["c_info", "b_info"],
        ["type", "name", "uuid"],
        ["max_memkb", "target_memkb", "sched_params", "type.pvh", "arch_arm", "arch_x86"],
    ]
    (long,) = json.loads(await xl.said("xl", "list", "-l", "hv1"))
    assert long["domid"] == 1
    assert long["config"]["c_info"] == {
        "type": "pvh",
        "name": "hv1",
        "domid": 4294967295,
        "uuid": uuid,
        "run_hotplug_scripts": "True",
    }
    built = long["config"]["b_info"]
    assert (built["max_memkb"], built["target_memkb"], built["max_vcpus"]) == (524288, 524288, 1)


async def test_what_the_tools_print(tmp_path: Path) -> None:
    """Each table has the columns and the words of a real host of Domain-0, a PVH and a PV guest."""
    xl = Tools(tmp_path)
    names = ["Domain-0", "hv1", "pv1"]
    plain = [
        [*row, "TIME"]
        for row in (
            ["Domain-0", "0", "1024", "1", "r-----"],
            ["hv1", "1", "512", "1", "-b----"],
            ["pv1", "2", "256", "1", "-b----"],
        )
    ]
    async with xen_host(tmp_path) as client:
        head = ["Name", "ID", "Mem", "VCPUs", "State", "Time(s)"]
        assert await xl.rows("xl", "list") == [head, *plain]
        listed = await xl.rows("xl", "list", "-v")
        assert listed[0] == [*head, "UUID", "Reason-Code", "Security", "Label"]
        assert listed[1:] == [[*row, "UUID", "-", "-"] for row in plain]
        assert await xl.rows("xl", "list", "-c") == [[*head, "Cpupool"], *([*row, "Pool-0"] for row in plain)]
        assert await xl.rows("xl", "list", "-Z") == [[*head, "Security", "Label"], *([*row, "-"] for row in plain)]
        assert await xl.rows("xl", "list", "-n") == [[*head, "NODE", "Affinity"], *([*row, "all"] for row in plain)]
        assert await xl.rows("xl", "claims") == [[*head, "Claimed"], *([*row, "0"] for row in plain)]
        assert (await xl.rows("xl", "sharing"))[1:] == [[*row[:3], "0"] for row in plain]
        assert (await xl.rows("xl", "uptime"))[1:] == [[name, str(domid), "TIME"] for domid, name in enumerate(names)]
        vcpus = await xl.rows("xl", "vcpu-list")
        assert vcpus[1:] == [
            [name, str(domid), "0", "0", "-b-" if domid else "r--", "TIME", "all", "/", "all"]
            for domid, name in enumerate(names)
        ]
        assert (await xl.rows("xl", "vm-list"))[1:] == [["UUID", str(domid), name] for domid, name in enumerate(names)]
        pools = await xl.rows("xl", "cpupool-list")
        assert pools == [
            ["Name", "CPUs", "Sched", "Active", "Domain", "count"],
            ["Pool-0", str(os.cpu_count()), "credit2", "y", "3"],
        ]
        assert await xl.said("xl", "domid", "pv1") == "2\n"
        assert await xl.said("xl", "domname", "0") == "Domain-0\n"
        assert await xl.run("xl", "list", "nosuch") == (1, "", "nosuch is an invalid domain identifier (rc=-6)\n")
        assert await xl.run("xl", "list", "99") == (1, "", "Error: Domain '99' does not exist.\n")
        await check_configurations(xl, (await client.info("hv1")).uuid)
        told = dict(line.split(":", 1) for line in (await xl.said("xl", "info", "-n")).splitlines() if ":" in line)
        fields = {key.strip(): value.strip() for key, value in told.items()}
        assert {
            key: fields[key] for key in ("total_memory", "free_memory", "xen_version", "xen_scheduler", "free_cpus")
        } == {
            "total_memory": "4096",
            "free_memory": "2304",
            "xen_version": "4.17.7",
            "xen_scheduler": "credit2",
            "free_cpus": "0",
        }
        assert fields["virt_caps"] == "pv hvm hap gnttab-v1 gnttab-v2"
        assert fields["xen_commandline"] == "dom0_mem=1024M,max:1024M"
        top = [line.split() for line in (await xl.said("xentop", "-b", "-i", "2")).splitlines()]
        assert [row[0] for row in top] == ["NAME", *names] * 2
        assert top[2][1:2] + top[2][4:8] == ["--b---", "524288", "12.5", "524288", "12.5"]
        assert '"event": "hypervisor_ready"' in await xl.said("xl", "dmesg")
        await client.create("smp", max_pages=2 * MIB, target_pages=2 * MIB, autostart=False, vcpus=2)
        assert [row[2:5] for row in await xl.rows("xl", "vcpu-list", "3")][1:] == [["0", "0", "-b-"], ["1", "0", "-b-"]]


async def test_nodes_are_shown_by_xl(tmp_path: Path) -> None:
    """`xl info -n` has the nodes with their memory and distances, `xl list -n` the nodes of each domain."""
    host = HOST.replace("[dom0]", NODES + "[dom0]").replace('type = "pv"', 'type = "pv"\nnodes = [1]')
    async with xen_host(tmp_path, host):
        xl = Tools(tmp_path)
        told = (await xl.said("xl", "info", "-n")).splitlines()
        at = told.index("numa_info              :")
        assert [line.split() for line in told[at + 2 : at + 4]] == [
            ["0:", "1024", "0", "10,21"],
            ["1:", "3072", "2304", "21,10"],
        ]
        listed = {row[0]: row[-1] for row in await xl.rows("xl", "list", "-n")}
        assert (listed["hv1"], listed["pv1"]) == ("all", "1")


async def test_memory_is_set_by_xl_beside_xbd(tmp_path: Path) -> None:
    """Down, up, to the full size and beyond it: limits, store and the host agree, and faults reach xl's error paths."""
    xl = Tools(tmp_path)
    async with xen_host(tmp_path) as client:

        async def until_target(domid: int, mib: int) -> None:
            with trio.fail_after(HANGS_AFTER_S):
                while (await client.info(domid)).tot_pages != mib * MIB:  # noqa: ASYNC110 - other processes
                    await trio.sleep(0.02)

        for domain, domid, mib in (
            ("hv1", 1, 256),
            ("1", 1, 400),
            ("hv1", 1, 512),
            ("pv1", 2, 128),
            ("Domain-0", 0, 600),
        ):
            assert await xl.said("xl", "mem-set", domain, str(mib)) == ""
            await until_target(domid, mib)
            # As on Xen: target + 1 MiB.
            assert (await client.info(domid)).max_pages == (mib + 1) * MIB
        code, _, error = await xl.run("xl", "mem-set", "hv1", "700")
        assert code != 0
        assert "memory_dynamic_max must be less than or equal to memory_static_max" in error
        code, _, error = await xl.run("--fail", "max_mem=ENOMEM:1", "xl", "mem-set", "hv1", "256")
        assert code != 0
        assert "Cannot allocate memory" in error
        assert error.endswith("xbd xen: max_mem: 1 of 1 failed with ENOMEM, in 1 calls\n")
        assert (await client.info(1)).target_pages == 512 * MIB
        # What libxl does with a commit that fails: it is made again.
        code, _, error = await xl.run("--fail", "xenstore-commit=EAGAIN:2", "xl", "mem-set", "hv1", "256")
        assert (code, error) == (0, "xbd xen: xenstore-commit: 2 of 2 failed with EAGAIN, in 3 calls\n")
        await until_target(1, 256)
        assert await xl.said("xl", "mem-max", "hv1", "600") == ""
        assert (await client.info(1)).max_pages == 601 * MIB
        # The limit may be beyond what the guest can ever hold, its target not: libxl goes on by what the store says then.
        assert await xl.said("xl", "mem-set", "hv1", "600") == ""
        with trio.fail_after(HANGS_AFTER_S):
            while await xl.said("xenstore-read", "/local/domain/1/memory/target") != "262144\n":  # noqa: ASYNC110 - a process
                await trio.sleep(0.02)
        assert await xl.said("xl", "mem-max", "hv1", "512") == ""
        assert ((await client.info(1)).max_pages, (await client.info(1)).target_pages) == (513 * MIB, 256 * MIB)
        assert await client.audit() == []


async def test_guests_are_paused_stopped_and_rebooted_by_xl(tmp_path: Path) -> None:
    """Their states, codes and errors are Xen's; one that reboots runs again, and xl has seen that it had stopped."""
    xl = Tools(tmp_path)

    async def states() -> list[str]:
        return [row[4] for row in (await xl.rows("xl", "list"))[1:]]

    async with xen_host(tmp_path) as client:
        assert await xl.said("xl", "pause", "hv1") == ""
        assert await states() == ["r-----", "--p---", "-b----"]
        assert await xl.said("xl", "unpause", "hv1") == ""
        # xl says so, and ends well all the same.
        code, _, error = await xl.run("xl", "unpause", "hv1")
        assert (code, "Unpausing domain: Invalid argument" in error) == (0, True)
        code, _, error = await xl.run("xl", "shutdown", "-w", "pv1")
        assert (code, error.splitlines()[-1]) == (0, "Domain 2 has been shut down, reason code 0")
        code, _, error = await xl.run("xl", "reboot", "-w", "hv1")
        assert (code, error.splitlines()[-1]) == (0, "Domain 1 has been shut down, reason code 1")
        with trio.fail_after(HANGS_AFTER_S):
            while (await client.info("hv1")).state != "running":  # noqa: ASYNC110 - other processes
                await trio.sleep(0.02)
        assert await states() == ["r-----", "-b----", "---s--"]
        assert await xl.said("xl", "rename", "hv1", "www") == ""
        with trio.fail_after(HANGS_AFTER_S):
            while (await client.info(1)).name != "www":  # noqa: ASYNC110 - other processes
                await trio.sleep(0.02)
        assert await xl.said("xl", "destroy", "pv1") == ""
        assert await client.audit() == []


async def test_xentop_on_a_terminal(tmp_path: Path) -> None:
    """Its screen is drawn, it takes keys, and it ends in order."""
    async with xen_host(tmp_path):

        def look() -> int:
            command = ["-m", "xbd", "xen", "--socket", str(tmp_path / "run"), "xentop"]
            child = pexpect.spawn(
                sys.executable, command, encoding="utf-8", timeout=HANGS_AFTER_S, env={**os.environ, "TERM": "xterm"}
            )
            child.expect("Domain-0")
            child.send("q")
            child.expect(pexpect.EOF)
            child.close()
            return int(child.exitstatus)

        assert await trio.to_thread.run_sync(look) == 0


async def test_python_s_bindings(tmp_path: Path, tools: Path) -> None:
    """xen.lowlevel.xc of the distribution lists domains, the host, and sets a limit."""
    code = (
        "from xen.lowlevel.xc import xc; x = xc(); i = x.domain_getinfo(); "
        "print([(d['domid'], d['mem_kb'], d['maxmem_kb'], d['blocked']) for d in i]); "
        "x.domain_setmaxmem(1, 300 << 10); print(x.domain_getinfo(1, 1)[0]['maxmem_kb'], x.physinfo()['total_memory'], "
        "x.domain_set_target_mem(1, 256 << 10), x.numainfo()['node_memsize'][0], x.vcpu_getinfo(1, 0)['online'])"
    )
    interpreter = "/usr/bin/python3.11"
    if shutil.which(interpreter) is None:
        pytest.skip("the bindings are for Debian's own Python 3.11")
    async with xen_host(tmp_path) as client:
        path = f"PYTHONPATH={tools / 'usr' / 'lib' / 'xen-4.17' / 'lib' / 'python'}"
        out = await Tools(tmp_path).said("env", path, interpreter, "-c", code)
        assert (await client.info(1)).max_pages == 300 * MIB
    assert (
        out == "[(0, 1048576, 1048576, 0), (1, 524288, 524288, 1), (2, 262144, 262144, 1)]\n307200 4194304 0 4096 1\n"
    )
