"""Carrying out one batch of one front end's requests: map, move the words, unmap.

Every step goes on with those requests of which nothing has failed yet.
"""

import numpy as np

from xbd.abi import Frames, MapGrant, Store, UnmapGrant
from xbd.guest.io.client import Client
from xbd.guest.io.commands import Mask, load_pages, step_over
from xbd.guest.io.messages import Request, Response, Status, digest_words
from xbd.guest.procedures import Procedure


class Batch:
    """Requests of *client* while they are carried out; arrays are per page, (n,), in the requests' order.

    Attributes: *bare*: pages that are not mapped already; *mapped* of all: whether they are now. *pages_written*,
    *pages_read*, *mismatches* (requests whose words are not those of their digest): counts.
    """

    def __init__(self, client: Client, requests: list[Request]) -> None:
        self._client = client
        self._requests = requests
        self._sizes: Frames = np.array([request.refs.size for request in requests], dtype=np.int64)
        self._groups: Frames = np.repeat(np.arange(len(requests)), self._sizes)
        self._refs: Frames = np.concatenate([request.refs for request in requests])
        self._writes: Mask = np.array([request.write for request in requests])
        self._slots = client.mapped_at(self._refs)
        # No command names a slot twice: a page that is named again is mapped once more.
        again = np.ones(self._refs.size, dtype=np.bool_)
        again[np.unique(self._slots, return_index=True)[1]] = False
        self._slots[again] = -1
        self._good: Mask = np.ones(len(requests), dtype=np.bool_)
        self._statuses = [Status.ERROR] * len(requests)
        self.bare: Frames = np.flatnonzero(self._slots < 0)
        self.mapped: Mask = self._slots >= 0
        self.pages_written = self.pages_read = self.mismatches = 0

    def responses(self) -> list[Response]:
        """Say how each request ended."""
        return [
            Response(request.number, status) for request, status in zip(self._requests, self._statuses, strict=True)
        ]

    def map(self, slots: Frames) -> Procedure:
        """Map the bare pages at *slots*, to be written only where the front end wants to read, or keeps them granted."""
        self._slots[self.bare] = slots
        persistent = self._client.slot_of is not None
        readonly = self._writes[self._groups[self.bare]] & (not persistent)
        for mode in (True, False):
            yield from self._map(self.bare[readonly == mode], readonly=mode)

    def _map(self, pages: Frames, *, readonly: bool) -> Procedure:
        client, refs, slots = self._client, self._refs[pages], self._slots[pages]
        # A domid may soon belong to another domain, or to a rebooted one: pages of a client that is gone are not mapped
        # any more, and the next client is greeted only after that.
        self.mapped[pages] = yield from step_over(
            lambda at: MapGrant(client.owner, refs[at], slots[at], readonly),
            self._groups[pages],
            going=lambda: not client.gone,
        )
        self._good[self._groups[pages[~self.mapped[pages]]]] = False

    def _pages(self, *, write: bool) -> Frames:
        """List the pages of the good requests that write, or read."""
        return np.flatnonzero((self._good & (self._writes == write))[self._groups])

    def write(self) -> Procedure:
        """Carry out the writes: read their pages and, where the words are those of the digest, put them on the disk."""
        pages = self._pages(write=True)
        if not pages.size:
            return
        words, read = yield from load_pages(self._slots[pages], self._groups[pages])
        self._good[self._groups[pages[~read]]] = False
        whole = self._good[self._groups[pages]]
        pages, words = pages[whole], words[whole]
        if not pages.size:
            return
        indexes, sizes = np.unique(self._groups[pages], return_counts=True)
        digests = digest_words(words, sizes).tolist()
        parts = np.split(words, np.cumsum(sizes)[:-1])
        for index, digest, part in zip(indexes.tolist(), digests, parts, strict=True):
            request = self._requests[index]
            if digest != request.digest:
                self._statuses[index] = Status.MISMATCH
                self.mismatches += 1
                continue
            self._client.disk[request.sector : request.sector + part.size] = part
            self._statuses[index] = Status.OK
            self.pages_written += part.size

    def read(self) -> Procedure:
        """Carry out the reads: store the disk's words in their pages."""
        pages = self._pages(write=False)
        if not pages.size:
            return
        indexes = np.unique(self._groups[pages]).tolist()
        spans = [(self._requests[index].sector, int(self._sizes[index])) for index in indexes]
        words = np.concatenate([self._client.disk[sector : sector + size] for sector, size in spans])
        slots = self._slots[pages]
        stored = yield from step_over(lambda at: Store(slots[at], words[at]), self._groups[pages])
        self._good[self._groups[pages[~stored]]] = False
        for index in indexes:
            if self._good[index]:
                self._statuses[index] = Status.OK
                self.pages_read += int(self._sizes[index])

    def keep(self, most: int) -> int:
        """Let up to *most* of the pages that were mapped for this batch stay mapped; returns how many do."""
        if self._client.slot_of is None or self._client.gone:
            return 0
        fresh = self.bare[self.mapped[self.bare]]
        # A page may be named several times; it is kept once.
        fresh = fresh[self._client.mapped_at(self._refs[fresh]) < 0]
        refs, first = np.unique(self._refs[fresh], return_index=True)
        kept = fresh[first[: max(most, 0)]]
        self._client.keep(refs[: kept.size], self._slots[kept])
        self.bare = np.setdiff1d(self.bare, kept)
        return int(kept.size)

    def slots_to_return(self) -> tuple[Frames, Frames]:
        """List the slots of the bare pages: those that are mapped, those that are not."""
        mapped = self.mapped[self.bare]
        return self._slots[self.bare[mapped]], self._slots[self.bare[~mapped]]


def unmap(slots: Frames) -> Procedure:
    """Unmap slots; it does not matter if nothing is mapped at some of them."""
    yield from step_over(lambda at: UnmapGrant(slots[at]), np.arange(slots.size, dtype=np.int64))
