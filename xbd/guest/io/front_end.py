"""The front end: a guest's block I/O, by grants and messages to domain 0.

It connects, and then begins requests at the workload's rate, in batches: pages are allocated, filled
(a write), granted and named in a message; when the answer comes they are read and compared (a read),
the grants are ended and the pages freed. With persistent grants the pages stay granted and are used
again (see `pages`).

When domain 0 is gone or has rebooted, whatever is under way has failed, all grants are ended, and it
connects anew, to a disk that is empty again.
Source: Linux drivers/block/xen-blkfront.c.
"""

from typing import Final

import numpy as np

from xbd.abi import Frames, MemopResult, Send, Words
from xbd.guest.io.disk import DISK_SECTORS, Disk
from xbd.guest.io.messages import (
    REQUEST_PAGES,
    RING_REQUESTS,
    Connect,
    Connected,
    Requests,
    Responses,
    Status,
    decode,
    encode,
    fit_requests,
)
from xbd.guest.io.pages import GrantedPages
from xbd.guest.io.ring import Entry, compare, fill, grant
from xbd.guest.procedures import Procedure
from xbd.guest.state import Clock, Directives
from xbd.guest.zone import PageState, Zone

# The domain whose back end serves the disks.
BACK_END_DOMID: Final = 0
# Requests begin in batches, so often; slower where a full request takes longer to come together, but not by more.
PERIOD_S: Final = 0.25
_PERIOD_MOST_S: Final = 1.0
# An unanswered CONNECT is sent again, an inbox that was full tried again.
CONNECT_AGAIN_S: Final = 5.0
_SEND_AGAIN_S: Final = 0.25
_NUMBERS: Final = 1 << 32


