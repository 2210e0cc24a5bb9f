"""Rebuilding a machine from its saved sections.

Saved are p2m entries, homes, content words and their checks, grants, mappings, inboxes, limits; everything else follows
from them and is recomputed here: owners, the heap, at-home counts, references. Two-level like the rest:
leaves by the superframe, entries only in pages that were ever touched. Impossible values (a frame out of
range, or mapped twice; a mapping by a grant that does not exist) raise `DamagedState`, and so does anything
that the final audit finds: a damaged state is never half loaded.
"""

from typing import Final

import numpy as np

from xbd.abi import MAX_DOMAIN_PAGES, MAX_NAME_CHARS, DomainType
from xbd.arrays import from_cells, repeats
from xbd.errors import BadArgument, DamagedState, HypercallError
from xbd.limits import LIMITS, Limits
from xbd.machine import claims, frame_table
from xbd.machine.audit import frames_at_home
from xbd.machine.content_check import ContentChecks, open_checks
from xbd.machine.counts import MAX_COUNT
from xbd.machine.domain import (
    LIMITS_SHAPE,
    READ_WHOLE,
    Domain,
    DomainState,
    domain_layout,
    saved_affinity,
    saved_uuid,
)
from xbd.machine.frame_table import FrameTable, saved_host
from xbd.machine.inbox import Inbox
from xbd.machine.machine import Machine
from xbd.machine.nodes import Affinity, affinity_of
from xbd.machine.offline import recover_offline
from xbd.machine.operations import features_of
from xbd.machine.parts import PARTS, Parts
from xbd.machine.refcounts import reference
from xbd.storage.image import Image, Kind, Section, Store
from xbd.target_rules import static_max_pages
from xbd.text import quote
from xbd.units import OFFSET_MASK, SUPER_ORDER, SUPER_PAGES, counted

# What numpy and the checks raise when they are given garbage; see `recover`.
_TRIPPED: Final = (ArithmeticError, AssertionError, HypercallError, LookupError, MemoryError, TypeError, ValueError)
# So many superframes' words are looked at in one go: 16 MiB.
_CHUNK_SUPERS = 4096


def recover(store: Store, limits: Limits = LIMITS, parts: Parts = PARTS) -> Machine:
    """Rebuild, of *parts*, the machine whose sections *store* keeps, of the same *limits*; no step is under way in it.

    Raises:
        DamagedState: what is saved is impossible; the message says what, and of which domain.
    """
    return _rebuild(Image(store), limits, parts)


def undo_step(machine: Machine) -> None:
    """Make a machine whose state is saved what it was at its last commit: roll the step back, derive the rest anew.

    Raises:
        DamagedState: what is saved is impossible; the machine is not to be used any more.
    """
    machine.image.roll_back()
    machine.become(_rebuild(machine.image, machine.limits, machine.parts))


def _rebuild(image: Image, limits: Limits, parts: Parts) -> Machine:
    """Derive a machine from the sections of an image. Raises DamagedState."""
    try:
        return _derive(image, limits, parts)
    except _TRIPPED as error:
        # The checks below say what is wrong more plainly. But saved words can be anything: whatever exception they
        # cause here, the cause is the damaged state.
        raise DamagedState(f"what is saved does not fit together: {type(error).__name__}: {error}") from error


def _derive(image: Image, limits: Limits, parts: Parts) -> Machine:
    host_section = image.open_section(Kind.HOST, 0)
    superframes, settings, nodes = saved_host(host_section)
    image.allocate_once(host_section, *map(host_section.span, frame_table.READ_WHOLE))
    machine = Machine(superframes, settings=settings, image=image, limits=limits, parts=parts, nodes=nodes)
    if frame_table.has_checks(host_section):
        machine.host.checks = ContentChecks(open_checks(image, superframes))
    for domid, birth in machine.domain_table.saved():
        domain = _read_domain(machine, domid, birth)
        if domain.state is not DomainState.ZOMBIE and machine.domain_table.named(domain.name) is not None:
            raise DamagedState(f"d{domid}: its name, {domain.name!r}, is another domain's, too")
        machine.domain_table.restore(domain)
    recover_offline(machine.host, image)
    domains = machine.domain_table.ascending()
    for domain in domains:
        _derive_p2m(image, domain)
        _derive_owners(machine.host, domain)
    for domain in domains:
        # The heap's shelves depend on the at-home counts, so these come first.
        machine.host.heap.take_superframes_exactly(domain.p2m.leaf_supers())
        machine.host.heap.take_exactly(domain.p2m.frames())
        _derive_nodes(machine.host, domain)
        _derive_tables(machine, domain)
    for domain in domains:
        _derive_references(machine, domain)
    _derive_written(image, machine.host)
    wrong = machine.audit()
    if wrong:
        raise DamagedState(f"{wrong[0]}" + (f" (and {len(wrong) - 1} more of the kind)" if wrong[1:] else ""))
    return machine


