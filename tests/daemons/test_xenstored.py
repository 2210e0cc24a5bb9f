"""The store's sockets: many clients at once, ones that misbehave, domains' own, and what outlives the daemon."""

import resource
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import msgpack  # type: ignore[import-untyped]  # it has no annotations
import pytest
import trio

from tests.daemons.test_hypervisor import daemon
from tests.peer import create
from tests.xenstore.store_client import StoreClient
from xbd.client.runtime_dir import hypervisor_socket
from xbd.daemons.runtime.peers import Alarm
from xbd.daemons.runtime.sockets import bind_unix
from xbd.daemons.xenstore_file import StoreFile
from xbd.daemons.xenstore_sockets import MAX_DOMAIN_CONNECTIONS, XenstoreServer
from xbd.daemons.xenstored import HostInStore
from xbd.errors import ConfigError
from xbd.xenstore.codec import Decoder, Message, Operation, encode
from xbd.xenstore.saved import restore
from xbd.xenstore.store import Store

PATIENCE_S = 60.0
OK = b"OK\0"


class Client:
    """A client on a socket; events are put aside until they are asked for."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self._decoder = Decoder()
        self._events: list[bytes] = []

    async def receive(self) -> Message:
        """Wait for a message."""
        with trio.fail_after(PATIENCE_S):
            while (message := self._decoder.next_message()) is None:
                received = await self.stream.receive_some()
                if not received:
                    raise EOFError
                self._decoder.feed(received)
        return message

    async def ask(self, operation: int, payload: bytes, transaction: int = 0) -> bytes:
        """Ask, and wait for the answer; an error is its name."""
        await self.stream.send_all(encode(operation, 1, transaction, payload))
        while (message := await self.receive()).operation == Operation.WATCH_EVENT:
            self._events.append(message.payload)
        return message.payload

    async def event(self) -> bytes:
        """Wait for an event; its path."""
        if not self._events:
            message = await self.receive()
            assert message.operation == Operation.WATCH_EVENT
            self._events.append(message.payload)
        return self._events.pop(0).split(b"\0")[0]

    async def is_dropped(self) -> bool:
        """Wait until the server closes the connection."""
        try:
            with trio.fail_after(PATIENCE_S):
                while await self.stream.receive_some():
                    pass
        except trio.BrokenResourceError:
            pass
        return True


@asynccontextmanager
async def connected(path: Path) -> AsyncIterator[Client]:
    """Connect to a socket."""
    async with await trio.open_unix_socket(str(path)) as stream:
        yield Client(stream)


@asynccontextmanager
async def serving(directory: Path, *domids: int, state_dir: Path | None = None) -> AsyncIterator[XenstoreServer]:
    """Serve a store for the length of a block."""
    file = StoreFile(state_dir) if state_dir else None
    store = file.store if file else Store()
    for domid in domids:
        store.introduce(domid)
    server = XenstoreServer(directory / "xenstored" / "socket", store, file)
    listener = server.bind()
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.serve, listener)
            await trio.testing.wait_all_tasks_blocked()
            yield server
            assert store.check() == []
            nursery.cancel_scope.cancel()
    finally:
        if file:
            file.close()


async def test_it_answers_and_tells(tmp_path: Path) -> None:
    """A watch of one client's is told of what another writes; the sockets are this user's alone, and go in the end."""
    async with serving(tmp_path) as server, connected(server.path) as one, connected(server.path) as other:
        assert server.path.stat().st_mode & 0o777 == 0o600
        assert await one.ask(Operation.WATCH, b"/a\0t\0") == OK
        assert await one.event() == b"/a"
        for value in (b"1", b"2"):
            assert await other.ask(Operation.WRITE, b"/a\0" + value) == OK
            assert await one.event() == b"/a"
            assert await one.ask(Operation.READ, b"/a\0") == value
    assert not server.path.exists()


async def test_requests_are_traced_into_a_file(tmp_path: Path) -> None:
    """CONTROL logfile names it; what is no file ends the trace, and nothing else."""
    async with serving(tmp_path) as server, connected(server.path) as one:
        for path in (tmp_path / "trace", tmp_path, tmp_path / "trace"):
            assert await one.ask(Operation.CONTROL, b"logfile\0%s\0" % bytes(path)) == OK
            assert await one.ask(Operation.READ, b"/none\0") == b"ENOENT\0"
            assert server.store.trace.on is (path != tmp_path)
    lines = [line.split(" ", 1)[1] for line in (tmp_path / "trace").read_text().splitlines()]
    assert lines[:2] == [r"IN d0 READ b'/none\x00'", r"OUT d0 ERROR b'ENOENT\x00'"]
    assert len(lines) == 4


async def test_bytes_come_in_any_pieces(tmp_path: Path) -> None:
    """One at a time, or many requests at once; answers come in order."""
    async with serving(tmp_path) as server, connected(server.path) as client:
        requests = [encode(Operation.WRITE, number, 0, b"/a/%d\0x" % number) for number in range(200)]
        for byte in requests[0]:
            await client.stream.send_all(bytes([byte]))
        await client.stream.send_all(b"".join(requests[1:]))
        assert [(await client.receive()).request for _ in requests] == list(range(200))
        assert server.status() == "202 nodes, 1 connection, 0 paths watched"


@pytest.mark.parametrize("domid", [0, 5])
async def test_who_breaks_the_protocol_is_dropped(tmp_path: Path, domid: int) -> None:
    """And nobody else; half a message and its end are no harm."""
    async with serving(tmp_path, 5) as server, connected(server.path) as other:
        path = server.domains_dir / "5.sock" if domid else server.path
        async with connected(path) as half:
            await half.stream.send_all(encode(Operation.READ, 0, 0, b"/tool\0")[:-3])
        async with connected(path) as client:
            await client.stream.send_all(encode(Operation.GET_DOMAIN_PATH, 0, 0, b"5\0"))
            assert (await client.receive()).payload == b"/local/domain/5\0"
            await client.stream.send_all(struct.pack("=4I", 2, 0, 0, 4097))
            assert await client.is_dropped()
        assert await other.ask(Operation.IS_DOMAIN_INTRODUCED, b"5\0") == b"T\0"


async def test_a_domains_socket_is_that_domain(tmp_path: Path) -> None:
    """With its home and its rights; it ends when the domain is released, and the next of its number has one of its own."""
    async with serving(tmp_path, 5) as server, connected(server.path) as tool:
        path = server.domains_dir / "5.sock"
        async with connected(path) as guest:
            await tool.ask(Operation.WRITE, b"/local/domain/5/data\0x")
            assert await guest.ask(Operation.READ, b"data\0") == b"EACCES\0"
            await tool.ask(Operation.SET_PERMS, b"/local/domain/5/data\0n5\0")
            assert await guest.ask(Operation.READ, b"data\0") == b"x"
            assert await guest.ask(Operation.RELEASE, b"5\0") == b"EACCES\0"
            await tool.ask(Operation.RELEASE, b"5\0")
            assert await guest.is_dropped()
        await tool.ask(Operation.INTRODUCE, b"6\0001\0001\0")
        assert [path.name for path in server.domains_dir.iterdir()] == ["6.sock"]
        await tool.ask(Operation.INTRODUCE, b"5\0001\0001\0")
        async with connected(path) as guest:
            assert await guest.ask(Operation.READ, b"/local/domain/5/data\0") == b"EACCES\0"


async def test_who_came_for_a_domain_that_is_gone_gets_nothing_of_the_next(tmp_path: Path) -> None:
    """A connection that was made to the one and is served after the other has its number is closed."""
    async with serving(tmp_path, 5) as server:
        early = socket.socket(socket.AF_UNIX)
        early.connect(str(server.domains_dir / "5.sock"))
        server.store.release(5)
        server.store.introduce(5)
        async with trio.SocketStream(trio.socket.from_stdlib_socket(early)) as stream:
            with pytest.raises((EOFError, trio.BrokenResourceError)):
                await Client(stream).ask(Operation.GET_DOMAIN_PATH, b"5\0")
        server.open_sockets()
        async with connected(server.domains_dir / "5.sock") as guest:
            assert await guest.ask(Operation.GET_DOMAIN_PATH, b"5\0") == b"/local/domain/5\0"


async def test_a_domain_whose_socket_cannot_be_is_served_by_none(tmp_path: Path) -> None:
    """Somebody else's file stays where it is, and the tools go on."""
    async with serving(tmp_path) as server, connected(server.path) as tool:
        taken = server.domains_dir / "5.sock"
        taken.write_text("mine")
        assert await tool.ask(Operation.INTRODUCE, b"5\0001\0001\0") == OK
        assert await tool.ask(Operation.RELEASE, b"5\0") == OK
        assert taken.read_text() == "mine"


