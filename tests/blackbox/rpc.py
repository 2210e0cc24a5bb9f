"""A client of xbd's sockets written from the protocol's description alone: msgpack on a blocking Unix socket."""

import socket
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import msgpack  # type: ignore[import-untyped]  # it ships no types

# A daemon that does not answer for so long fails its test instead of holding it up for ever.
PATIENCE_S: Final = 60.0
_REQUEST, _RESPONSE = 0, 1


class Refused(Exception):
    """A daemon answered a call with an error; *told* is its map: errno, message, expected."""

    def __init__(self, told: dict[str, Any]) -> None:
        super().__init__(told)
        self.told = told


class Caller:
    """A connection to a toolstack or autoballoon socket that makes calls one by one, or many in one write."""

    def __init__(self, path: Path, *, hello: bool = True) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(PATIENCE_S)
        self.socket.connect(str(path))
        self._unpacker = msgpack.Unpacker(raw=False)
        self._next_msgid = 0
        if hello:
            self.call("hello", version=1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self.socket.close()

    def call(self, method: str, **params: object) -> dict[str, Any]:
        """Call a method and return its answer. Raises Refused, ConnectionError."""
        answer = self.pipeline([(method, params)])[0]
        if isinstance(answer, Refused):
            raise answer
        return answer

    def pipeline(self, calls: Sequence[tuple[str, dict[str, Any]]]) -> list[dict[str, Any] | Refused]:
        """Send calls in one write and return their answers, in order. Raises ConnectionError."""
        first = self._next_msgid
        self._next_msgid += len(calls)
        self.socket.sendall(
            b"".join(msgpack.packb([_REQUEST, first + i, name, [params]]) for i, (name, params) in enumerate(calls))
        )
        answers: list[dict[str, Any] | Refused] = []
        while len(answers) < len(calls):
            kind, *rest = self._receive()
            if kind == _RESPONSE:
                msgid, error, result = rest
                assert msgid == first + len(answers), f"an answer to call {msgid}, expected {first + len(answers)}"
                answers.append(Refused(error) if error is not None else result)
        return answers

    def _receive(self) -> list[Any]:
        while True:
            for message in self._unpacker:
                return list(message)
            received = self.socket.recv(65536)
            if not received:
                raise ConnectionError("the daemon closed the connection")
            self._unpacker.feed(received)
