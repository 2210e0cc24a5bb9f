"""A XenStore that fails on demand: a real store behind the relay, and what its client is answered."""

import os
import resource
import socket
import threading
from pathlib import Path

import pytest
import trio

from tests.daemons.test_xenstored import OK, connected, serving
from xbd.errors import BadArgument, RemoteProtocolError
from xbd.hypercalls.faults import Failure, Faults, parse_failure
from xbd.xenstore.codec import Decoder, Message, Operation, encode
from xbd.xenstore.store import Store
from xbd.xentools.store_relay import COMMIT, PAUSE_S, STORE_ERRORS, STORE_OPERATIONS, Conversation, StoreRelay, name_of

HANGS_AFTER_S = 10.0


class Relayed:
    """A client of a store in this process, with faults between the two."""

    def __init__(self, *failures: Failure, delays_s: dict[str, float] | None = None) -> None:
        self.store = Store()
        self.connection = self.store.connect()
        self.faults = Faults(failures, delays_s or {})
        self.conversation = Conversation(self.faults, threading.Lock())
        self.waited_s: list[float] = []
        self._server, self._client = Decoder(), Decoder()

    def ask(self, *requests: tuple[int, bytes, int]) -> list[tuple[int, bytes]]:
        """Send requests at once (operation, payload, transaction), a byte at a time; returns what comes back, as kind and payload."""
        sent = b"".join(
            encode(kind, number, transaction, payload) for number, (kind, payload, transaction) in enumerate(requests)
        )
        for byte in sent:
            self.conversation.ask(bytes([byte]), self._server.feed, self.waited_s.append)
        while (request := self._server.next_message()) is not None:
            self.store.handle(self.connection, request)
        self._client.feed(self.conversation.answer(self.connection.take_output()))
        answers = []
        while (answer := self._client.next_message()) is not None:
            answers.append(answer)
        numbers = [one.request for one in answers if one.operation != Operation.WATCH_EVENT]
        assert numbers == list(range(len(requests)))
        return [(one.operation, one.payload) for one in answers]


def test_a_commit_that_fails_changes_nothing_and_is_made_again() -> None:
    """As libxl does with EAGAIN: the transaction is over, and the next one is what counts."""
    client = Relayed(Failure(COMMIT, "EAGAIN", 2))
    for attempt in range(3):
        ((_, number),) = client.ask((Operation.TRANSACTION_START, b"\0", 0))
        transaction = int(number[:-1])
        write = (Operation.WRITE, b"/a\0%d" % attempt, transaction)
        end = (Operation.TRANSACTION_END, b"T\0", transaction)
        written, ended = client.ask(write, end)
        assert written == (Operation.WRITE, OK)
        assert ended == ((Operation.ERROR, b"EAGAIN\0") if attempt < 2 else (Operation.TRANSACTION_END, OK))
        assert client.connection.transactions == {}
    assert client.ask((Operation.READ, b"/a\0", 0)) == [(Operation.READ, b"2")]
    assert client.faults.report() == ["xenstore-commit: 2 of 2 failed with EAGAIN, in 3 calls"]
    assert client.store.check() == []


def test_answers_stay_in_order_and_events_are_let_through() -> None:
    """One request in the middle of several fails, and is not carried out; the others are."""
    client = Relayed(Failure("xenstore-write", "ENOSPC", 1), delays_s={"xenstore-mkdir": 0.25})
    client.ask((Operation.WATCH, b"/\0t\0", 0))
    told = client.ask(
        (Operation.MKDIR, b"/a\0", 0), (Operation.WRITE, b"/b\0x", 0), (Operation.WRITE, b"/c\0x", 0), (99, b"", 0)
    )
    answers = [one for one in told if one[0] != Operation.WATCH_EVENT]
    assert answers == [
        (Operation.MKDIR, OK),
        (Operation.ERROR, b"ENOSPC\0"),
        (Operation.WRITE, OK),
        (Operation.ERROR, b"ENOSYS\0"),
    ]
    events = [payload.split(b"\0")[0] for kind, payload in told if kind == Operation.WATCH_EVENT]
    assert events == [b"/a", b"/c"]
    assert client.waited_s == [0.25]


