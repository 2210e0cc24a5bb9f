"""Child processes as their parent sees them: heard, started again, given up, ended; small real processes in their place."""

import os
import signal
import socket
import sys
from collections.abc import Iterator, Mapping

import pytest
import trio
from trio.testing import MockClock

from tests.processes import is_alive
from xbd.daemons.runtime import children
from xbd.daemons.runtime.children import DEATHS_IN_A_ROW, EXIT_CONFIG, Child, Ending
from xbd.daemons.runtime.sd_notify import ServiceManager, for_child, parent_on

# What a child does, with the socket that is its standard input.
TELL = "import os, socket, time; parent = socket.socket(fileno=os.dup(0)); parent.send(b'READY=1\\nSTATUS=as it should be')"
HANG = f"{TELL}; time.sleep(600)"
DEAF = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {HANG}"
WELL = f"{TELL}\nwhile True: time.sleep(0.01); parent.send(b'WATCHDOG=1')"


class Family:
    """A parent, and what it says; what each child's process runs is *script*."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.ending = Ending(self.said.append, lambda why: self.said.append(f"{why} came"))
        self.script = HANG
        self.started: list[trio.Process] = []
        self.stdins: list[socket.socket] = []
        self.environs: list[Mapping[str, str]] = []

    async def spawn(self, stdin: socket.socket, environ: Mapping[str, str], *arguments: str) -> trio.Process:
        """Stand in for `children.spawn`."""
        assert arguments == ("work",)
        self.environs.append(environ)
        self.stdins.append(stdin.dup())
        self.started.append(await trio.lowlevel.open_process([sys.executable, "-c", self.script], stdin=stdin.fileno()))
        return self.started[-1]

    def child(self, watchdog_s: float | None = None) -> Child:
        """Make a child."""
        return Child(self.ending, "the worker", "work", watchdog_s=watchdog_s)

    async def until_ready(self, child: Child) -> None:
        """Wait until a child says that it is ready."""
        while not child.is_ready:
            await self.ending.changed.wait()


@pytest.fixture
def family(monkeypatch: pytest.MonkeyPatch) -> Iterator[Family]:
    """Make a parent; in the end none of its processes is left."""
    family = Family()
    monkeypatch.setattr(children, "spawn", family.spawn)
    yield family
    assert not any(is_alive(process.pid) for process in family.started)
    for stdin in family.stdins:
        stdin.close()


async def test_a_child_is_heard_and_ended(family: Family) -> None:
    """It is ready when it says so, its status is what it says, and a signal to its parent ends it."""
    child = family.child()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(child.keep, "")
        await family.until_ready(child)
        assert child.status == "as it should be"
        family.ending.stop("SIGTERM")
    await child.end(60)
    assert family.said == ["SIGTERM came"]
    assert family.ending.exit_code == 0


async def test_what_is_passed_to_the_parent_is_not_handed_on(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    """A child does not speak to its parent's service manager, nor take its sockets, whatever the variable is."""
    passed = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES")
    for name in passed:
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("XBD_SOCKET", "/run/xbd")
    child = family.child()
    await child.start()
    assert not family.environs[0].keys() & set(passed)
    assert family.environs[0]["XBD_SOCKET"] == "/run/xbd"
    assert for_child(os.environ, 2.5)["WATCHDOG_USEC"] == "2500000"
    await child.end(60)


async def test_one_that_dies_is_started_again_until_it_keeps_dying(family: Family, autojump_clock: MockClock) -> None:
    """With growing pauses; then all is to end, and the exit code is 1."""
    del autojump_clock
    family.script = "raise SystemExit(3)"
    began_s = trio.current_time()
    await (child := family.child()).keep("nobody minds")
    await child.end(60)
    assert len(family.started) == DEATHS_IN_A_ROW
    assert trio.current_time() - began_s >= 0.5 + 1 + 2 + 4
    again = ["the worker died: exit code 3", "starting the worker again; nobody minds"]
    assert family.said == [*again * (DEATHS_IN_A_ROW - 1), again[0], "that was 5 times in a row: giving up"]
    assert (family.ending.begun.is_set(), family.ending.exit_code) == (True, 1)


async def test_one_whose_settings_are_wrong_is_not_started_again(family: Family) -> None:
    """It would only say so again; its exit code is its parent's."""
    family.script = f"raise SystemExit({EXIT_CONFIG})"
    await (child := family.child()).keep("")
    await child.end(60)
    assert family.said == ["the worker died: exit code 78", "giving up"]
    assert (len(family.started), family.ending.exit_code) == (1, EXIT_CONFIG)


