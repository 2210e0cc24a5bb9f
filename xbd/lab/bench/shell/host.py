"""Figures of a whole host: hypercalls, grants, what recovery costs, and a 20 GiB guest shrunk to 2 GiB and back.

The daemon and the agents are processes of their own; the time is from the toolstack's call to
the daemon's event that the guest has settled.
"""

import time
from contextlib import aclosing
from pathlib import Path

from xbd.abi import BATCH_EXTENTS
from xbd.client.client import Client
from xbd.lab.bench.figures import REPEATS, Figure, summarize
from xbd.lab.bench.shell.grants import measure_grants
from xbd.lab.bench.shell.recovery import measure_recovery
from xbd.lab.bench.shell.wire import connect, echo_server, measure_hypercalls
from xbd.testing.processes import running_host
from xbd.units import GIB_PAGES, SUPER_PAGES

_LARGE_GIB, _SMALL_GIB = 20.0, 2.0
_TRIPS = {"4k": 2, "2m": 7}
_HOST = """
[host]
memory = "48g"

[[guest]]
name = "g{queue}x{in_flight}"
maximum = "{large:.0f}g"
strategy = "{strategy}"
workload = {{ profile = "idle", used = 0.01, cache = 0.0 }}
driver = {{ commands_in_flight = {in_flight} }}
"""


async def measure_host(directory: Path) -> dict[str, Figure]:
    """Measure everything that needs a running host; *directory* is for its files."""
    figures: dict[str, Figure] = {}
    for queue, strategy in (("4k", "stock"), ("2m", "full")):
        for in_flight in (8, 1):
            place = directory / f"{queue}{in_flight}"
            place.mkdir()
            host_toml = _HOST.format(queue=queue, in_flight=in_flight, large=_LARGE_GIB, strategy=strategy)
            async with running_host(host_toml, place) as client:
                figures |= await measure_trips(client, place, queue, in_flight)
                if not figures.keys() & {"hypercall_vs_echo"}:
                    figures |= await measure_hypercalls(client, place / "run", place)
                    figures |= await measure_grants(client, place / "run")
    return figures | await measure_recovery(directory)


async def measure_trips(
    client: Client, place: Path, queue: str, in_flight: int, ends_gib: tuple[float, float] = (_SMALL_GIB, _LARGE_GIB)
) -> dict[str, Figure]:
    """Measure a guest's trips down and up, and what the wire alone takes for as many calls of as many bytes.

    *ends_gib*: the guest's size at either end of a trip, the smaller one first.
    """
    name = queue if in_flight == 8 else f"{queue}_one_in_flight"
    floor = summarize(await _echoed(place, queue, in_flight, ends_gib[1] - ends_gib[0]), "GiB/s")
    figures = {f"wire_{name}": floor}
    for way, rates in zip(("shrink", "grow"), await _trips(client, _TRIPS[queue], ends_gib), strict=True):
        figures[f"{way}_{name}"] = summarize(rates, "GiB/s")
        figures[f"{way}_{name}_vs_wire"] = summarize(
            [floor.value / rate for rate in rates], "ratio", "echoes of as many bytes, as many in flight"
        )
    return figures


async def _echoed(place: Path, queue: str, in_flight: int, gib: float) -> list[float]:
    """Echo the calls of one trip of so many *gib*, several times; returns the rates in GiB/s."""
    pages = int(gib * GIB_PAGES)
    calls = pages // BATCH_EXTENTS // (SUPER_PAGES if queue == "2m" else 1)
    params: dict[str, object] = {"gfns": bytes(BATCH_EXTENTS * 8), "order": 0}
    rates = []
    async with echo_server(place) as path, connect(path) as echo:
        for _ in range(1 + REPEATS):
            start = time.perf_counter()
            await echo.stream("populate", params, calls, in_flight)
            rates.append(gib / (time.perf_counter() - start))
    return rates[1:]


async def _trips(client: Client, count: int, ends_gib: tuple[float, float]) -> tuple[list[float], list[float]]:
    """Shrink and grow the first guest, once to warm up and *count* times for the figure; GiB/s each way."""
    domid = (await client.list())[0].domid
    rates: tuple[list[float], list[float]] = ([], [])
    for _ in range(count + 1):
        for way, gib in zip(rates, ends_gib, strict=True):
            way.append((ends_gib[1] - ends_gib[0]) / await move(client, domid, int(gib * GIB_PAGES)))
    return rates[0][1:], rates[1][1:]


async def move(client: Client, domid: int, pages: int) -> float:
    """Set a target and wait for the daemon's event that it is reached; returns seconds."""
    latest = max([event["number"] async for event in client.events(follow=False)], default=0)
    start = time.perf_counter()
    async with aclosing(client.events(latest + 1)) as events:
        await client.set_target(domid, pages)
        async for event in events:
            if event["event"] == "settled" and event["domid"] == domid:
                break
    return time.perf_counter() - start
