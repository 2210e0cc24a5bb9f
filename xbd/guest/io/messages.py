"""The messages between a front end and a back end, as 64-bit words.

A message begins with a word that has its kind in the low bits and the number of the connection in the high
bits; the back end chooses that number, so messages of an earlier connection are recognized. Several requests,
or responses, share a message.

A peer may be hostile: `decode` returns a value within bounds, or None.
Source: Xen public/io/blkif.h, blkif_request_indirect; a sector here is one page.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

import numpy as np

from xbd.abi import MAX_GRANTS, MAX_MESSAGE_WORDS, Frames, Words
from xbd.guest.workload.holdings import mix_words

# Linux: xen_blkif_max_segments, the segments of an indirect request that a front end makes.
REQUEST_PAGES: Final = 32
# A ring of one page has 32 entries.
RING_REQUESTS: Final = 32
# A disk's words are kept in the back end's memory: 256 MiB of pages, 512 KiB of words, for each domain that is served.
MAX_DISK_SECTORS: Final = 65_536

_LOW: Final = 0xFFFF_FFFF
_HIGH_SHIFT: Final = 32
_WRITE: Final = 1 << 8
_COUNT_MASK: Final = _WRITE - 1
_RECORD_WORDS: Final = 3


class Status(IntEnum):
    """How a request ended; the wire's numbers."""

    OK = 0
    ERROR = 1
    MISMATCH = 2


class _Kind(IntEnum):
    CONNECT = 1
    CONNECTED = 2
    REQUESTS = 3
    RESPONSES = 4


@dataclass(frozen=True, slots=True)
class Connect:
    """Front to back: serve me a disk of so many sectors."""

    sectors: int


@dataclass(frozen=True, slots=True)
class Connected:
    """Back to front: done, it is empty; name *connection* in every request. *persistent*: keep pages granted."""

    connection: int
    persistent: bool


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """Write the pages granted under *refs*, (1..32,), to the disk from *sector* on, or read them from there.

    *digest*: of the words to be written (see `digest_words`); 0 for a read. *number*: the front end's, 32 bits.
    """

    number: int
    write: bool
    sector: int
    refs: Frames
    digest: int = 0


@dataclass(frozen=True, slots=True)
class Requests:
    """Front to back."""

    connection: int
    requests: tuple[Request, ...]


@dataclass(frozen=True, slots=True)
class Response:
    """How request *number* ended."""

    number: int
    status: Status


@dataclass(frozen=True, slots=True)
class Responses:
    """Back to front."""

    connection: int
    responses: tuple[Response, ...]


Message = Connect | Connected | Requests | Responses


def digest_words(words: Words, sizes: Frames) -> Words:
    """Digest the (n,) words of requests of *sizes* pages, (k,), each above 0: (k,) uint64, of words and places."""
    starts = np.cumsum(sizes) - sizes
    places = np.arange(words.size, dtype=np.int64) - np.repeat(starts, sizes)
    digests: Words = np.add.reduceat(mix_words(words + places.astype(np.uint64)), starts)
    return digests


# -- encoding


def encode(message: Message) -> Words:
    """Write a message: (1..`MAX_MESSAGE_WORDS`,) uint64; of requests only as many as `fit_requests` allows."""
    match message:
        case Connect(sectors):
            words = _whole(_Kind.CONNECT, 0, [sectors])
        case Connected(connection, persistent):
            words = _whole(_Kind.CONNECTED, connection, [int(persistent)])
        case Requests(connection, requests):
            words = np.concatenate([_whole(_Kind.REQUESTS, connection, []), *(_record(each) for each in requests)])
        case Responses(connection, responses):
            pairs = [each.number << _HIGH_SHIFT | each.status for each in responses]
            words = _whole(_Kind.RESPONSES, connection, pairs)
    assert words.size <= MAX_MESSAGE_WORDS, f"a message of {words.size} words"
    return words


def fit_requests(requests: list[Request]) -> int:
    """Count how many of these, from the first, fit into one message."""
    room = MAX_MESSAGE_WORDS - 1
    for fitting, request in enumerate(requests):
        room -= _record_words(request.refs.size)
        if room < 0:
            return fitting
    return len(requests)


def _whole(kind: _Kind, connection: int, rest: list[int]) -> Words:
    return np.array([connection << _HIGH_SHIFT | kind, *rest], dtype=np.uint64)


def _record_words(pages: int) -> int:
    return _RECORD_WORDS + (pages + 1) // 2


def _record(request: Request) -> Words:
    """Write one request: its head, its sector, its digest, and two references to a word."""
    count = request.refs.size
    words = np.zeros(_record_words(count), dtype=np.uint64)
    words[0] = request.number << _HIGH_SHIFT | (_WRITE if request.write else 0) | count
    words[1] = request.sector
    words[2] = request.digest
    words[_RECORD_WORDS:].view(np.uint32)[:count] = request.refs
    return words


# -- decoding


def decode(untrusted_words: Words) -> Message | None:
    """Read a message that somebody sent, (n,) uint64; None for what is none."""
    if not untrusted_words.size:
        return None
    head = int(untrusted_words[0])
    connection, rest = head >> _HIGH_SHIFT, untrusted_words[1:]
    match head & _LOW:
        case _Kind.CONNECT if rest.size == 1 and not connection and 0 < int(rest[0]) <= MAX_DISK_SECTORS:
            return Connect(int(rest[0]))
        case _Kind.CONNECTED if rest.size == 1 and int(rest[0]) <= 1:
            return Connected(connection, bool(rest[0]))
        case _Kind.REQUESTS:
            requests = _decode_requests(rest)
            return Requests(connection, tuple(requests)) if requests else None
        case _Kind.RESPONSES:
            return _decode_responses(connection, rest)
        case _:
            return None


def _decode_requests(untrusted_words: Words) -> list[Request]:
    """Read records to the last word; if one of them is wrong, where the next begins cannot be known: none at all."""
    requests: list[Request] = []
    at = 0
    while at < untrusted_words.size:
        head = int(untrusted_words[at])
        count = head & _COUNT_MASK
        words = untrusted_words[at : at + _record_words(count)]
        if not 0 < count <= REQUEST_PAGES or head & _LOW & ~(_WRITE | _COUNT_MASK) or words.size < _record_words(count):
            return []
        halves = np.ascontiguousarray(words[_RECORD_WORDS:]).view(np.uint32)
        if int(halves.max()) >= MAX_GRANTS or halves[count:].any():
            return []
        refs = halves[:count].astype(np.int64)
        requests.append(Request(head >> _HIGH_SHIFT, bool(head & _WRITE), int(words[1]), refs, int(words[2])))
        at += words.size
    return requests


def _decode_responses(connection: int, untrusted_words: Words) -> Responses | None:
    statuses = untrusted_words & np.uint64(_LOW)
    if not untrusted_words.size or int(statuses.max()) > max(Status):
        return None
    numbers = (untrusted_words >> np.uint64(_HIGH_SHIFT)).tolist()
    pairs = zip(numbers, statuses.tolist(), strict=True)
    return Responses(connection, tuple(Response(number, Status(status)) for number, status in pairs))
