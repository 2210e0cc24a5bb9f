"""Every socket that a daemon listens on, at a daemon that runs: who may bind it, who gets in, and how it ends."""

import os
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from tests import forked
from tests.blackbox.daemons import answers, connects, running_with, until
from tests.blackbox.host import SMALL, hypervisor
from tests.blackbox.rpc import PATIENCE_S, Caller
from tests.processes import running
from xbd.testing.processes import XBD, Process, end

EXIT_CONFIG: Final = 78
STRANGER: Final = 12345
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


@dataclass(frozen=True, slots=True)
class Listening:
    """A daemon that listens: its command line, for sockets in a directory, and the name of its socket in it."""

    name: str
    socket: str
    arguments: Callable[[Path], tuple[str, ...]]
    answers: Callable[[Path], bool] = connects

    def command(self, directory: Path) -> list[str]:
        """Spell what starts it."""
        return [*XBD, *self.arguments(directory)]


LISTENING: Final = (
    Listening(
        "hypervisor",
        "hypervisor.sock",
        lambda at: ("hypervisor", "--memory", "64m", "--runtime-dir", str(at)),
        answers,
    ),
    Listening(
        "autoballoon",
        "autoballoon.sock",
        lambda at: ("--socket", str(at / "hypervisor.sock"), "autoballoon"),
        answers,
    ),
    Listening(
        "xenstored",
        "xenstored.sock",
        lambda at: ("--socket", str(at / "none.sock"), "xenstored", "--xenstore-socket", str(at / "xenstored.sock")),
    ),
    Listening(
        "metrics",
        "metrics.sock",
        lambda at: ("--socket", str(at / "none.sock"), "metrics", "--listen", f"unix:{at / 'metrics.sock'}"),
    ),
    Listening(
        "web",
        "web.sock",
        lambda at: ("--socket", str(at / "none.sock"), "web", "--listen", f"unix:{at / 'web.sock'}"),
    ),
)
each_daemon = pytest.mark.parametrize("daemon", LISTENING, ids=[daemon.name for daemon in LISTENING])


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Make a directory for sockets, below another one."""
    run = tmp_path / "above" / "run"
    run.mkdir(parents=True, mode=0o700)
    return run


@contextmanager
def served(daemon: Listening, run: Path) -> Iterator[Process]:
    """Run a daemon until it answers at its socket; it must end in order, and leave no socket."""
    with running_with(daemon.command(run), subprocess.DEVNULL) as process:
        until(lambda: daemon.answers(run / daemon.socket))
        yield process
        if process.poll() is None:
            assert end(process) == 0
            assert not (run / daemon.socket).exists()


def refusal(daemon: Listening, run: Path) -> str:
    """Start a daemon that must refuse to, with 78; returns what it says."""
    told = forked.run(daemon.command(run)[len(XBD) :], PATIENCE_S)
    assert (told.returncode, told.stdout) == (EXIT_CONFIG, ""), told.stderr
    assert "Traceback" not in told.stderr
    return told.stderr


# -- binding


@each_daemon
def test_a_directory_above_that_others_can_write_is_refused(run: Path, daemon: Listening) -> None:
    """Somebody could rename the directory of the socket and put one of theirs in its place."""
    run.parent.chmod(0o777)
    assert "can be written by everybody" in refusal(daemon, run)
    assert list(run.glob("*.sock")) == []


@each_daemon
@as_root
def test_a_link_that_another_user_made_is_refused(run: Path, daemon: Listening) -> None:
    """They could let it lead elsewhere at any time."""
    link = run.parent / "link"
    link.symlink_to(run)
    os.chown(link, STRANGER, -1, follow_symlinks=False)
    assert f"belongs to user {STRANGER}" in refusal(daemon, link)
    assert list(run.glob("*.sock")) == []


@each_daemon
def test_a_link_in_the_place_of_the_socket_is_refused(run: Path, daemon: Listening) -> None:
    """Wherever it leads; it stays."""
    (run / daemon.socket).symlink_to(run / "elsewhere.sock")
    assert "is a link" in refusal(daemon, run)
    assert (run / daemon.socket).is_symlink()


@each_daemon
def test_a_living_socket_stays_and_a_stale_one_is_replaced(run: Path, daemon: Listening) -> None:
    """Whoever listens there goes on; when they are gone, their file is in nobody's way."""
    path = run / daemon.socket
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        assert "somebody listens there already" in refusal(daemon, run)
        assert connects(path)
    with served(daemon, run):
        assert daemon.answers(path)


