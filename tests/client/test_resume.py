"""Clients whose daemon restarts, or whose connection is cut: they go on, or say why they cannot."""

from contextlib import aclosing
from pathlib import Path

import msgpack  # type: ignore[import-untyped]  # it has no annotations
import pytest
import trio
import trio.testing

from tests.peer import HOST_SUPERFRAMES
from xbd.client.calls import KnownDomains
from xbd.client.client import open_client, serve_client
from xbd.client.runtime_dir import hypervisor_socket
from xbd.control.controller import Controller
from xbd.daemons.hypervisor import serve
from xbd.errors import AlreadyExists, PeerLost
from xbd.machine import Machine
from xbd.machine.recovery import recover
from xbd.protocol.toolstack_session import RESUME_WITHIN_S
from xbd.storage.image import Image
from xbd.storage.memory import MemoryStore


class Daemon:
    """A daemon that can be gone at once, like one that is killed."""

    def __init__(self, runtime_dir: Path) -> None:
        self._runtime_dir = runtime_dir
        self._scope = trio.CancelScope()
        self._gone = trio.Event()

    async def start(self, nursery: trio.Nursery, machine: Machine) -> Controller:
        """Begin to serve a machine."""

        async def run(task_status: trio.TaskStatus[Controller]) -> None:
            with self._scope:
                await serve(machine, self._runtime_dir, task_status=task_status)
            self._gone.set()

        host: Controller = await nursery.start(run)
        return host

    async def kill(self) -> None:
        """End it."""
        self._scope.cancel()
        await self._gone.wait()


def new_machine(store: MemoryStore) -> Machine:
    """Make a machine whose state is saved."""
    return Machine(HOST_SUPERFRAMES, image=Image(store))


async def test_a_client_goes_on_with_the_next_daemon(tmp_path: Path) -> None:
    """Calls that are made while it is away wait for it; the session and its domains are there again."""
    store, first, second = MemoryStore(), Daemon(tmp_path), Daemon(tmp_path)
    created = trio.Event()
    async with trio.open_nursery() as nursery:
        await first.start(nursery, new_machine(store))
        async with open_client(hypervisor_socket(tmp_path), resume=True) as client:
            assert await client.create("web", max_pages=1024, target_pages=1024) == 1
            await first.kill()

            async def create() -> None:
                assert await client.create("db", max_pages=512, target_pages=512) == 2
                created.set()

            nursery.start_soon(create)
            await trio.sleep(0.2)
            assert not created.is_set()
            store.roll_back()
            await second.start(nursery, recover(store))
            await created.wait()
            assert [domain.name for domain in await client.list()] == ["web", "db"]
            with pytest.raises(AlreadyExists):
                await client.create("db", max_pages=512, target_pages=512)
        await second.kill()


async def test_what_was_known_of_an_earlier_daemon_is_known_no_more(tmp_path: Path) -> None:
    """It is told everything, and that it is: what has changed between is not known to the next daemon."""
    store, first, second = MemoryStore(), Daemon(tmp_path), Daemon(tmp_path)
    async with trio.open_nursery() as nursery:
        await first.start(nursery, new_machine(store))
        async with open_client(hypervisor_socket(tmp_path), resume=True) as client:
            for name in ("web", "db"):
                await client.create(name, max_pages=512, target_pages=512)
            known = KnownDomains()
            known.take(await client.changes())
            await client.destroy("web")
            await first.kill()
            store.roll_back()
            await second.start(nursery, recover(store))
            changes = await client.changes(known.since)
            known.take(changes)
            assert (changes.is_whole, [one.name for one in known.domains]) == (True, ["db"])
        await second.kill()


async def test_a_follower_of_events_gets_those_of_the_next_daemon(tmp_path: Path) -> None:
    """It is subscribed again, and no event comes twice."""
    store, first, second = MemoryStore(), Daemon(tmp_path), Daemon(tmp_path)
    async with trio.open_nursery() as nursery:
        await first.start(nursery, new_machine(store))
        async with (
            open_client(hypervisor_socket(tmp_path), resume=True) as client,
            aclosing(client.events()) as events,
        ):
            await client.create("web", max_pages=1024, target_pages=1024)
            assert (await anext(events))["number"] == 1
            await first.kill()
            store.roll_back()
            await second.start(nursery, recover(store))
            await client.destroy("web")
            assert [(await anext(events))["event"] for _ in range(1)] == ["destroyed"]
        await second.kill()


async def test_another_host_in_its_place_is_not_mistaken_for_it(tmp_path: Path) -> None:
    """A daemon that did not save its state knows nothing of the session: what was in flight is not sent again."""
    first, second = Daemon(tmp_path), Daemon(tmp_path)
    async with trio.open_nursery() as nursery:
        await first.start(nursery, Machine(HOST_SUPERFRAMES))
        async with open_client(hypervisor_socket(tmp_path), resume=True) as client:
            await client.list()
            await first.kill()
            host = await second.start(nursery, Machine(HOST_SUPERFRAMES))
            with pytest.raises(PeerLost, match="as another host"):
                await client.create("web", max_pages=1024, target_pages=1024)
        assert host.machine.domains() == []
        await second.kill()


async def test_a_daemon_that_does_not_come_back_is_lost(tmp_path: Path, mock_clock: trio.testing.MockClock) -> None:
    """After ten seconds the calls that wait for it end, and say so."""
    mock_clock.rate = 1.0
    daemon = Daemon(tmp_path)
    async with trio.open_nursery() as nursery:
        await daemon.start(nursery, Machine(HOST_SUPERFRAMES))
        async with open_client(hypervisor_socket(tmp_path), resume=True) as client:
            await client.list()
            await daemon.kill()
            mock_clock.rate = 1000.0
            began = trio.current_time()
            with pytest.raises(PeerLost, match="closed the connection"):
                await client.list()
            assert trio.current_time() - began >= RESUME_WITHIN_S / 2


async def test_connections_that_came_to_nothing_are_closed(autojump_clock: trio.testing.MockClock) -> None:
    """A daemon that accepts and goes away again, for as long as is waited for it, leaves no stream open."""
    del autojump_clock
    made: list[trio.abc.Stream] = []

    async def connect() -> trio.abc.Stream:
        if not made:
            made.append(first)
            return first
        here, there = trio.testing.memory_stream_pair()
        await there.aclose()
        made.append(here)
        return here

    first, there = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:

        async def greet_and_go() -> None:
            await there.receive_some()
            await there.send_all(msgpack.packb([1, 0, None, {"version": 1, "host": "h", "resumed": False}]))
            await there.aclose()

        nursery.start_soon(greet_and_go)
        async with serve_client(connect, "the daemon", "session") as client:
            with pytest.raises(PeerLost, match="closed the connection"):
                await client.list()
    assert len(made) > 10
    for stream in made:
        with pytest.raises(trio.ClosedResourceError):
            await stream.send_all(b"?")
