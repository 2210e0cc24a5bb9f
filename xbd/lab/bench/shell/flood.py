"""The latency of a guest's hypercalls while another guest floods its socket, against that without the flood.

The daemon, the flooding guest and the measuring one are processes of their own. The flood is stopped
and continued by signals, so that rounds with and without it take turns in one run. Where there are two
cores the daemon has one of them, and the flood what the measuring guest leaves of the other, which is
enough to keep its socket full: what is compared is how the daemon shares its time, not the scheduler.
"""

import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import trio

from xbd.client.client import Client
from xbd.lab.bench.figures import Figure, summarize
from xbd.lab.bench.flooding import FLOOD_MAX_PAGES, FLOOD_PAGES
from xbd.lab.bench.shell.flooder import KINDS
from xbd.lab.bench.shell.wire import BareClient, connect, cores_set
from xbd.protocol.codec import VERSION
from xbd.testing.processes import Process, running, running_host
from xbd.units import SUPER_PAGES

_HOST = '[host]\nmemory = "16g"\n'
_WARM_UP = 1
# After stopping or continuing the flood: what was in transit is served by then.
_SETTLE_S = 0.05
_PERCENTILE = 99


@dataclass(frozen=True, slots=True)
class FloodScale:
    """How much is measured; *crowds*: besides one guest of each kind, so many that flood with batches."""

    rounds: int = 7
    calls_per_round: int = 1000
    crowds: tuple[int, ...] = (8, 50)


_SCALE = FloodScale()


async def measure_flooded_host(directory: Path) -> dict[str, Figure]:
    """Start and measure a host; *directory*: for its files."""
    async with running_host(_HOST, directory) as client:
        return await measure_flood(client, directory / "run")


async def measure_flood(client: Client, runtime_dir: Path, scale: FloodScale = _SCALE) -> dict[str, Figure]:
    """Measure on a running host; the two domains are made for it, and destroyed after it."""
    honest = await client.create("bench-honest", max_pages=SUPER_PAGES, target_pages=SUPER_PAGES, autostart=False)
    quiet_us: list[float] = []
    figures: dict[str, Figure] = {}
    async with connect(runtime_dir / "domains" / f"{honest}.sock") as domain:
        await domain.call("hello", {"version": VERSION, "session": "bench", "last_seen": None})
        for kind, guests in [*((kind, 1) for kind in KINDS), *(("batches", guests) for guests in scale.crowds)]:
            samples = await _against(client, domain, runtime_dir, (kind, guests), scale)
            quiet_us += [quiet for quiet, _ in samples]
            name = "flood_p99" + ("" if kind == "batches" else f"_{kind}") + ("" if guests == 1 else f"_{guests}")
            figures[name] = summarize([flooded / quiet for quiet, flooded in samples], "ratio", "the same without it")
    await client.destroy(honest)
    return {"hypercall_p99": summarize(quiet_us, "us"), **figures}


async def _against(
    client: Client, domain: BareClient, runtime_dir: Path, flooding: tuple[str, int], scale: FloodScale
) -> list[tuple[float, float]]:
    """Measure calls against guests that flood (how, and how many); returns the rounds' percentiles, without and with them."""
    kind, guests = flooding
    # New domains for each kind: the rate of connections of a domain is limited.
    flooders = [
        await client.create(
            f"bench-flooder-{number}", max_pages=FLOOD_MAX_PAGES, target_pages=FLOOD_PAGES, autostart=False
        )
        for number in range(guests)
    ]
    with cores_set(domain.server_pid):
        async with AsyncExitStack() as floods:
            paths = [runtime_dir / "domains" / f"{flooder}.sock" for flooder in flooders]
            processes = [await floods.enter_async_context(flood(path, kind)) for path in paths]
            rounds, calls = _WARM_UP + scale.rounds, scale.calls_per_round
            samples = [await _round(domain, processes, calls) for _ in range(rounds)][_WARM_UP:]
    for flooder in flooders:
        await client.destroy(flooder)
    return samples


@asynccontextmanager
async def flood(path: Path, kind: str, *, stderr: int | None = None) -> AsyncIterator[Process]:
    """Run a flooding guest on a domain's socket, yielded when its flood has begun; its errors go to *stderr*."""
    command = [sys.executable, "-m", "xbd.lab.bench.shell.flooder", str(path), kind]
    async with running(command, signal.SIGKILL, stdout=subprocess.PIPE, stderr=stderr) as process:
        assert process.stdout is not None, "the flood was started without a pipe"
        said = await trio.to_thread.run_sync(process.stdout.readline, abandon_on_cancel=True)
        assert said == "flooding\n", f"no flood of {kind} has begun"
        yield process


async def _round(domain: BareClient, flooding: list[Process], calls: int) -> tuple[float, float]:
    """Measure without and with the flood: the 99th percentile of a call's latency, in microseconds."""
    percentiles = []
    for turn in (signal.SIGSTOP, signal.SIGCONT):
        for process in flooding:
            process.send_signal(turn)
        await trio.sleep(_SETTLE_S)
        percentiles.append(float(np.percentile(await _latencies_us(domain, calls), _PERCENTILE)))
    assert all(process.poll() is None for process in flooding), "a flood ended before its time"
    quiet, flooded = percentiles
    return quiet, flooded


async def _latencies_us(domain: BareClient, calls: int) -> list[float]:
    """Time calls, one after the other."""
    params: dict[str, object] = {"gfns": np.arange(SUPER_PAGES, dtype="<u8")[::-1].tobytes()}
    latencies = []
    for _ in range(calls // 2):
        for method in ("decrease", "populate"):
            start = time.perf_counter()
            await domain.call(method, params)
            latencies.append((time.perf_counter() - start) * 1e6)
    return latencies
