"""Validation that all memory operations share: bad arguments, and the first extent that cannot be done.

Arguments that are wrong in any state (orders, alignment, range, repetition) raise `BadArgument`, with
nothing tried. What the present state forbids ends a batch at that extent: the helpers here find it.
"""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from xbd.abi import MAX_EXTENTS, TURN_EXTENTS, TURN_LEAVES, Frames, MemopResult, Stop
from xbd.arrays import Gfns, repeats
from xbd.errors import BadArgument
from xbd.machine.domain import Domain
from xbd.units import OFFSET_MASK, SUPER_ORDER, SUPER_PAGES

# Beyond every domain, and far from where int64 ends.
_NO_GFN: Final = 1 << 62


def check_extents(
    untrusted_gfns: Frames, order: int, domain: Domain, *, most: int = MAX_EXTENTS, repeated: bool = False
) -> tuple[Gfns, int]:
    """Refuse a list of extents that is wrong in any state; *repeated*: the caller looks for repeats itself.

    Returns:
        The list, of what is certainly gfns of the domain, and how many superpages they lie in, at most.

    Raises:
        BadArgument: naming the first extent that is misaligned, outside, or named twice; nothing changed.
    """
    if order not in (0, SUPER_ORDER):
        raise BadArgument(f"order {order} does not exist here", f"order 0 or {SUPER_ORDER}")
    check_size(untrusted_gfns, most)
    gfns: NDArray[Any] = untrusted_gfns
    if gfns.size == 0:
        return gfns, 0
    last = domain.p2m.gfn_count - (1 << order)
    lowest, highest = _progression(gfns)
    progresses = lowest >= 0 and highest <= last
    # As unsigned numbers, so that one comparison also finds the negative ones (on the wire, 2**63 and more).
    if not progresses and (last < 0 or int(np.maximum.reduce(gfns.view(np.uint64))) > last):
        index = int(((gfns < 0) | (gfns > last)).argmax())
        raise BadArgument(
            f"extent {index}, g{int(gfns[index]) % (1 << 64):#x}, lies outside domain d{domain.domid}",
            f"a base from g0x0 to g{max(last, 0):#x} for order {order}",
        )
    if order and np.count_nonzero(gfns & OFFSET_MASK):
        index = int((gfns & OFFSET_MASK > 0).argmax())
        raise BadArgument(f"extent {index}, g{int(gfns[index]):#x}, is misaligned", f"a multiple of {1 << order}")
    if not (progresses or repeated):
        check_repeats(gfns)
    return gfns, min((highest >> SUPER_ORDER) - (lowest >> SUPER_ORDER) + 1, gfns.size) if progresses else gfns.size


def check_size(numbers: Frames, most: int = MAX_EXTENTS) -> None:
    """Refuse a list that is too long: BadArgument."""
    if numbers.size > most:
        raise BadArgument(f"{numbers.size} extents in one call", f"at most {most}")


def _progression(gfns: Frames) -> tuple[int, int]:
    """Find the ends of an arithmetic progression, which most batches are: (-1, -1) if it is none.

    A progression has no repeats and lies between its ends. The ends are Python's numbers, which do not wrap around.
    """
    first_gfn, last_gfn = int(gfns[0]), int(gfns[-1])
    if gfns.size == 1:
        return first_gfn, first_gfn
    step = int(gfns[1]) - first_gfn
    if step == 0 or last_gfn - first_gfn != step * (gfns.size - 1) or abs(last_gfn + step) >= _NO_GFN:
        return -1, -1
    # Bytes are compared at once, in one pass; differences would take three.
    if np.arange(first_gfn, last_gfn + step, step, dtype=np.int64).tobytes() != gfns.tobytes():
        return -1, -1
    return min(first_gfn, last_gfn), max(first_gfn, last_gfn)


def check_repeats(numbers: Frames, what: str = "g") -> None:
    """Refuse a list that names a gfn (or another *what*) twice: BadArgument."""
    repeated = repeats(numbers)
    if repeated.size:
        raise BadArgument(f"{what}{int(repeated[0]):#x} is named more than once", "each once per call")


def first(wrong: NDArray[np.bool_]) -> int:
    """Index of the first True, or the length."""
    index = int(wrong.argmax()) if wrong.size else 0
    return index if wrong.size and wrong[index] else int(wrong.size)


def answer(done: int, asked: int, stop: Stop | None) -> MemopResult:
    """Make the result for *done* of *asked* extents, with the stop if any are left."""
    return MemopResult(done, None if done == asked else stop)


def in_a_turn(domain: Domain, gfns: Gfns, within: int, *, mends: bool = False) -> int:
    """Count the first of (n,) single pages that a turn does: `TURN_EXTENTS`, and of the superpages `TURN_LEAVES`.

    They lie *within* so many superpages at most, as `check_extents` says. It counts those that it breaks, or, with
    *mends*, those that it may put together again.
    """
    if within <= TURN_LEAVES:
        return min(gfns.size, TURN_EXTENTS)
    gfns = gfns[:TURN_EXTENTS]
    blocks = gfns >> SUPER_ORDER
    if np.count_nonzero(blocks[1:] != blocks[:-1]) < TURN_LEAVES:
        return int(gfns.size)
    named, firsts, counts = np.unique(blocks, return_index=True, return_counts=True)
    p2m = domain.p2m
    costly = p2m.populated[named] + counts >= SUPER_PAGES if mends else p2m.leaf[named] > 0
    firsts = np.sort(firsts[costly])
    return int(firsts[TURN_LEAVES]) if firsts.size > TURN_LEAVES else int(gfns.size)


def first_unpopulated(entries: Frames) -> int:
    """Index of the first p2m entry that is not populated, or the length."""
    return entries.size if np.count_nonzero(entries > 0) == entries.size else first(entries <= 0)
