"""What a daemon is around its work: signals, its service manager, tasks that check in; in this process, by real signals."""

import os
import signal
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.daemons.runtime.manager import Manager, service_manager
from xbd.control.rate_limit import SourceLog, TokenBucket
from xbd.daemons.runtime.check_in import SOON_S, CheckIn
from xbd.daemons.runtime.disk_gate import DiskGate
from xbd.daemons.runtime.listener import Listener
from xbd.daemons.runtime.reconnect import Follower
from xbd.daemons.runtime.sd_notify import ServiceManager
from xbd.daemons.runtime.service import LOOK_EVERY_S, Reload, Service, run_service
from xbd.daemons.runtime.sockets import bind_unix
from xbd.daemons.runtime.transport import Transport
from xbd.errors import ConfigError, PeerLost

WATCHDOG_S = 10.0


def send(number: signal.Signals) -> None:
    """Send this process a signal."""
    os.kill(os.getpid(), number)


def kinds(manager: Manager) -> list[str]:
    """List what the manager has heard, by first words."""
    return [next(iter(message)) for message in manager.take()]


async def run_with(reload: Reload, during: Callable[[], object]) -> tuple[int, list[str]]:
    """Run a daemon that does nothing, and *during* when it is ready; returns its exit code and what it logged."""

    async def start(service: Service) -> int:
        async with service.ready(lambda: "idle"):
            during()
            await trio.sleep_forever()

    with capture_logs() as said:
        code = await run_service(start, reload=reload)
    return code, [line["event"] for line in said]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_it_with_0(number: signal.Signals) -> None:
    """And says so."""
    assert await run_with("nothing", lambda: send(number)) == (0, ["stop_asked"])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_in_the_middle_of_its_start_ends_it(number: signal.Signals) -> None:
    """Before it is ready; what it had begun is put away."""
    put_away = False

    async def start(service: Service) -> int:
        nonlocal put_away
        del service
        try:
            send(number)
            await trio.sleep_forever()
        finally:
            put_away = True

    with capture_logs():
        assert await run_service(start, reload="nothing") == 0
    assert put_away


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
async def test_a_signal_while_it_clears_up_changes_nothing(number: signal.Signals) -> None:
    """Such as a second Ctrl-C: the clearing up goes on to its end, and it has ended with 0."""
    cleared_up = False

    async def start(service: Service) -> int:
        nonlocal cleared_up
        async with service.ready(lambda: "idle"):
            send(signal.SIGTERM)
            try:
                await trio.sleep_forever()
            finally:
                with trio.CancelScope(shield=True):
                    send(number)
                    await wait_all_tasks_blocked()
                cleared_up = True

    with capture_logs() as said:
        assert await run_service(start, reload="nothing") == 0
    assert cleared_up
    assert [line["event"] for line in said].count("stop_asked") == 1


