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
from xbd.daemons.xenstore_sockets import XenstoreServer
from xbd.daemons.xenstored import HostInStore
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
