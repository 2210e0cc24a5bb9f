"""load and store: a guest's accesses to the content words of its pages. Never counted as hypercalls.

A slot in use reaches the other domain's frame.
"""

from xbd.abi import MAX_WORDS, Load, LoadResult, MemopResult, Stop, Store
from xbd.arrays import Gfns, Mfns, from_cells
from xbd.errors import BadArgument
from xbd.machine.domain import Domain, handles_in
from xbd.machine.extents import answer, check_extents, first_unpopulated
from xbd.machine.frame_table import FrameTable


def load(host: FrameTable, domain: Domain, command: Load) -> LoadResult:
    """Read the content words of pages, up to the first that is unpopulated or was cut off (EFAULT)."""
    gfns, _ = check_extents(command.gfns, 0, domain, most=MAX_WORDS)
    mfns, stop = _reach(domain, gfns, writing=False)
    return LoadResult(mfns.size, None if mfns.size == command.gfns.size else stop, host.content[mfns])


def store(host: FrameTable, domain: Domain, command: Store) -> MemopResult:
    """Write the content words of pages, up to the first that is unpopulated, cut off (EFAULT) or read-only (EACCES)."""
    gfns, _ = check_extents(command.gfns, 0, domain, most=MAX_WORDS)
    if command.words.size != command.gfns.size:
        raise BadArgument(f"{command.words.size} words for {command.gfns.size} pages", "one word for each page")
    mfns, stop = _reach(domain, gfns, writing=True)
    host.write(mfns, command.words[: mfns.size])
    return answer(mfns.size, command.gfns.size, stop)


def _reach(domain: Domain, gfns: Gfns, *, writing: bool) -> tuple[Mfns, Stop]:
    """Find the frames of the gfns before the first that cannot be accessed, and why that one cannot."""
    entries = domain.p2m.lookup(gfns)
    readable = entries.size
    if domain.mapped and domain.mappings is not None:
        slots = (entries < 0).nonzero()[0]
        handles = handles_in(entries[slots])
        entries[slots] = domain.mappings.mfn[handles]
        if writing:
            refused = slots[domain.mappings.readonly[handles]]
            readable = int(refused[0]) if refused.size else readable
    backed = first_unpopulated(entries)
    done = min(backed, readable)
    return from_cells(entries[:done]), Stop.EFAULT if backed <= readable else Stop.EACCES
