"""QubesOS' qmemmand, as it is, balances the guests of a host: $QUBES_CORE_ADMIN names a checkout of qubes-core-admin."""

import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from tests.blackbox.host import beside
from tests.xentools.test_tools import HANGS_AFTER_S, MIB, Tools
from xbd.domain import DomainInfo
from xbd.testing.processes import XBD, running_host

INTERPRETER = "/usr/bin/python3.11"
GUESTS = 6
# It writes targets that are lower by what a guest of Qubes does not see, and those here are whole superpages.
UNSEEN_MIB = 16 + 2
HOST = f"""
[host]
memory = "3g"
[dom0]
maximum = "1g"
[[guest]]
name = "vm{{n}}"
count = {GUESTS}
maximum = "600m"
target = "200m"
workload = {{ profile = "idle", used = 0.1, cache = 0.02 }}
"""
pytestmark = pytest.mark.slow


@pytest.fixture
def command(tools: Path, tmp_path: Path) -> list[str]:
    """Tell how qmemmand is started, where its sources and an interpreter for Xen's bindings are."""
    sources = os.environ.get("QUBES_CORE_ADMIN", "")
    if not (Path(sources) / "qubes" / "qmemman").is_dir():
        pytest.skip("$QUBES_CORE_ADMIN names no checkout of qubes-core-admin")
    if shutil.which(INTERPRETER) is None:
        pytest.skip("Xen's bindings are for Debian's own Python 3.11")
    bindings = f"PYTHONPATH={tools / 'usr' / 'lib' / 'xen-4.17' / 'lib' / 'python'}"
    program = str(Path(__file__).with_name("qmemmand.py"))
    return ["env", bindings, INTERPRETER, program, sources, str(tmp_path / "qmemman")]


def requested(path: Path, what: str) -> str:
    """Make a request of qmemmand; returns its answer. It balances no more while the connection lasts."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(HANGS_AFTER_S)
        client.connect(str(path))
        client.sendall(what.encode())
        return client.recv(64).decode()


async def test_qmemmand_balances_and_answers_requests(tmp_path: Path, command: list[str]) -> None:
    """Free memory goes to the guests, comes back for a new one, and a guest that says it needs all gets its full size."""
    xl = Tools(tmp_path)
    async with running_host(HOST, tmp_path) as client:

        async def until(holds: Callable[[list[DomainInfo]], bool]) -> None:
            with trio.fail_after(HANGS_AFTER_S):
                while not holds([one for one in await client.list() if one.domid]):  # noqa: ASYNC110 - other processes
                    await trio.sleep(0.05)

        with beside(tmp_path / "run", "xenstored"):
            async with trio.open_nursery() as nursery:
                # An end of its own ends the test.
                nursery.start_soon(trio.run_process, [*XBD, "xen", "--socket", xl.socket, *command])
                await until(lambda guests: all(one.tot_pages > 300 * MIB for one in guests))
                free_pages = (await client.host())["free_frames"]
                assert await trio.to_thread.run_sync(requested, tmp_path / "qmemman", str(1 << 30)) == "OK\n"
                assert free_pages < 512 * MIB < 1024 * MIB < (await client.host())["free_frames"]
                await xl.said("xenstore-chmod", "/local/domain/1/memory/meminfo", "n1")
                guest = f"XENSTORED_PATH={tmp_path / 'run' / 'xenstored' / 'domains' / '1.sock'}"
                await xl.said("env", guest, "xenstore-write", "memory/meminfo", str(600 << 10))
                await until(lambda guests: guests[0].tot_pages >= (600 - UNSEEN_MIB) * MIB)
                assert await client.audit() == []
                nursery.cancel_scope.cancel()
