"""A service manager for tests: the real socket that daemons notify, and what they have said on it."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import trio

# Nothing takes so long; a daemon that says nothing fails its test then.
PATIENCE_S = 60.0


class Manager:
    """Hears what daemons say; *address* goes into their $NOTIFY_SOCKET."""

    def __init__(self, listener: socket.socket, address: str) -> None:
        self._listener = listener
        self.address = address
        self.heard: list[dict[str, str]] = []

    def next(self) -> dict[str, str] | None:
        """Take the next message, a map of its lines; None when none has arrived."""
        try:
            datagram = self._listener.recv(4096)
        except BlockingIOError:
            return None
        self.heard.append(dict(line.partition("=")[::2] for line in datagram.decode().split("\n")))
        return self.heard[-1]

    def take(self) -> list[dict[str, str]]:
        """Take all messages that have arrived."""
        return list(iter(self.next, None))

    async def until(self, **lines: str) -> dict[str, str]:
        """Wait for a message that holds *lines*."""
        with trio.fail_after(PATIENCE_S):
            while True:
                await trio.lowlevel.wait_readable(self._listener)
                message = self.next()
                if message is not None and lines.items() <= message.items():
                    return message


@contextmanager
def service_manager(directory: Path) -> Iterator[Manager]:
    """Be a service manager for the length of a block."""
    address = str(directory / "notify.sock")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as listener:
        listener.bind(address)
        yield Manager(listener, address)
