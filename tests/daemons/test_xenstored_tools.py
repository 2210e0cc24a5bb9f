"""Programs that nobody here wrote, on a real `xbd xenstored`: Debian's xenstore-utils, and PyPI's pyxs."""

import os
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.daemons.runtime.manager import service_manager
from tests.debian import in_path, unpack
from tests.processes import Xbd, running
from xbd.client.client import Client
from xbd.domain import DomainInfo
from xbd.testing.processes import running_host

MIB = 256
PATIENCE_S = 60.0
HOST = """
[host]
memory = "1g"
[[guest]]
name = "web{n}"
count = 2
maximum = "256m"
target = "128m"
minimum = "32m"
workload = { profile = "idle", used = 0.1, cache = 0.02 }
"""
# Debian's package of the tools, and what it needs that a plain system has not.
PACKAGES = ("xenstore-utils", "libxenstore4", "libxentoolcore1")
needs_tools = pytest.mark.usefixtures("tools")


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Have the xenstore-* tools in the path: those that are there, or Debian's, unpacked for these tests alone."""
    if shutil.which("xenstore-ls") is not None:
        yield
        return
    with in_path(unpack(tmp_path_factory.mktemp("xenstore-utils"), PACKAGES)):
        yield


@contextmanager
def store(directory: Path, *more: str) -> Iterator[tuple[Path, Xbd]]:
    """Run an `xbd xenstored` without a hypervisor; hands out its socket, and itself."""
    path = directory / "xs" / "socket"
    command = ("xenstored", "--xenstore-socket", str(path), "--socket", str(directory / "none.sock"), *more)
    with running(*command) as xbd:
        xbd.wait_until_it_says("xenstored_ready")
        yield path, xbd