@pytest.mark.parametrize("end", [(b"T\0", COMMIT), (b"F\0", "xenstore-abort"), (b"", "xenstore-abort")])
def test_the_end_of_a_transaction_has_two_names(end: tuple[bytes, str]) -> None:
    """By whether it is to count; what is no operation has none."""
    assert name_of(Message(Operation.TRANSACTION_END, 0, 1, end[0])) == end[1]
    assert name_of(Message(Operation.CONTROL, 0, 0, b"")) == name_of(Message(1 << 31, 0, 0, b"")) == ""


def test_what_is_no_message_ends_the_conversation() -> None:
    """From either side."""
    conversation = Relayed().conversation
    too_long = (1).to_bytes(4, "little") * 3 + (1 << 20).to_bytes(4, "little")
    with pytest.raises(RemoteProtocolError):
        conversation.ask(too_long, lambda _: None, lambda _: None)
    with pytest.raises(RemoteProtocolError):
        conversation.answer(too_long)


def test_an_error_that_no_store_answers_is_refused() -> None:
    """Its clients would not know it."""
    known = dict.fromkeys(STORE_OPERATIONS, STORE_ERRORS)
    assert parse_failure("xenstore-commit=EAGAIN:2", known) == Failure(COMMIT, "EAGAIN", 2)
    with pytest.raises(BadArgument, match="xenstore-commit never fails with ESRCH"):
        parse_failure("xenstore-commit=ESRCH", known)


async def test_a_socket_in_front_of_a_store(tmp_path: Path) -> None:
    """Clients at once, one after the other, and one that goes in the middle; in the end nothing is left of it."""
    async with serving(tmp_path) as server:
        relay = StoreRelay(str(server.path), Faults([Failure("xenstore-read", "EIO", 1)]))
        relay.start()
        async with connected(relay.path) as one, connected(relay.path) as other:
            assert await one.ask(Operation.WATCH, b"/a\0t\0") == OK
            assert await one.event() == b"/a"
            assert await other.ask(Operation.WRITE, b"/a\0x") == OK
            assert await one.event() == b"/a"
            assert await one.ask(Operation.READ, b"/a\0") == b"EIO\0"
            assert await one.ask(Operation.READ, b"/a\0") == b"x"
            await other.stream.send_all(encode(Operation.READ, 1, 0, b"/a\0")[:-1])
        async with connected(relay.path) as late:
            assert await late.ask(Operation.READ, b"/a\0") == b"x"
            await late.stream.send_all(b"\xff" * 16)
            assert await late.is_dropped()
        relay.remove()
        assert not relay.path.parent.exists()
        with pytest.raises(OSError, match=r"failed to connect|No such file"):
            await trio.open_unix_socket(str(relay.path))


async def test_where_there_is_no_store_there_is_none_behind_it(tmp_path: Path) -> None:
    """A client is dropped, as by a store that has ended; the next one is asked about, too."""
    relay = StoreRelay(str(tmp_path / "none"), Faults())
    relay.start()
    for _ in range(3):
        async with connected(relay.path) as client:
            assert await client.is_dropped()
    relay.remove()


async def test_a_descriptor_that_is_missing_is_waited_for(tmp_path: Path) -> None:
    """Who comes meanwhile is served as soon as there is one, and all who come later."""
    async with serving(tmp_path) as server:
        relay = StoreRelay(str(server.path), Faults())
        relay.start()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        with socket.socket(socket.AF_UNIX) as first, socket.socket(socket.AF_UNIX) as client:
            lowest_free = os.dup(client.fileno())
            os.close(lowest_free)
            resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
            try:
                # What the first one takes may be there already.
                first.connect(str(relay.path))
                client.connect(str(relay.path))
                await trio.sleep(4 * PAUSE_S)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            client.settimeout(HANGS_AFTER_S)
            client.sendall(encode(Operation.READ, 1, 0, b"/\0"))
            assert await trio.to_thread.run_sync(client.recv, 4096)
        async with connected(relay.path) as late:
            assert await late.ask(Operation.WRITE, b"/a\0x") == OK
        relay.remove()
