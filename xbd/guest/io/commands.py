"""Commands on batches of pages in groups, where a page that is refused must not stop the other groups.

A group is a request: if one of its pages fails it has failed, and its other pages are not tried.
"""

from collections.abc import Callable, Generator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from xbd.abi import BATCH_EXTENTS, Command, Frames, Grant, GrantResult, Load, LoadResult, Refused, Result, Stop, Words
from xbd.guest.procedures import Request as Yielded

# After so many answers of BUDGET in a row with nothing done, the command counts as refused.
_IDLE_ROUNDS_MAX: Final = 64
# Takes the positions of a batch that were done, and their result.
Make = Callable[[Frames], Command]
Took = Callable[[Frames, Result], None]
Mask = NDArray[np.bool_]


def _ignore(positions: Frames, result: Result) -> None:
    del positions, result


def _always() -> bool:
    return True


def step_over(
    make: Make, groups: Frames, took: Took = _ignore, going: Callable[[], bool] = _always
) -> Generator[Yielded, list[Result], Mask]:
    """Carry one operation out on a batch; a page that is refused ends its group.

    Args:
        make: builds the command for these positions of the batch, ascending.
        groups: (n,) int64, the group of each page; pages of a group lie together.
        took: called after each command with the positions that were done and the result.
        going: called before each command; False ends the procedure.

    Returns:
        (n,) bool: whether each page is done.
    """
    done: Mask = np.zeros(groups.size, dtype=np.bool_)
    left = np.arange(groups.size, dtype=np.int64)
    idle_rounds = 0
    while left.size and going():
        tried = left[:BATCH_EXTENTS]
        (result,) = yield [make(tried)]
        if isinstance(result, Refused):
            return done
        did = tried[: result.done]
        done[did] = True
        took(did, result)
        left = left[did.size :]
        idle_rounds = 0 if did.size else idle_rounds + 1
        if did.size < tried.size and (result.stop is not Stop.BUDGET or idle_rounds > _IDLE_ROUNDS_MAX):
            left = left[groups[left] != groups[left[0]]]
    return done


def grant_pages(gfns: Frames, to: int, *, readonly: bool) -> Generator[Yielded, list[Result], Frames]:
    """Grant pages to domain *to*; returns (n,) references, -1 where it was refused."""
    refs: Frames = np.full(gfns.size, -1, dtype=np.int64)

    def took(positions: Frames, result: Result) -> None:
        assert isinstance(result, GrantResult), f"a grant was answered by {result}"
        refs[positions] = result.refs

    yield from step_over(lambda at: Grant(gfns[at], to, readonly), np.zeros(gfns.size, dtype=np.int64), took)
    return refs


def load_pages(gfns: Frames, groups: Frames) -> Generator[Yielded, list[Result], tuple[Words, Mask]]:
    """Read words, a page that cannot be read ending its group; returns (n,) words and (n,) whether each was read."""
    words: Words = np.zeros(gfns.size, dtype=np.uint64)

    def took(positions: Frames, result: Result) -> None:
        assert isinstance(result, LoadResult), f"a load was answered by {result}"
        words[positions] = result.words[: positions.size]

    done = yield from step_over(lambda at: Load(gfns[at]), groups, took)
    return words, done
