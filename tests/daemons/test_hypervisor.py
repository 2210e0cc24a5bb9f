"""The daemon on real sockets: who gets in, what hostile peers do, starting and stopping."""

import gc
import os
import socket
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
import trio

from tests.peer import HOST_SUPERFRAMES, StreamPeer, connect, create
from xbd.client.runtime_dir import default_runtime_dir, domain_socket, hypervisor_socket
from xbd.control.controller import Controller
from xbd.daemons.hypervisor import serve
from xbd.daemons.runtime.sockets import bind_unix
from xbd.errors import ConfigError
from xbd.machine import Machine
from xbd.protocol import codec


@asynccontextmanager
async def daemon(runtime_dir: Path) -> AsyncIterator[Controller]:
    """Run a daemon around a test; it must end well, with a clean audit."""
    stop = trio.Event()
    violations: list[str] = []

    async def run(task_status: trio.TaskStatus[Controller] = trio.TASK_STATUS_IGNORED) -> None:
        violations.extend(await serve(Machine(HOST_SUPERFRAMES), runtime_dir, stop=stop, task_status=task_status))

    async with trio.open_nursery() as nursery:
        host = await nursery.start(run)
        yield host
        stop.set()
    assert violations == []
    assert not hypervisor_socket(runtime_dir).exists()
    assert list((runtime_dir / "domains").iterdir()) == []


async def toolstack(runtime_dir: Path) -> StreamPeer:
    """Connect a toolstack and say hello."""
    peer = await connect(hypervisor_socket(runtime_dir))
    await peer.call("hello", version=1)
    return peer


async def agent(runtime_dir: Path, domid: int) -> StreamPeer:
    """Connect an agent and say hello."""
    peer = await connect(domain_socket(runtime_dir, domid))
    assert (await peer.call("hello", version=1, session="a", last_seen=None))["resumed"] is False
    return peer


async def test_a_domain_s_socket_comes_and_goes_with_it(tmp_path: Path) -> None:
    """It is there when create is answered, for its user alone, and its agent hears the end when it is destroyed."""
    async with daemon(tmp_path):
        peer = await toolstack(tmp_path)
        domid = (await peer.call("create", name="web", max_pages=2048, target_pages=1024, guest={}))["domid"]
        path = domain_socket(tmp_path, domid)
        for private in (path, hypervisor_socket(tmp_path)):
            assert stat.S_IMODE(private.stat().st_mode) == 0o600
        guest = await agent(tmp_path, domid)
        assert await guest.call("decrease", gfns=bytes(8)) == [1, None]
        assert await peer.call("destroy", domid=domid) == {"zombie_pages": 0}
        assert await guest.next_message() is None
        assert not path.exists()
        assert (await peer.call("audit")) == {"violations": []}


def _open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_create_a_hundred_times_leaks_nothing(tmp_path: Path) -> None:
    """Domains come and go; descriptors and frames are as before."""
    # What earlier tests left to the collector goes now, not in the middle of counting.
    gc.collect()
    async with daemon(tmp_path) as host:
        peer = await toolstack(tmp_path)
        before = _open_descriptors()
        for _ in range(100):
            domid = (await peer.call("create", name="web", max_pages=512, target_pages=512))["domid"]
            guest = await agent(tmp_path, domid)
            await peer.call("destroy", domid=domid)
            assert await guest.next_message() is None
            await guest.stream.aclose()
        await trio.testing.wait_all_tasks_blocked()
        assert _open_descriptors() == before
        assert host.machine.statistics().free_superframes == HOST_SUPERFRAMES


HOSTILE = [
    b"\xc1\xc1\xc1",
    b"GET / HTTP/1.1\r\n\r\n",
    codec.encode_request(1, "store", {"gfns": bytes(8 * 65_536), "words": bytes(8 * 67_000)}),
    b"\x94\x00\x01\xa4load" + b"\x91" * 3000,
    b"\xdd\xff\xff\xff\xff",
    codec.encode_request(5, "decrease", {"gfns": bytes(8)}),
    codec.encode_response(1, {}),
    os.urandom(0) + bytes(range(256)) * 16,
]


@pytest.mark.parametrize("hostile", HOSTILE)
async def test_hostile_peers_disturb_nobody(tmp_path: Path, hostile: bytes) -> None:
    """Garbage on any socket gets an error or ends that connection; others go on, no frame is lost."""
    async with daemon(tmp_path) as host:
        domid, neighbour = create(host), create(host, "neighbour")
        peer = await toolstack(tmp_path)
        other = await agent(tmp_path, neighbour)
        for path in (hypervisor_socket(tmp_path), domain_socket(tmp_path, domid)):
            for greeted in (False, True):
                attacker = await connect(path)
                if greeted:
                    await attacker.call("hello", version=1, **({} if path.name[0] == "h" else {"session": "x"}))
                try:
                    await attacker.stream.send_all(hostile)
                    assert isinstance(attacker.stream, trio.SocketStream)
                    await attacker.stream.send_eof()
                    while await attacker.next_message() is not None:
                        pass
                except trio.BrokenResourceError:
                    pass
                await attacker.stream.aclose()
        assert await other.call("decrease", gfns=bytes(8)) == [1, None]
        assert await peer.call("audit") == {"violations": []}
        assert (await peer.call("info", domain=domid))["tot_pages"] == 2048


