"""load and store: a guest's accesses to the content words of its pages. Never counted as hypercalls."""

from xbd.abi import MAX_WORDS, Load, LoadResult, MemopResult, Stop, Store
from xbd.errors import BadArgument
from xbd.machine.domain import Domain
from xbd.machine.extents import answer, check_extents, first_zero
from xbd.machine.host import HostFrames
from xbd.units import SUPER_ORDER


def load(host: HostFrames, domain: Domain, command: Load) -> LoadResult:
    """Read the content words of pages, up to the first unpopulated one (EFAULT)."""
    check_extents(command.gfns, 0, domain, most=MAX_WORDS)
    entries = domain.p2m.lookup(command.gfns)
    done = first_zero(entries)
    return LoadResult(done, None if done == entries.size else Stop.EFAULT, host.content[entries[:done] - 1])


def store(host: HostFrames, domain: Domain, command: Store) -> MemopResult:
    """Write the content words of pages, up to the first unpopulated one (EFAULT)."""
    check_extents(command.gfns, 0, domain, most=MAX_WORDS)
    if command.words.size != command.gfns.size:
        raise BadArgument(f"{command.words.size} words for {command.gfns.size} pages", "one word for each page")
    entries = domain.p2m.lookup(command.gfns)
    done = first_zero(entries)
    mfns = entries[:done] - 1
    host.content[mfns] = command.words[:done]
    host.written[mfns >> SUPER_ORDER] = True
    return answer(done, entries.size, Stop.EFAULT)
