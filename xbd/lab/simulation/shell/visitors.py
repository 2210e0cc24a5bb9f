"""Who else comes to the daemons' sockets: the store's clients, a scraper, strangers, and clients that never read."""

from collections.abc import Callable
from pathlib import Path
from typing import Final

import trio

from xbd.lab.simulation.daemons.ledger import Keys
from xbd.lab.simulation.daemons.trace import Trace
from xbd.lab.simulation.rng import Rng
from xbd.lab.simulation.shell.store_stream import ask
from xbd.protocol.codec import VERSION, encode_request
from xbd.testing.oracle import Violation
from xbd.xenstore.codec import Decoder, Message, Operation

# Theirs are not cut: what becomes of each is the daemons' doing.
_connect: Final = trio.open_unix_socket
_PAUSE_S: Final = 0.5
_RECEIVE_BYTES: Final = 65536
_KEYS: Final = 4
_GONE = (OSError, trio.BrokenResourceError, trio.ClosedResourceError)
# What a client that never reads asks for, again and again, until nothing more is taken: answers of some size.
_DEAF_ASKS: Final = 4000
_DEAF_WAITS_S: Final = 60.0
_SCRAPED_WITHIN_S: Final = 30.0
_STRANGERS_AT_ONCE: Final = 30


class StoreClient:
    """One who writes, reads and removes keys of their own in the XenStore.

    Args:
        name: theirs, and their keys' directory.
        socket: the store's.
        rng, trace: of the run.
        is_saved: tells whether the store says that it can save what is written.
        calm: how many times as long as in a short run they pause.
    """

    def __init__(
        self, name: str, socket: Path, rng: Rng, trace: Trace, *, is_saved: Callable[[], bool], calm: float
    ) -> None:
        self._pause_s = _PAUSE_S * calm
        self.keys = Keys(name)
        self._name = name
        self._socket = socket
        self._rng = rng
        self._trace = trace
        self._is_saved = is_saved
        self._request = 0
        self._lives = 0

    async def work(self) -> None:
        """Work for ever, on one connection after the other. Raises Violation."""
        while True:
            try:
                async with await _connect(str(self._socket)) as stream:
                    decoder = Decoder()
                    await self.check(stream, decoder)
                    while True:
                        await trio.sleep(self._rng.exponential(self._pause_s))
                        await self._act(stream, decoder)
            except _GONE as error:
                self._trace.line(self._name, f"lost the store: {type(error).__name__}")
            await trio.sleep(self._rng.exponential(self._pause_s))

    async def check(self, stream: trio.SocketStream, decoder: Decoder) -> None:
        """Read every key and hold it against what was written. Raises Violation, OSError, BrokenResourceError."""
        for path in sorted(self.keys.values):
            await self._read(stream, decoder, path)
        if self._lives and self.keys.values:
            self._trace.sometimes("the store's client found its keys after a restart")
        self._lives += 1

    async def _act(self, stream: trio.SocketStream, decoder: Decoder) -> None:
        path = f"/tool/{self._name}/{self._rng.below(_KEYS)}"
        choice = self._rng.below(4)
        if choice == 0:
            await self._read(stream, decoder, path)
        elif choice == 1 and self.keys.values.get(path) is not None:
            await self._write(stream, decoder, path, None)
        else:
            await self._write(stream, decoder, path, b"%d" % self._rng.below(1_000_000))

    async def _read(self, stream: trio.SocketStream, decoder: Decoder, path: str) -> None:
        answer = await self.ask(stream, decoder, Operation.READ, path.encode() + b"\0")
        found = None if answer.operation == Operation.ERROR else answer.payload
        self._trace.line(self._name, f"read {path}: {found!r}")
        self.keys.compare(path, found)

    async def _write(self, stream: trio.SocketStream, decoder: Decoder, path: str, value: bytes | None) -> None:
        operation = Operation.RM if value is None else Operation.WRITE
        was_saved = self._is_saved()
        try:
            answer = await self.ask(stream, decoder, operation, path.encode() + b"\0" + (value or b""))
        except _GONE:
            self.keys.unsure(path, value)
            raise
        self._trace.line(self._name, f"{operation.name} {path}: {answer.payload!r}")
        if answer.operation == Operation.ERROR:
            raise Violation(f"{self._name}: {operation.name} {path} was refused: {answer.payload!r}")
        self.keys.written(path, value, is_safe=was_saved and self._is_saved())

    async def look_up(self, path: str) -> bytes | None:
        """Read any path of the store on a connection of its own; None: there is none. Raises OSError, BrokenResourceError."""
        async with await _connect(str(self._socket)) as stream:
            answer = await self.ask(stream, Decoder(), Operation.READ, path.encode() + b"\0")
            return None if answer.operation == Operation.ERROR else answer.payload

    async def write(self, path: str, value: bytes) -> None:
        """Write any path of the store on a connection of its own. Raises Violation: that is refused; OSError, BrokenResourceError."""
        async with await _connect(str(self._socket)) as stream:
            answer = await self.ask(stream, Decoder(), Operation.WRITE, path.encode() + b"\0" + value)
        if answer.operation == Operation.ERROR:
            raise Violation(f"{self._name}: WRITE {path} was refused: {answer.payload!r}")

    async def look(self) -> None:
        """Hold the store against all that was written, on a connection of its own. Raises Violation, OSError."""
        async with await _connect(str(self._socket)) as stream:
            await self.check(stream, Decoder())

    async def ask(self, stream: trio.SocketStream, decoder: Decoder, operation: Operation, payload: bytes) -> Message:
        """Ask one thing. Raises Violation: the answer is another request's; OSError, BrokenResourceError."""
        self._request += 1
        answer = await ask(stream, decoder, operation, payload, request=self._request)
        if answer.request != self._request:
            raise Violation(f"{self._name}: an answer to request {answer.request}, asked was {self._request}")
        return answer