async def test_foreign_and_repeated_gfns_over_the_socket(tmp_path: Path) -> None:
    """A guest reaches nothing but its own gfn space."""
    async with daemon(tmp_path) as host:
        guest = await agent(tmp_path, create(host))
        create(host, "neighbour")
        for gfns in ([4096], [1 << 62], [(1 << 64) - 1], [3, 3]):
            error = await guest.call("decrease", gfns=np.array(gfns, dtype="<u8").tobytes())
            assert error["errno"] == "EINVAL"
        assert [host.machine.domain_info(domid).tot_pages for domid in (1, 2)] == [2048, 2048]


async def test_one_busy_guest_leaves_the_others_their_turns(tmp_path: Path) -> None:
    """While one guest's pipelined calls wait, another's call is answered between them."""
    async with daemon(tmp_path) as host:
        busy, quiet = await agent(tmp_path, create(host)), await agent(tmp_path, create(host, "quiet"))
        batch = np.arange(512, dtype="<u8").tobytes()
        count = 200
        await busy.stream.send_all(
            b"".join(
                busy.pack(method, {"gfns": batch}) for _ in range(count // 2) for method in ("decrease", "populate")
            )
        )
        assert await quiet.call("decrease", gfns=bytes(8)) == [1, None]
        done_by_then = sum(host.machine.domain_info(1).hypercalls.values())
        for _ in range(count):
            assert (await busy.answer()).untrusted_result == [512, None]

    assert done_by_then < count


async def test_a_second_daemon_is_refused(tmp_path: Path) -> None:
    """One runtime directory, one daemon; the first goes on."""
    async with daemon(tmp_path):
        with pytest.raises(ConfigError, match="another `xbd hypervisor` runs here"):
            await serve(Machine(1), tmp_path)
        await toolstack(tmp_path)


async def test_leftovers_of_a_killed_daemon_are_replaced(tmp_path: Path) -> None:
    """Stale sockets are no obstacle, and no domain's that are not."""
    (tmp_path / "domains").mkdir()
    for path in (hypervisor_socket(tmp_path), domain_socket(tmp_path, 5)):
        with socket.socket(socket.AF_UNIX) as stale:
            stale.bind(str(path))
    async with daemon(tmp_path):
        assert not domain_socket(tmp_path, 5).exists()
        await toolstack(tmp_path)


def test_what_is_no_socket_is_not_removed(tmp_path: Path) -> None:
    """A file in the socket's place is somebody's; the error names it."""
    path = tmp_path / "hypervisor.sock"
    path.write_text("precious")

    with pytest.raises(ConfigError, match=r"hypervisor\.sock"):
        bind_unix(path)
    assert path.read_text() == "precious"


def test_a_socket_somebody_listens_on_is_not_taken(tmp_path: Path) -> None:
    """A live listener keeps its socket."""
    with bind_unix(tmp_path / "a.sock"), pytest.raises(ConfigError, match="listens there already"):
        bind_unix(tmp_path / "a.sock")


async def test_a_path_that_is_too_long_is_named(tmp_path: Path) -> None:
    """The error says how long it is and how long it may be."""
    with pytest.raises(ConfigError, match=r"at most 107 are possible"):
        await serve(Machine(1), tmp_path / ("x" * 100))


async def test_an_unknown_group_is_named(tmp_path: Path) -> None:
    """A group that does not exist is a configuration error."""
    with pytest.raises(ConfigError, match="no group is called"):
        await serve(Machine(1), tmp_path / "run", group="no-such-group-here")


async def test_a_domain_that_cannot_be_created_ends_the_start(tmp_path: Path) -> None:
    """Start-up fails with the refusal itself, and leaves no socket."""
    with pytest.raises(Exception, match="ENOMEM"):
        await serve(Machine(1), tmp_path, domains=[{"name": "web", "max_pages": 1024, "target_pages": 1024}])
    assert not hypervisor_socket(tmp_path).exists()


async def test_peers_get_their_answers_at_shutdown(tmp_path: Path) -> None:
    """What was sent before the daemon stops is answered, then the connection ends."""
    async with daemon(tmp_path) as host:
        peer = await agent(tmp_path, create(host))
        await peer.stream.send_all(peer.pack("decrease", {"gfns": bytes(8)}))
    assert (await peer.answer()).untrusted_result == [1, None]
    assert await peer.next_message() is None


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"RUNTIME_DIRECTORY": "/run/a:/run/b", "XDG_RUNTIME_DIR": "/x"}, "/run/a"),
        ({"XDG_RUNTIME_DIR": "/x"}, "/x/xbd"),
        ({}, "/run/xbd"),
    ],
)
def test_the_runtime_directory(environ: dict[str, str], expected: str) -> None:
    """systemd's, else the user's, else the system's."""
    assert default_runtime_dir(environ) == Path(expected)
