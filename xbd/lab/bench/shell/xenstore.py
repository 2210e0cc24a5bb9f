"""The store's socket against its floor: reads and writes, one at a time, beside a bare echo of the same bytes.

Both servers are processes of their own, and one and the same bare client asks both in turn, as in
`wire`; it uses blocking calls, as Xen's own tools do. `python -m xbd.lab.bench.shell.xenstore PATH` is the
echo, a bare trio server: it reads a request's first byte, and sends the answer of the store.
"""

import socket
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import trio

from xbd.errors import PeerLost, XbdError
from xbd.lab.bench.figures import Figure, summarize
from xbd.lab.bench.shell.echo import serve
from xbd.lab.bench.shell.wire import cores_set
from xbd.testing.processes import running, until_it_listens
from xbd.xenstore.codec import HEADER, Operation, encode

_ROUNDS, _WARM_UP = 40, 3
_REQUESTS_PER_ROUND: Final = 200
_ANSWER_TIMEOUT_S: Final = 10.0
_PATH: Final = b"/local/domain/0/bench/target"
_VALUE: Final = b"524288"
_READ: Final = encode(Operation.READ, 1, 0, _PATH + b"\0")
_WRITE: Final = encode(Operation.WRITE, 1, 0, _PATH + b"\0" + _VALUE)
_ANSWERS: Final = {
    Operation.READ: encode(Operation.READ, 1, 0, _VALUE),
    Operation.WRITE: encode(Operation.WRITE, 1, 0, b"OK\0"),
}
_RECEIVE_BYTES: Final = 65_536


async def measure_xenstore(directory: Path, rounds: int = _ROUNDS) -> dict[str, Figure]:
    """Measure reads and writes through one connection of an `xbd xenstored`, saved in *directory*, against an echo."""
    store, echo = directory / "xenstored" / "socket", directory / "echo.sock"
    command = ["-m", "xbd", "xenstored", "--socket", str(directory / "none.sock")]
    options = ["--xenstore-socket", str(store), "--state-dir", str(directory / "state")]
    async with (
        _server([*command, *options, "--log-level", "error"], store) as (store_pid, stored),
        _server(["-m", "xbd.lab.bench.shell.xenstore", str(echo)], echo) as (echo_pid, echoed),
    ):
        _ask(stored, _WRITE)
        with cores_set(echo_pid, store_pid):
            samples = [
                [_rate(server, request) for request in (_READ, _WRITE) for server in (stored, echoed)]
                for _ in range(_WARM_UP + rounds)
            ][_WARM_UP:]
    read, read_echo, write, write_echo = (list(column) for column in zip(*samples, strict=True))
    bare = "a bare trio echo of the same bytes"
    return {
        "xenstore_reads": summarize(read, "1/s"),
        "xenstore_writes": summarize(write, "1/s"),
        "xenstore_echo": summarize(read_echo, "1/s"),
        "xenstore_reads_vs_echo": summarize([a / b for a, b in zip(read, read_echo, strict=True)], "ratio", bare),
        "xenstore_writes_vs_echo": summarize([a / b for a, b in zip(write, write_echo, strict=True)], "ratio", bare),
    }


@asynccontextmanager
async def _server(arguments: list[str], path: Path) -> AsyncIterator[tuple[int, socket.socket]]:
    """Run a server in a process of its own until the block ends; hands out its pid and a connection to it."""
    async with running([sys.executable, *arguments]) as process:
        await until_it_listens(process, path)
        with socket.socket(socket.AF_UNIX) as server:
            server.settimeout(_ANSWER_TIMEOUT_S)
            server.connect(str(path))
            yield process.pid, server


def _rate(server: socket.socket, request: bytes) -> float:
    """Send one request after the other; returns requests per second."""
    start = time.perf_counter()
    for _ in range(_REQUESTS_PER_ROUND):
        _ask(server, request)
    return _REQUESTS_PER_ROUND / (time.perf_counter() - start)


def _ask(server: socket.socket, request: bytes) -> None:
    """Ask once, and wait for the answer. Raises XbdError: it is an error; PeerLost."""
    server.sendall(request)
    answer = server.recv(_RECEIVE_BYTES)
    if not answer:
        raise PeerLost("the connection ended while an answer was awaited")
    if answer[:4] != request[:4] or len(answer) < HEADER.size:
        raise XbdError(f"a request was answered with {answer[:80]!r}")


async def _answer(stream: trio.SocketStream) -> None:
    """Answer each request with the bytes of its answer."""
    while received := await stream.receive_some(_RECEIVE_BYTES):
        await stream.send_all(_ANSWERS[Operation(received[0])])


if __name__ == "__main__":
    trio.run(serve, sys.argv[1], _answer)
