"""The daemon's start, its settings while it runs, and its end: on real sockets, on a clock of the tests' own."""

import grp
import os
import stat
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from tests.daemons.runtime.manager import service_manager
from tests.peer import HOST_SUPERFRAMES, connect, create
from xbd.client.runtime_dir import hypervisor_socket
from xbd.control.controller import Controller
from xbd.control.domain_sockets import DomainSockets
from xbd.daemons.hypervisor import SHUTDOWN_GRACE_S, serve
from xbd.daemons.runtime import sockets
from xbd.daemons.runtime.sd_notify import STATUS_PAUSE_S, ServiceManager
from xbd.daemons.runtime.service import Service
from xbd.daemons.runtime.sockets import bind_unix
from xbd.errors import ConfigError
from xbd.machine import Machine

OWN_GROUP = grp.getgrgid(os.getegid()).gr_name


class Served:
    """A daemon in a nursery; *ended_at* is when it had ended, on the clock of the test."""

    def __init__(self, runtime_dir: Path, nursery: trio.Nursery) -> None:
        self.runtime_dir = runtime_dir
        self.nursery = nursery
        self.stop = trio.Event()
        self.ended_at: float | None = None

    async def start(self, **settings: object) -> Controller:
        """Start it; returns its host."""
        host = await self.nursery.start(self._run, settings)
        assert isinstance(host, Controller)
        return host

    async def _run(self, settings: dict[str, object], task_status: trio.TaskStatus[Controller]) -> None:
        machine = Machine(HOST_SUPERFRAMES)
        assert not await serve(machine, self.runtime_dir, stop=self.stop, task_status=task_status, **settings)  # type: ignore[arg-type]  # of one test each
        self.ended_at = trio.current_time()


async def test_a_peer_that_does_not_read_delays_the_end_by_the_grace_alone(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Its answers do not fit into the socket; after two seconds nobody waits any more."""
    del autojump_clock
    async with trio.open_nursery() as nursery:
        daemon = Served(tmp_path, nursery)
        host = await daemon.start()
        for number in range(15):
            create(host, f"web{number}")
        peer = await connect(hypervisor_socket(tmp_path))
        await peer.call("hello", version=1)
        for _ in range(300):
            await peer.stream.send_all(peer.pack("list", {}))
        await trio.testing.wait_all_tasks_blocked(0.01)
        began = trio.current_time()
        daemon.stop.set()
    assert daemon.ended_at == began + SHUTDOWN_GRACE_S


async def test_without_such_a_peer_the_end_is_at_once(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Peers that are only connected are no reason to wait, nor is whoever feeds the watchdog."""
    del autojump_clock
    with service_manager(tmp_path) as heard:
        async with trio.open_nursery() as nursery:
            daemon = Served(tmp_path / "run", nursery)
            host = await daemon.start(service=Service(ServiceManager(heard.address, watchdog_s=10)))
            await (await connect(hypervisor_socket(tmp_path / "run"))).call("hello", version=1)
            began = trio.current_time()
            daemon.stop.set()
        assert daemon.ended_at == began
        assert host.subscribers == set()
        assert [next(iter(message)) for message in heard.take()] == ["READY", "WATCHDOG", "STOPPING"]


async def test_the_status_follows_domains_and_agents(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Whoever brings them about."""
    del autojump_clock
    with service_manager(tmp_path) as heard:
        async with trio.open_nursery() as nursery:
            daemon = Served(tmp_path / "run", nursery)
            host = await daemon.start(service=Service(ServiceManager(heard.address)))
            domid = create(host)
            await trio.sleep(STATUS_PAUSE_S)
            agent = await connect(tmp_path / "run" / "domains" / f"{domid}.sock")
            await agent.call("hello", version=1, session="a", last_seen=None)
            await trio.sleep(STATUS_PAUSE_S)
            host.call("destroy", {"domid": domid})
            await trio.sleep(STATUS_PAUSE_S)
            daemon.stop.set()
        assert [message.get("STATUS") for message in heard.take()] == [
            "0 domains, 0 agents connected; 128 MiB of 128 MiB free",
            "1 domain, 0 agents connected; 120 MiB of 128 MiB free",
            "1 domain, 1 agent connected; 120 MiB of 128 MiB free",
            "0 domains, 0 agents connected; 128 MiB of 128 MiB free",
            "letting peers finish, then a last audit",
        ]


async def test_a_group_can_be_let_in_while_it_runs(tmp_path: Path) -> None:
    """The file's mode follows, and its members are served; an unknown one changes nothing."""
    path = hypervisor_socket(tmp_path)
    async with trio.open_nursery() as nursery:
        daemon = Served(tmp_path, nursery)
        host = await daemon.start()
        host_sockets(host).permit_group(OWN_GROUP)
        with pytest.raises(ConfigError, match="no group is called"):
            host_sockets(host).permit_group("no-such-group-here")
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        await (await connect(path)).call("hello", version=1)
        host_sockets(host).permit_group(None)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        daemon.stop.set()


def host_sockets(host: Controller) -> DomainSockets:
    """Give the sockets of a host that has some."""
    assert host.sockets is not None
    return host.sockets


async def is_served(path: Path) -> bool:
    """Tell whether a toolstack that connects now is answered, rather than turned away."""
    peer = await connect(path)
    try:
        await peer.stream.send_all(peer.pack("hello", {"version": 1}))
        return await peer.next_message() is not None
    except trio.BrokenResourceError:
        return False


async def test_other_users_are_served_where_a_group_may_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the socket's mode has decided already; otherwise they are turned away."""
    monkeypatch.setattr(sockets, "peer_of", lambda connection: (1, 12345 + connection.fileno()))  # we are but one user
    path = hypervisor_socket(tmp_path)
    async with trio.open_nursery() as nursery:
        daemon = Served(tmp_path, nursery)
        host = await daemon.start()
        served = []
        for group in (None, OWN_GROUP, None):
            host_sockets(host).permit_group(group)
            served.append(await is_served(path))
        daemon.stop.set()
    assert served == [False, True, False]

    with bind_unix(path) as keeper:
        async with trio.open_nursery() as nursery:
            daemon = Served(tmp_path, nursery)
            await daemon.start(passed=keeper.dup())
            assert await is_served(path)
            daemon.stop.set()


async def test_who_may_use_a_passed_socket_is_not_the_daemon_s_affair(tmp_path: Path) -> None:
    """A group is refused, at the start and later, with what says it instead; the socket outlives the daemon."""
    path = hypervisor_socket(tmp_path)
    with bind_unix(path) as keeper:
        with pytest.raises(ConfigError, match="SocketGroup="):
            await serve(Machine(1), tmp_path, group=OWN_GROUP, passed=keeper)
        async with trio.open_nursery() as nursery:
            daemon = Served(tmp_path, nursery)
            host = await daemon.start(passed=keeper.dup())
            await (await connect(path)).call("hello", version=1)
            with pytest.raises(ConfigError, match="SocketGroup="):
                host_sockets(host).permit_group(OWN_GROUP)
            daemon.stop.set()
        assert path.is_socket()
        waiting = await connect(path)
        connection, _ = keeper.accept()
        connection.close()
        assert await waiting.next_message() is None


def test_a_directory_that_others_can_write_ends_the_start(tmp_path: Path) -> None:
    """Before anything is bound in it."""
    tmp_path.chmod(0o777)
    with pytest.raises(ConfigError, match="could replace its sockets; chmod it to 0750"):
        trio.run(serve, Machine(1), tmp_path)
    assert list(tmp_path.iterdir()) == []