async def test_a_domain_has_a_few_connections(tmp_path: Path) -> None:
    """One more is refused while all of them watch for something, until one of them leaves."""
    async with serving(tmp_path, 5) as server, trio.open_nursery():
        path = server.domains_dir / "5.sock"
        streams = [await trio.open_unix_socket(str(path)) for _ in range(MAX_DOMAIN_CONNECTIONS)]
        for stream in streams:
            assert await Client(stream).ask(Operation.WATCH, b"/local/domain/5\0t\0") == OK
        async with connected(path) as more:
            assert await more.is_dropped()
        for stream in streams:
            await stream.aclose()
        await trio.testing.wait_all_tasks_blocked()
        async with connected(path) as again:
            assert await again.ask(Operation.GET_DOMAIN_PATH, b"5\0") == b"/local/domain/5\0"


async def test_an_idle_connection_gives_way(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    """Where all places are taken, the one that watches for nothing, and has asked nothing for longest, is closed."""
    del autojump_clock
    async with serving(tmp_path, 5) as server, AsyncExitStack() as held:
        path = server.domains_dir / "5.sock"
        watcher, idlest, idle, fourth = [await held.enter_async_context(connected(path)) for _ in range(4)]
        assert await watcher.ask(Operation.WATCH, b"/local/domain/5\0t\0") == OK
        for client in (idlest, idle, fourth):
            await trio.sleep(0.1)
            await client.ask(Operation.GET_DOMAIN_PATH, b"5\0")
        more = await held.enter_async_context(connected(path))
        assert await more.ask(Operation.GET_DOMAIN_PATH, b"5\0") == b"/local/domain/5\0"
        assert await idlest.is_dropped()
        for client in (idle, fourth):
            assert await client.ask(Operation.GET_DOMAIN_PATH, b"5\0") == b"/local/domain/5\0"


@pytest.mark.parametrize("domid", [0, 5])
async def test_who_does_not_read_holds_up_nobody(tmp_path: Path, domid: int) -> None:
    """It is asked for no more requests, gets all its answers when it does read, and others are served meanwhile."""
    async with serving(tmp_path, 5) as server, connected(server.path) as tool:
        await tool.ask(Operation.WRITE, b"/local/domain/5\0" + bytes(4000))
        await tool.ask(Operation.SET_PERMS, b"/local/domain/5\0n0\0r5\0")
        path = server.domains_dir / "5.sock" if domid else server.path
        asked = 2000
        async with connected(path) as lazy, trio.open_nursery() as nursery:
            request = encode(Operation.READ, 7, 0, b"/local/domain/5\0")
            nursery.start_soon(lazy.stream.send_all, request * asked)
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert await tool.ask(Operation.READ, b"/local/domain/5\0") == bytes(4000)
            assert server.store.tree.account(5).memory_bytes < 100_000
            for _ in range(asked):
                assert (await lazy.receive()).payload == bytes(4000)


async def test_who_never_reads_its_events_is_dropped(tmp_path: Path) -> None:
    """When megabytes wait for it; the writer hears nothing of that."""
    async with serving(tmp_path) as server, connected(server.path) as tool, connected(server.path) as deaf:
        await deaf.ask(Operation.WATCH, b"/a\0" + b"t" * 3000 + b"\0")
        for number in range(2000):
            assert await tool.ask(Operation.WRITE, b"/a/%d\0" % number) == OK
        assert await deaf.is_dropped()
        assert len(server.store.watches) == 0


@pytest.mark.slow
async def test_many_clients_with_many_watches(tmp_path: Path) -> None:
    """500 connections with 20 watches each: every one is told of what concerns it, and of nothing else."""
    async with serving(tmp_path) as server, trio.open_nursery() as nursery, connected(server.path) as tool:
        told: dict[int, bytes] = {}
        all_told = trio.Event()

        async def watch(number: int, ready: trio.Event) -> None:
            async with connected(server.path) as client:
                for path in range(20):
                    assert await client.ask(Operation.WATCH, b"/w/%d/%d\0t\0" % (number, path)) == OK
                for _ in range(20):
                    await client.event()
                ready.set()
                told[number] = await client.event()
                if len(told) == len(events):
                    all_told.set()

        events = [trio.Event() for _ in range(500)]
        for number, event in enumerate(events):
            nursery.start_soon(watch, number, event)
        for event in events:
            await event.wait()
        assert server.status().endswith("501 connections, 10,000 paths watched")
        for number in range(500):
            assert await tool.ask(Operation.WRITE, b"/w/%d/%d\0" % (number, number % 20)) == OK
        with trio.fail_after(PATIENCE_S):
            await all_told.wait()
        assert told == {number: b"/w/%d/%d" % (number, number % 20) for number in range(500)}


# -- what outlives the daemon


async def test_it_looks_at_just_the_domain_that_has_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All are told once, at first; then what changes of one, or that it is gone, is shown and nothing of the other told."""
    told: list[list[int]] = []
    async with daemon(tmp_path) as host, serving(tmp_path) as server, connected(server.path) as tool:
        answer = host.listing.answer

        def count(since: int | str | None) -> bytes:
            packed = answer(since)
            told.append([one["domid"] for one in msgpack.unpackb(packed)["domains"]])
            return packed

        async def until_shown(name: bytes, domid: int, expected: bytes) -> None:
            path = b"/local/domain/%d/%b\0" % (domid, name)
            while await tool.ask(Operation.READ, path) != expected:
                assert await tool.event()

        monkeypatch.setattr(host.listing, "answer", count)
        create(host, "web"), create(host, "db")
        await tool.ask(Operation.WATCH, b"/local/domain\0t\0")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(HostInStore(hypervisor_socket(tmp_path), server, 3600.0).follow)
            await until_shown(b"memory/target", 2, b"8192")
            assert told.pop(0) == [1, 2]
            host.call("set_target", {"domid": 2, "pages": 512})
            await until_shown(b"memory/target", 2, b"2048")
            host.call("destroy", {"domid": 1})
            await until_shown(b"name", 1, b"ENOENT\0")
            nursery.cancel_scope.cancel()
    assert [domids for domids in told if domids] == [[2]]


async def test_a_target_that_somebody_takes_back_at_once_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though the host has what it had when it was last looked at: the store has what was written, and was agreed to."""
    async with daemon(tmp_path) as host, serving(tmp_path) as server, connected(server.path) as tool:
        call = host.call

        def take_back(method: str, params: object, client: str) -> dict[str, object]:
            answer = call(method, params, client)
            if client == "xenstored" and method == "set_target":
                call("set_target", {"domid": 1, "pages": 2048}, "toolstack")
            return answer

        create(host, "web")
        host.call("set_target", {"domid": 1, "pages": 2048}, "toolstack")
        monkeypatch.setattr(host, "call", take_back)
        await tool.ask(Operation.WATCH, b"/local/domain\0t\0")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(HostInStore(hypervisor_socket(tmp_path), server, 3600.0).follow)
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert await tool.ask(Operation.WRITE, b"/local/domain/1/memory/target\0" + b"4096") == OK
            with trio.fail_after(PATIENCE_S):
                while host.events.next_number < 5 or await shown(tool) != b"8192":
                    assert await tool.event()
            nursery.cancel_scope.cancel()


async def shown(tool: Client) -> bytes:
    """Read the target that the store shows."""
    return await tool.ask(Operation.READ, b"/local/domain/1/memory/target\0")


async def test_a_limit_that_was_raised_counts_at_once(tmp_path: Path) -> None:
    """A target that is written after the raised limit was acknowledged is not refused by the limit of before."""
    async with daemon(tmp_path) as host, serving(tmp_path) as server, connected(server.path) as tool:
        create(host, "web")
        host.call("set_max", {"domid": 1, "pages": 2048})
        changed = Alarm()
        host.subscribers.add(changed.ring)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(HostInStore(hypervisor_socket(tmp_path), server, 3600.0).follow)
            await trio.testing.wait_all_tasks_blocked(0.05)
            for pages in (2560, 3072, 3584):
                host.call("set_max", {"domid": 1, "pages": pages})
                assert await tool.ask(Operation.WRITE, b"/local/domain/1/memory/target\0%d" % (pages * 4)) == OK
                with trio.fail_after(PATIENCE_S):
                    while host.domain_info(1).target_pages != pages:
                        await changed.wait()
            nursery.cancel_scope.cancel()


async def test_a_guest_stops_by_what_is_written(tmp_path: Path) -> None:
    """As xl's shutdown and reboot ask for it; what no guest does stays, others are served, and a name is the domain's."""
    async with daemon(tmp_path) as host, serving(tmp_path) as server, connected(server.path) as tool:
        create(host, "web"), create(host, "db")
        changed = Alarm()
        host.subscribers.add(changed.ring)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(HostInStore(hypervisor_socket(tmp_path), server, 3600.0).follow)
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert await tool.ask(Operation.WATCH, b"@releaseDomain\0t\0") == OK
            await tool.event()
            for name, then in ((b"www", b"www"), (b"db", b"www")):
                assert await tool.ask(Operation.WRITE, b"/local/domain/1/name\0" + name) == OK
                with trio.fail_after(PATIENCE_S):
                    while await tool.ask(Operation.READ, b"/local/domain/1/name\0") != then or (
                        host.domain_info(1).name != "www"
                    ):
                        pass
            assert await tool.ask(Operation.WRITE, b"/local/domain/1/control/shutdown\0suspend") == OK
            for domid, word in ((1, b"poweroff"), (2, b"reboot")):
                key = b"/local/domain/%d/control/shutdown" % domid
                assert await tool.ask(Operation.WRITE, key + b"\0" + word) == OK
                with trio.fail_after(PATIENCE_S):
                    while host.domain_info(domid).shutdown_reason != word.decode():
                        await changed.wait()
                assert await tool.event() == b"@releaseDomain"
                assert await tool.ask(Operation.READ, key + b"\0") == b""
            nursery.cancel_scope.cancel()


async def test_the_store_outlives_its_daemon(tmp_path: Path) -> None:
    """What was answered is there again, transactions that were not ended are not, whatever the file went through."""
    state = tmp_path / "state"
    for life in range(3):
        async with serving(tmp_path, state_dir=state) as server, connected(server.path) as client:
            if life:
                assert await client.ask(Operation.READ, b"/life\0") == b"%d" % (life - 1)
                assert await client.ask(Operation.READ, b"/undecided\0") == b"ENOENT\0"
            assert await client.ask(Operation.WRITE, b"/life\0%d" % life) == OK
            transaction = int((await client.ask(Operation.TRANSACTION_START, b"\0"))[:-1])
            await client.ask(Operation.WRITE, b"/undecided\0", transaction)
            # What a killed daemon leaves is what there is now.
            copy = tmp_path / f"copy{life}"
            copy.mkdir()
            (copy / "xenstore.save").write_bytes((state / "xenstore.save").read_bytes() + b"half a rec")
        file = StoreFile(copy)
        life_then = file.store.tree.find(b"/life")
        file.close()
        assert life_then is not None
        assert life_then.value == b"%d" % life


async def test_sockets_that_a_killed_daemon_left_go_at_the_next_start(tmp_path: Path) -> None:
    """That of a domain that has gone meanwhile is removed; what cannot be removed ends the start, and nothing stays bound."""
    domains = tmp_path / "xenstored" / "domains"
    domains.mkdir(parents=True)
    bind_unix(domains / "7.sock").close()
    async with serving(tmp_path, 1):
        assert [path.name for path in domains.iterdir()] == ["1.sock"]
    (domains / "8.sock").mkdir()
    with pytest.raises(ConfigError, match=r"8\.sock: is in the place of a socket, and cannot be removed"):
        XenstoreServer(tmp_path / "xenstored" / "socket", Store()).bind()
    assert not (tmp_path / "xenstored" / "socket").exists()


async def test_the_file_does_not_grow_for_ever(tmp_path: Path) -> None:
    """What is written over and over takes the place of what it was."""
    async with serving(tmp_path, state_dir=tmp_path / "state") as server, connected(server.path) as client:
        for number in range(2400):
            assert await client.ask(Operation.WRITE, b"/a\0%4000d" % number) == OK
        assert (tmp_path / "state" / "xenstore.save").stat().st_size < 6_000_000
    file = StoreFile(tmp_path / "state")
    node = file.store.tree.find(b"/a")
    file.close()
    assert node is not None
    assert node.value.strip() == b"2399"


def test_a_full_disk_does_not_stop_the_store(tmp_path: Path) -> None:
    """What could not be written is, with everything else, when there is room again; until then the file is as it was."""
    file = StoreFile(tmp_path)
    tool = StoreClient(file.store)
    # More than anything else that is written meanwhile, such as a log.
    for number in range(200):
        tool.write(b"/big/%d" % number, bytes(4000))
    tool.write(b"/a", b"1")
    file.save()
    file.close()
    file = StoreFile(tmp_path, retry_s=0.0)
    tool = StoreClient(file.store)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, ((tmp_path / "xenstore.save").stat().st_size - 10, hard))
    try:
        for value in (b"2", b"3"):
            assert tool.write(b"/a", value) == OK
            file.save()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert saved_value(tmp_path / "xenstore.save") == b"1"
    file.save()
    assert saved_value(tmp_path / "xenstore.save") == b"3"
    tool.write(b"/a", b"4")
    file.save()
    file.close()
    assert saved_value(tmp_path / "xenstore.save") == b"4"


def saved_value(path: Path) -> bytes:
    """Read what was saved of /a."""
    node = restore(path.read_bytes()).tree.find(b"/a")
    assert node is not None
    return node.value


def test_one_daemon_keeps_a_file(tmp_path: Path) -> None:
    """A second one is refused, and so is a file that is none of ours, which stays as it is."""
    file = StoreFile(tmp_path)
    with pytest.raises(ConfigError, match="another `xbd xenstored`"):
        StoreFile(tmp_path)
    file.close()
    (tmp_path / "xenstore.save").write_bytes(b"somebody else's")
    with pytest.raises(ConfigError, match="is damaged"):
        StoreFile(tmp_path)
    assert (tmp_path / "xenstore.save").read_bytes() == b"somebody else's"
