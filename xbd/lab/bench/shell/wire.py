"""Hypercalls over the real socket against their floor: bare echoes of the same bytes.

Both servers are processes of their own, and one and the same bare client calls both in turn, so
what differs is what the daemon does: sessions, checks, the operation, the answer. Where there are two
cores, the servers run on one and the client on the other: left to itself, the scheduler puts a client
on its server's core or not by how long the server takes, and the ratio would measure that. Then all run on one.
"""

import os
import socket
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import msgpack  # type: ignore[import-untyped]  # it ships no types
import numpy as np
import trio

from xbd.client.client import Client
from xbd.daemons.runtime import sockets
from xbd.errors import PeerLost, XbdError
from xbd.lab.bench.figures import Figure, summarize
from xbd.protocol.codec import VERSION
from xbd.testing.processes import running, until_it_listens
from xbd.units import SUPER_PAGES

_ROUNDS, _WARM_UP = 40, 3
_CALLS_PER_ROUND = 50
_RECEIVE_BYTES = 65_536


class BareClient:
    """One call at a time on one Unix socket, with nothing but trio and msgpack.

    Attributes: *connection*: to the server; *server_pid*: the process at the other end.
    """

    def __init__(self, server: socket.socket) -> None:
        self.connection = trio.SocketStream(trio.socket.from_stdlib_socket(server))
        self.server_pid, _ = sockets.peer_of(server)
        self._unpacker = msgpack.Unpacker()
        self._msgid = 0

    async def call(self, method: str, params: dict[str, object]) -> object:
        """Call and wait for the answer. Raises XbdError: it is an error; PeerLost."""
        msgid, self._msgid = self._msgid, self._msgid + 1
        await self.connection.send_all(msgpack.packb([0, msgid, method, [params]]))
        while True:
            received = await self.connection.receive_some(_RECEIVE_BYTES)
            if not received:
                raise PeerLost(f"the connection ended while {method} was awaited")
            self._unpacker.feed(received)
            for message in self._unpacker:
                if message[0] == 1 and message[1] == msgid:
                    if message[2] is not None:
                        raise XbdError(f"{method} was refused: {message[2]}")
                    return message[3]

    async def stream(self, method: str, params: dict[str, object], count: int, in_flight: int) -> None:
        """Call *count* times, with up to *in_flight* calls in flight, and wait for all answers."""
        sent = answered = 0
        while answered < count:
            calls = range(sent, min(count, answered + in_flight))
            if calls:
                await self.connection.send_all(b"".join(msgpack.packb([0, msgid, method, [params]]) for msgid in calls))
                sent = calls.stop
            received = await self.connection.receive_some(_RECEIVE_BYTES)
            if not received:
                raise PeerLost(f"the connection ended while {method} was awaited")
            self._unpacker.feed(received)
            answered += sum(1 for _ in self._unpacker)


@asynccontextmanager
async def connect(path: Path) -> AsyncIterator[BareClient]:
    """Connect to a socket."""
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(str(path))
    client = BareClient(connection)
    async with client.connection:
        yield client


@asynccontextmanager
async def echo_server(directory: Path) -> AsyncIterator[Path]:
    """Run the echo server in a process of its own; yields its socket when it listens."""
    path = directory / "echo.sock"
    command = [sys.executable, "-m", "xbd.lab.bench.shell.echo", str(path)]
    async with running(command) as process:
        await until_it_listens(process, path)
        yield path
    # The next one may use the same path.
    path.unlink(missing_ok=True)


async def measure_hypercalls(
    client: Client, runtime_dir: Path, directory: Path, rounds: int = _ROUNDS, calls: int = _CALLS_PER_ROUND
) -> dict[str, Figure]:
    """Measure a populate and a decrease of 512 order-0 extents on a running host against two echoes."""
    pages = 16 * SUPER_PAGES
    domid = await client.create("bench-bare", max_pages=pages, target_pages=pages, autostart=False)
    block = np.arange(SUPER_PAGES, dtype=np.uint64)[::-1]
    straddling = block + np.uint64(SUPER_PAGES // 2)
    async with (
        echo_server(directory) as echo_path,
        connect(echo_path) as echo,
        connect(runtime_dir / "domains" / f"{domid}.sock") as domain,
    ):
        await domain.call("hello", {"version": VERSION, "session": "bench", "last_seen": None})
        batches = (block, straddling)
        figures: dict[str, Figure] = {}
        for name, apart in (("", True), ("_one_core", False)):
            with cores_set(echo.server_pid, domain.server_pid, apart=apart):
                samples = [await _round(echo, domain, batches, calls) for _ in range(_WARM_UP + rounds)][_WARM_UP:]
            figures |= _figures(samples, name)
    await client.destroy(domid)
    return figures


def _figures(samples: Sequence[Sequence[float]], name: str) -> dict[str, Figure]:
    """Make figures of rounds: each the seconds of a pair of echoes, of pairs of calls, and of a multicall."""
    echoes, blocks, runs, together = (np.array(column) for column in zip(*samples, strict=True))
    two = "two bare trio + msgpack echoes of the same bytes"
    return {
        f"echo_pair{name}": summarize((echoes * 1e6).tolist(), "us"),
        f"hypercall_pair{name}": summarize((blocks * 1e6).tolist(), "us"),
        f"hypercall_vs_echo{name}": summarize((blocks / echoes).tolist(), "ratio", two),
        f"hypercall_straddling_vs_echo{name}": summarize((runs / echoes).tolist(), "ratio", two),
        f"multicall_vs_echo{name}": summarize((together / echoes).tolist(), "ratio", two),
    }


@contextmanager
def cores_set(*servers: int, apart: bool = True) -> Iterator[None]:
    """Keep the servers on one core for a while, and this process on another, *apart*, or on the same; if there are two."""
    here, before = os.getpid(), os.sched_getaffinity(0)
    cores = sorted(before)
    if len(cores) > 1:
        os.sched_setaffinity(here, cores[:1])
        for pid in servers:
            os.sched_setaffinity(pid, cores[1:2] if apart else cores[:1])
    try:
        yield
    finally:
        for pid in (here, *servers):
            os.sched_setaffinity(pid, before)


async def _round(echo: BareClient, domain: BareClient, batches: tuple[np.ndarray, ...], calls: int) -> list[float]:
    """Time pairs of calls, in turn: first two echoes, then a decrease and a populate of each batch, then both in one."""
    pairs = ((echo, batches[0]), *((domain, batch) for batch in batches))
    return [
        *[await time_pairs(server, gfns, calls) for server, gfns in pairs],
        await time_pairs(domain, batches[0], calls, together=True),
    ]


async def time_pairs(
    server: BareClient, gfns: np.ndarray, calls: int = _CALLS_PER_ROUND, *, together: bool = False
) -> float:
    """Time a decrease and a populate of (n,) gfns, or both *together* in a multicall; seconds, the mean of many."""
    params: dict[str, object] = {"gfns": gfns.tobytes(), "order": 0}
    both = [["decrease", params], ["populate", params]]
    start = time.perf_counter()
    for _ in range(calls):
        if together:
            answers = await server.call("multicall", {"calls": both})
            if answers != [[None, [gfns.size, None]]] * 2:
                raise XbdError(f"multicall was answered {answers}")
        else:
            await server.call("decrease", params)
            await server.call("populate", params)
    return (time.perf_counter() - start) / calls
