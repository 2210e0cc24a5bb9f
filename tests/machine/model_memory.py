"""The model's memory operations and accesses, one page after the other."""

from collections import Counter

from tests.machine.model import Backing, NaiveDomain, NaiveHost, pages
from xbd import abi
from xbd.abi import MemopResult, Stop
from xbd.units import SUPER_PAGES

Pairs = list[tuple[int, int]]


def reach(host: NaiveHost, domid: int, gfns: list[int], *, writing: bool) -> tuple[list[int], Stop | None]:
    """Name the frames of the gfns before the first that cannot be accessed, and why that one cannot."""
    domain = host.domains[domid]
    reached: list[int] = []
    for gfn in gfns:
        slot = domain.slots.get(gfn)
        frame = slot.frame if slot else domain.p2m.get(gfn)
        if frame is None:
            return reached, Stop.EFAULT
        if writing and slot and slot.readonly:
            return reached, Stop.EACCES
        reached.append(frame)
    return reached, None


def load(host: NaiveHost, domid: int, gfns: list[int], real: abi.Result) -> MemopResult:
    """Read words, and compare them."""
    assert isinstance(real, abi.LoadResult)
    frames, stop = reach(host, domid, gfns, writing=False)
    assert real.words.tolist() == [host.words.get(frame, 0) for frame in frames]
    return MemopResult(len(frames), stop)


def store(host: NaiveHost, domid: int, gfns: list[int], words: list[int]) -> MemopResult:
    """Write words."""
    frames, stop = reach(host, domid, gfns, writing=True)
    for frame, word in zip(frames, words, strict=False):
        host.words[frame] = word
    host.words = {frame: word for frame, word in host.words.items() if word}
    return MemopResult(len(frames), stop)


