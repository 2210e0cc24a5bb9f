"""A soak notices when the XenStore or the autoballoon daemon remembers other domains than the host has."""

from pathlib import Path

import trio

from tests.daemons.test_hypervisor import daemon
from tests.daemons.test_xenstored import connected, serving
from tests.peer import create
from xbd.client.client import open_client
from xbd.client.runtime_dir import hypervisor_socket
from xbd.daemons.xenstored import HostInStore
from xbd.lab.soak.shell.agreement import disagreements
from xbd.xenstore.codec import Operation


async def test_what_the_store_says_otherwise_is_told(tmp_path: Path) -> None:
    """A store that follows the host agrees; an old size, a domain that is gone, and a daemon that is not there are named."""
    async with daemon(tmp_path) as host, serving(tmp_path) as server, connected(server.path) as tool:
        socket = hypervisor_socket(tmp_path)
        create(host, "web")
        async with open_client(socket) as client:
            assert len(await disagreements(client, server.path, autoballoon=None)) > 0
            async with trio.open_nursery() as nursery:
                nursery.start_soon(HostInStore(socket, server, 3600.0).follow)
                await trio.testing.wait_all_tasks_blocked(0.05)
                assert await disagreements(client, server.path, autoballoon=None) == []
                nursery.cancel_scope.cancel()
            await tool.ask(Operation.WRITE, b"/local/domain/1/memory/static-max\0007")
            await tool.ask(Operation.WRITE, b"/local/domain/7/name\0gone")
            policy, size, gone = sorted(await disagreements(client, server.path, autoballoon=socket), reverse=True)

    assert "b'7' at /local/domain/1/memory/static-max" in size
    assert gone == "XenStore has /local/domain/7, the host has not"
    assert policy == "autoballoon does not say what it governs: it does not run"
