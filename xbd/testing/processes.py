"""Real processes for lab and tests: started, awaited, and ended; and a whole host of them, from a host file."""

import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import trio

from xbd.client.calls import KnownDomains
from xbd.client.client import Client, open_client
from xbd.client.runtime_dir import check_socket_path, hypervisor_socket
from xbd.errors import XbdError

Process = subprocess.Popen[str]
# How a command of `xbd` begins.
XBD: Final = (sys.executable, "-m", "xbd")
# A new interpreter with numpy takes about a second to start, two of them on a busy machine several.
START_TIMEOUT_S: Final = 60.0
# `xbd up` gives its agents 30 s and its hypervisor 60 s before it kills them.
END_TIMEOUT_S: Final = 120.0
_POLL_EVERY_S: Final = 0.05


def start(
    command: Sequence[str],
    by: Callable[..., Process] = subprocess.Popen,
    **options: Any,  # noqa: ANN401 - whatever Popen takes
) -> Process:
    """Start a process whose standard streams are text, and /dev/null unless *options* say otherwise.

    Args:
        command: the program and its arguments.
        by: what starts it, with the arguments of `subprocess.Popen`.
        options: of `subprocess.Popen`.
    """
    nothing = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
    return by(command, text=True, **nothing | options)


def end(process: Process, by: signal.Signals = signal.SIGTERM, within_s: float = END_TIMEOUT_S) -> int:
    """End a process by a signal, unless it has ended, and close its pipes; returns its exit code.

    One that does not end *within_s* is killed: -SIGKILL.
    """
    process.send_signal(by)
    try:
        process.wait(within_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            stream.close()
    return process.returncode


async def ended(process: Process) -> int:
    """Wait until a process has ended by itself, and close its pipes; returns its exit code."""
    while process.poll() is None:  # noqa: ASYNC110 - another process
        await trio.sleep(_POLL_EVERY_S)
    return end(process)


async def end_soon(process: Process, by: signal.Signals = signal.SIGTERM, within_s: float = END_TIMEOUT_S) -> None:
    """Do as `end` does, while other tasks run; even when it is cancelled."""
    with trio.CancelScope(shield=True):
        await trio.to_thread.run_sync(end, process, by, within_s)


async def until_it_listens(process: Process, path: Path, within_s: float = START_TIMEOUT_S) -> None:
    """Wait until somebody listens at a Unix socket. Raises XbdError: *process* has ended, or it takes too long."""
    with trio.move_on_after(within_s):
        while process.poll() is None:
            with socket.socket(socket.AF_UNIX) as connection:
                if connection.connect_ex(str(path)) == 0:
                    return
            await trio.sleep(_POLL_EVERY_S)
    raise XbdError(f"nobody listens at {path}")


@asynccontextmanager
async def running(
    command: Sequence[str],
    by: signal.Signals = signal.SIGTERM,
    **options: Any,  # noqa: ANN401 - whatever Popen takes
) -> AsyncIterator[Process]:
    """Run a process, started as by `start`, until the block ends; then it is ended *by* a signal."""
    process = start(command, **options)
    try:
        yield process
    finally:
        await end_soon(process, by)


@asynccontextmanager
async def running_host(host_toml: str, directory: Path, *, within_s: float = START_TIMEOUT_S) -> AsyncIterator[Client]:
    """Run `xbd up` on *host_toml* in *directory* until the block ends; sockets lie in `directory/run`.

    Args:
        host_toml: the text of its host file.
        directory: where that, the sockets and the log lie.
        within_s: for so long it is waited until it serves, and then until all its guests have their agents.

    Yields a client, when every guest whose agent starts by itself has one.

    Raises:
        ConfigError: the directory's path is too long for a socket in it; nothing was started.
        XbdError: the host did not start (the end of its log is in the message), or ended with an error.
    """
    path = check_socket_path(hypervisor_socket(directory / "run"))
    host_file, log = directory / "host.toml", directory / "up.log"
    host_file.write_text(host_toml, encoding="utf-8")
    runtime_dir = directory / "run"
    command = (*XBD, "up", str(host_file), "--runtime-dir", str(runtime_dir))
    with log.open("wb") as output:
        async with running(command, stdout=output, stderr=output, start_new_session=True) as process:
            try:
                await until_it_listens(process, path, within_s)
            except XbdError as error:
                raise XbdError(f"the host did not start: {_tail(log)}") from error
            async with open_client(path) as client:
                await _wait_for_agents(client, within_s)
                yield client
    if process.returncode:
        raise XbdError(f"the host ended with exit code {process.returncode}: {_tail(log)}")


async def _wait_for_agents(client: Client, within_s: float) -> None:
    known = KnownDomains()
    with trio.fail_after(within_s):
        known.take(await client.changes(known.since))
        while any(domain.autostart and not domain.agent for domain in known.by_domid.values()):
            await trio.sleep(_POLL_EVERY_S)
            known.take(await client.changes(known.since))


def _tail(log: Path) -> str:
    return " | ".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-5:]) or "its log is empty"
