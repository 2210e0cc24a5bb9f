"""A thousand guests retargeted at once, against one guest retargeted a thousand times; and what a guest costs.

Guests are idle and of 4 GiB on a host of 4 TiB, through the 2 MiB queue: what is timed is daemon, agents
and toolstack, all processes of their own, not the work inside a guest.
"""

import socket
import time
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Final

import trio

from xbd.client.client import Client
from xbd.client.runtime_dir import hypervisor_socket
from xbd.daemons.runtime import sockets
from xbd.lab.bench.figures import Figure, summarize
from xbd.lab.bench.shell.host import move
from xbd.testing.processes import running_host
from xbd.units import GIB_PAGES

_GUESTS: Final = 1000
_LARGE_GIB, _SMALL_GIB, _HOST_GIB = 4, 2, 4096
_ROUNDS, _WARM_UP = 6, 2
_MANY: Final = 10_000
_MANY_HOST_GIB: Final = 40 * 1024 + 64
_MANY_ROUNDS: Final = 3
_STARTED_WITHIN_S: Final = 600.0
_HOST: Final = """
[host]
memory = "{memory_gib}g"

[[guest]]
name = "g{{n}}"
count = {count}
maximum = "{guest_gib}g"
workload = {{ profile = "idle", used = 0.01, cache = 0.0 }}
"""


@asynccontextmanager
async def idle_host(
    directory: Path, guests: int, guest_gib: int, memory_gib: int
) -> AsyncIterator[tuple[Client, Path]]:
    """Run a host of so many idle *guests*, its files in a directory of its own in *directory*; yields a client and the sockets' directory."""
    place = directory / str(guests)
    place.mkdir()
    host_toml = _HOST.format(count=guests, guest_gib=guest_gib, memory_gib=memory_gib)
    async with running_host(host_toml, place, within_s=_STARTED_WITHIN_S) as client:
        yield client, place / "run"


async def measure_fleet(directory: Path, guests: int = _GUESTS) -> dict[str, Figure]:
    """Start and measure two hosts, one with a guest and one with a thousand; *directory*: for their files."""
    memory_kib: list[int] = []
    seconds: list[list[float]] = []
    for count in (1, guests):
        async with idle_host(directory, count, _LARGE_GIB, _HOST_GIB) as (client, run_dir):
            memory_kib.append(host_memory_kib(run_dir))
            if count == 1:
                seconds.append(await _one_after_the_other(client, guests))
            else:
                seconds.append((await _all_at_once(client, _WARM_UP + _ROUNDS))[_WARM_UP:])
    one, all_of_them = seconds
    return {
        "retarget_one_1000_times": summarize(one, "s"),
        "retarget_1000_at_once": summarize(all_of_them, "s"),
        "retarget_1000_vs_one": summarize([a / b for a, b in zip(all_of_them, one, strict=True)], "ratio",
                                          "one guest retargeted 1,000 times"),
        "memory_per_guest": summarize([(memory_kib[1] - memory_kib[0]) / (guests - 1)], "KiB"),
    }  # fmt: skip


async def measure_idle(directory: Path, guests: int = _MANY) -> dict[str, Figure]:
    """Start ten thousand idle guests on a host of 40 TiB, list them, and set all to half their memory; *directory*: for its files."""
    start = time.perf_counter()
    async with idle_host(directory, guests, _LARGE_GIB, _MANY_HOST_GIB) as (client, run_dir):
        started_s = time.perf_counter() - start
        listed_s = []
        for _ in range(_MANY_ROUNDS):
            start = time.perf_counter()
            await client.list()
            listed_s.append(time.perf_counter() - start)
        halved_s = (await _all_at_once(client, 2 * _MANY_ROUNDS))[::2]
        memory_kib = host_memory_kib(run_dir)
    return {
        "idle_10000_start": summarize([started_s], "s"),
        "idle_10000_list": summarize(listed_s, "s"),
        "idle_10000_to_half": summarize(halved_s, "s"),
        "idle_10000_memory": summarize([memory_kib / guests], "KiB per guest"),
    }


async def _one_after_the_other(client: Client, times: int) -> list[float]:
    """Retarget the one guest so many *times*, in several rounds; returns the seconds of each round."""
    domid = (await client.list())[0].domid
    rounds = []
    for _ in range(_WARM_UP + _ROUNDS):
        start = time.perf_counter()
        for index in range(times):
            await move(client, domid, (_LARGE_GIB if index % 2 else _SMALL_GIB) * GIB_PAGES)
        rounds.append(time.perf_counter() - start)
    return rounds[_WARM_UP:]


async def _all_at_once(client: Client, times: int) -> list[float]:
    """Retarget all guests at once, down and up in turn, until the daemon has reported each as settled; returns the seconds of each time."""
    domids = [domain.domid for domain in await client.list()]
    rounds = []
    for index in range(times):
        pages = (_LARGE_GIB if index % 2 else _SMALL_GIB) * GIB_PAGES
        latest = max([event["number"] async for event in client.events(follow=False)], default=0)
        start = time.perf_counter()
        async with aclosing(client.events(latest + 1)) as events, trio.open_nursery() as nursery:
            for domid in domids:
                nursery.start_soon(client.set_target, domid, pages)
            unsettled = set(domids)
            async for event in events:
                if event["event"] == "settled":
                    unsettled.discard(event["domid"])
                if not unsettled:
                    break
        rounds.append(time.perf_counter() - start)
    return rounds


def host_memory_kib(runtime_dir: Path) -> int:
    """Return the memory (Pss) of the daemon and the agents, mapped files included."""
    with socket.socket(socket.AF_UNIX) as to_daemon:
        to_daemon.connect(str(hypervisor_socket(runtime_dir)))
        daemon, _ = sockets.peer_of(to_daemon)
    parent = _parent(daemon)
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return sum(_pss_kib(pid) for pid in pids if _parent(pid) == parent)


def _parent(pid: int) -> int:
    try:
        # The name may hold anything but a `)` at its end.
        return int(Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()[1])
    except OSError:
        return -1  # it has gone


def _pss_kib(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text("utf-8").splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1])
    return 0
