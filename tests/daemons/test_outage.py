"""A hypervisor that is not there for a minute: its clients stay, and the log says so once, on trio's mock clock."""

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock

from xbd.client.runtime_dir import hypervisor_socket
from xbd.config.autoballoon import AutoballoonConfig
from xbd.daemons.autoballoon import Autoballoon
from xbd.daemons.guests import AgentHost
from xbd.daemons.runtime.sockets import bind_unix
from xbd.daemons.xenstore_sockets import XenstoreServer
from xbd.daemons.xenstored import HostInStore
from xbd.errors import BadArgument
from xbd.protocol.codec import ANSWER_LIMITS, Decoder, Request, encode_error
from xbd.protocol.fields import error_map
from xbd.xenstore.store import Store

OUTAGE_S = 60.0

Follow = Callable[[], Awaitable[None]]


def autoballoon(path: Path, nursery: trio.Nursery) -> Follow:
    """Make the daemon that balances."""
    del nursery
    return Autoballoon(path, AutoballoonConfig()).balance


def agents(path: Path, nursery: trio.Nursery) -> Follow:
    """Make the agent host."""
    return AgentHost(path, nursery).follow


def xenstored(path: Path, nursery: trio.Nursery) -> Follow:
    """Make what shows the host in a XenStore."""
    del nursery
    return HostInStore(path, XenstoreServer(path.parent / "xenstored", Store())).follow


@pytest.mark.parametrize("make", [autoballoon, agents, xenstored])
async def test_an_outage_is_logged_once(
    make: Callable[[Path, trio.Nursery], Follow], tmp_path: Path, autojump_clock: MockClock
) -> None:
    """By each client that stays, however often it tries to connect in a minute."""
    del autojump_clock
    with capture_logs() as said:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(make(hypervisor_socket(tmp_path), nursery))
            await trio.sleep(OUTAGE_S)
            nursery.cancel_scope.cancel()
    assert [line["event"] for line in said] == ["hypervisor_lost"]


async def refuse(stream: trio.SocketStream) -> None:
    """Be a hypervisor of another version: refuse whatever is called first, and go."""
    async with stream:
        decoder = Decoder(ANSWER_LIMITS)
        decoder.feed(await stream.receive_some(4096))
        match decoder.next_message():
            case Request(msgid, "hello"):
                refusal = error_map(BadArgument("version 1 is not spoken here", "version 2"))
                await stream.send_all(encode_error(msgid, refusal))


@pytest.mark.parametrize("make", [autoballoon, agents, xenstored])
async def test_a_hypervisor_that_refuses_hello_ends_nobody(
    make: Callable[[Path, trio.Nursery], Follow], tmp_path: Path
) -> None:
    """It is tried again, as one that is away, and said once."""
    path = hypervisor_socket(tmp_path)
    refused = 0
    enough = trio.Event()

    async def serve(stream: trio.SocketStream) -> None:
        nonlocal refused
        await refuse(stream)
        refused += 1
        if refused == 3:
            enough.set()

    with capture_logs() as said, bind_unix(path) as listener:
        async with trio.open_nursery() as nursery:
            listeners = [trio.SocketListener(trio.socket.from_stdlib_socket(listener))]
            nursery.start_soon(trio.serve_listeners, serve, listeners)
            nursery.start_soon(make(path, nursery))
            await enough.wait()
            nursery.cancel_scope.cancel()
    assert [line["event"] for line in said] == ["hypervisor_lost"]
    assert "is not spoken here" in said[0]["reason"]
