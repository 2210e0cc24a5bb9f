"""The client library: against a scripted daemon on memory streams, and against the real one on its socket."""

import errno
import re
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import msgpack  # type: ignore[import-untyped]  # it has no annotations
import pytest
import trio
import trio.testing

from tests.cli.views import told
from xbd.client.client import Client, open_client, serve_client
from xbd.client.discovery import NoHypervisor, explain_connect, find_socket
from xbd.daemons.hypervisor import serve
from xbd.errors import (
    AlreadyExists,
    BadArgument,
    ConfigError,
    NoSuchDomain,
    OutOfFrames,
    PeerLost,
    RemoteProtocolError,
)
from xbd.machine import Machine
from xbd.protocol.toolstack_session import ANSWER_TIMEOUT_S


class Daemon:
    """The other end of a client: answers as the test says."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self._unpacker = msgpack.Unpacker()

    async def call(self) -> tuple[int, str, object]:
        """Receive a call: msgid, method, parameters."""
        while True:
            for message in self._unpacker:
                kind, msgid, method, params = message
                assert kind == 0
                return msgid, method, params[0]
            self._unpacker.feed(await self.stream.receive_some(65536))

    async def answer(self, msgid: int, result: object, error: object = None) -> None:
        """Answer a call."""
        await self.stream.send_all(msgpack.packb([1, msgid, error, result]))

    async def notify(self, method: str, params: object) -> None:
        """Tell the client something unasked."""
        await self.stream.send_all(msgpack.packb([2, method, [params]]))


@asynccontextmanager
async def connected() -> AsyncIterator[tuple[Client, Daemon]]:
    """Connect a client to a scripted daemon that has greeted it."""
    here, there = trio.testing.memory_stream_pair()
    daemon = Daemon(there)

    async def connect() -> trio.abc.Stream:
        return here

    async def greet() -> None:
        msgid, method, params = await daemon.call()
        assert (method, params) == ("hello", {"version": 1})
        await daemon.answer(msgid, {"version": 1, "host": "h"})

    async with trio.open_nursery() as nursery:
        nursery.start_soon(greet)
        async with serve_client(connect, "the daemon") as client:
            yield client, daemon


async def test_answers_find_their_calls_in_any_order() -> None:
    """Many calls share a connection; each task gets its own answer."""
    answers: dict[str, object] = {}

    async with connected() as (client, daemon), trio.open_nursery() as nursery:

        async def ask(method: str) -> None:
            answers[method] = await client.call(method)

        for name in ("a", "b", "c"):
            nursery.start_soon(ask, name)
        calls = [await daemon.call() for _ in range(3)]
        for msgid, method, _ in reversed(calls):
            await daemon.answer(msgid, {"for": method})
    assert answers == {"a": {"for": "a"}, "b": {"for": "b"}, "c": {"for": "c"}}


async def test_a_refusal_is_the_error_that_it_was() -> None:
    """With errno, sentence and what was expected; the connection lives on."""
    async with connected() as (client, daemon), trio.open_nursery() as nursery:

        async def refuse() -> None:
            msgid, _, _ = await daemon.call()
            await daemon.answer(msgid, None, {"errno": "ESRCH", "message": "no domain 9", "expected": "another"})
            msgid, _, _ = await daemon.call()
            await daemon.answer(msgid, {"domains": []})

        nursery.start_soon(refuse)
        with pytest.raises(NoSuchDomain, match=r"ESRCH: no domain 9 \(expected another\)"):
            await client.info(9)
        assert await client.list() == []


async def test_a_lost_connection_wakes_every_caller() -> None:
    """Those in flight and those to come."""
    lost: list[str] = []

    async with connected() as (client, daemon):

        async def ask() -> None:
            try:
                await client.call("list")
            except PeerLost as error:
                lost.append(str(error))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            nursery.start_soon(ask)
            await daemon.call()
            await daemon.call()
            await daemon.stream.aclose()
        with pytest.raises(PeerLost):
            await client.call("list")
    assert len(lost) == 2
    assert "the daemon closed the connection" in lost[0]


async def test_a_daemon_that_says_why_it_drops_us_is_quoted() -> None:
    """`dropped` comes before the end."""
    async with connected() as (client, daemon):
        await daemon.notify("dropped", {"reason": "too long", "expected": "less"})
        await daemon.stream.aclose()
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(RemoteProtocolError, match="the daemon ended the connection: too long"):
            await client.call("list")


@pytest.mark.parametrize(
    "garbage",
    [b"\xc1", msgpack.packb(7), msgpack.packb([1, 0]), msgpack.packb([2, "event", [{"number": "x"}]]), b"HTTP/1.1 400"],
)
async def test_garbage_ends_the_connection_with_a_clear_error(garbage: bytes) -> None:
    """Whoever listens there is no hypervisor of ours."""
    async with connected() as (client, daemon):
        await daemon.stream.send_all(garbage)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(RemoteProtocolError, match="the daemon sent"):
            await client.call("list")


@pytest.mark.parametrize(
    "answer", [None, 5, {}, {"domains": 5}, {"domains": [5]}, {"domains": [{}]}, {"domains": [told(domid="1")]}]
)
async def test_an_answer_that_makes_no_sense_is_named(answer: object) -> None:
    """A daemon of another make may answer so."""
    async with connected() as (client, daemon), trio.open_nursery() as nursery:

        async def reply() -> None:
            msgid, _, _ = await daemon.call()
            await daemon.answer(msgid, answer)

        nursery.start_soon(reply)
        with pytest.raises(RemoteProtocolError):
            await client.list()


async def test_a_daemon_that_hangs_is_given_up(autojump_clock: trio.testing.MockClock) -> None:
    """After a time that no answer takes; a late answer disturbs nothing."""
    del autojump_clock
    async with connected() as (client, daemon):
        with pytest.raises(PeerLost, match=f"has not answered `list` for {ANSWER_TIMEOUT_S:g} s"):
            await client.list()
        msgid, _, _ = await daemon.call()
        await daemon.answer(msgid, {"domains": []})
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.host)
            msgid, method, _ = await daemon.call()
            assert method == "host"
            await daemon.answer(msgid, {})


async def test_events_go_on_where_the_kept_ones_end() -> None:
    """Those that overlap come once, those of a subscriber come as they happen."""
    numbers: list[int] = []

    async with connected() as (client, daemon), trio.open_nursery() as nursery:

        async def collect() -> None:
            async with aclosing(client.events(3)) as events:
                async for event in events:
                    numbers.append(event["number"])
                    if event["number"] == 6:
                        return

        nursery.start_soon(collect)
        msgid, method, params = await daemon.call()
        assert (method, params) == ("events", {"since": 3})
        await daemon.notify("event", {"number": 4})
        await daemon.answer(msgid, {"events": [{"number": 3}, {"number": 4}], "next": 5})
        await daemon.notify("event", {"number": 5})
        await daemon.notify("news_of_a_newer_daemon", {})
        await daemon.notify("event", {"number": 6})
    assert numbers == [3, 4, 5, 6]


async def test_events_end_with_the_connection() -> None:
    """A follower hears why."""
    async with connected() as (client, daemon), trio.open_nursery() as nursery:

        async def end() -> None:
            msgid, _, _ = await daemon.call()
            await daemon.answer(msgid, {"events": [], "next": 1})
            await trio.testing.wait_all_tasks_blocked()
            await daemon.stream.aclose()

        nursery.start_soon(end)
        async with aclosing(client.events()) as events:
            with pytest.raises(PeerLost):
                await anext(events)


def test_the_socket_is_looked_up_in_order(tmp_path: Path) -> None:
    """--socket, $XBD_SOCKET, $RUNTIME_DIRECTORY, $XDG_RUNTIME_DIR/xbd, /run/xbd; a directory stands for its socket."""
    environ = {"XBD_SOCKET": "/a/s.sock", "RUNTIME_DIRECTORY": "/b:/c", "XDG_RUNTIME_DIR": "/d"}
    assert find_socket("/g.sock", environ) == Path("/g.sock")
    assert find_socket(None, environ) == Path("/a/s.sock")
    del environ["XBD_SOCKET"]
    assert find_socket(None, environ) == Path("/b/hypervisor.sock")
    del environ["RUNTIME_DIRECTORY"]
    assert find_socket(None, environ) == Path("/d/xbd/hypervisor.sock")
    assert find_socket(None, {}) == Path("/run/xbd/hypervisor.sock")
    assert find_socket(tmp_path, {}) == tmp_path / "hypervisor.sock"


def test_a_socket_path_that_is_too_long_is_refused() -> None:
    """Before the operating system does, with a worse word."""
    with pytest.raises(ConfigError, match="at most 107"):
        find_socket("/" + "x" * 107, {})


async def test_no_hypervisor_is_said_with_the_next_step(tmp_path: Path) -> None:
    """No socket, one that was left behind, something else."""
    left = tmp_path / "left.sock"
    listener = trio.socket.socket(trio.socket.AF_UNIX)
    await listener.bind(str(left))
    listener.close()
    other = tmp_path / "file"
    other.touch()
    for path, words in (
        (tmp_path / "none", "there is no such socket; start one"),
        (left, "nobody listens"),
        (other, "that is no socket"),
        (other / "below", "cannot connect to the hypervisor"),
    ):
        with pytest.raises(NoHypervisor, match=words):
            async with open_client(path):
                pass


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("autoballoon.sock", FileNotFoundError(), "no autoballoon daemon at .*; start one with `xbd autoballoon`"),
        ("autoballoon.sock", BlockingIOError(), "the autoballoon daemon at .* takes nobody in"),
        (
            "autoballoon.sock",
            OSError(errno.EMFILE, "too many"),
            "cannot connect to the autoballoon daemon at .*too many",
        ),
        ("domains/5.sock", FileNotFoundError(), "the domain is gone, or its hypervisor"),
    ],
)
def test_the_daemon_that_was_asked_is_named(name: str, error: OSError, words: str) -> None:
    """By its socket: what helps one of them does not help another."""
    assert re.search(words, str(explain_connect(Path("/run/xbd") / name, error)))


@asynccontextmanager
async def real_daemon(runtime_dir: Path) -> AsyncIterator[Client]:
    """Run a real daemon of 1 GiB and connect to it."""
    async with trio.open_nursery() as nursery:
        stop = trio.Event()
        await nursery.start(lambda **kwargs: serve(Machine(512), runtime_dir, stop=stop, **kwargs))
        async with open_client(runtime_dir / "hypervisor.sock") as client:
            yield client
        stop.set()


async def test_a_domain_lives_and_dies_by_the_client(tmp_path: Path) -> None:
    """Every method, against the daemon itself."""
    async with real_daemon(tmp_path) as client:
        settings = {"strategy": "full", "workload": {"profile": "steady", "churn": 0.05}}
        domid = await client.create("web1", max_pages=1024, target_pages=512, guest=settings)
        seen = await client.info("web1")
        assert (seen.domid, seen.tot_pages, seen.max_pages, seen.state) == (domid, 512, 1024, "waiting")
        assert (seen.guest, seen.agent) == (settings, False)
        await client.set_target("web1", 1024)
        await client.set_max(domid, 1024)
        await client.guest_mode("web1", "slow 10MiB/s")
        assert (await client.list())[0].target_pages == 1024
        assert (await client.host())["free_frames"] == 511 * 512
        assert await client.audit() == []
        await client.shutdown("web1")
        assert (await client.info(domid)).state == "shutdown"
        await client.destroy(domid)
        assert await client.list() == []
        kept = [event["event"] async for event in client.events(follow=False)]
        assert kept == ["created", "target", "max", "mode", "shutdown", "destroyed"]


async def test_the_daemon_refuses_and_nothing_has_changed(tmp_path: Path) -> None:
    """Unknown domains and methods, what is too much, what is taken."""
    async with real_daemon(tmp_path) as client:
        await client.create("web1", max_pages=512, target_pages=512)
        for refused, error in (
            (lambda: client.info("nosuch"), NoSuchDomain),
            (lambda: client.set_target("web1", 1 << 20), BadArgument),
            (lambda: client.create("web1", max_pages=512, target_pages=512), AlreadyExists),
            (lambda: client.create("web2", max_pages=1 << 20, target_pages=1 << 20), OutOfFrames),
            (lambda: client.call("nonsense"), BadArgument),
            (lambda: client.call("list", {"colour": 1}), BadArgument),
        ):
            with pytest.raises(error):
                await refused()
        assert [domain.name for domain in await client.list()] == ["web1"]
        assert await client.audit() == []
