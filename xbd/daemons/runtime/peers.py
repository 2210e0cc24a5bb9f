"""Carrying bytes between a connection and its endpoint.

A peer's task receives, lets its endpoint take turns, and sends the answers, one turn after the
other; between two turns every other task gets its turn. A second task, asleep most of the time,
sends what the peer is to be told unasked. A peer that does not read holds up nobody but itself:
its answers are not computed before the previous ones are taken, notices are coalesced, events wait
in the host's log. One that does not read for as long as that is waited for is dropped, and so is one
that does not say hello: a place is for who has something to say.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final

import structlog
import trio

from xbd.control.rate_limit import SourceLog
from xbd.daemons.runtime.disk_gate import DiskGate
from xbd.daemons.runtime.transport import Place, Transport
from xbd.errors import PeerLost, RemoteProtocolError

if TYPE_CHECKING:
    # The endpoints of guests need numpy, and not every daemon has guests.
    from xbd.control.endpoint import Endpoint

_log = structlog.get_logger(__name__)

TakeTurn = Callable[["Endpoint"], Awaitable[bytes]]

# How long an agent may leave its answers unread: one that is stopped for longer resumes its session, and until then its answers wait in nobody's memory.
DOMAIN_PATIENCE_S: Final = 60.0
# How long a peer may be connected before it has said hello; it is the first thing that anybody sends.
HELLO_PATIENCE_S: Final = 10.0
# How long one that is dropped for its silence may take to be told so.
_LAST_WORD_S: Final = 1.0


class Alarm:
    """Wakes one task that waits; what rings while nobody waits is kept."""

    def __init__(self) -> None:
        self._event = trio.Event()

    def ring(self) -> None:
        """Wake the task."""
        self._event.set()

    async def wait(self) -> None:
        """Wait for the next ring."""
        await self._event.wait()
        self._event = trio.Event()


async def converse(
    transport: Transport,
    make_endpoint: Callable[[Callable[[], None]], Endpoint],
    disk_gate: DiskGate | None = None,
    *,
    take_turn: TakeTurn | None = None,
    log: SourceLog | None = None,
) -> None:
    """Serve one peer until it leaves, is lost, or is dropped; the transport is closed in the end.

    Args:
        transport: its bytes.
        make_endpoint: makes its endpoint, given what wakes this peer when there is something to tell.
        disk_gate: it gets no turn while this is closed.
        take_turn: how its endpoint gets its turns; None: whenever it wants one.
        log: where it is said that it was dropped.
    """
    log = log or SourceLog(_log)
    alarm = Alarm()
    endpoint = make_endpoint(alarm.ring)
    transport.place.last_word = lambda reason: endpoint.drop(
        RemoteProtocolError(reason, "a client that leaves when it is done; it may connect again")
    )
    try:
        async with trio.open_nursery() as nursery:
            greeting = trio.CancelScope(deadline=trio.current_time() + HELLO_PATIENCE_S)
            take_turns = partial(_take_turns, transport, endpoint, disk_gate, take_turn)
            nursery.start_soon(_tell, transport, endpoint, alarm, take_turns, nursery.cancel_scope)
            with greeting:
                await _answer(transport, endpoint, greeting, take_turns)
            if greeting.cancelled_caught:
                await _drop_silent(transport, endpoint)
            nursery.cancel_scope.cancel()
    finally:
        endpoint.closed()
        transport.close()
    if endpoint.dropped is not None:
        now, dropped = trio.current_time(), endpoint.dropped
        log.warning(now, "peer_dropped", reason=str(dropped), expected=dropped.hint)


async def _drop_silent(transport: Transport, endpoint: Endpoint) -> None:
    error = RemoteProtocolError(f"no hello within {HELLO_PATIENCE_S:g} s", "a call of hello first")
    with suppress(PeerLost), trio.move_on_after(_LAST_WORD_S):
        await transport.send(endpoint.drop(error))


async def _answer(
    transport: Transport, endpoint: Endpoint, greeting: trio.CancelScope, take_turns: Callable[[], Awaitable[None]]
) -> None:
    """Receive and take turns; returns when the peer is gone or dropped. *greeting* ends with a hello that is accepted."""
    place = transport.place
    try:
        while received := await transport.receive():
            place.begin_call()
            endpoint.feed(received)
            await (take_turns() if place.is_greeted else _greet(place, greeting, take_turns))
            if endpoint.dropped is not None:
                return
            place.end_call(keeps=endpoint.keeps_place)
    except PeerLost as error:
        _log.debug("peer_lost", reason=str(error))


async def _greet(place: Place, greeting: trio.CancelScope, take_turns: Callable[[], Awaitable[None]]) -> None:
    """Take the turns of a peer that has not said hello yet; who waits for a turn is not silent meanwhile."""
    left_s = greeting.deadline - trio.current_time()
    greeting.deadline = math.inf
    await take_turns()
    if not place.is_greeted:
        greeting.deadline = trio.current_time() + left_s


async def _take_turns(
    transport: Transport, endpoint: Endpoint, disk_gate: DiskGate | None, take_turn: TakeTurn | None
) -> None:
    """Take turns and send what each answers, until none is due or the peer is dropped. Raises PeerLost."""
    place = transport.place
    while endpoint.more:
        if disk_gate is not None and not disk_gate.is_open:
            await _wait_for(disk_gate, place)
        answers = await take_turn(endpoint) if take_turn else endpoint.turn()
        if endpoint.admitted:
            place.is_greeted = True
        if answers:
            await transport.send(answers)
        if endpoint.dropped is not None:
            return
        if endpoint.more:
            await trio.lowlevel.checkpoint()


async def _wait_for(disk_gate: DiskGate, place: Place) -> None:
    """Wait until guests get their turns; who waits for that is not idle."""
    idle_since_s, place.idle_since_s = place.idle_since_s, None
    await disk_gate.wait()
    place.idle_since_s = None if idle_since_s is None else trio.current_time()


async def _tell(
    transport: Transport,
    endpoint: Endpoint,
    alarm: Alarm,
    take_turns: Callable[[], Awaitable[None]],
    peer: trio.CancelScope,
) -> None:
    """Send what the peer is to be told unasked, whenever the alarm rings; and take the turns that are due with it."""
    try:
        while True:
            await alarm.wait()
            while endpoint.dropped is None and (pending := endpoint.take_pending()):
                await transport.send(pending)
                await trio.lowlevel.checkpoint()
            await take_turns()
            if endpoint.dropped is not None:
                peer.cancel()
                return
    except PeerLost as error:
        _log.debug("peer_lost", reason=str(error))
        peer.cancel()