def _read_domain(machine: Machine, domid: int, birth: int) -> Domain:
    section = machine.image.open_section(Kind.DOMAIN, domid)
    if section.layout.columns.get("limits") != LIMITS_SHAPE:
        raise DamagedState(f"d{domid} is laid out as another version of xbd does")
    limits = [int(word) for word in section.column("limits").words[0, :8]]
    saved_birth, gfn_count, max_pages, target_pages, min_pages, claimed_pages, kind, state = limits
    ceiling = static_max_pages(gfn_count)
    if (
        saved_birth != birth
        or not 1 <= gfn_count <= MAX_DOMAIN_PAGES
        or section.layout != domain_layout(gfn_count, machine.limits)
        or not 0 <= kind < len(DomainType)
        or not 0 <= state < len(DomainState)
        or not 1 <= max_pages <= MAX_DOMAIN_PAGES
        or not max(min_pages, 1) <= target_pages <= ceiling
        or min_pages < 0
        or not 0 <= claimed_pages <= ceiling
    ):
        raise DamagedState(f"d{domid}: its limits make no sense")
    machine.image.allocate_once(section, *map(section.span, READ_WHOLE))
    if not section.column("counts").words.min() >= 0 or section.column("counts").words.max() > MAX_COUNT:
        raise DamagedState(f"d{domid}: its counts of calls make no sense")
    domain_type = tuple(DomainType)[kind]
    affinity, node_claims = _read_nodes(machine, section, claimed_pages)
    return Domain(
        domid,
        _read_name(section),
        machine.parts.p2m(gfn_count, machine.image, section),
        section,
        max_pages,
        target_pages,
        min_pages=min_pages,
        domain_type=domain_type,
        features=features_of(machine.settings, domain_type),
        birth=birth,
        uuid=saved_uuid(section),
        claimed_pages=claimed_pages,
        state=tuple(DomainState)[state],
        node_claims=node_claims,
        affinity=affinity,
        sequence=machine.host.sequence(affinity),
        by_node=machine.host.pages_by_node(),
    )


def _read_nodes(machine: Machine, section: Section, claimed_pages: int) -> tuple[Affinity, list[int]]:
    """Read a domain's affinity, and what it claims on each node of its host. Raises DamagedState: there cannot be such."""
    affinity, claims_on = saved_affinity(section)
    count = machine.host.nodes.count
    try:
        affinity = affinity_of(machine.host.nodes, affinity.nodes, is_hard=affinity.is_hard)
    except BadArgument as error:
        raise DamagedState(f"d{section.key[1]}: its affinity makes no sense: {error.message}") from error
    if any(claims_on[count:]) or min(claims_on) < 0 or sum(claims_on) > claimed_pages:
        raise DamagedState(f"d{section.key[1]}: its claims on nodes make no sense")
    return affinity, claims_on[:count]


def _derive_nodes(host: FrameTable, domain: Domain) -> None:
    """Count what a domain holds and claims on each node."""
    if domain.by_node is not None:
        domain.by_node.come(domain.p2m.frames())
        domain.by_node.come_whole(domain.p2m.leaf_supers())
    host.claimed_pages += domain.claimed_pages
    host.node_claims = [whole + own for whole, own in zip(host.node_claims, domain.node_claims, strict=True)]
    # An earlier version let a limit fall below what was claimed.
    claims.fit(host, domain)


def _read_name(section: Section) -> str:
    words = section.column("name").words[0]
    length_bytes = int(words[0])
    if not 1 <= length_bytes <= 4 * MAX_NAME_CHARS:
        raise DamagedState(f"d{section.key[1]}: a name of {length_bytes} bytes")
    try:
        name = bytes(words[1:].tobytes()[:length_bytes]).decode()
    except UnicodeDecodeError as error:
        raise DamagedState(f"d{section.key[1]}: its name is no text") from error
    # Not `is_domain_name`: earlier versions took names that it refuses, and a host of theirs goes on with them.
    if not 0 < len(name) <= MAX_NAME_CHARS or not name.isprintable() or name.isdecimal():
        raise DamagedState(f"d{section.key[1]}: no domain can have the name {quote(name)}")
    return name


