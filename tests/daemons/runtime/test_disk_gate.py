"""A full disk under the state directory: guests wait, and go on."""

import errno
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import NoReturn

import trio
import trio.testing

from tests.peer import create, do, small_host
from xbd.control.endpoint import DomainEndpoint
from xbd.daemons.runtime.disk_gate import LOOK_EVERY_S, DiskGate
from xbd.daemons.runtime.outside import replaced
from xbd.daemons.runtime.peers import converse
from xbd.daemons.runtime.state_dir import StateDir
from xbd.daemons.runtime.transport import Transport
from xbd.protocol.codec import encode_request


class Room:
    """A disk that is full or not, and a guest's connection to a host of which it is the disk."""

    def __init__(self, *, is_full: bool) -> None:
        self.is_full = is_full
        self.gate = DiskGate(lambda: self.is_full)
        self.host = small_host()
        self.domid = create(self.host, superpages=1, target=1)

    @asynccontextmanager
    async def guest(self) -> AsyncIterator[trio.SocketStream]:
        """Let a guest's socket be served while the disk is watched."""
        ours, theirs = socket.socketpair()
        theirs.settimeout(0)
        here = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.gate.watch)
                await trio.sleep(LOOK_EVERY_S / 2)
                assert self.gate.is_open != self.is_full
                make = partial(DomainEndpoint, self.host, self.domid)
                nursery.start_soon(converse, Transport(theirs), make, self.gate)
                await here.send_all(encode_request(0, "hello", {"version": 1, "session": "a"}))
                yield here
                await here.aclose()
                nursery.cancel_scope.cancel()


async def is_silent(here: trio.SocketStream) -> bool:
    """Say whether nothing comes for a while."""
    with trio.move_on_after(5) as waiting:
        await here.receive_some(100)
    return waiting.cancelled_caught


async def test_guests_wait_while_there_is_no_room(autojump_clock: trio.testing.MockClock) -> None:
    """A call that comes while the disk is full is answered when it has room again, and not before."""
    del autojump_clock
    room = Room(is_full=True)
    async with room.guest() as here:
        assert await is_silent(here)
        room.is_full = False
        assert await here.receive_some(100)


async def test_a_call_that_was_held_by_a_pause_waits_for_room_too(autojump_clock: trio.testing.MockClock) -> None:
    """The guest is told that its pause has ended; what it called for meanwhile is done when there is room."""
    del autojump_clock
    room = Room(is_full=False)
    async with room.guest() as here:
        assert await here.receive_some(1000)
        do(room.host, "pause", domid=room.domid)
        assert b"paused" in await here.receive_some(1000)
        await here.send_all(encode_request(1, "decrease", {"gfns": bytes(8), "order": 0}))
        assert await is_silent(here)
        room.is_full = True
        await trio.sleep(2 * LOOK_EVERY_S)
        do(room.host, "unpause", domid=room.domid)
        assert b"paused" in await here.receive_some(1000)
        assert await is_silent(here)
        room.is_full = False
        assert await here.receive_some(100)
    assert room.host.machine.domain(room.domid).tot_pages == 511


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
