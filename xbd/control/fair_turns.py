"""Whose turn is next: fair shares of the processor among the domains that wait for one.

Each domain's turns are charged with the processor time that they took. Of those who wait, the one that was
charged least is next; who comes, after it did not wait, counts as charged no less than the one that
was served last, so that no time is saved up: neither rights nor debts. With n that always wait, each
gets one part in n, whatever its turns are like; who takes less than its part waits for the turn that
is under way alone. After a turn longer than `LONG_TURN_S`, or twice that for the two batches of a multicall, a domain rests, so that others seldom come behind one; of
several that do so, each rests as many times longer, so that all of them together take no more than one.

Plain numbers that are told the time; who waits is a shell's matter.
"""

import heapq
import math
from itertools import count
from typing import Final, Generic, TypeVar

# What a guest's turn may take of the processor, twice over what a batch takes on a slow machine; and how many times what
# is beyond it a guest rests before its next. Some calls are checked whole although a turn does little of them: 2 ms for
# the longest, which one that makes no others then makes once in 30 ms, so that of another's calls not one in a hundred
# comes behind it. A boot may take longer, is no habit, and need not be paid for in full.
LONG_TURN_S: Final = 0.0005
RESTS: Final = 19
LONGEST_REST_S: Final = 0.5
# A turn with one small call.
_SHORTEST_TURN_S: Final = 0.00005

T = TypeVar("T")


class Share:
    """A domain's part of the processor: what it is charged, in seconds, and until when it rests."""

    def __init__(self) -> None:
        self.charged_s = 0.0
        self.rested_at_s = -math.inf


class FairTurns(Generic[T]):
    """The order of turns; *T* is what waits for one."""

    def __init__(self) -> None:
        self._waiting: list[tuple[float, int, Share, T]] = []
        self._numbers = count()
        self._served_s = 0.0
        self._resting: set[Share] = set()

    def __len__(self) -> int:
        return len(self._waiting)

    def wait(self, share: Share, who: T) -> None:
        """Let *who* wait for a turn of *share*."""
        share.charged_s = max(share.charged_s, self._served_s)
        heapq.heappush(self._waiting, (share.charged_s, next(self._numbers), share, who))

    def next(self) -> T:
        """Take the one whose share is charged least; among equals, who came first. There must be one."""
        while True:
            charged_s, number, share, who = self._waiting[0]
            if charged_s == share.charged_s:
                heapq.heappop(self._waiting)
                self._served_s = max(self._served_s, charged_s)
                return who
            # It was charged for another connection's turn meanwhile.
            heapq.heapreplace(self._waiting, (share.charged_s, number, share, who))

    def leave(self, who: T) -> None:
        """Let *who*, if it waits, wait no more."""
        self._waiting = [waiting for waiting in self._waiting if waiting[3] is not who]
        heapq.heapify(self._waiting)

    def begin(self, share: Share) -> None:
        """Note that a turn of *share* begins for which nobody waited."""
        self._served_s = share.charged_s = max(share.charged_s, self._served_s)

    def end(self, share: Share, spent_s: float, now_s: float, batches: int = 1) -> None:
        """Charge a turn of so many *batches* that took so long of the processor; after a long one, *share* rests."""
        share.charged_s += spent_s
        rest_s = rest_after(spent_s - (batches - 1) * LONG_TURN_S)
        if rest_s:
            self._resting = {other for other in self._resting if other.rested_at_s > now_s} | {share}
            share.rested_at_s = now_s + len(self._resting) * rest_s


def turns_in_a_round(turn_s: float, others_s: float) -> int:
    """Tell how many guests have a turn in one round of the loop, where a turn takes so long and the rest of the last round did.

    One, and as many more as take no longer than that: when toolstacks ask for much, guests have half of the time.
    """
    return 1 + int(others_s / max(turn_s, _SHORTEST_TURN_S))


def rest_after(turn_s: float) -> float:
    """Tell how long a guest rests after a turn of one batch that took so long of the processor, if no other rests."""
    return min(max(turn_s - LONG_TURN_S, 0.0) * RESTS, LONGEST_REST_S)
