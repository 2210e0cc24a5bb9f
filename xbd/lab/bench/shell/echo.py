"""The floor of the wire: a bare trio and msgpack server that answers each request at once.

`python -m xbd.lab.bench.shell.echo PATH` listens on a Unix socket and answers every request `[0, msgid, method,
params]` with `[1, msgid, nil, [512, nil]]`: the bytes of a hypercall both ways, without any work.
"""

import sys
from collections.abc import Awaitable, Callable

import msgpack  # type: ignore[import-untyped]  # it ships no types
import trio

_RECEIVE_BYTES = 65_536


Handler = Callable[[trio.SocketStream], Awaitable[None]]


async def serve(path: str, handler: Handler) -> None:
    """Let *handler* serve each connection to a socket at *path*, until cancelled."""
    listener = trio.socket.socket(trio.socket.AF_UNIX)
    await listener.bind(path)
    listener.listen()
    await trio.serve_listeners(handler, [trio.SocketListener(listener)])


async def _answer(stream: trio.SocketStream) -> None:
    unpacker = msgpack.Unpacker()
    while received := await stream.receive_some(_RECEIVE_BYTES):
        unpacker.feed(received)
        for _, msgid, _, _ in unpacker:
            await stream.send_all(msgpack.packb([1, msgid, None, [512, None]]))


if __name__ == "__main__":
    trio.run(serve, sys.argv[1], _answer)