async def test_a_hang_up_reloads_and_what_fails_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between telling the manager so and telling it that all is ready; an error is logged, the daemon stays."""
    outcomes = [ConfigError("file", "key", "is wrong"), None]

    async def reload() -> None:
        await trio.lowlevel.checkpoint()
        error = outcomes.pop(0)
        send(signal.SIGTERM if error is None else signal.SIGHUP)
        if error is not None:
            raise error

    with service_manager(tmp_path) as manager:
        monkeypatch.setenv("NOTIFY_SOCKET", manager.address)
        code, said = await run_with(reload, lambda: send(signal.SIGHUP))
        assert kinds(manager) == ["READY", "RELOADING", "READY", "RELOADING", "READY", "STOPPING"]
    assert (code, said) == (0, ["reload_failed", "stop_asked"])


async def test_a_reload_that_takes_long_does_not_hold_up_the_end() -> None:
    """SIGTERM is heard meanwhile."""

    async def reload() -> None:
        send(signal.SIGTERM)
        await trio.sleep_forever()

    assert await run_with(reload, lambda: send(signal.SIGHUP)) == (0, ["stop_asked"])


async def test_where_a_hang_up_means_the_end_it_ends() -> None:
    """As for a process that has nothing to reload and a terminal to lose."""
    assert await run_with(None, lambda: send(signal.SIGHUP)) == (0, ["stop_asked"])


async def test_its_own_way_to_stop_is_asked_at_each_signal() -> None:
    """It ends when it returns, with its own exit code."""
    asked: list[str] = []
    enough = trio.Event()

    def stop(why: str) -> None:
        asked.append(why)
        if len(asked) == 2:
            enough.set()
        else:
            send(signal.SIGINT)

    async def start(service: Service) -> int:
        async with service.ready(lambda: "idle"):
            send(signal.SIGTERM)
            await enough.wait()
        return 3

    assert await run_service(start, reload="nothing", stop=stop) == 3
    assert asked == ["SIGTERM", "SIGINT"]


async def test_an_error_of_any_task_comes_out_as_itself() -> None:
    """Not as a group: what cannot be is said in a sentence. A bug stays a group, with its traceback."""

    async def fail(error: Exception) -> None:
        await trio.lowlevel.checkpoint()
        raise error

    async def start(service: Service, error: Exception) -> int:
        async with service.ready(lambda: "idle") as nursery:
            nursery.start_soon(fail, error)
            await trio.sleep_forever()

    with pytest.raises(PeerLost, match="gone"):
        await run_service(lambda service: start(service, PeerLost("gone")), reload="nothing")
    with pytest.raises(BaseExceptionGroup) as bug:
        await run_service(lambda service: start(service, KeyError("a bug")), reload="nothing")
    assert bug.group_contains(KeyError)


async def test_a_task_that_waits_for_ever_starves_the_watchdog(tmp_path: Path, autojump_clock: MockClock) -> None:
    """While all others go on; it is named once, and the feeding begins again when it goes on."""
    del autojump_clock
    awaited = trio.Event()

    async def task() -> None:
        with CheckIn("work", 1.5 * WATCHDOG_S).watched() as check_in:
            for _ in range(3):
                check_in.here()
                await trio.sleep(WATCHDOG_S)
            await awaited.wait()
            while True:
                check_in.here()
                await trio.sleep(WATCHDOG_S)

    with service_manager(tmp_path) as manager, capture_logs() as said:
        service = Service(ServiceManager(manager.address, WATCHDOG_S))
        async with service.ready(lambda: "busy") as nursery:
            nursery.start_soon(task)
            await trio.sleep(4 * WATCHDOG_S - 1)
            assert "WATCHDOG" in kinds(manager)
            await trio.sleep(WATCHDOG_S)
            manager.take()
            await trio.sleep(10 * WATCHDOG_S)
            assert kinds(manager) == []
            awaited.set()
            await trio.sleep(WATCHDOG_S)
            assert "WATCHDOG" in kinds(manager)
    assert [(line["event"], line["task"]) for line in said] == [("task_hangs", "work"), ("task_goes_on", "work")]


async def test_a_task_that_is_idle_may_wait(autojump_clock: MockClock) -> None:
    """It says so; from the end of that on it is watched again, and one that has ended is not."""
    del autojump_clock
    service = Service()
    with CheckIn("work", 5.0).watched() as check_in:
        with check_in.idle():
            await trio.sleep(1000)
            assert service.is_well()
        await trio.sleep(4)
        assert service.is_well()
        await trio.sleep(2)
        assert not service.is_well()
    assert service.is_well()


async def test_a_task_that_hangs_is_said_without_a_service_manager(autojump_clock: MockClock) -> None:
    """Whoever reads the log of a daemon that was started by hand sees it, too."""
    del autojump_clock
    with capture_logs() as said:
        service = Service()
        async with service.ready(lambda: "busy"):
            with CheckIn("work", 1.0).watched():
                await trio.sleep(3 * LOOK_EVERY_S)
    assert [line["event"] for line in said] == ["task_hangs"]


@contextmanager
def accepting(path: Path) -> Iterator[tuple[str, Callable[[], Awaitable[object]]]]:
    """Accept, with a ration that grants nothing."""
    listener = Listener(path, bind_unix(path), 1, unreached, 1.0, admission=TokenBucket(0, 1e-9))
    with socket.socket(socket.AF_UNIX) as newcomer:
        newcomer.connect(str(path))
        yield f"accept at {path}", listener.serve
    listener.close()


async def unreached(transport: Transport, log: SourceLog) -> None:
    """Serve nobody."""


@contextmanager
def looking_at_the_disk(path: Path) -> Iterator[tuple[str, Callable[[], Awaitable[object]]]]:
    """Look whether a disk is full, and then not for long."""
    del path
    yield "look at the disk", DiskGate(lambda: False, look_every_s=1e9).watch


@contextmanager
def following(path: Path) -> Iterator[tuple[str, Callable[[], Awaitable[object]]]]:
    """Follow a host, in a session that gets nowhere."""
    del path
    yield "follow the host", lambda: Follower("host", every_s=WATCHDOG_S).follow(trio.sleep_forever)


@pytest.mark.parametrize("hanging", [accepting, looking_at_the_disk, following])
async def test_each_kind_of_task_that_hangs_is_named(
    tmp_path: Path,
    autojump_clock: MockClock,
    hanging: Callable[[Path], AbstractContextManager[tuple[str, Callable[[], Awaitable[object]]]]],
) -> None:
    """And the watchdog is not fed."""
    del autojump_clock
    with service_manager(tmp_path) as manager, capture_logs() as said, hanging(tmp_path / "at") as (task, run):
        service = Service(ServiceManager(manager.address, WATCHDOG_S))
        async with service.ready(lambda: "busy") as nursery:
            nursery.start_soon(run)
            await trio.sleep(1)
            assert service.is_well()
            await trio.sleep(2 * SOON_S)
            manager.take()
            await trio.sleep(10 * WATCHDOG_S)
            assert kinds(manager) == []
            nursery.cancel_scope.cancel()
    assert [line["task"] for line in said if line["event"] == "task_hangs"] == [task]


async def test_a_supervised_one_ends_with_its_supervisor(monkeypatch: pytest.MonkeyPatch) -> None:
    """When its standard input ends, not before."""
    reading, writing = os.pipe()
    with os.fdopen(reading) as stdin:
        monkeypatch.setattr("sys.stdin", stdin)

        async def start(service: Service) -> int:
            async with service.ready(lambda: "idle"):
                await wait_all_tasks_blocked()
                os.close(writing)
                await trio.sleep_forever()

        with capture_logs() as said:
            assert await run_service(start, reload="nothing", supervised=True) == 0
    assert [line["event"] for line in said] == ["stop_asked"]
