"""Turns of many guests at once: how many others have theirs before one that has just sent a call."""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio

from tests.peer import StreamPeer, create, small_host
from xbd.control.controller import Controller
from xbd.control.endpoint import DomainEndpoint, Endpoint
from xbd.control.fair_turns import Share
from xbd.daemons.runtime.peers import converse
from xbd.daemons.runtime.transport import Transport
from xbd.daemons.runtime.turns import Turns

# One word read, again and again: some 30 turns for each piece that is received.
_FLOOD = 256


class Ward:
    """A host whose guests converse on socket pairs, and the domids of the turns that they had."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.host: Controller = small_host()
        self.turns = Turns()
        self.had: list[int] = []
        self.nursery = nursery
        self.streams: list[trio.SocketStream] = []

    async def guest(self, name: str) -> StreamPeer:
        """Connect a new guest, which has said hello."""
        domid = create(self.host, name, superpages=1, target=1)
        ours, theirs = socket.socketpair()
        theirs.settimeout(0)
        share = Share()

        async def take(endpoint: Endpoint) -> bytes:
            answers = await self.turns.take(share, endpoint)
            self.had.append(domid)
            return answers

        made = partial(DomainEndpoint, self.host, domid)
        self.nursery.start_soon(partial(converse, Transport(theirs), made, take_turn=take))
        self.streams.append(trio.SocketStream(trio.socket.from_stdlib_socket(ours)))
        peer = StreamPeer(self.streams[-1])
        await peer.call("hello", version=1, session="a", last_seen=None)
        return peer


@asynccontextmanager
async def warded() -> AsyncIterator[Ward]:
    """Serve the turns of a host's guests."""
    async with trio.open_nursery() as nursery:
        ward = Ward(nursery)
        async with ward.turns.served():
            yield ward
            nursery.cancel_scope.cancel()
    for stream in ward.streams:
        stream.socket.close()


async def _flood(peer: StreamPeer) -> None:
    """Send calls without an end; another task throws the answers away."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_discard, peer)
        while True:
            await peer.stream.send_all(b"".join(peer.pack("load", {"gfns": bytes(8)}) for _ in range(_FLOOD)))


async def _discard(peer: StreamPeer) -> None:
    while await peer.stream.receive_some(1 << 20):
        pass


@pytest.mark.parametrize("hostile", [1, 20])
async def test_a_guest_within_its_part_waits_for_few_turns(hostile: int) -> None:
    """However many others flood the host, one that makes a call now and then is chosen as soon as it is heard."""
    async with warded() as ward:
        honest = await ward.guest("honest")
        for number in range(hostile):
            ward.nursery.start_soon(_flood, await ward.guest(f"hostile-{number}"))
        waited: list[int] = []
        for _ in range(20):
            while len(ward.had) < (len(waited) + 1) * 4 * hostile:
                await trio.lowlevel.checkpoint()
            before = len(ward.had)
            await honest.call("load", gfns=bytes(8))
            waited.append(ward.had[before:].index(1))

    # The turn in the round in which the call is sent, in the one in which it is heard, and the one chosen meanwhile.
    assert sorted(waited)[len(waited) // 2] <= 3
    assert set(ward.had) == set(range(1, hostile + 2))


async def test_a_guest_that_is_alone_does_not_wait() -> None:
    """Without another guest that waits, a turn is taken in the round in which the call is heard."""
    async with warded() as ward:
        peer = await ward.guest("web")
        for _ in range(10):
            await peer.call("load", gfns=bytes(8))
        assert not ward.turns._order
        assert not ward.turns._contended.is_set()


async def test_who_leaves_while_it_waits_holds_nobody_up() -> None:
    """Connections that end in the middle of a flood are forgotten; all others have their turns."""
    async with warded() as ward:
        honest = await ward.guest("honest")
        ward.nursery.start_soon(_flood, await ward.guest("hostile"))
        for number in range(10):
            gone = await ward.guest(f"gone-{number}")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_flood, gone)
                for _ in range(30):
                    await trio.lowlevel.checkpoint()
                nursery.cancel_scope.cancel()
            await gone.stream.aclose()
            assert await honest.call("load", gfns=bytes(8)) == [1, None, bytes(8)]
