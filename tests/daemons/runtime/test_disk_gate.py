"""A full disk under the state directory: guests wait, and go on."""

from pathlib import Path

import trio
import trio.testing

from tests.peer import small_host
from xbd.control.endpoint import DomainEndpoint
from xbd.daemons.runtime.disk_gate import LOOK_EVERY_S, Room
from xbd.daemons.runtime.peers import StreamTransport, converse
from xbd.daemons.runtime.state_dir import StateDir
from xbd.protocol.codec import encode_request


async def test_guests_wait_while_there_is_no_room(autojump_clock: trio.testing.MockClock) -> None:
    """A call that comes while the disk is full is answered when it has room again, and not before."""
    del autojump_clock
    full = True
    room = Room(lambda: full)
    host = small_host()
    domid = host.call("create", {"name": "web", "max_pages": 512, "target_pages": 512})["domid"]
    here, there = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(room.watch)
        await trio.sleep(LOOK_EVERY_S / 2)
        assert not room.is_open
        nursery.start_soon(
            converse, StreamTransport(there), lambda wake: DomainEndpoint(host, int(str(domid)), wake), room
        )
        await here.send_all(encode_request(0, "hello", {"version": 1, "session": "a"}))
        with trio.move_on_after(5) as waiting:
            await here.receive_some(100)
        assert waiting.cancelled_caught
        full = False
        assert await here.receive_some(100)
        nursery.cancel_scope.cancel()


def test_a_directory_is_full_when_less_than_the_reserve_is_free(tmp_path: Path) -> None:
    """What counts is the room on its file system."""
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
    room = Room(lambda: state.is_full)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(room.watch)
        await trio.sleep(LOOK_EVERY_S / 2)
        (tmp_path / "state").rename(tmp_path / "away")
        was_open = room.is_open
        await trio.sleep(LOOK_EVERY_S)
        assert (was_open, room.is_open) == (True, False)
        (tmp_path / "away").rename(tmp_path / "state")
        await room.wait()
        nursery.cancel_scope.cancel()
    state.close(in_order=False)
