"""A peer for tests: any socket or stream, spoken to by hand, message by message."""

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import trio

from tests.schema import check_answer, check_notification
from xbd.control.balancer import BalancerEndpoint
from xbd.control.controller import Controller
from xbd.control.endpoint import DomainEndpoint, Endpoint, ToolstackEndpoint
from xbd.domain import DomainSpec
from xbd.machine import Machine
from xbd.protocol import codec
from xbd.protocol.codec import Message, Notification, Response

HOST_SUPERFRAMES = 64
# Which of the description's sockets each endpoint serves.
SOCKETS: dict[type[Endpoint], str] = {
    ToolstackEndpoint: "hypervisor.sock",
    DomainEndpoint: "domains/N.sock",
    BalancerEndpoint: "autoballoon.sock",
}


# When everything happens in tests that have no time.
EVENT_TIME_S = 1_000_000_000.0


def clock() -> float:
    """Tell the time of tests."""
    return EVENT_TIME_S


def small_host() -> Controller:
    """Make a host of 128 MiB without sockets."""
    return Controller(Machine(HOST_SUPERFRAMES), clock=clock)


def create(host: Controller, name: str = "web", *, superpages: int = 8, target: int = 4, **settings: object) -> int:
    """Make a domain; returns its domid."""
    domid = do(host, "create", name=name, max_pages=superpages * 512, target_pages=target * 512, guest=settings)[
        "domid"
    ]
    assert isinstance(domid, int)
    return domid


def create_again(host: Controller, domid: int, name: str = "web", target_pages: int = 2048) -> None:
    """Create a domain under the number of one that was destroyed, which a daemon does only when no other is left."""
    with host.step():
        host._create(DomainSpec(name, 4096, target_pages), domid)


def do(host: Controller, method: str, **params: object) -> dict[str, object]:
    """Execute a toolstack's call as a step of its own; returns its answer."""
    with host.step():
        return host.call(method, params)


def listed(host: Controller) -> list[dict[str, Any]]:
    """Ask for all domains, as a toolstack does; returns them."""
    told: list[dict[str, Any]] = toolstack(host).call("list")["domains"]
    return told


class Caller:
    """Numbers calls, takes messages apart, and holds what it is told against the protocol's description.

    *socket*: which of the description's it speaks to; None: it speaks to something else.
    """

    def __init__(self, socket: str | None) -> None:
        self.described = socket
        self.decoder = codec.Decoder(codec.ANSWER_LIMITS)
        self.msgid = -1

    def pack(self, method: str, params: dict[str, object]) -> bytes:
        """Pack a call under the next message id."""
        self.msgid += 1
        return codec.encode_request(self.msgid, method, params)

    def answer_of(self, method: str, answer: Response) -> Any:  # noqa: ANN401 - whatever the method answers
        """Return an answer's result, or its error map; it is as described."""
        told = answer.untrusted_result if answer.untrusted_error is None else answer.untrusted_error
        if self.described is not None:
            check_answer(self.described, method, told)
        return told

    def check_unasked(self, message: Message) -> None:
        """Hold a notification against the description."""
        if self.described is not None and isinstance(message, Notification):
            check_notification(self.described, message.method, message.untrusted_params)


class DirectPeer(Caller):
    """A peer whose bytes go straight into an endpoint."""

    def __init__(self, endpoint: Endpoint) -> None:
        super().__init__(SOCKETS.get(type(endpoint)))
        self.endpoint = endpoint

    def send(self, stream: bytes) -> list[Message]:
        """Hand over bytes; returns the messages that come back."""
        self.endpoint.feed(stream)
        return self.messages(self.turns())

    def turns(self) -> bytes:
        """Let the endpoint take the turns that are due; returns its answers."""
        answers = b""
        while self.endpoint.more:
            answers += self.endpoint.turn()
        return answers

    def messages(self, answers: bytes) -> list[Message]:
        """Decode what came back."""
        self.decoder.feed(answers)
        messages = []
        while (message := self.decoder.next_message()) is not None:
            self.check_unasked(message)
            messages.append(message)
        return messages

    def pending(self) -> list[Message]:
        """Take what the endpoint has to tell unasked, and what it answers then."""
        return self.messages(self.endpoint.take_pending() + self.turns())

    def call(self, method: str, **params: object) -> Any:  # noqa: ANN401 - whatever the method answers
        """Call and return the result, or the error map."""
        (answer,) = self.send(self.pack(method, params))
        assert isinstance(answer, Response)
        assert answer.msgid == self.msgid
        return self.answer_of(method, answer)


def toolstack(host: Controller, wake: Callable[[], None] = lambda: None) -> DirectPeer:
    """Connect a toolstack that has said hello."""
    peer = DirectPeer(ToolstackEndpoint(host, wake))
    assert peer.call("hello", version=1)["version"] == 1
    return peer


def agent(host: Controller, domid: int, session: str = "a", last_seen: int | None = None) -> DirectPeer:
    """Connect an agent that has said hello."""
    peer = DirectPeer(DomainEndpoint(host, domid, lambda: None))
    assert peer.call("hello", version=1, session=session, last_seen=last_seen)["domid"] == domid
    return peer


class StreamPeer(Caller):
    """A peer on a trio stream."""

    def __init__(self, stream: trio.abc.Stream, socket: str | None = None) -> None:
        super().__init__(socket)
        self.stream = stream
        self.unasked: list[Notification] = []

    async def next_message(self) -> Message | None:
        """Wait for a message; None when the connection has ended."""
        while (message := self.decoder.next_message()) is None:
            try:
                received = await self.stream.receive_some(codec.RECEIVE_BYTES)
            except trio.BrokenResourceError:
                return None
            if not received:
                return None
            self.decoder.feed(received)
        self.check_unasked(message)
        return message

    async def answer(self) -> Response:
        """Wait for the next answer; notifications are put aside."""
        while isinstance(message := await self.next_message(), Notification):
            self.unasked.append(message)
        assert isinstance(message, Response), message
        return message

    async def call(self, method: str, **params: object) -> Any:  # noqa: ANN401 - whatever the method answers
        """Call and return the result, or the error map."""
        await self.stream.send_all(self.pack(method, params))
        answer = await self.answer()
        assert answer.msgid == self.msgid
        return self.answer_of(method, answer)


# What tests have opened and not closed; `conftest` does it for them.
OPENED: list[socket.socket] = []


async def connect(path: Path) -> StreamPeer:
    """Connect to a Unix socket, closed when the test ends."""
    connection = socket.socket(socket.AF_UNIX)
    OPENED.append(connection)
    connection.settimeout(0)
    connection.connect(str(path))
    described = "domains/N.sock" if path.parent.name == "domains" else path.name
    return StreamPeer(
        trio.SocketStream(trio.socket.from_stdlib_socket(connection)),
        described if described in SOCKETS.values() else None,
    )