async def test_one_that_cannot_be_started_is_tried_again(
    family: Family, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    """A system that has no room for a process for a while costs its guests, and nobody else."""
    del autojump_clock
    refusals = 2

    async def spawn(stdin: socket.socket, environ: Mapping[str, str], *arguments: str) -> trio.Process:
        nonlocal refusals
        if refusals:
            refusals -= 1
            raise BlockingIOError(11, "Resource temporarily unavailable")
        return await family.spawn(stdin, environ, *arguments)

    monkeypatch.setattr(children, "spawn", spawn)
    child = family.child()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(child.keep, "")
        await family.until_ready(child)
        family.ending.stop("SIGTERM")
    await child.end(60)
    assert family.said.count("the worker cannot be started: Resource temporarily unavailable") == 2


async def test_one_that_hangs_is_killed(family: Family, autojump_clock: MockClock) -> None:
    """Once it was ready, it must say that it is well; one that never is has all the time to start."""
    del autojump_clock
    await (child := family.child(watchdog_s=30)).start()
    assert await child.ended() == -signal.SIGKILL
    await child.end(60)
    assert family.said == ["the worker hangs: it has not said for 30 s that it is well; killing it"]

    family.script = "import time; time.sleep(0.1)"
    await (slow := family.child(watchdog_s=1e-6)).start()
    assert await slow.ended() == 0
    await slow.end(60)


async def test_one_that_is_well_is_left_alone(family: Family) -> None:
    """It says so again and again, for longer than it may be silent."""
    family.script = WELL
    child = family.child(watchdog_s=5)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(child.keep, "")
        await family.until_ready(child)
        for _ in range(20):
            await family.ending.changed.wait()
        family.ending.stop("SIGTERM")
    await child.end(60)
    assert family.said == ["SIGTERM came"]


async def test_what_was_said_while_the_parent_was_held_up_counts(family: Family, mock_clock: MockClock) -> None:
    """However late it hears it, all of it is heard before a child is judged."""
    child = family.child(watchdog_s=5)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(child.keep, "")
        await family.until_ready(child)
        for message in (b"STATUS=busy", b"WATCHDOG=1"):
            family.stdins[0].send(message)
        mock_clock.jump(100)
        await trio.testing.wait_all_tasks_blocked()
        assert child.status == "busy"
        family.ending.stop("SIGTERM")
    await child.end(60)
    assert family.said == ["SIGTERM came"]


@pytest.mark.parametrize("is_impatient", [False, True])
async def test_one_that_does_not_end_is_killed(
    family: Family, autojump_clock: MockClock, *, is_impatient: bool
) -> None:
    """After its grace, or at once when a second signal comes; the exit code says that it ended badly."""
    del autojump_clock
    family.script = DEAF
    child = family.child()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(child.keep, "")
        await family.until_ready(child)
        for _ in range(1 + is_impatient):
            family.ending.stop("SIGTERM")
    await child.end(60)
    assert ("again: ending everything at once" in family.said) == is_impatient
    waited = "the worker: not done yet, waiting up to 60 s; a second signal ends everything at once"
    assert (waited in family.said) != is_impatient
    assert family.said[-2:] == ["the worker did not stop: killed", "the worker ended badly: killed by SIGKILL"]
    assert family.ending.exit_code == 1


async def test_one_that_is_just_being_started_is_ended_too(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who ends it waits for that; and after the end nobody starts it."""
    is_starting = trio.Event()

    async def spawn(stdin: socket.socket, environ: Mapping[str, str], *arguments: str) -> trio.Process:
        is_starting.set()
        await trio.testing.wait_all_tasks_blocked()
        return await family.spawn(stdin, environ, *arguments)

    monkeypatch.setattr(children, "spawn", spawn)
    child = family.child()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(child.start)
        await is_starting.wait()
        family.ending.stop("SIGTERM")
        await child.end(60)
    assert [process.returncode for process in family.started] == [-signal.SIGTERM]
    assert await child.start() is None


async def test_a_child_outlives_a_parent_that_does_not_listen() -> None:
    """What it says then is lost; on a pipe, or a socket of another kind, nobody is spoken to at all."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection = parent_on(theirs.fileno())
    assert connection is not None
    manager = ServiceManager(parent=connection)
    manager.ready("well")
    assert ours.recv(100) == b"READY=1\nSTATUS=well"
    for _ in range(10_000):
        manager.reloading()
    ours.close()
    manager.stopping("gone")
    connection.close()
    theirs.close()

    reading, writing = os.pipe()
    with os.fdopen(reading), os.fdopen(writing), socket.socket() as other:
        assert [parent_on(one) for one in (reading, writing, other.fileno(), 10_000)] == [None] * 4
