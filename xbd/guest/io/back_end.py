"""The back end: dom0's side of the guests' block I/O, as grants mapped into slots.

A procedure at a time serves one front end: it takes a batch of its requests, maps their pages into
slots, reads what is to be written and checks it against its digest, stores what is to be read, unmaps
and answers. Several front ends are served side by side, in turns. With persistent grants a page stays
mapped for the next request that names it, within bounds.

A front end is not trusted: a request that cannot be carried out fails alone, requests beyond the bound are
dropped, and malformed messages are ignored; it can fill neither this domain's memory nor its slots, nor
stop the others from being served. When its domain is gone, all that was kept of it is dropped and its
pages are unmapped, so that a zombie can vanish.
Source: Linux drivers/block/xen-blkback/blkback.c.
"""

from collections import deque
from typing import Final

import numpy as np

from xbd.abi import Command, Frames, MemopResult, Refused, Send, Words
from xbd.guest.balloon.foreign import ForeignSlots
from xbd.guest.io.client import PERSISTENT_MOST, Client
from xbd.guest.io.messages import Connect, Connected, Request, Requests, Response, Responses, Status, decode, encode
from xbd.guest.io.service import Batch, unmap
from xbd.guest.io.slots import SlotCache
from xbd.guest.procedures import Procedure
from xbd.guest.settings import BlockBackEnd
from xbd.guest.state import Clock

# Front ends served side by side: as many as a guest may have commands in flight.
SERVED_MOST: Final = 8
# How soon a full inbox, or a request for slots that got none, is tried again, and how often before requests fail.
_SEND_AGAIN_S: Final = 0.25
_SLOTS_AGAIN_S: Final = 1.0
_STARVED_MOST: Final = 5
# The share of all slots that may stay mapped; the rest is kept for the next batches of all clients.
_KEPT_SHIFT: Final = 1


