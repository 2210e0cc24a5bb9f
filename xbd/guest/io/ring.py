"""The entries of a front end's ring: its requests with their pages, from the first word stored to the last compared."""

from collections.abc import Generator
from dataclasses import dataclass

import numpy as np

from xbd.abi import Frames, Result
from xbd.guest.io.commands import grant_pages, load_pages
from xbd.guest.io.disk import Disk
from xbd.guest.io.messages import Request, Status, digest_words
from xbd.guest.procedures import Procedure, store_words
from xbd.guest.procedures import Request as Yielded


@dataclass(slots=True, eq=False)
class Entry:
    """One request: its pages, (n,) gfns, and their grants, (n,) refs, -1 for none; *write*: its number, 0 for a read."""

    number: int
    connection: int
    disk: Disk
    sector: int
    write: int
    gfns: Frames
    refs: Frames
    digest: int = 0
    status: Status = Status.ERROR

    @property
    def granted(self) -> bool:
        """Whether all its pages are."""
        return bool((self.refs >= 0).all())

    def as_request(self) -> Request:
        """Make the request that is sent to the back end."""
        return Request(self.number, bool(self.write), self.sector, self.refs, self.digest)


def fill(entries: list[Entry]) -> Procedure:
    """Store the words of those that write, and note their digests."""
    writes = [entry for entry in entries if entry.write]
    if not writes:
        return
    words = np.concatenate([each.disk.words_to_write(each.sector, each.gfns.size, each.write) for each in writes])
    sizes = np.array([entry.gfns.size for entry in writes], dtype=np.int64)
    for entry, digest in zip(writes, digest_words(words, sizes).tolist(), strict=True):
        entry.digest = digest
    # If a word could not be stored, the back end finds out by the digest.
    yield from store_words(np.concatenate([entry.gfns for entry in writes]), words)


def grant(entries: list[Entry], to: int, *, persistent: bool) -> Procedure:
    """Grant what is not granted yet to domain *to*: read-only for a write, unless the page is to serve for reads too."""
    for write in (True, False):
        some = [entry for entry in entries if bool(entry.write) is write]
        if not some:
            continue
        refs = np.concatenate([entry.refs for entry in some])
        bare = np.flatnonzero(refs < 0)
        gfns = np.concatenate([entry.gfns for entry in some])[bare]
        refs[bare] = yield from grant_pages(gfns, to, readonly=write and not persistent)
        ends = np.cumsum([entry.gfns.size for entry in some])
        for entry, granted in zip(some, np.split(refs, ends[:-1]), strict=True):
            entry.refs = granted


def compare(entries: list[Entry]) -> Generator[Yielded, list[Result], int]:
    """Load what was read, and count the words that are not what the disk should say."""
    reads = [entry for entry in entries if entry.status is Status.OK and not entry.write]
    if not reads:
        return 0
    gfns = np.concatenate([entry.gfns for entry in reads])
    words, read = yield from load_pages(gfns, np.zeros(gfns.size, dtype=np.int64))
    expected = np.concatenate([entry.disk.words_expected(entry.sector, entry.gfns.size) for entry in reads])
    return int(np.count_nonzero((words != expected) | ~read))
