"""`xbd` processes without the half second of imports that each start costs: forked off one that has imported everything.

What runs is the command that ships, from `xbd.__main__.main` down, in a process of its own with its own descriptors,
directory, environment, user, signals and exit code. What a start does before that (the interpreter's own, the imports)
is only in tests that run `python -m xbd`; those that measure memory or that are told by a command line do that, too.
"""

import json
import os
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from functools import cache
from typing import Any, Final

from xbd.testing.processes import XBD

_LONGEST_MESSAGE: Final = 1 << 17

# Reads commands, forks for each, and tells pids and exit codes. What it forked leaves the loop and is that command.
_SERVER: Final = """
import importlib, json, os, pkgutil, select, signal, socket, sys
import xbd
for module in pkgutil.walk_packages(xbd.__path__, "xbd."):
    if not module.name.startswith(("xbd.lab", "xbd.testing")):
        importlib.import_module(module.name)
from xbd.__main__ import main


def serve(client):
    asleep, awake = socket.socketpair()
    asleep.setblocking(False), awake.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(awake.fileno())
    while True:
        ready, _, _ = select.select([client, asleep], [], [])
        if asleep in ready:
            asleep.recv(4096)
            while (ended := ended_child()) is not None:
                client.send(json.dumps(ended).encode())
        if client in ready:
            message, descriptors, _, _ = socket.recv_fds(client, 1 << 17, 3)
            if not message:
                os._exit(0)
            child = os.fork()
            if not child:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                for one in (client, asleep, awake):
                    one.close()
                return begin(json.loads(message), descriptors)
            for descriptor in descriptors:
                os.close(descriptor)
            client.send(json.dumps(["began", child]).encode())


def ended_child():
    try:
        pid, status = os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return None
    return [pid, os.waitstatus_to_exitcode(status)] if pid else None


def begin(command, descriptors):
    for standard, descriptor in enumerate(descriptors):
        os.dup2(descriptor, standard)
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(command["environ"])
    os.chdir(command["directory"])
    if command["user"] is not None:
        uid, gid, groups = command["user"]
        os.setgroups(groups), os.setgid(gid), os.setuid(uid)
    sys.argv = ["xbd", *command["arguments"]]
    return command["arguments"]


arguments = serve(socket.socket(fileno=int(sys.argv[1])))
main(arguments, prog_name="xbd")
"""


class _Server:
    """The process that forks, and what it has told of the ones that it forked off."""

    def __init__(self) -> None:
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, "-c", _SERVER, str(theirs.fileno())]
        self._process = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)  # noqa: S603
        theirs.close()
        self._lock = threading.RLock()
        self.exit_codes: dict[int, int] = {}

    def start(self, command: dict[str, Any], descriptors: Sequence[int]) -> int:
        """Fork a command off; returns its pid."""
        with self._lock:
            socket.send_fds(self._ours, [json.dumps(command).encode()], descriptors)
            while True:
                told = self._receive()
                if told[0] == "began":
                    return int(told[1])

    def look(self, at_most_s: float) -> None:
        """Take what it tells of ended ones, waiting for it for a time at the most."""
        with self._lock:
            if select.select([self._ours], [], [], at_most_s)[0]:
                self._receive()

    def _receive(self) -> list[Any]:
        told: list[Any] = json.loads(self._ours.recv(_LONGEST_MESSAGE) or b"[]")
        assert told, "the process that forks has ended"
        if told[0] != "began":
            self.exit_codes[told[0]] = told[1]
        return told


@cache
def _server(of_process: int) -> _Server:
    """Start the process that forks, once for each process of tests."""
    assert of_process == os.getpid()
    return _Server()


def start(command: Sequence[str], **options: Any) -> subprocess.Popen[str]:  # noqa: ANN401 - whatever Popen takes
    """Start a process as `subprocess.Popen` does; a command of `xbd` that is passed no descriptors is forked off."""
    if tuple(command[: len(XBD)]) == XBD and not options.get("pass_fds"):
        return Forked(command[len(XBD) :], options["stdout"], options["stderr"])
    return subprocess.Popen(command, **options)  # noqa: S603 - our own commands


class Forked(subprocess.Popen[str]):
    """A running `xbd` command, as `subprocess.Popen` would have it.

    Args:
        arguments: what follows `xbd` on its command line.
        stdout, stderr: the descriptors that it has there; by default /dev/null; `subprocess.PIPE`: text to read here.
        user: user, group and further groups that it runs as, from `/` and without settings of this user's; by default
            as this process, from here.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        stdout: int | None = None,
        stderr: int | None = None,
        user: tuple[int, int, Sequence[int]] | None = None,
    ) -> None:
        self.args = ["xbd", *arguments]
        self.returncode = None
        self.stdin = self.stdout = self.stderr = None
        self._server = _server(os.getpid())
        null = os.open(os.devnull, os.O_RDWR)
        opened = [null]
        given = [null]
        for name, descriptor in (("stdout", stdout), ("stderr", stderr)):
            if descriptor == subprocess.PIPE:
                reading, writing = os.pipe()
                setattr(self, name, os.fdopen(reading, encoding="utf-8"))
                opened.append(writing)
                given.append(writing)
            else:
                given.append(null if descriptor in (None, subprocess.DEVNULL) else descriptor)
        environ = {
            key: value for key, value in os.environ.items() if user is None or not key.startswith(("XBD_", "XDG_"))
        }
        directory = "/" if user is not None else os.getcwd()  # noqa: PTH109 - it goes into a message
        command = {"arguments": list(arguments), "environ": environ, "directory": directory, "user": user}
        try:
            self.pid = self._server.start(command, given)
        finally:
            for descriptor in opened:
                os.close(descriptor)

    def poll(self) -> int | None:
        """Return the exit code, negative for a signal; None: it runs."""
        if self.returncode is None:
            self._server.look(0.0)
            self.returncode = self._server.exit_codes.pop(self.pid, None)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait until it has ended; returns its exit code. Raises subprocess.TimeoutExpired."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            if deadline is not None and time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
            self._server.look(0.05)
        return code


def run(
    arguments: Sequence[str], within_s: float, user: tuple[int, int, Sequence[int]] | None = None
) -> "subprocess.CompletedProcess[str]":
    """Run a command to its end, as `subprocess.run` with `capture_output` would; one that hangs is killed after *within_s*."""
    process = Forked(arguments, subprocess.PIPE, subprocess.PIPE, user)
    watchdog = threading.Timer(within_s, process.kill)
    watchdog.start()
    said: dict[str, str] = {}
    assert process.stdout is not None
    assert process.stderr is not None
    with process.stdout as stdout, process.stderr as stderr:
        reader = threading.Thread(target=lambda: said.update(stdout=stdout.read()))
        reader.start()
        said["stderr"] = stderr.read()
        reader.join()
    code = process.wait(within_s)
    watchdog.cancel()
    return subprocess.CompletedProcess(process.args, code, said["stdout"], said["stderr"])