def run(path: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a tool on a store."""
    environment = {**os.environ, "XENSTORED_PATH": str(path)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=PATIENCE_S)  # noqa: S603 - by name


def said(path: Path, *command: str) -> str:
    """Run a tool that does well; what it says."""
    done = run(path, *command)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


# -- the tools on a store


@needs_tools
@pytest.mark.slow
def test_the_tools_write_and_read(tmp_path: Path) -> None:
    """Values, lists, permissions and what is not there, as on any Xen host."""
    with store(tmp_path) as (path, _):
        said(path, "xenstore-write", "/a/b", "one", "/a/c", "two words")
        assert said(path, "xenstore-read", "/a/b", "/a/c") == "one\ntwo words\n"
        assert said(path, "xenstore-list", "/a") == "b\nc\n"
        said(path, "xenstore-chmod", "/a/b", "n0", "r5", "b6")
        assert said(path, "xenstore-ls", "-fp", "/a") == '/a/b = "one"   (n0,r5,b6)\n/a/c = "two words"   (n0)\n'
        assert said(path, "xenstore-exists", "/a/b") == ""
        assert run(path, "xenstore-exists", "/a/x").returncode == 1
        said(path, "xenstore-rm", "/a/b")
        assert said(path, "xenstore-list", "/a") == "c\n"
        refused = run(path, "xenstore-read", "/a/b")
        assert refused.returncode == 1
        assert "couldn't read path /a/b" in refused.stderr
        said(path, "xenstore-write", "relative", "x")
        assert said(path, "xenstore-read", "/local/domain/0/relative") == "x\n"


@needs_tools
@pytest.mark.slow
def test_the_tools_list_what_fits_no_message(tmp_path: Path) -> None:
    """A thousand names come in parts."""
    names = [f"a-long-name-{number:04}" for number in range(1000)]
    with store(tmp_path) as (path, _):
        for first in range(0, 1000, 100):
            pairs = [part for name in names[first : first + 100] for part in (f"/many/{name}", "x")]
            said(path, "xenstore-write", *pairs)
        assert said(path, "xenstore-list", "/many").split() == names
        assert len(said(path, "xenstore-ls", "-f", "/many").splitlines()) == 1000


@contextmanager
def watching(path: Path, *watched: str, events: int) -> Iterator[Callable[[], list[str]]]:
    """Run a xenstore-watch that ends after so many events, when it watches; hands out what waits for its end."""
    command = ("xenstore-watch", "-n", str(events + len(watched)), *watched)
    environment = {**os.environ, "XENSTORED_PATH": str(path)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603 - by name
        assert process.stdout is not None
        # Each watch fires at once.
        first = [process.stdout.readline().strip() for _ in watched]
        assert first == list(watched)

        def wait() -> list[str]:
            return process.communicate(timeout=PATIENCE_S)[0].split()

        try:
            yield wait
        finally:
            process.kill()


@needs_tools
@pytest.mark.slow
def test_the_tools_watch(tmp_path: Path) -> None:
    """Every write, a removal, and domains that come and go."""
    with store(tmp_path) as (path, _), watching(path, "/a", events=4) as wait:
        said(path, "xenstore-write", "/a/b", "1")
        said(path, "xenstore-write", "/a/b", "1")
        said(path, "xenstore-chmod", "/a/b", "n0")
        said(path, "xenstore-rm", "/a")
        assert wait() == ["/a/b", "/a/b", "/a/b", "/a"]


@needs_tools
@pytest.mark.slow
def test_a_killed_daemon_has_lost_nothing(tmp_path: Path) -> None:
    """The next one has all that was answered; its socket takes the old one's place."""
    state = ("--state-dir", str(tmp_path / "state"))
    with store(tmp_path, *state) as (path, xbd):
        said(path, "xenstore-write", "/a/b", "kept")
        said(path, "xenstore-chmod", "/a/b", "n0", "r5")
        assert xbd.end(signal.SIGKILL) == -signal.SIGKILL
    with store(tmp_path, *state) as (path, _):
        assert said(path, "xenstore-ls", "-fp", "/a") == '/a/b = "kept"   (n0,r5)\n'


# -- pyxs


@pytest.mark.slow
def test_pyxs(tmp_path: Path) -> None:
    """Its client, its transactions, its monitor, and its errors."""
    pyxs: Any = pytest.importorskip("pyxs", reason="there is no pyxs (PyPI)")
    with store(tmp_path) as (path, _), pyxs.Client(unix_socket_path=str(path)) as client:
        client.write(b"/a/b", b"1")
        assert (client.read(b"/a/b"), client.list(b"/a"), client.get_perms(b"/a/b")) == (b"1", [b"b"], [b"n0"])
        client.set_perms(b"/a/b", [b"n0", b"r5"])
        assert client.get_perms(b"/a/b") == [b"n0", b"r5"]
        assert (client.exists(b"/a/b"), client.exists(b"/none")) == (True, False)
        assert client.get_domain_path(5) == b"/local/domain/5"
        with pytest.raises(pyxs.PyXSError):
            client.read(b"/none")
        with client.monitor() as monitor:
            monitor.watch(b"/a", b"token")
            events = monitor.wait()
            assert next(events) == (b"/a", b"token")
            with pyxs.Client(unix_socket_path=str(path)) as other:
                client.transaction()
                client.write(b"/a/c", client.read(b"/a/b") + b"2")
                other.write(b"/a/b", b"9")
                assert next(events) == (b"/a/b", b"token")
                assert client.commit() is False
                client.transaction()
                client.write(b"/a/c", client.read(b"/a/b") + b"2")
                assert client.commit() is True
                assert next(events) == (b"/a/c", b"token")
                assert other.read(b"/a/c") == b"92"


# -- a host in the store


@asynccontextmanager
async def shown_host(directory: Path) -> AsyncIterator[tuple[Client, Path]]:
    """Run a host of two guests, with a store that shows it; hands out the hypervisor's client and the store's socket."""
    async with running_host(HOST, directory) as client:
        with running("--socket", str(directory / "run"), "xenstored") as xbd:
            await trio.to_thread.run_sync(xbd.wait_until_it_says, "hypervisor_found")
            path = directory / "run" / "xenstored" / "socket"
            await until(path, "/local/domain/2/memory/target", "131072")
            yield client, path


async def tool(path: Path, *command: str) -> str:
    """Run a tool that does well; what it says."""
    return await trio.to_thread.run_sync(lambda: said(path, *command))


async def until(path: Path, node: str, value: str) -> None:
    """Wait until a node has a value."""
    with trio.fail_after(PATIENCE_S):
        while (await trio.to_thread.run_sync(lambda: run(path, "xenstore-read", node))).stdout != f"{value}\n":  # noqa: ASYNC110 - another process
            await trio.sleep(0.02)


async def settled(client: Client, domid: int, mib: int) -> DomainInfo:
    """Wait until a domain holds so much."""
    with trio.fail_after(PATIENCE_S):
        while (domain := await client.info(domid)).tot_pages != mib * MIB:  # noqa: ASYNC110 - another process
            await trio.sleep(0.02)
    return domain


@needs_tools
@pytest.mark.slow
async def test_a_write_moves_a_guest(tmp_path: Path) -> None:
    """To what was written, in whole 2 MiB; every step is seen, the key keeps what was written, nonsense moves nobody."""
    target = "/local/domain/2/memory/target"
    async with shown_host(tmp_path) as (client, path):
        with watching(path, target, events=4) as wait:
            await tool(path, "xenstore-write", target, "65536")
            await settled(client, 2, 64)
            await tool(path, "xenstore-write", target, "99999")
            await settled(client, 2, 96)
            assert await tool(path, "xenstore-read", target) == "99999\n"
            await tool(path, "xenstore-write", target, "0x20000")
            await client.set_target(2, 128 * MIB)
            await settled(client, 2, 128)
            assert await trio.to_thread.run_sync(wait) == [target] * 4
        assert await tool(path, "xenstore-read", target) == "131072\n"
        assert (await client.info(2)).max_pages == 256 * MIB


@needs_tools
@pytest.mark.slow
async def test_domains_are_shown_as_they_come_and_go(tmp_path: Path) -> None:
    """With their sockets, on which a guest reads its target and cannot write it."""
    async with shown_host(tmp_path) as (client, path):
        with watching(path, "@introduceDomain", "@releaseDomain", events=2) as wait:
            domid = await client.create("new", max_pages=64 * MIB, target_pages=64 * MIB, autostart=False)
            home = f"/local/domain/{domid}"
            await until(path, f"{home}/name", "new")
            guest = path.parent / "domains" / f"{domid}.sock"
            assert await tool(guest, "xenstore-read", "memory/target") == "65536\n"
            refused = await trio.to_thread.run_sync(lambda: run(guest, "xenstore-write", "memory/target", "32768"))
            assert refused.returncode == 1
            assert f'{home}/memory/target = "65536"   (n0,r{domid})\n' in await tool(path, "xenstore-ls", "-fp", home)
            await until(path, "/local/domain/1/memory/videoram", "0")
            # It is there once its guest has reported, which is looked for once a second.
            meminfo = lambda: run(path, "xenstore-read", "/local/domain/1/memory/meminfo").stdout  # noqa: E731
            with trio.fail_after(PATIENCE_S):
                while not int(await trio.to_thread.run_sync(meminfo) or 0):  # noqa: ASYNC110 - another process
                    await trio.sleep(0.02)
            await client.destroy(domid)
            assert await trio.to_thread.run_sync(wait) == ["@introduceDomain", "@releaseDomain"]
        assert await tool(path, "xenstore-list", "/local/domain") == "0\n1\n2\n"
        assert not guest.exists()


@pytest.mark.slow
async def test_it_tells_of_its_whole_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ready when it can be connected to, alive, nothing to reload, stopping; nothing is left of its sockets."""
    with service_manager(tmp_path) as manager:
        monkeypatch.setenv("NOTIFY_SOCKET", manager.address)
        monkeypatch.setenv("WATCHDOG_USEC", "100000")
        with store(tmp_path) as (path, xbd):
            ready = await manager.until(READY="1")
            assert ready["STATUS"] == "17 nodes, 0 connections, 0 paths watched"
            await manager.until(WATCHDOG="1")
            xbd.process.send_signal(signal.SIGHUP)
            await manager.until(RELOADING="1")
            await manager.until(READY="1")
            assert xbd.end(signal.SIGTERM) == 0
        manager.take()
    states = [next(iter(message)) for message in manager.heard]
    assert unchanging(states) == ["READY", "RELOADING", "READY", "STOPPING"]
    assert not path.exists()


def unchanging(states: Sequence[str]) -> list[str]:
    """Leave out what is said again and again."""
    return [state for state in states if state not in ("STATUS", "WATCHDOG")]
