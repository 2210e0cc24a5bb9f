"""Run a real host from a host file: daemon and agents as processes of their own."""

import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from xbd.client.client import Client, open_client
from xbd.client.discovery import NoHypervisor
from xbd.client.runtime_dir import hypervisor_socket
from xbd.errors import XbdError

# A new interpreter with numpy takes about a second to start, two of them on a busy machine several.
_START_TIMEOUT_S = 60.0
_POLL_EVERY_S = 0.05


@asynccontextmanager
async def running_host(host_toml: str, directory: Path) -> AsyncIterator[Client]:
    """Run `xbd up` on *host_toml* in *directory* until the block ends; sockets lie in `directory/run`.

    Yields a client, when every guest whose agent starts by itself has one.

    Raises:
        XbdError: the host did not start (the end of its log is in the message), or ended with an error.
    """
    host_file, log = directory / "host.toml", directory / "up.log"
    host_file.write_text(host_toml, encoding="utf-8")
    runtime_dir = directory / "run"
    command = [sys.executable, "-m", "xbd", "up", str(host_file), "--runtime-dir", str(runtime_dir)]
    with log.open("wb") as output:
        process = await trio.lowlevel.open_process(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    try:
        socket = hypervisor_socket(runtime_dir)
        await _wait_for_socket(process, socket, log)
        async with open_client(socket) as client:
            await _wait_for_agents(client)
            yield client
    finally:
        with trio.CancelScope(shield=True):
            if process.returncode is None:
                process.send_signal(signal.SIGTERM)
            code = await process.wait()
    if code:
        raise XbdError(f"the host ended with exit code {code}: {_tail(log)}")


async def _wait_for_socket(process: trio.Process, socket: Path, log: Path) -> None:
    with trio.move_on_after(_START_TIMEOUT_S):
        while process.returncode is None:
            try:
                async with open_client(socket):
                    return
            except NoHypervisor:
                await trio.sleep(_POLL_EVERY_S)
                process.poll()
    raise XbdError(f"the host did not start: {_tail(log)}")


async def _wait_for_agents(client: Client) -> None:
    with trio.fail_after(_START_TIMEOUT_S):
        while any(d.autostart and not d.agent for d in await client.list()):  # noqa: ASYNC110 - other processes
            await trio.sleep(_POLL_EVERY_S)


def _tail(log: Path) -> str:
    return " | ".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-5:]) or "its log is empty"
