"""The client without tasks: in a thread, against the real daemon, and against one that restarts, hangs or talks nonsense."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import pytest
import trio

from tests.client.test_resume import Daemon, new_machine
from xbd.client.blocking import BlockingClient, connect
from xbd.client.calls import KnownDomains
from xbd.client.runtime_dir import hypervisor_socket
from xbd.errors import NoSuchDomain, PeerLost, RemoteProtocolError
from xbd.machine import Machine
from xbd.machine.recovery import recover
from xbd.protocol.codec import Decoder, Request, encode_notification, encode_response
from xbd.protocol.toolstack_session import CALLS_IN_FLIGHT
from xbd.storage.memory import MemoryStore

T = TypeVar("T")
# What a test waits for at most that has gone wrong.
PATIENCE_S = 30.0


async def in_thread(work: Callable[[], T]) -> T:
    """Do what blocks beside the daemon."""
    return await trio.to_thread.run_sync(work)


async def with_daemon(directory: Path, work: Callable[[], T], superframes: int = 8) -> T:
    """Run a real daemon while *work* is done in a thread; return what that returns."""
    async with trio.open_nursery() as nursery:
        daemon = Daemon(directory)
        await daemon.start(nursery, Machine(superframes))
        done = await in_thread(work)
        await daemon.kill()
    return done


async def test_every_method_against_the_real_daemon(tmp_path: Path) -> None:
    """The same as those of the client of tasks, with the same values; and a refusal is the error that it was."""

    def work() -> list[str]:
        with connect(tmp_path) as client:
            domid = client.create("web", max_pages=1024, target_pages=512)
            assert client.info("web").domid == domid
            client.set_target(domid, 1024)
            client.set_max(domid, 1024)
            client.guest_mode("web", "stuck")
            assert client.claim("web", 1024) == 512
            assert [domain.target_pages for domain in client.list()] == [1024]
            assert client.host()["domains"] == 1
            assert list(client.audit()) == []
            client.shutdown("web")
            assert client.destroy("web") == 0
            with pytest.raises(NoSuchDomain):
                client.call("info", {"domain": "web"})
            return [event["event"] for event in client.events(follow=False)]

    events = await with_daemon(tmp_path, work)
    assert events == ["created", "target", "max", "mode", "claim", "shutdown", "destroyed"]


async def test_events_are_followed(tmp_path: Path) -> None:
    """Those that happen later, each once, while the same client makes calls between them."""

    def work() -> list[tuple[int, str]]:
        seen: list[tuple[int, str]] = []
        with connect(tmp_path) as client:
            client.create("web", max_pages=512, target_pages=512)
            for event in client.events():
                seen.append((event["number"], event["event"]))
                if event["event"] == "destroyed":
                    return seen
                client.destroy("web")
        return seen

    assert await with_daemon(tmp_path, work) == [(1, "created"), (2, "destroyed")]


async def test_an_event_is_waited_for_until_then(tmp_path: Path) -> None:
    """From the subscription on, each once; and when there is none, no longer than that. Without one, from the first wait on."""

    def work() -> list[str]:
        with connect(tmp_path) as client, connect(tmp_path) as other:
            client.create("web", max_pages=512, target_pages=512)
            assert other.next_event(time.monotonic()) is None
            assert client.subscribe() == 2
            assert client.next_event(time.monotonic() + 0.01) is None
            client.pause("web")
            client.destroy("web")
            told = [one.next_event(time.monotonic() + PATIENCE_S) for one in (client, client, other, other)]
            return [event["event"] for event in told if event is not None]

    assert await with_daemon(tmp_path, work) == ["paused", "destroyed"] * 2


async def test_who_follows_what_changes_knows_what_there_is(tmp_path: Path) -> None:
    """Whether it knew nothing at first, or a domain as it was at an event; only what changed is told."""

    def work() -> None:
        with connect(tmp_path) as client:
            for name in ("a", "b", "c"):
                client.create(name, max_pages=1024, target_pages=512)
            known, seen = KnownDomains(), KnownDomains([client.info("b")], client.subscribe())
            known.take(client.changes())
            assert known.domains == client.list()
            client.set_target("b", 1024)
            client.destroy("a")
            changed = client.changes(known.since)
            assert ([one.name for one in changed.domains], changed.gone, changed.is_whole) == (["b"], [1], False)
            known.take(changed)
            assert known.domains == client.list()
            seen.take(client.changes(seen.since))
            assert [(one.name, one.target_pages) for one in seen.domains if one.domid == 2] == [("b", 1024)]

    await with_daemon(tmp_path, work, superframes=16)


async def test_a_call_goes_on_with_the_next_daemon(tmp_path: Path) -> None:
    """A session is resumed behind the caller's back; what was asked while nobody was there is done once."""
    store, first, second = MemoryStore(), Daemon(tmp_path), Daemon(tmp_path)
    async with trio.open_nursery() as nursery:
        await first.start(nursery, new_machine(store))
        going = trio.Event()

        def work() -> list[str]:
            with connect(hypervisor_socket(tmp_path), resume=True) as client:
                client.create("web", max_pages=512, target_pages=512)
                trio.from_thread.run(first.kill)
                trio.from_thread.run_sync(going.set)
                client.create("db", max_pages=512, target_pages=512)
                return [domain.name for domain in client.list()]

        async def restart() -> None:
            await going.wait()
            store.roll_back()
            await second.start(nursery, recover(store))

        nursery.start_soon(restart)
        assert await in_thread(work) == ["web", "db"]
        await second.kill()


