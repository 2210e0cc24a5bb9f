"""A client of a XenStore's sockets written from Xen's io/xs_wire.h alone: messages on a blocking Unix socket."""

import socket
import struct
from pathlib import Path
from types import TracebackType
from typing import Final, Self

# type, request, transaction, length of what follows
_HEADER: Final = struct.Struct("=4I")
READ, INTRODUCE, RELEASE, WRITE, ERROR = 2, 8, 9, 11, 16
# A daemon that does not answer for so long fails its test instead of holding it up for ever.
PATIENCE_S: Final = 60.0
Asked = tuple[int, bytes]


def packed(operation: int, payload: bytes, *, request: int = 0) -> bytes:
    """Pack a message."""
    return _HEADER.pack(operation, request, 0, len(payload)) + payload


def introduce(domid: int) -> Asked:
    """Ask that the store know a domain."""
    return INTRODUCE, b"%d\0001\0001\0" % domid


def release(domid: int) -> Asked:
    """Ask that the store forget a domain."""
    return RELEASE, b"%d\0" % domid


class Store:
    """A connection to one socket of a store."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(PATIENCE_S)
        self.socket.connect(str(path))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.socket.close()

    def ask(self, *asked: Asked) -> list[Asked]:
        """Ask for several things in one write; returns type and payload of each answer. Raises ConnectionError."""
        self.socket.sendall(b"".join(packed(*one, request=number) for number, one in enumerate(asked)))
        answers = []
        for number in range(len(asked)):
            operation, request, _, length = _HEADER.unpack(self._receive(_HEADER.size))
            assert request == number, f"an answer to request {request}, expected {number}"
            answers.append((operation, self._receive(length)))
        return answers

    def _receive(self, size_bytes: int) -> bytes:
        received = b""
        while len(received) < size_bytes:
            more = self.socket.recv(size_bytes - len(received))
            if not more:
                raise ConnectionError("the store closed the connection")
            received += more
        return received