@each_daemon
def test_a_killed_daemon_s_socket_is_no_hindrance(run: Path, daemon: Listening) -> None:
    """The next one replaces it."""
    with served(daemon, run) as process:
        process.kill()
        process.wait()
    assert (run / daemon.socket).is_socket()
    with served(daemon, run):
        pass


@each_daemon
def test_of_two_that_start_at_a_stale_socket_one_serves(run: Path, daemon: Listening) -> None:
    """The other one says why it does not, with 78; the first one's socket is still there."""
    path = run / daemon.socket
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(path))
    with ExitStack() as both:
        two = [both.enter_context(running_with(daemon.command(run), subprocess.DEVNULL)) for _ in range(2)]
        until(lambda: any(process.poll() is not None for process in two))
        (loser,) = (process for process in two if process.poll() is not None)
        assert loser.returncode == EXIT_CONFIG
        until(lambda: daemon.answers(path))


# -- who gets in


@each_daemon
def test_five_hundred_that_connect_at_once_keep_nobody_out(run: Path, daemon: Listening) -> None:
    """Silent, all at once, and staying: somebody who comes after them is answered, and the daemon ends in order."""
    path = run / daemon.socket
    with served(daemon, run), ExitStack() as held:
        for _ in range(500):
            silent = held.enter_context(socket.socket(socket.AF_UNIX))
            silent.settimeout(PATIENCE_S)
            silent.connect(str(path))
        until(lambda: daemon.answers(path))


@each_daemon
@pytest.mark.parametrize("with_signal", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_at_any_moment_ends_it_in_order(run: Path, daemon: Listening, with_signal: signal.Signals) -> None:
    """While it starts or just serves: it ends with 0, or as one that had not begun, and leaves no socket that lives."""
    path = run / daemon.socket
    for _ in range(2):
        with served(daemon, run) as process, ExitStack() as held:
            for _ in range(20):
                silent = held.enter_context(socket.socket(socket.AF_UNIX))
                silent.connect(str(path))
            process.send_signal(with_signal)
            assert process.wait(PATIENCE_S) == 0
        assert not path.exists()


def idle(caller: Caller, number: int) -> None:
    """Say hello and nothing more."""
    del number
    caller.call("hello", version=1)


def in_session(caller: Caller, number: int) -> None:
    """Hold a session."""
    caller.call("hello", version=1, session=f"session-{number}", last_seen=None)


def subscribed(caller: Caller, number: int) -> None:
    """Follow the events."""
    del number
    caller.call("hello", version=1)
    caller.call("events", since=1)


@pytest.mark.parametrize(
    ("clients", "hold"), [(255, idle), (256, idle), (1000, idle), (256, in_session), (256, subscribed)]
)
def test_xbd_list_is_answered_beside_clients_that_stay(
    run: Path, clients: int, hold: Callable[[Caller, int], None]
) -> None:
    """However many toolstack clients have come, and whatever they hold."""
    with hypervisor(run, memory="64m"), ExitStack() as held:
        for number in range(clients):
            hold(held.enter_context(Caller(run / "hypervisor.sock", hello=False)), number)
        told = forked.run(["--socket", str(run / "hypervisor.sock"), "list"], PATIENCE_S)
    assert told.returncode == 0, told.stderr


def test_dead_connects_to_a_domain_do_not_keep_its_agent_out(run: Path) -> None:
    """1,041 that connect and are gone: its agent is in, within the patience of these tests."""
    with hypervisor(run, memory="64m"), Caller(run / "hypervisor.sock") as caller:
        caller.call("create", name="web", **SMALL)
        for _ in range(1041):
            with suppress(BlockingIOError), socket.socket(socket.AF_UNIX) as dead:
                dead.settimeout(0)
                dead.connect(str(run / "domains" / "1.sock"))
        with running("--socket", str(run / "hypervisor.sock"), "guest", "web"):
            until(lambda: bool(caller.call("list")["domains"][0]["agent"]))
