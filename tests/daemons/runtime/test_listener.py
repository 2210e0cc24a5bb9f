"""Who comes in at a domain's socket at the very moment when the domain goes."""

import socket
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import trio
import trio.testing

from tests.peer import HOST_SUPERFRAMES, DirectPeer, agent, create
from xbd.client.runtime_dir import domain_socket
from xbd.control.controller import Controller
from xbd.control.endpoint import DomainEndpoint
from xbd.daemons.hypervisor import serve
from xbd.machine import Machine
from xbd.protocol.codec import Notification
from xbd.protocol.methods import VERSION
from xbd.storage.image import Image
from xbd.storage.memory import MemoryStore


@pytest.mark.parametrize("method", ["hello", "populate", "store"])
def test_what_came_in_for_a_domain_that_went_is_not_done(method: str) -> None:
    """Its connection's task may have a last turn: the peer is dropped, and the record that is gone is left as it was."""
    store = MemoryStore()
    host = Controller(Machine(HOST_SUPERFRAMES, image=Image(store)))
    domid = create(host)
    peer = agent(host, domid) if method != "hello" else DirectPeer(DomainEndpoint(host, domid, lambda: None))
    # It is on its way to a target: that is looked at with each call.
    host.call("set_target", {"domid": domid, "pages": 512})
    host.commit()
    gfns = np.arange(3, dtype="<u8").tobytes()
    params: dict[str, dict[str, object]] = {
        "hello": {"version": VERSION, "session": "late", "last_seen": None},
        "populate": {"gfns": gfns},
        "store": {"gfns": gfns, "words": gfns},
    }
    call = peer.pack(method, params[method])
    host.call("destroy", {"domid": domid})
    host.commit()
    (dropped,) = peer.send(call)

    assert isinstance(dropped, Notification)
    assert "gone" in str(dropped.untrusted_params)
    peer.endpoint.closed()
    host.commit()
    assert create(host, "heir") == domid
    assert host.audit() == []


@pytest.mark.parametrize("turns", range(8))
async def test_a_domain_that_goes_while_somebody_comes_in_takes_nobody_along(tmp_path: Path, turns: int) -> None:
    """However far the newcomer has come: it is let go, and the daemon serves on."""
    async with trio.open_nursery() as nursery:
        host: Controller = await nursery.start(serve, Machine(8), tmp_path)
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
