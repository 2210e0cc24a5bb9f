"""The back end's record of one front end: its disk, its requests, and those of its pages that stay mapped."""

from collections import deque
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from xbd.abi import BATCH_EXTENTS, MAX_GRANTS, Frames, Words
from xbd.frames import sparse_zeros
from xbd.guest.io.messages import RING_REQUESTS, Request, Response, Status

# Linux: max_pgrants of xen-blkback, (32 + 1) * 32.
PERSISTENT_MOST: Final = 1056


@dataclass(slots=True, eq=False)
class Client:
    """One front end, for the length of one connection. Whatever it sends, this stays bounded.

    *waiting*: requests not begun; *in_service*: how many are being carried out; *answers*: not sent yet; together no
    more
    than a ring has. *greet*: CONNECTED is to be sent. *serving*: a procedure serves it. *queued*: it waits for one.
    *gone*: its domain is gone, or has connected anew. *starved*: batches in a row that got no slots.
    """

    owner: int
    connection: int
    sectors: int
    disk: Words
    waiting: deque[Request] = field(default_factory=deque)
    in_service: int = 0
    answers: list[Response] = field(default_factory=list)
    greet: bool = True
    serving: bool = False
    queued: bool = False
    gone: bool = False
    starved: int = 0
    # Per grant reference the slot where it stays mapped, + 1; 0 for none.
    slot_of: NDArray[np.int32] | None = None
    kept: int = 0

    @classmethod
    def connect(cls, owner: int, connection: int, sectors: int, *, persistent: bool) -> "Client":
        """Give a front end an empty disk."""
        slot_of = sparse_zeros(MAX_GRANTS, np.int32) if persistent else None
        return cls(owner, connection, sectors, sparse_zeros(sectors, np.uint64), slot_of=slot_of)

    @property
    def has_work(self) -> bool:
        """Whether there is something to do for it."""
        return bool(self.waiting or self.answers or self.greet)

    def accept(self, request: Request) -> bool:
        """Queue a request, or answer at once one that is beyond the disk; False: there are too many, it is dropped."""
        if len(self.waiting) + self.in_service + len(self.answers) >= RING_REQUESTS:
            return False
        if request.sector + request.refs.size > self.sectors:
            self.answers.append(Response(request.number, Status.ERROR))
        else:
            self.waiting.append(request)
        return True

    def take_batch(self) -> list[Request]:
        """Take the oldest requests: as many as one batch of commands has pages for."""
        batch: list[Request] = []
        pages = 0
        while self.waiting and pages + self.waiting[0].refs.size <= BATCH_EXTENTS:
            batch.append(self.waiting.popleft())
            pages += batch[-1].refs.size
        self.in_service = len(batch)
        return batch

    def put_back(self, batch: list[Request], fewer: int) -> list[Request]:
        """Take only the first *fewer* of a batch; the others wait again."""
        self.waiting.extendleft(reversed(batch[fewer:]))
        self.in_service = fewer
        return batch[:fewer]

    # -- pages that stay mapped

    def mapped_at(self, refs: Frames) -> Frames:
        """Say at which slot each reference is mapped already: (n,) int64, -1 for none."""
        if self.slot_of is None:
            return np.full(refs.size, -1, dtype=np.int64)
        return self.slot_of[refs].astype(np.int64) - 1

    def keep(self, refs: Frames, gfns: Frames) -> None:
        """Note references, each once, that stay mapped."""
        assert self.slot_of is not None, f"d{self.owner} has no persistent grants"
        self.slot_of[refs] = gfns + 1
        self.kept += refs.size

    def forget_kept(self) -> Frames:
        """Return the slots of what stayed mapped, to be unmapped."""
        if self.slot_of is None or not self.kept:
            return np.zeros(0, dtype=np.int64)
        slots = self.slot_of[self.slot_of > 0].astype(np.int64) - 1
        self.slot_of[:] = 0
        self.kept = 0
        return slots