def populate(
    host: NaiveHost, domid: int, command: abi.Populate | abi.Deflate, backing: Backing, real: abi.Result
) -> MemopResult:
    """Back extents: home frames first, the rest as the heap chose."""
    gfns, order = command.gfns.tolist(), command.order
    domain, stop = host.domains[domid], None
    tot_pages = len(domain.p2m)
    room = len(host.whole()) if order else host.free_frames()
    done: list[int] = []
    for gfn in gfns:
        if over_budget(len(done), 0, real):
            stop = Stop.BUDGET
        elif domain.taken(gfn, order):
            stop = Stop.EEXIST
        elif tot_pages + ((len(done) + 1) << order) > domain.max_pages:
            stop = Stop.E2BIG
        elif len(done) == room:
            stop = Stop.ENOMEM
        if stop:
            break
        done.append(gfn)
    if order:
        for gfn in done:
            host.map_leaf(domid, gfn // SUPER_PAGES, backing)
        return MemopResult(len(done), stop)
    empties = host.empties(domid, done)
    homed = [gfn for gfn in done if host.settings.home_fill == "always" and host.home_is_free(domain, gfn)]
    for gfn in homed:
        assert backing(gfn) == domain.home_frame(gfn)
        host.map(domid, gfn, backing(gfn))
    host.map_anywhere(domid, [gfn for gfn in done if gfn not in domain.p2m], backing)
    host.settle(domid, done, empties)
    return MemopResult(len(done), stop)


def decrease(host: NaiveHost, domid: int, gfns: list[int], order: int, real: abi.Result) -> MemopResult:
    """Give extents back; what others map stays."""
    domain, stop, done = host.domains[domid], None, 0
    references = host.references()
    for gfn in gfns:
        if over_budget(done, order, real):
            stop = Stop.BUDGET
        elif not domain.backed(gfn, order):
            stop = Stop.ENOENT
        elif any(domain.p2m[page] in references for page in range(gfn, gfn + (1 << order))):
            stop = Stop.EBUSY
        if stop:
            break
        for page in range(gfn, gfn + (1 << order)):
            host.unmap(domid, page)
        done += 1
    host.settle(domid, [])
    return MemopResult(done, stop)


def _bad_pair(domain: NaiveDomain, references: Counter[int], pair: tuple[int, int], order: int) -> Stop | None:
    fill, drain = pair
    if domain.taken(fill, order):
        return Stop.EEXIST
    if not domain.backed(drain, order):
        return Stop.ENOENT
    if any(domain.p2m[page] in references for page in range(drain, drain + (1 << order))):
        return Stop.EBUSY
    return None


def _valid_pairs(host: NaiveHost, domid: int, pairs: Pairs, real: abi.Result) -> tuple[Pairs, Stop | None]:
    references = host.references()
    for done, pair in enumerate(pairs):
        stop = Stop.BUDGET if over_budget(done, 0, real) else _bad_pair(host.domains[domid], references, pair, 0)
        if stop:
            return pairs[:done], stop
    return pairs, None


def exchange(host: NaiveHost, domid: int, command: abi.Exchange, real: abi.Result, backing: Backing) -> MemopResult:
    """Back the first of each pair with what the heap chose, then free the second."""
    if command.gives_order != command.gets_order:
        return _exchange_unequal(host, domid, command, backing)
    pairs: Pairs = list(zip(command.gets.tolist(), command.gives.tolist(), strict=True))
    if command.gives_order:
        return _exchange_blocks(host, domid, pairs, real, backing)
    valid, stop = _valid_pairs(host, domid, pairs, real)
    room = host.free_frames()
    if valid and not room:
        return MemopResult(0, Stop.ENOMEM)
    # Each chunk is as large as the free frames allow; how many chunks make a turn is the budget's affair.
    done = 0
    while done < len(valid):
        if over_budget(done, 9, real):
            return MemopResult(done, Stop.BUDGET)
        chunk = valid[done : done + room]
        host.check_choice([backing(fill) for fill, _ in chunk])
        for _, drain in chunk:
            host.unmap(domid, drain)
        empties = host.empties(domid, (fill for fill, _ in chunk))
        for fill, _ in chunk:
            host.map(domid, fill, backing(fill))
        host.settle(domid, [fill for fill, _ in chunk], empties)
        done += len(chunk)
    return MemopResult(done, stop)


def _exchange_blocks(host: NaiveHost, domid: int, pairs: Pairs, real: abi.Result, backing: Backing) -> MemopResult:
    for done, (fill, drain) in enumerate(pairs):
        stop = _bad_pair(host.domains[domid], host.references(), (fill, drain), 9)
        if stop is None and over_budget(done, 9, real):
            stop = Stop.BUDGET
        if stop is None and not host.whole():
            stop = Stop.ENOMEM
        if stop:
            return MemopResult(done, stop)
        host.map_leaf(domid, fill // SUPER_PAGES, backing)
        for page in pages(drain // SUPER_PAGES):
            host.unmap(domid, page)
        host.settle(domid, [])
    return MemopResult(len(pairs), None)


def _exchange_unequal(host: NaiveHost, domid: int, command: abi.Exchange, backing: Backing) -> MemopResult:
    """Exchange one block for 512 pages, or 512 pages for one block: a chunk a turn."""
    domain, breaks = host.domains[domid], bool(command.gives_order)
    asked = command.gives.size
    if not asked:
        return MemopResult(0, None)
    inputs = command.gives.tolist()[: 1 if breaks else SUPER_PAGES]
    outputs = command.gets.tolist()[: SUPER_PAGES if breaks else 1]
    given = [page for base in inputs for page in range(base, base + (1 << command.gives_order))]
    if any(domain.taken(base, command.gets_order) for base in outputs):
        return MemopResult(0, Stop.EEXIST)
    if not all(domain.backed(page, 0) for page in given):
        return MemopResult(0, Stop.ENOENT)
    if host.references().keys() & {domain.p2m[page] for page in given}:
        return MemopResult(0, Stop.EBUSY)
    if (host.free_frames() < SUPER_PAGES) if breaks else not host.whole():
        return MemopResult(0, Stop.ENOMEM)
    if breaks:
        host.check_choice([backing(page) for page in outputs])
    else:
        host.map_leaf(domid, outputs[0] // SUPER_PAGES, backing)
    for page in given:
        host.unmap(domid, page)
    host.settle(domid, [])
    if breaks:
        empties = host.empties(domid, outputs)
        for page in outputs:
            host.map(domid, page, backing(page))
        host.settle(domid, outputs, empties)
    return MemopResult(len(inputs), None if len(inputs) == asked else Stop.BUDGET)


def swap(
    host: NaiveHost, domid: int, command: abi.PopulateDepopulate, real: abi.Result, backing: Backing
) -> MemopResult:
    """Populate the first of each pair and depopulate the second."""
    pairs: Pairs = list(zip(command.populate.tolist(), command.depopulate.tolist(), strict=True))
    if command.order:
        for done, (fill, drain) in enumerate(pairs):
            stop = _bad_pair(host.domains[domid], host.references(), (fill, drain), 9)
            if stop is None and over_budget(done, 9, real):
                stop = Stop.BUDGET
            if stop:
                return MemopResult(done, stop)
            _swap_blocks(host, domid, fill // SUPER_PAGES, drain // SUPER_PAGES, backing)
        return MemopResult(len(pairs), None)
    valid, stop = _valid_pairs(host, domid, pairs, real)
    domain = host.domains[domid]
    homed = {fill for fill, _ in valid if host.settings.home_fill != "never" and host.home_is_free(domain, fill)}
    frames = {fill: domain.home_frame(fill) if fill in homed else domain.p2m[drain] for fill, drain in valid}
    for _, drain in valid:
        host.unmap(domid, drain)
    empties = host.empties(domid, frames)
    for fill, frame in frames.items():
        assert frame is not None
        host.map(domid, fill, frame)
    host.settle(domid, frames, empties)
    return MemopResult(len(valid), stop)


def _swap_blocks(host: NaiveHost, domid: int, fill: int, drain: int, backing: Backing) -> None:
    domain = host.domains[domid]
    if drain not in domain.leaves and host.whole():
        host.map_leaf(domid, fill, backing)
        for page in pages(drain):
            host.unmap(domid, page)
        host.settle(domid, [])
        return
    was_leaf, home = drain in domain.leaves, domain.homes.pop(drain, None)
    for target, source in zip(pages(fill), pages(drain), strict=True):
        host.map(domid, target, host.unmap(domid, source))
    if home is not None:
        domain.homes[fill] = home
    if was_leaf:
        domain.leaves.add(fill)


def over_budget(done: int, order: int, real: abi.Result) -> bool:
    """Tell whether a turn may end here: the machine may say so after 32 extents of order 0 and must after 512; else after any."""
    least = 1 if order else abi.TURN_LEAVES
    said = not isinstance(real, abi.Refused) and real.stop is Stop.BUDGET and done == real.done >= least
    return said or (order == 0 and done == 512)
