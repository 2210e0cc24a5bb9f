"""What the model answers to a command: refused, or done so far."""

from tests.machine import model_grants, model_memory
from tests.machine.model import Backing, NaiveDomain, NaiveHost
from xbd import abi
from xbd.abi import DomainType, MemopResult
from xbd.units import SUPER_PAGES

ORDERS = (0, 9)
NAMES: dict[type, str] = {
    abi.Populate: "populate",
    abi.Decrease: "decrease",
    abi.Exchange: "exchange",
    abi.PopulateDepopulate: "populate_depopulate",
    abi.Load: "load",
    abi.Store: "store",
    abi.Deflate: "deflate",
    abi.Inflate: "inflate",
    abi.Grant: "grant",
    abi.EndGrant: "end_grant",
    abi.MapGrant: "map_grant",
    abi.UnmapGrant: "unmap_grant",
}
ACCESSES = (abi.Load, abi.Store)
QUEUES = (abi.Deflate, abi.Inflate)


def execute(host: NaiveHost, domid: int, command: abi.Command, real: abi.Result, backing: Backing) -> None:
    """Say what *command* answers, compare with what the machine answered, and follow it."""
    domain = host.domains.get(domid)
    if domain is None or domain.zombie:
        assert isinstance(real, abi.Refused)
        assert real.errno == "ESRCH"
        return
    has = _has(domain, command)
    refusal = _refusal(host, domid, command) if has else "EOPNOTSUPP"
    if isinstance(real, abi.Refused):
        assert refusal == real.errno, real
    else:
        assert refusal is None
        assert _do(host, domid, command, backing, real) == MemopResult(real.done, real.stop)
    if isinstance(command, ACCESSES):
        return
    name = NAMES[type(command)] if has else "unsupported"
    if isinstance(real, abi.Refused):
        domain.calls[f"{name}:{real.errno}"] += 1
    else:
        domain.calls[f"{name}:{real.stop or 'done'}"] += 1
        domain.extents[name] += real.done


def _has(domain: NaiveDomain, command: abi.Command) -> bool:
    """Tell whether a domain of that type has that operation at all."""
    if isinstance(command, ACCESSES):
        return True
    return isinstance(command, QUEUES) == (domain.domain_type is DomainType.VIRTIO)


def _refusal(host: NaiveHost, domid: int, command: abi.Command) -> str | None:
    """Say why nothing of a command is tried; None: it is."""
    domain, errno = host.domains[domid], None
    match command:
        case abi.Exchange() if not host.settings.exchange_translated and domain.domain_type is not DomainType.PV:
            return "EOPNOTSUPP"
        case abi.PopulateDepopulate() if not host.settings.populate_depopulate:
            return "EOPNOTSUPP"
        case abi.Grant(_, to):
            errno = model_grants.partner_refusal(host, domid, to)
        case abi.MapGrant(owner):
            errno = model_grants.owner_refusal(host, domid, owner)
    # What makes no sense is so whatever the other domains are.
    return errno if _length_fits(command) and _sensible(domain, _sides(command)) else "EINVAL"


def _sides(command: abi.Command) -> list[tuple[list[int], int]]:
    """List the extents that a command names, with their order; a second list must name as many pages as the first."""
    match command:
        case (
            abi.Populate(gfns, order) | abi.Decrease(gfns, order) | abi.Deflate(gfns, order) | abi.Inflate(gfns, order)
        ):
            return [(gfns.tolist(), order)]
        case abi.Exchange(gives, gets, gives_order, gets_order):
            return [(gives.tolist(), gives_order), (gets.tolist(), gets_order)]
        case abi.PopulateDepopulate(fills, drains, order):
            return [(fills.tolist(), order), (drains.tolist(), order)]
        case abi.Load(gfns) | abi.UnmapGrant(gfns) | abi.Store(gfns) | abi.Grant(gfns) | abi.MapGrant(_, _, gfns):
            return [(gfns.tolist(), 0)]
    return []


def _length_fits(command: abi.Command) -> bool:
    match command:
        case abi.Store(gfns, others) | abi.MapGrant(_, others, gfns):
            return others.size == gfns.size
        case abi.EndGrant(refs):
            return refs.size <= abi.MAX_EXTENTS and len(set(refs.tolist())) == refs.size
        case abi.Inflate(gfns) | abi.Deflate(gfns):
            return gfns.size <= abi.LIST_EXTENTS
    return True


def _sensible(domain: NaiveDomain, sides: list[tuple[list[int], int]]) -> bool:
    """Tell whether every extent has an order that exists, is aligned, inside the domain, and named once."""
    # Between a block and single pages it is the block's pages that must not be named again.
    mixed = len({order for _, order in sides}) > 1
    named = [
        page
        for gfns, order in sides
        for gfn in gfns
        for page in (range(gfn, gfn + SUPER_PAGES) if mixed and order else (gfn,))
    ]
    sensible = all(
        order in ORDERS
        and len(gfns) <= abi.MAX_EXTENTS
        and all(0 <= gfn <= domain.gfn_count - (1 << order) and gfn % (1 << order) == 0 for gfn in gfns)
        for gfns, order in sides
    )
    sensible &= len(set(named)) == len(named)
    return sensible and len({len(gfns) << order for gfns, order in sides}) <= 1


def _do(host: NaiveHost, domid: int, command: abi.Command, backing: Backing, real: abi.Result) -> MemopResult:
    match command:
        case abi.Populate() | abi.Deflate():
            answer = model_memory.populate(host, domid, command, backing, real)
        case abi.Decrease(gfns, order) | abi.Inflate(gfns, order):
            answer = model_memory.decrease(host, domid, gfns.tolist(), order, real)
        case abi.Exchange():
            answer = model_memory.exchange(host, domid, command, real, backing)
        case abi.PopulateDepopulate():
            answer = model_memory.swap(host, domid, command, real, backing)
        case abi.Load(gfns):
            answer = model_memory.load(host, domid, gfns.tolist(), real)
        case abi.Store(gfns, words):
            answer = model_memory.store(host, domid, gfns.tolist(), words.tolist())
        case _:
            answer = _do_shared(host, domid, command, real)
    return answer


def _do_shared(host: NaiveHost, domid: int, command: abi.Command, real: abi.Result) -> MemopResult:
    match command:
        case abi.Grant():
            return model_grants.grant(host, domid, command, real)
        case abi.EndGrant(refs):
            return model_grants.end_grant(host, domid, refs.tolist())
        case abi.MapGrant():
            return model_grants.map_grant(host, domid, command)
        case abi.UnmapGrant(gfns):
            return model_grants.unmap_grant(host, domid, gfns.tolist())
    raise AssertionError(f"the model does not know {command}")
