"""Running a program with the hypervisor of an xbd host: the program takes this process, a listener of its own answers.

So signals, the terminal, job control and the exit code are the program's own. The listener is forked off first, outside
of the program's view of the file system and of its session, and lives as long as anything that the program started.
"""

import os
import signal
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from xbd.hypercalls.decoder import Decoder
from xbd.hypercalls.faults import Faults
from xbd.hypercalls.host import Calls, HostView, Processors
from xbd.hypercalls.releases import XEN_4_17
from xbd.xentools import namespace, seccomp
from xbd.xentools.listener import Listener
from xbd.xentools.store_relay import StoreRelay
from xbd.xentools.userdata import UserdataFiles

# As shells have it.
EXIT_NOT_FOUND = 127
EXIT_NOT_EXECUTABLE = 126


@dataclass(frozen=True, slots=True)
class Program:
    """A program to run: its file, its arguments (its name first), its environment."""

    path: str
    argv: Sequence[str]
    environ: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a program runs: *directory* has the files of Xen's tools, *sockets* the host's, which are seen as they are."""

    directory: Path
    sockets: Path


def run(
    program: Program,
    place: Place,
    calls: Calls,
    faults: Faults,
    say: Callable[[str], None],
    *,
    relay: StoreRelay | None = None,
) -> NoReturn:
    """Become the program, with a hypervisor.

    Args:
        program: what to run.
        place: where.
        calls: of the host's client.
        faults: what fails on demand.
        relay: where the program's XenStore is, if operations of it fail; it ends with the program.
        say: tells the user why a program that needs files of Xen's tools has none; the program is run.

    Raises:
        CannotCatch: this system does not let a program's hypercalls be caught.
        OSError: the program cannot be executed.
    """
    userdata: UserdataFiles | None = None
    try:
        userdata = UserdataFiles(namespace.prepare(place.directory))
    except OSError as error:
        say(f"{place.directory} cannot be made ({error.strerror})")
    here, there = socket.socketpair()
    _fork_listener(there, os.getpid(), _decoder(calls, userdata, faults), faults, relay)
    there.close()
    with here:
        if userdata is not None:
            try:
                namespace.enter(place.directory, place.sockets)
            except namespace.NoNamespace as error:
                say(str(error))
        descriptor = seccomp.catch()
        socket.send_fds(here, [b"."], [descriptor])
        os.close(descriptor)
    execute(program)


def execute(program: Program) -> NoReturn:
    """Become the program. Raises OSError: it cannot be executed."""
    # Python ignores it; programs expect to be ended by it.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    os.execve(program.path, list(program.argv), dict(program.environ))  # noqa: S606 - it is what was asked for


def _fork_listener(end: socket.socket, pid: int, decoder: Decoder, faults: Faults, relay: StoreRelay | None) -> None:
    """Fork off the listener of process *pid*, which nobody waits for."""
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return
    try:
        os.setsid()
        if not os.fork():
            if relay is not None:
                relay.start()
            _listen(end, pid, decoder, faults)
            if relay is not None:
                relay.remove()
    finally:
        os._exit(0)


def _listen(end: socket.socket, pid: int, decoder: Decoder, faults: Faults) -> None:
    for ignored in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM):
        signal.signal(ignored, signal.SIG_IGN)
    os.chdir("/")
    nowhere = os.open(os.devnull, os.O_RDWR)
    # Whoever waits for the end of the program's output does not wait for the listener's, unless it has something to say.
    for stream in (0, 1) if faults.are_asked_for else (0, 1, 2):
        os.dup2(nowhere, stream)
    for descriptor in [int(name) for name in os.listdir("/proc/self/fd")]:  # noqa: PTH208 - numbers
        # What this process was started with is the program's, as its streams are; all that is its own is close-on-exec.
        with suppress(OSError):
            if descriptor > 2 and os.get_inheritable(descriptor):
                os.close(descriptor)
    pid_descriptor = os.pidfd_open(pid)
    _, descriptors, _, _ = socket.recv_fds(end, 1, 1)
    end.close()

    def report() -> None:
        # Where nobody reads it, what the program left behind goes on all the same.
        with suppress(OSError):
            for line in faults.report():
                os.write(2, f"xbd xen: {line}\n".encode())
        os.dup2(nowhere, 2)

    if descriptors:
        Listener(seccomp.Notifications(descriptors[0]), decoder, faults).run(report, pid_descriptor)


def _decoder(calls: Calls, userdata: UserdataFiles | None, faults: Faults) -> Decoder:
    on_seen = None if userdata is None else userdata.keep
    return Decoder(HostView(calls, processors(), time.monotonic, on_seen), XEN_4_17, faults)


def processors() -> Processors:
    """Describe this machine's processors: the host's are those."""
    try:
        words = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        words = []
    clocks = [word.partition(":")[2] for word in words if word.startswith("cpu MHz")]
    return Processors(os.cpu_count() or 1, round(float(clocks[0]) * 1000) if clocks else 0)
