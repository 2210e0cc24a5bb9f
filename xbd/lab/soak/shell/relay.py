"""A relay before a host's sockets, in a process of its own: `python -m xbd.lab.soak.shell.relay HOST_DIR RELAY_DIR`.

For every socket that appears in the host's run-time directory there is one of the same name in the relay's, and
what connects there is connected on. Lines on standard input make it cut (`cut N LOT`: N connections, the first
chosen by LOT in [0, 1)) or pass on little for a while (`slow SECONDS`). It ends when its standard input does.
"""

import sys
from pathlib import Path
from typing import Final

import trio

from xbd.daemons.runtime import sockets
from xbd.errors import ConfigError

_LOOK_EVERY_S: Final = 0.03
_PIECE_BYTES: Final = 65_536
# A slow reader takes so much at a time, and then waits.
_SLOW_BYTES: Final = 512
_SLOW_PAUSE_S: Final = 0.02


class Relay:
    """The doors that are open, and what is connected through them."""

    def __init__(self, host: Path, own: Path, nursery: trio.Nursery) -> None:
        self._host = host
        self._own = own
        self._nursery = nursery
        self._doors: dict[Path, trio.CancelScope] = {}
        self._connections: dict[trio.CancelScope, None] = {}
        self._slow_until = 0.0

    async def follow(self) -> None:
        """Open and close doors as the host does, for ever."""
        while True:
            there = {path.relative_to(self._host) for path in self._host.glob("**/*.sock")}
            for gone in self._doors.keys() - there:
                self._doors.pop(gone).cancel()
            for new in sorted(there - self._doors.keys()):
                self._open(new)
            await trio.sleep(_LOOK_EVERY_S)

    def _open(self, name: Path) -> None:
        path = self._own / name
        path.parent.mkdir(exist_ok=True)
        path.unlink(missing_ok=True)
        try:
            listener = sockets.bind_unix(path)
        except ConfigError:
            return
        self._doors[name] = trio.CancelScope()
        self._nursery.start_soon(self._serve, trio.socket.from_stdlib_socket(listener), name, self._doors[name])

    async def _serve(self, listener: trio.socket.SocketType, name: Path, scope: trio.CancelScope) -> None:
        with listener, scope:
            while True:
                connection, _ = await listener.accept()
                self._nursery.start_soon(self._connect, trio.SocketStream(connection), self._host / name)
        (self._own / name).unlink(missing_ok=True)

    async def _connect(self, near: trio.SocketStream, path: Path) -> None:
        """Carry a connection both ways until either end is gone, or it is cut."""
        scope = trio.CancelScope()
        async with near:
            try:
                far = await trio.open_unix_socket(str(path))
            except OSError:
                return
            self._connections[scope] = None
            async with far:
                with scope:
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(self._carry, near, far, scope)
                        nursery.start_soon(self._carry, far, near, scope)
            del self._connections[scope]

    async def _carry(self, source: trio.SocketStream, sink: trio.SocketStream, scope: trio.CancelScope) -> None:
        try:
            while True:
                slow = trio.current_time() < self._slow_until
                piece = await source.receive_some(_SLOW_BYTES if slow else _PIECE_BYTES)
                if not piece:
                    break
                await sink.send_all(piece)
                if slow:
                    await trio.sleep(_SLOW_PAUSE_S)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # either end is gone, which ends the other
        scope.cancel()

    def obey(self, line: str) -> None:
        """Do what a line says."""
        match line.split():
            case ["cut", count, lot]:
                connections = list(self._connections)
                first = int(float(lot) * len(connections))
                for scope in (connections[first:] + connections[:first])[: int(count)]:
                    scope.cancel()
            case ["slow", seconds]:
                self._slow_until = trio.current_time() + float(seconds)


async def main(host: Path, own: Path) -> None:
    """Relay until standard input ends."""
    async with trio.open_nursery() as nursery:
        relay = Relay(host, own, nursery)
        nursery.start_soon(relay.follow)
        rest = b""
        async with trio.lowlevel.FdStream(sys.stdin.fileno()) as orders:
            async for piece in orders:
                *lines, rest = (rest + piece).split(b"\n")
                for line in lines:
                    relay.obey(line.decode())
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    Path(sys.argv[2]).mkdir(exist_ok=True)
    trio.run(main, Path(sys.argv[1]), Path(sys.argv[2]))