def _derive_p2m(image: Image, domain: Domain) -> None:
    """Count what is populated and what is a slot, by block."""
    p2m = domain.p2m
    leaves = np.flatnonzero(p2m.leaf)
    p2m.populated[leaves] = SUPER_PAGES
    # A page of the entries is a block's 512.
    touched = image.touched_pages(domain.section, "entry")
    for first in range(0, touched.size, _CHUNK_SUPERS):
        blocks = touched[first : first + _CHUNK_SUPERS]
        rows = p2m.rows[blocks]
        populated = (rows > 0).sum(axis=1)
        if (populated[p2m.leaf[blocks] > 0] > 0).any():
            raise DamagedState(f"d{domain.domid}: a block is a leaf and has entries")
        shattered = p2m.leaf[blocks] == 0
        p2m.populated[blocks[shattered]] = populated[shattered]
        p2m.slots[blocks] = (rows < 0).sum(axis=1)
    domain.leaves = int(leaves.size)
    domain.tot_pages = int(p2m.populated.sum(dtype=np.int64))


def _derive_owners(host: FrameTable, domain: Domain) -> None:
    """Recompute the owner of each frame, and the at-home counts."""
    p2m, who = domain.p2m, f"d{domain.domid}"
    supers, frames = p2m.leaf_supers(), p2m.frames()
    homes = p2m.home
    if p2m.leaf.size and (int(p2m.leaf.min()) < 0 or (from_cells(p2m.leaf[p2m.leaf > 0]) & OFFSET_MASK).any()):
        raise DamagedState(f"{who}: a leaf is misaligned")
    for what, numbers, most in (
        ("leaf", supers, host.heap.superframe_count - 1),
        ("entry", frames, host.heap.frame_count - 1),
        ("home", homes, host.heap.superframe_count),
    ):
        if numbers.size and not 0 <= int(numbers.min()) <= int(numbers.max()) <= most:
            raise DamagedState(f"{who}: a {what} lies outside the machine")
    if (
        repeats(supers).size
        or repeats(frames).size
        or host.whole_owner[supers].any()
        or host.whole_owner[frames >> SUPER_ORDER].any()
        or host.frame_owner[frames].any()
    ):
        raise DamagedState(f"{who}: a frame is mapped more than once")
    host.whole_owner[supers] = domain.domid + 1
    host.frame_owner[frames] = domain.domid + 1
    host.at_home[supers] = SUPER_PAGES
    at_home, counts = np.unique(frames_at_home(domain) >> SUPER_ORDER, return_counts=True)
    host.at_home[at_home] = host.at_home[at_home] + counts


def _derive_tables(machine: Machine, domain: Domain) -> None:
    """Find the grant and mapping tables that are in use, and their free rows."""
    image, parts = machine.image, machine.parts
    if image.touched_pages(domain.section, "grants").size:
        domain.grants = parts.grants(image, domain.section)
        domain.grants.recover()
    if image.touched_pages(domain.section, "mappings").size:
        domain.mappings = parts.mappings(image, domain.section)
        domain.mappings.recover()
        domain.mapped = domain.mappings.count
    if image.touched_pages(domain.section, "inbox").size:
        domain.inbox = Inbox(domain.section.column("inbox"))


def _derive_references(machine: Machine, domain: Domain) -> None:
    """Take the references that a domain's mappings hold."""
    table = domain.mappings
    if table is None:
        return
    live = table.in_use()
    live = live[table.mfn[live] > 0]
    for domid in np.unique(table.owner[live]).tolist():
        theirs = live[table.owner[live] == domid]
        owner = machine.domain_table.domains.get(domid)
        mfns = from_cells(table.mfn[theirs])
        refs = table.ref[theirs].astype(np.int64)
        if (
            owner is None
            or owner.grants is None
            or not 0 <= int(refs.min()) <= int(refs.max()) < owner.grants.gfn.size
            or int(mfns.max()) >= machine.host.heap.frame_count
        ):
            raise DamagedState(f"d{domain.domid}: maps what d{domid} has not granted")
        np.add.at(owner.grants.mapped, refs, np.uint32(1))
        reference(machine.host, owner, mfns)


def _derive_written(image: Image, host: FrameTable) -> None:
    """Find the superframes with content words other than 0; a page of the words is a superframe's 512."""
    touched = image.touched_pages(image.sections[Kind.HOST, 0], "content")
    checked = None if host.checks is None else image.touched_pages(image.sections[Kind.CHECK, 0], "checks")
    for first in range(0, touched.size, _CHUNK_SUPERS):
        supers = touched[first : first + _CHUNK_SUPERS]
        rows = host.content_rows[supers]
        host.written[supers] = rows.any(axis=1)
        if host.checks is not None and checked is not None and (wrong := host.checks.wrong(supers, rows, checked)).size:
            raise DamagedState(
                f"{counted(wrong.size, 'content word')} changed, the first that of frame {int(wrong[0]):#x}"
            )
