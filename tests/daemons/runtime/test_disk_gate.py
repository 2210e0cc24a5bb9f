"""A full disk under the state directory: guests wait, and go on."""

import errno
import os
import socket
from pathlib import Path
from typing import NoReturn

import trio
import trio.testing

from tests.peer import small_host
from xbd.control.endpoint import DomainEndpoint
from xbd.daemons.runtime.disk_gate import LOOK_EVERY_S, DiskGate
from xbd.daemons.runtime.outside import replaced
from xbd.daemons.runtime.peers import converse
from xbd.daemons.runtime.state_dir import StateDir
from xbd.daemons.runtime.transport import Transport
from xbd.protocol.codec import encode_request


async def test_guests_wait_while_there_is_no_room(autojump_clock: trio.testing.MockClock) -> None:
    """A call that comes while the disk is full is answered when it has disk_gate again, and not before."""
    del autojump_clock
    full = True
    gate = DiskGate(lambda: full)
    host = small_host()
    domid = host.call("create", {"name": "web", "max_pages": 512, "target_pages": 512})["domid"]
    ours, theirs = socket.socketpair()
    theirs.settimeout(0)
    here = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(gate.watch)
        await trio.sleep(LOOK_EVERY_S / 2)
        assert not gate.is_open
        nursery.start_soon(converse, Transport(theirs), lambda wake: DomainEndpoint(host, int(str(domid)), wake), gate)
        await here.send_all(encode_request(0, "hello", {"version": 1, "session": "a"}))
        with trio.move_on_after(5) as waiting:
            await here.receive_some(100)
        assert waiting.cancelled_caught
        full = False
        assert await here.receive_some(100)
        await here.aclose()
        nursery.cancel_scope.cancel()


async def test_a_disk_that_cannot_be_looked_at_counts_as_full(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    """A failure of the look ends nothing: guests wait, and go on when it can be looked at again."""
    del autojump_clock
    state = StateDir(tmp_path / "state", spare_bytes=1)
    gate = DiskGate(lambda: state.is_full)
    opened = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(gate.watch)
        with replaced(statvfs=unreadable):
            await trio.sleep(1)
            opened.append(gate.is_open)
        await gate.wait()
        opened.append(gate.is_open)
        nursery.cancel_scope.cancel()
    state.close(in_order=False)
    assert opened == [False, True]


def unreadable(path: Path) -> NoReturn:
    """Fail as the system does when a disk has gone."""
    raise OSError(errno.EIO, os.strerror(errno.EIO), path)


def test_a_directory_is_full_when_less_than_the_reserve_is_free(tmp_path: Path) -> None:
    """What counts is the disk_gate on its file system."""
    state = StateDir(tmp_path / "state", spare_bytes=1)
    assert not state.is_full
    state.close(in_order=False)
    state = StateDir(tmp_path / "state", spare_bytes=1 << 62)
    assert state.is_full
    state.close(in_order=False)


async def test_a_directory_that_is_gone_has_no_room_until_it_is_back(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    """While a state directory has been moved away guests wait, and nothing ends; they go on when it is back."""
    del autojump_clock
    state = StateDir(tmp_path / "state", spare_bytes=1)
    disk_gate = DiskGate(lambda: state.is_full)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(disk_gate.watch)
        await trio.sleep(LOOK_EVERY_S / 2)
        (tmp_path / "state").rename(tmp_path / "away")
        was_open = disk_gate.is_open
        await trio.sleep(LOOK_EVERY_S)
        assert (was_open, disk_gate.is_open) == (True, False)
        (tmp_path / "away").rename(tmp_path / "state")
        await disk_gate.wait()
        nursery.cancel_scope.cancel()
    state.close(in_order=False)
