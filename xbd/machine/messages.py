"""Messages between domains: the hypervisor copies them, and vouches for who sent them.

A message goes into its receiver's inbox whole or not at all. When a domain goes, or reboots, whoever
had to do with it gets an empty message in its name.
Source: Xen common/argo.c, XEN_ARGO_OP_sendv.
"""

from typing import Final

import numpy as np

from xbd.abi import (
    MAX_MESSAGE_WORDS,
    MAX_WORDS,
    TURN_EXTENTS,
    Frames,
    LoadResult,
    MemopResult,
    Receive,
    Send,
    Stop,
    Words,
)
from xbd.errors import BadArgument
from xbd.machine.domain import Domain
from xbd.machine.domains import Registry
from xbd.machine.frame_table import FrameTable
from xbd.machine.inbox import Inbox
from xbd.storage.image import PAGE_WORDS

_NO_WORDS: Final[Words] = np.zeros(0, dtype=np.uint64)


def send(registry: Registry, host: FrameTable, domain: Domain, command: Send) -> MemopResult:
    """Put a message into another domain's inbox, whole or not at all (EAGAIN: no room for it now)."""
    del host
    if not 1 <= command.words.size <= MAX_MESSAGE_WORDS:
        raise BadArgument(f"a message of {command.words.size} words", f"1 to {MAX_MESSAGE_WORDS}")
    receiver = registry.partner(domain, command.to)
    inbox = _inbox_of(receiver)
    if not inbox.has_room(domain.domid, command.words.size):
        return MemopResult(0, Stop.EAGAIN)
    inbox.put(domain.domid, command.words)
    registry.woken[receiver.domid] = None
    _know(domain, receiver)
    _know(receiver, domain)
    return MemopResult(command.words.size)


def _know(domain: Domain, other: Domain) -> None:
    if domain.peers.words[other.domid] != other.birth:
        domain.peers.note_row(other.domid)
        domain.peers.words[other.domid] = other.birth


def _inbox_of(domain: Domain) -> Inbox:
    if domain.inbox is None:
        domain.inbox = Inbox(domain.section.column("inbox"))
    return domain.inbox


def receive(registry: Registry, host: FrameTable, domain: Domain, command: Receive) -> LoadResult:
    """Take whole messages out of the own inbox, oldest first; BUDGET where more wait."""
    del registry, host
    if not MAX_MESSAGE_WORDS < command.most <= MAX_WORDS:
        raise BadArgument(
            f"room for {command.most} words of messages",
            f"{MAX_MESSAGE_WORDS + 1} (a message and its header) to {MAX_WORDS}",
        )
    if domain.inbox is None:
        return LoadResult(0, None, _NO_WORDS)
    words = domain.inbox.take(command.most, TURN_EXTENTS)
    return LoadResult(words.size, Stop.BUDGET if domain.inbox.used_words else None, words)


def known_to(registry: Registry, domain: Domain) -> Frames:
    """List by domid with whom a domain has exchanged messages: (n,) int64, ascending. Raises OSError.

    Only pages that were ever written are read: on tmpfs a hole that is read takes a page, which a full one has not got.
    """
    pages = registry.image.touched_pages(domain.section, "peers")
    rows = (pages[:, None] * PAGE_WORDS + np.arange(PAGE_WORDS)).reshape(-1)
    rows = rows[rows < domain.peers.words.size]
    known: Frames = rows[domain.peers.words[rows] != 0]
    return known


def announce_departure(registry: Registry, domain: Domain, mappers: set[int]) -> None:
    """Tell whoever had to do with a domain, or maps something of it, that it is gone or has rebooted."""
    known = known_to(registry, domain)
    births = domain.peers.words[known].tolist()
    knew = {domid for domid, birth in zip(known.tolist(), births, strict=True) if registry.is_born(domid, birth)}
    for domid in sorted(knew | mappers):
        _inbox_of(registry.domains[domid]).put(domain.domid, _NO_WORDS)
        registry.woken[domid] = None
    domain.peers.note(known)
    domain.peers.words[known] = 0
    if domain.inbox is not None:
        domain.inbox.clear()