class DiskBackEnd:
    """The back end of one guest.

    Attributes: *requests*, *pages_written*, *pages_read*, *errors* (requests that failed or were dropped),
    *mismatches* (writes whose words are not those of their digest): counts. *mapped_pages*: mapped now.
    """

    def __init__(self, settings: BlockBackEnd, foreign: ForeignSlots, clock: Clock) -> None:
        self._settings = settings
        self._slots = SlotCache(foreign, clock)
        self._clock = clock
        self.requests = self.pages_written = self.pages_read = self.errors = self.mismatches = 0
        self.mapped_pages = 0
        self._connections = 0
        self._clients: dict[int, Client] = {}
        # Clients to be served, in order; and clients that wait, with the time until when.
        self._turns: deque[Client] = deque()
        self._waiting: dict[Client, float] = {}
        self._serving = 0
        self._kept_pages = 0

    # -- messages received

    def received(self, sender: int, untrusted_words: Words) -> None:
        """Take a message of *sender*; an empty one says that the domain is gone or has rebooted."""
        client = self._clients.get(sender)
        if not untrusted_words.size:
            self._lose(client)
            return
        match decode(untrusted_words):
            case Connect(sectors):
                # Each CONNECT gets a number of its own, so that no answer can be taken for another's.
                self._lose(client)
                self._connections += 1
                client = Client.connect(sender, self._connections, sectors, persistent=self._settings.persistent)
                self._clients[sender] = client
                self._queue(client)
            case Requests(connection, requests) if client is not None and connection == client.connection:
                self.requests += len(requests)
                self.errors += sum(not client.accept(request) for request in requests)
                self._queue(client)
            case _:
                pass  # no message of a connected front end

    def _lose(self, client: Client | None) -> None:
        if client is not None:
            client.gone = True
            del self._clients[client.owner]
            self._queue(client)

    # -- when to run

    def _queue(self, client: Client) -> None:
        """Queue a client to be served, unless it is queued already or waits for slots or for its inbox."""
        if client.serving or client.queued or (client in self._waiting and not client.gone):
            return
        if client.kept if client.gone else client.has_work:
            client.queued = True
            self._turns.append(client)
        if client.gone:
            self._waiting.pop(client, None)

    def start_due(self) -> list[Procedure]:
        """List the procedures that are to be started now; also gives back slots that were unused for a while."""
        self._slots.shrink()
        for client in [client for client, at in self._waiting.items() if self._clock.now >= at]:
            del self._waiting[client]
            self._queue(client)
        started = []
        while self._turns and self._serving < SERVED_MOST:
            client = self._turns.popleft()
            client.queued, client.serving = False, True
            self._serving += 1
            started.append(self._serve(client))
        return started

    def deadline(self) -> float | None:
        """Say when to look again though no message comes."""
        idle_at = self._slots.deadline()
        return min((*self._waiting.values(), *(() if idle_at is None else (idle_at,))), default=None)

    # -- serving one front end

    def _serve(self, client: Client) -> Procedure:
        """Carry out one batch for a client and answer; or unmap the pages of one that is gone."""
        if client.gone:
            slots = client.forget_kept()
            self._kept_pages -= slots.size
            yield from self._unmap(slots)
        else:
            requests = client.take_batch()
            if requests:
                yield from self._carry_out(client, requests)
            yield from self._answer(client)
        client.serving = False
        self._serving -= 1
        self._queue(client)

    def _carry_out(self, client: Client, requests: list[Request]) -> Procedure:
        """Carry requests out, half as many and again half if there are not slots enough for all."""
        batch = Batch(client, requests)
        slots = yield from self._slots.take(batch.bare.size)
        while slots.size < batch.bare.size and len(requests) > 1:
            requests = client.put_back(requests, len(requests) // 2)
            batch = Batch(client, requests)
            slots = yield from self._slots.take(batch.bare.size)
        if slots.size < batch.bare.size:
            client.put_back(requests, 0)
            self._starve(client)
            return
        client.starved = 0
        yield from batch.map(slots)
        self.mapped_pages += int(np.count_nonzero(batch.mapped[batch.bare]))
        yield from batch.write()
        yield from batch.read()
        kept = batch.keep(self._room_to_keep(client))
        self._kept_pages += kept
        mapped, unmapped = batch.slots_to_return()
        self._slots.give(unmapped)
        yield from self._unmap(mapped)
        self.pages_written += batch.pages_written
        self.pages_read += batch.pages_read
        self.mismatches += batch.mismatches
        self._end(client, batch.responses())
        client.in_service = 0

    def _room_to_keep(self, client: Client) -> int:
        """Say how many more pages of a client may stay mapped."""
        return min(PERSISTENT_MOST - client.kept, (self._slots.limit_pages >> _KEPT_SHIFT) - self._kept_pages)

    def _unmap(self, slots: Frames) -> Procedure:
        yield from unmap(slots)
        self.mapped_pages -= slots.size
        self._slots.give(slots)

    def _starve(self, client: Client) -> None:
        """Make a client wait for slots; after too many tries its requests fail."""
        client.starved += 1
        if client.starved <= _STARVED_MOST:
            self._waiting[client] = self._clock.now + _SLOTS_AGAIN_S
            return
        client.starved = 0
        requests, client.waiting = client.waiting, deque()
        self._end(client, [Response(request.number, Status.ERROR) for request in requests])

    def _end(self, client: Client, responses: list[Response]) -> None:
        client.answers += responses
        self.errors += sum(response.status is not Status.OK for response in responses)

    def _answer(self, client: Client) -> Procedure:
        """Send a client its answers; those that its inbox has no room for wait."""
        # They stay counted until they are sent: a client that does not read its answers gets no more requests served.
        answers = len(client.answers)
        sends: list[Command] = []
        if client.greet:
            greeting = Connected(client.connection, client.slot_of is not None)
            sends.append(Send(client.owner, encode(greeting)))
        if answers:
            sends.append(Send(client.owner, encode(Responses(client.connection, tuple(client.answers)))))
        if client.gone or not sends:
            return
        results = yield sends
        if all(isinstance(result, Refused) or (isinstance(result, MemopResult) and result.done) for result in results):
            # Refused: the client's domain is gone, and the message that says so is about to come.
            client.greet = False
            del client.answers[:answers]
        else:
            self._waiting[client] = self._clock.now + _SEND_AGAIN_S

    # -- queries

    def check(self) -> list[str]:
        """Say where its counts disagree; for when nothing is in flight."""
        kept = sum(client.kept for client in self._clients.values())
        if not kept == self._kept_pages == self.mapped_pages:
            return [f"back end: {kept} pages kept, {self._kept_pages} counted, {self.mapped_pages} counted as mapped"]
        held = self._slots.cached + kept
        return [f"back end: {held} slots held, {self._slots.out} are out"] if held != self._slots.out else []