async def scrape(socket: Path, trace: Trace) -> bool:
    """Fetch the page of the host's figures once; tells whether the host was up. Raises Violation, OSError."""
    page = b""
    with trio.move_on_after(_SCRAPED_WITHIN_S) as scope:
        async with await _connect(str(socket)) as stream:
            await stream.send_all(b"GET /metrics HTTP/1.0\r\n\r\n")
            while received := await stream.receive_some(_RECEIVE_BYTES):
                page += received
    if scope.cancelled_caught:
        raise Violation(f"the scraper had no page in {_SCRAPED_WITHIN_S:g} s")
    if not page:
        raise trio.BrokenResourceError("the metrics daemon closed the connection")
    if not page.startswith(b"HTTP/1.0 200 "):
        raise Violation(f"the scraper was answered {page[:80]!r}")
    up = b"\nxbd_up 1" in page
    trace.line("scraper", f"up {up:d}")
    trace.sometimes(f"the scraper got a page {'of the host' if up else 'without a hypervisor'}")
    return up


async def scrape_for_ever(socket: Path, trace: Trace, rng: Rng, calm: float) -> None:
    """Scrape every few seconds, or *calm* times as seldom. Raises Violation."""
    while True:
        await trio.sleep(calm * rng.uniform(1.0, 5.0))
        try:
            await scrape(socket, trace)
        except _GONE as error:
            trace.line("scraper", f"nobody there: {type(error).__name__}")


async def be_deaf(socket: Path, trace: Trace) -> None:
    """Ask without reading until no more is taken, then wait to be dropped. Raises Violation: one is not dropped."""
    try:
        async with await _connect(str(socket)) as stream:
            await stream.send_all(encode_request(0, "hello", {"version": VERSION}))
            with trio.move_on_after(_DEAF_WAITS_S) as scope:
                for number in range(1, _DEAF_ASKS):
                    await stream.send_all(encode_request(number, "host", {}))
            if scope.cancelled_caught:
                raise Violation(f"a client that has not read for {_DEAF_WAITS_S:g} s was not dropped")
    except _GONE:
        trace.sometimes("a client that never reads was dropped")
        trace.line("deaf", "dropped")


async def be_strange(places: list[Path], rng: Rng, trace: Trace) -> None:
    """Connect to one of some sockets many times, each time with garbage, and read what comes."""
    socket = rng.choice(places)
    trace.line("stranger", f"comes to {socket.name}")
    for _ in range(1 + rng.below(_STRANGERS_AT_ONCE)):
        garbage = bytes(rng.below(256) for _ in range(1 + rng.below(40)))
        try:
            async with await _connect(str(socket)) as stream:
                await stream.send_all(garbage)
                with trio.move_on_after(rng.uniform(0.0, 0.2)):
                    await stream.receive_some(_RECEIVE_BYTES)
        except _GONE:
            await trio.sleep(rng.exponential(0.05))
