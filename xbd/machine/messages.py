"""Messages between domains: the hypervisor copies them, and writes the sender itself.

A message goes into its receiver's inbox whole or not at all. When a domain ends or reboots, every domain
that exchanged messages with it, or maps its pages, gets an empty message in its name.
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
from xbd.machine.domains import DomainTable
from xbd.machine.frame_table import FrameTable
from xbd.machine.inbox import Inbox
from xbd.storage.image import PAGE_WORDS

_NO_WORDS: Final[Words] = np.zeros(0, dtype=np.uint64)


def send(domain_table: DomainTable, host: FrameTable, domain: Domain, command: Send) -> MemopResult:
    """Put a message into another domain's inbox, whole or not at all (EAGAIN: no room for it now)."""
    del host
    if not 1 <= command.words.size <= MAX_MESSAGE_WORDS:
        raise BadArgument(f"a message of {command.words.size} words", f"1 to {MAX_MESSAGE_WORDS}")
    receiver = domain_table.partner(domain, command.to)
    inbox = _inbox_of(receiver)
    if not inbox.has_room(domain.domid, command.words.size):
        return MemopResult(0, Stop.EAGAIN)
    inbox.put(domain.domid, command.words)
    domain_table.woken[receiver.domid] = None
    _note_contact(domain, receiver)
    _note_contact(receiver, domain)
    return MemopResult(command.words.size)


def _note_contact(domain: Domain, other: Domain) -> None:
    if domain.peers.words[other.domid] != other.birth:
        domain.peers.note_row(other.domid)
        domain.peers.words[other.domid] = other.birth


def _inbox_of(domain: Domain) -> Inbox:
    if domain.inbox is None:
        domain.inbox = Inbox(domain.section.column("inbox"))
    return domain.inbox


def receive(domain_table: DomainTable, host: FrameTable, domain: Domain, command: Receive) -> LoadResult:
    """Take whole messages out of the own inbox, oldest first; BUDGET where more wait."""
    del domain_table, host
    if not MAX_MESSAGE_WORDS < command.most <= MAX_WORDS:
        raise BadArgument(
            f"room for {command.most} words of messages",
            f"{MAX_MESSAGE_WORDS + 1} (a message and its header) to {MAX_WORDS}",
        )
    if domain.inbox is None:
        return LoadResult(0, None, _NO_WORDS)
    words = domain.inbox.take(command.most, TURN_EXTENTS)
    return LoadResult(words.size, Stop.BUDGET if domain.inbox.used_words else None, words)


def contacts_of(domain_table: DomainTable, domain: Domain) -> Frames:
    """List the domids that a domain has exchanged messages with: (n,) int64, ascending. Raises OSError.

    Only pages that were ever written are read: on tmpfs reading a hole takes a page, and a full tmpfs has none.
    """
    pages = domain_table.image.touched_pages(domain.section, "peers")
    rows = (pages[:, None] * PAGE_WORDS + np.arange(PAGE_WORDS)).reshape(-1)
    rows = rows[rows < domain.peers.words.size]
    known: Frames = rows[domain.peers.words[rows] != 0]
    return known


def announce_departure(domain_table: DomainTable, domain: Domain, mappers: set[int], known: Frames) -> None:
    """Send an empty message, which means gone or rebooted, to a domain's contacts and to those that map its pages.

    *known*: the contacts, as `contacts_of` lists them.
    """
    births = domain.peers.words[known].tolist()
    knew = {domid for domid, birth in zip(known.tolist(), births, strict=True) if domain_table.is_born(domid, birth)}
    for domid in sorted(knew | mappers):
        _inbox_of(domain_table.domains[domid]).put(domain.domid, _NO_WORDS)
        domain_table.woken[domid] = None
    domain.peers.note(known)
    domain.peers.words[known] = 0
    if domain.inbox is not None:
        domain.inbox.clear()