async def test_a_lost_connection_without_a_session_is_the_end(tmp_path: Path) -> None:
    """The call that finds out says so, and so does each after it."""
    async with trio.open_nursery() as nursery:
        daemon = Daemon(tmp_path)
        await daemon.start(nursery, Machine(8))

        def work() -> None:
            with connect(tmp_path) as client:
                trio.from_thread.run(daemon.kill)
                for _ in range(2):
                    with pytest.raises(PeerLost, match=r"closed the connection|broke"):
                        client.list()

        await in_thread(work)


@contextmanager
def scripted(directory: Path, answers: Callable[[Request], bytes | None]) -> Iterator[BlockingClient]:
    """Connect to a daemon that answers as told; None: not at all."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(hypervisor_socket(directory)))
    listener.listen()

    def serve() -> None:
        decoder = Decoder()
        connection = listener.accept()[0]
        connection.settimeout(PATIENCE_S)
        with connection:
            while received := connection.recv(65536):
                decoder.feed(received)
                while isinstance(message := decoder.next_message(), Request):
                    connection.sendall(
                        encode_response(message.msgid, {}) if message.method == "hello" else answers(message) or b""
                    )

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with connect(directory) as client:
            yield client
    finally:
        thread.join(PATIENCE_S)
        listener.close()
    assert not thread.is_alive()


def test_a_daemon_that_hangs_is_given_up(tmp_path: Path) -> None:
    """An answer that comes later disturbs nothing, however many are waited for no more."""
    late: list[bytes] = []

    def answers(request: Request) -> bytes | None:
        answer = encode_response(request.msgid, {"asked": request.method})
        if request.method == "slow":
            late.append(answer)
            return None
        earlier = b"".join(late)
        late.clear()
        return earlier + answer

    with scripted(tmp_path, answers) as client:
        for _ in range(CALLS_IN_FLIGHT - 1):
            with pytest.raises(PeerLost, match=r"has not answered `slow` for 0.001 s"):
                client.call("slow", timeout_s=0.001)
        assert client.call("quick") == {"asked": "quick"}
        assert client.call("quick") == {"asked": "quick"}


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"\xc1", "sent not a MessagePack message"),
        (encode_notification("dropped", {"reason": "too long", "expected": "less"}), "ended the connection: too long"),
        (encode_response(7, {}), "message id 7"),
    ],
)
def test_nonsense_ends_the_connection_with_a_clear_error(tmp_path: Path, answer: bytes, words: str) -> None:
    """At once, and for each call after it."""
    with scripted(tmp_path, lambda _: answer) as client:
        for _ in range(2):
            with pytest.raises(RemoteProtocolError, match=words):
                client.list()
