"""Reserving what a step takes of the system (memory, undo log, disk space) before it changes anything.

A step that failed half way would leave the machine half changed. So whatever can run out (memory for
arrays, room in the undo log, disk space for pages that are written for the first time) is reserved
first, by upper bounds of what the step takes; if that fails the step is refused.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

import numpy as np

from xbd.abi import Frames
from xbd.errors import OutOfResources
from xbd.machine import grants, messages
from xbd.machine.domain import READ_WHOLE, Domain, P2m, domain_layout
from xbd.machine.domains import DomainTable
from xbd.machine.frame_table import FrameTable
from xbd.replaceable import replaceable
from xbd.storage.image import Image, Kind, Section
from xbd.units import SUPER_ORDER, SUPER_PAGES

# Address space that must be left for the daemon after a create: its small objects, the buffers of hundreds of peers,
# and what destroying domains takes.
SPARE_BYTES: Final = 64 << 20
# For arrays of a few words for each page and block that a step is about.
_SCRATCH_BYTES: Final = 1 << 20
_SCRATCH_PER_PAGE_BYTES: Final = 64
# Limits, births, records, events: a few cells.
_NOTES_APART: Final = 4096
# A note's header and a row of a superframe's words and their checks; rows of blocks; of single pages their entry, their
# content and its check.
_NOTES_PER_ROW: Final = SUPER_PAGES + SUPER_PAGES // 8 + 2
_NOTES_PER_BLOCK: Final = 12
_NOTES_PER_PAGE: Final = 6
# Notes for a mapping that ends (its slot, its row, and the owner's page that may be freed), for a grant, and for a
# neighbour that gets a message.
_NOTES_PER_MAPPING: Final = 24
_NOTES_PER_GRANT: Final = 8
_NOTES_PER_NEIGHBOUR: Final = 64


@replaceable
@contextmanager
def refused(what: str) -> Iterator[None]:
    """Turn MemoryError and OSError in the `with` block into OutOfResources; *what* says what could not be done."""
    try:
        yield
    except (OSError, MemoryError) as error:
        raise OutOfResources.because(what, error) from error


def reserve_creation(image: Image, target_pages: int) -> None:
    """Reserve what creating a domain takes besides its sections. Raises OutOfResources: nothing has changed."""
    blocks = -(-target_pages // SUPER_PAGES)
    scratch_bytes = SPARE_BYTES + _SCRATCH_PER_PAGE_BYTES * blocks + _SCRATCH_PER_PAGE_BYTES * target_pages // 8
    image.reserve("the domain is not created", notes_words=_NOTES_APART, scratch_bytes=scratch_bytes)


def allocate_creation(
    domain_table: DomainTable, section: Section, target_pages: int, obtainable_superframes: int
) -> None:
    """Allocate disk space for what creating a domain writes. Raises OSError: only the new section has changed."""
    domain_table.image.allocate_once(section, *map(section.span, READ_WHOLE))
    first_entry, _ = section.span("entry")
    # Without enough whole superframes the last blocks are built of single frames.
    in_leaves = min(target_pages >> SUPER_ORDER, obtainable_superframes) << SUPER_ORDER
    if in_leaves < target_pages:
        domain_table.image.allocate(section, (first_entry + in_leaves, first_entry + target_pages))


def make_tables(
    domain_table: DomainTable, domid: int, gfn_count: int, target_pages: int, obtainable_superframes: int
) -> tuple[P2m, Section]:
    """Make the tables of a new domain, and reserve what else making it takes. Raises OutOfResources: nothing is left.

    It is built of the whole superframes that it can obtain, and beyond these of single frames.
    """
    image = domain_table.image
    with refused("the domain is not created"), ExitStack() as undo:
        reserve_creation(image, target_pages)
        section = image.add_section(Kind.DOMAIN, domid, domain_layout(gfn_count, domain_table.limits))
        undo.callback(image.drop_section, Kind.DOMAIN, domid)
        undo.callback(image.drop, f"domain.{domid}.")
        p2m = domain_table.parts.p2m(gfn_count, image, section)
        allocate_creation(domain_table, section, target_pages, obtainable_superframes)
        undo.pop_all()
    return p2m, section


def reserve_end(domain_table: DomainTable, host: FrameTable, domain: Domain, what: str) -> Frames:
    """Reserve what the end, or the reboot, of a domain takes. Raises OutOfResources: nothing has changed.

    Returns:
        Whom it has exchanged messages with, (n,) int64: finding that takes an open file, which later there may be none of.
    """
    with refused(what):
        contacts = messages.contacts_of(domain_table, domain)
    kept = domain.granted_pages()
    single_pages = domain.tot_pages - (domain.leaves << SUPER_ORDER)
    written = int(np.count_nonzero(host.written[domain.p2m.leaf_supers()]))
    broken_blocks = np.unique(kept >> SUPER_ORDER)
    broken_blocks = broken_blocks[domain.p2m.leaf[broken_blocks] > 0]
    neighbours = grants.mappers_of(domain) | set(contacts.tolist())
    notes_words = (
        _NOTES_APART
        + _NOTES_PER_ROW * (written + broken_blocks.size)
        + _NOTES_PER_BLOCK * domain.p2m.populated.size
        + _NOTES_PER_PAGE * (single_pages + broken_blocks.size * SUPER_PAGES)
        + _NOTES_PER_MAPPING * domain.mapped
        + _NOTES_PER_GRANT * ((domain.grants.count if domain.grants else 0) + domain.referenced)
        + _NOTES_PER_NEIGHBOUR * len(neighbours)
    )
    scratch_bytes = _SCRATCH_BYTES + _SCRATCH_PER_PAGE_BYTES * (
        single_pages + domain.p2m.populated.size + domain.mapped + kept.size
    )
    domain_table.image.reserve(what, notes_words=notes_words, scratch_bytes=scratch_bytes)
    with refused(what):
        first_entry, _ = domain.section.span("entry")
        rows = [first_entry + SUPER_PAGES * block for block in broken_blocks.tolist()]
        domain_table.image.allocate(domain.section, *((row, row + SUPER_PAGES) for row in rows))
        for domid in neighbours & domain_table.domains.keys():
            _allocate_departure(domain_table, domain_table.domains[domid])
    return contacts


def _allocate_departure(domain_table: DomainTable, neighbour: Domain) -> None:
    """Allocate disk space in a neighbour's inbox for the message that says that a domain is gone. Raises OSError."""
    first, _ = neighbour.section.span("inbox")
    row = neighbour.inbox.next_row if neighbour.inbox else 0
    domain_table.image.allocate(neighbour.section, (first, first + 1), (first + row, first + row + 1))