class FrontEnd:
    """The front end of one guest.

    Args:
        zone: where its pages come from.
        pages_s: pages per second that the workload reads and writes.
        seed, rng: of the words, and of where requests go.

    Attributes: *running*: its procedure is under way. *requests*, *pages_written*, *pages_read*, *errors* (requests
    that failed), *mismatches* (words read that are not those written): counts.
    """

    def __init__(
        self, zone: Zone, pages_s: float, *, seed: int, rng: np.random.Generator, directives: Directives, clock: Clock
    ) -> None:
        self._zone = zone
        self._pages = GrantedPages(zone, clock)
        self._seed = seed
        self._rng = rng
        self._directives = directives
        self._clock = clock
        self._pages_s = pages_s
        self._period_s = max(PERIOD_S, min(REQUEST_PAGES / pages_s, _PERIOD_MOST_S), 1 / pages_s)
        self.running = False
        self.requests = self.pages_written = self.pages_read = self.errors = self.mismatches = 0
        # None: not connected.
        self._connection: int | None = None
        self._persistent = False
        self._disk = Disk(seed, rng)
        self._connect_at = 0.0
        self._next_batch = 0.0
        self._send_at = 0.0
        self._pages_due = 0.0
        self._number = 0
        self._under_way: dict[int, Entry] = {}
        self._unsent: list[Entry] = []
        self._ended: list[Entry] = []

    # -- when to run

    def due(self) -> bool:
        """Whether its procedure is to be started now."""
        return not self.running and (bool(self._ended) or self._clock.now >= self._look_at())

    def deadline(self) -> float | None:
        """Say when to look again though no message comes."""
        return None if self.running else self._look_at()

    def _look_at(self) -> float:
        times = [self._connect_at if self._connection is None else self._next_batch]
        if self._unsent:
            times.append(self._send_at)
        end_at = self._pages.deadline()
        return min(times) if end_at is None else min(*times, end_at)

    # -- messages received

    def received(self, untrusted_words: Words) -> None:
        """Take a message from domain 0; an empty one says that it is gone or has rebooted."""
        if not untrusted_words.size:
            self._lose_connection()
            return
        match decode(untrusted_words):
            case Connected(connection, persistent) if connection != self._connection:
                self._lose_connection()
                self._connection, self._persistent = connection, persistent
                self._disk = Disk(self._seed, self._rng)
                self._next_batch = self._clock.now
            case Responses(connection, responses) if connection == self._connection:
                for response in responses:
                    entry = self._under_way.pop(response.number, None)
                    if entry is not None:
                        entry.status = response.status
                        self._ended.append(entry)
            case _:
                pass  # of an earlier connection, or malformed

    def _lose_connection(self) -> None:
        """Fail what is under way, have all grants ended, and connect again at once."""
        self._ended += self._under_way.values()
        self._under_way.clear()
        self._unsent.clear()
        self._pages.end_kept()
        self._connection = None
        self._connect_at = self._clock.now

    # -- the procedure

    def run(self) -> Procedure:
        """Do what is due, again and again while answers come."""
        self.running = True
        going = True
        while going and not self._directives.stopping:
            yield from self._finish()
            yield from self._pages.end_deferred()
            yield from self._connect()
            yield from self._begin()
            yield from self._send()
            going = bool(self._ended)
        self.running = False

    def _connect(self) -> Procedure:
        if self._connection is not None or self._clock.now < self._connect_at:
            return
        # Whether the message was accepted does not matter: only the answer counts.
        self._connect_at = self._clock.now + CONNECT_AGAIN_S
        yield [Send(BACK_END_DOMID, encode(Connect(DISK_SECTORS)))]

    # -- beginning requests

    def _begin(self) -> Procedure:
        """Begin what the rate and the ring allow: allocate, fill, grant."""
        if self._connection is not None and self._clock.now >= self._next_batch:
            # Requests that the last period had no room for are dropped, not caught up with: programs wait for their
            # disk.
            self._pages_due = self._pages_due % 1 + self._pages_s * self._period_s
            self._next_batch = self._clock.now + self._period_s
        pages = self._room_pages()
        if not pages:
            return
        entries = self._prepare(pages)
        yield from fill(entries)
        yield from grant(entries, BACK_END_DOMID, persistent=self._persistent)
        self._launch(entries)

    def _room_pages(self) -> int:
        """Say how many pages may go out now."""
        if self._connection is None:
            return 0
        ring = (RING_REQUESTS - len(self._under_way)) * REQUEST_PAGES
        return min(int(self._pages_due), ring, self._pages.available)

    def _prepare(self, pages: int) -> list[Entry]:
        """Isolate the pages of requests for so many; the writes come first."""
        assert self._connection is not None, "requests without a connection"
        self._pages_due -= pages
        gfns, refs = self._pages.take(pages)
        entries = []
        for index, (sector, write) in enumerate(self._disk.take_runs(-(-pages // REQUEST_PAGES))):
            span = slice(index * REQUEST_PAGES, (index + 1) * REQUEST_PAGES)
            self._number = (self._number + 1) % _NUMBERS
            entries.append(Entry(self._number, self._connection, self._disk, sector, write, gfns[span], refs[span]))
        self.requests += len(entries)
        return entries

    def _launch(self, entries: list[Entry]) -> None:
        """Send the requests whose pages are all granted, over the connection that they were made for."""
        for entry in entries:
            self._zone.change(entry.gfns, PageState.ISOLATED, PageState.UNMOVABLE)
            if entry.connection == self._connection and entry.granted:
                self._under_way[entry.number] = entry
                self._unsent.append(entry)
                self._send_at = self._clock.now
            else:
                self._ended.append(entry)

    def _send(self) -> Procedure:
        """Send the requests that wait for it; those that the inbox has no room for wait on."""
        if not self._unsent or self._clock.now < self._send_at:
            return
        assert self._connection is not None, "requests wait for a connection that is lost"
        parts: list[list[Entry]] = []
        left = [entry for entry in self._unsent if entry.number in self._under_way]
        self._unsent = []
        while left:
            fitting = fit_requests([entry.as_request() for entry in left])
            parts.append(left[:fitting])
            left = left[fitting:]
        if not parts:
            return
        results = yield [
            Send(BACK_END_DOMID, encode(Requests(self._connection, tuple(entry.as_request() for entry in part))))
            for part in parts
        ]
        for part, result in zip(parts, results, strict=True):
            if not (isinstance(result, MemopResult) and result.done):
                self._unsent += [entry for entry in part if entry.number in self._under_way]
        self._send_at = self._clock.now + _SEND_AGAIN_S

    # -- ending them

    def _finish(self) -> Procedure:
        """Compare what was read; end the grants that are not kept, and free their pages."""
        ended, self._ended = self._ended, []
        if not ended:
            return
        for entry in ended:
            self._zone.change(entry.gfns, PageState.UNMOVABLE, PageState.ISOLATED)
        wrong_words = yield from compare(ended)
        self.mismatches += wrong_words
        for entry in ended:
            self._account(entry)
        gfns = np.concatenate([entry.gfns for entry in ended])
        refs = np.concatenate([entry.refs for entry in ended])
        # Checked only now: the connection may have been lost while the words were read.
        keep = np.repeat(
            [self._persistent and entry.connection == self._connection for entry in ended],
            [entry.gfns.size for entry in ended],
        )
        keep &= refs >= 0
        self._pages.keep(gfns[keep], refs[keep])
        yield from self._pages.end(gfns[~keep], refs[~keep])

    def _account(self, entry: Entry) -> None:
        """Count an entry that has ended, and let its run of the disk be used again."""
        pages = int(entry.gfns.size)
        entry.disk.give_run(entry.sector)
        if entry.status is not Status.OK:
            self.errors += 1
        elif entry.write:
            entry.disk.note_written(entry.sector, pages, entry.write)
            self.pages_written += pages
        else:
            self.pages_read += pages

    # -- queries

    @property
    def deferred_pages(self) -> int:
        """Count the pages whose grants could not be ended yet."""
        return self._pages.deferred_pages

    def check(self) -> list[str]:
        """Say what is wrong; for when nothing is in flight."""
        kept = self._pages.kept_pages
        if kept and (self._connection is None or not self._persistent):
            return [f"front end: {kept} pages are kept granted without a back end that keeps them mapped"]
        return []

    def held(self) -> tuple[Frames, Frames]:
        """List its pages and their grants (-1 for none), (n,) each; meaningful only while it is not running."""
        parts = [(entry.gfns, entry.refs) for entry in (*self._under_way.values(), *self._ended)] + self._pages.held()
        return np.concatenate([gfns for gfns, _ in parts]), np.concatenate([refs for _, refs in parts])
