"""A relay in front of a host's sockets, as a process: `python -m xbd.lab.soak.shell.relay HOST_DIR RELAY_DIR`.

For every socket in the host's run-time directory it opens one of the same name in its own, and forwards connections.
Lines on standard input make it cut connections (`cut N DRAW`: N of them, the first chosen by DRAW in [0, 1)) or
forward slowly for a while (`slow SECONDS`). It ends at the end of its standard input.
"""

import sys
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final

import trio

from xbd.daemons.runtime import sockets
from xbd.errors import ConfigError

_POLL_EVERY_S: Final = 0.03
# A directory's time of change is as exact as this: what changed so shortly before a listing may have been missed by it.
_SAME_TIME_S: Final = 0.1
_PIECE_BYTES: Final = 65_536
# While slow it forwards this much at a time, and then waits.
_SLOW_BYTES: Final = 512
_SLOW_PAUSE_S: Final = 0.02


class Relay:
    """The relay's listeners and its connections."""

    def __init__(self, host: Path, own: Path, nursery: trio.Nursery) -> None:
        self._host = host
        self._own = own
        self._nursery = nursery
        self._listeners: dict[Path, trio.CancelScope] = {}
        self._connections: dict[trio.CancelScope, None] = {}
        self._slow_until = 0.0
        self._are_all_open = True

    async def follow(self) -> None:
        """Open and close listeners as the host does, for ever."""
        listed_at_s = 0.0
        while True:
            # Listing hundreds of sockets takes a good part of a core: only when something was made or removed.
            if self._changed_at_s() < listed_at_s - _SAME_TIME_S and self._are_all_open:
                await trio.sleep(_POLL_EVERY_S)
                continue
            listed_at_s, self._are_all_open = time.time(), True
            there = {path.relative_to(self._host) for path in self._host.glob("**/*.sock")}
            for gone in self._listeners.keys() - there:
                self._listeners.pop(gone).cancel()
                # At once: when the listener's task has ended, a new one may have its name.
                (self._own / gone).unlink(missing_ok=True)
            for new in sorted(there - self._listeners.keys()):
                self._open(new)
            await trio.sleep(_POLL_EVERY_S)

    def _changed_at_s(self) -> float:
        """Tell when a socket was made or removed last, in seconds since the epoch."""
        changed_at_s = 0.0
        for path in (self._host, self._host / "domains"):
            with suppress(FileNotFoundError):
                changed_at_s = max(changed_at_s, path.stat().st_mtime)
        return changed_at_s

    def _open(self, name: Path) -> None:
        path = self._own / name
        path.parent.mkdir(exist_ok=True)
        path.unlink(missing_ok=True)
        try:
            listener = sockets.bind_unix(path)
        except ConfigError:
            self._are_all_open = False
            return
        self._listeners[name] = trio.CancelScope()
        self._nursery.start_soon(self._serve, trio.socket.from_stdlib_socket(listener), name, self._listeners[name])

    async def _serve(self, listener: trio.socket.SocketType, name: Path, scope: trio.CancelScope) -> None:
        with listener, scope:
            await trio.serve_listeners(
                partial(self._connect, path=self._host / name),
                [trio.SocketListener(listener)],
                handler_nursery=self._nursery,
            )

    async def _connect(self, near: trio.SocketStream, path: Path) -> None:
        """Forward a connection both ways until one end closes, or it is cut."""
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
                        nursery.start_soon(self._forward, near, far, scope)
                        nursery.start_soon(self._forward, far, near, scope)
            del self._connections[scope]

    async def _forward(self, source: trio.SocketStream, sink: trio.SocketStream, scope: trio.CancelScope) -> None:
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
            pass  # one end is closed, so the other is closed too
        scope.cancel()

    def execute(self, line: str) -> None:
        """Execute a line of standard input."""
        match line.split():
            case ["cut", count, draw]:
                connections = list(self._connections)
                first = int(float(draw) * len(connections))
                for scope in (connections[first:] + connections[:first])[: int(count)]:
                    scope.cancel()
            case ["slow", seconds]:
                self._slow_until = trio.current_time() + float(seconds)


async def main(host: Path, own: Path) -> None:
    """Run the relay until standard input ends."""
    async with trio.open_nursery() as nursery:
        relay = Relay(host, own, nursery)
        nursery.start_soon(relay.follow)
        rest = b""
        async with trio.lowlevel.FdStream(sys.stdin.fileno()) as lines_in:
            async for piece in lines_in:
                *lines, rest = (rest + piece).split(b"\n")
                for line in lines:
                    relay.execute(line.decode())
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    Path(sys.argv[2]).mkdir(exist_ok=True)
    trio.run(main, Path(sys.argv[1]), Path(sys.argv[2]))
