"""Who comes in at a domain's door at the very moment when the domain goes."""

import socket
from contextlib import suppress
from pathlib import Path

import pytest
import trio
import trio.testing

from xbd.machine import Machine
from xbd.services.host import Host
from xbd.services.hypervisor import serve
from xbd.services.runtime_dir import domain_socket


@pytest.mark.parametrize("turns", range(8))
async def test_a_domain_that_goes_while_somebody_comes_in_takes_nobody_along(tmp_path: Path, turns: int) -> None:
    """However far the newcomer has come: it is let go, and the daemon serves on."""
    async with trio.open_nursery() as nursery:
        host: Host = await nursery.start(serve, Machine(8), tmp_path)
        # The order in which tasks have their turns is drawn anew each time.
        for _ in range(30):
            domid = host.call("create", {"name": "web", "max_pages": 512, "target_pages": 512})["domid"]
            assert isinstance(domid, int)
            await trio.testing.wait_all_tasks_blocked()
            with socket.socket(socket.AF_UNIX) as newcomer:
                newcomer.connect(str(domain_socket(tmp_path, domid)))
                for _ in range(turns):
                    await trio.lowlevel.checkpoint()
                host.call("destroy", {"domid": domid})
                newcomer.settimeout(0)
                await trio.testing.wait_all_tasks_blocked()
                # Whoever had not been accepted yet is reset.
                with suppress(ConnectionResetError):
                    assert newcomer.recv(1) == b""
        nursery.cancel_scope.cancel()
