"""The queue of domains that were refused memory, to be notified when the host has some again.

A populate that stops because the host has no memory puts its domain on the queue. The domain that has
waited longest is notified as soon as what it lacks, or a whole superframe, is free and unclaimed; single
pages that become free here and there notify nobody. The memory is then *offered* to that domain until its
next populate, so that memory for one does not wake a hundred. A domain that was notified is off the queue
until it is refused again.

Not every guest reacts: the caller, which knows the time, withdraws an offer that is not taken, and the next
in the queue are notified. An offer keeps nothing free; a claim does that.

None of this is saved: after a restart of the daemon each agent is sent its target again, and tries again.
A domain that was refused because of its own limit is not in the queue: it is notified when its limit is set.
"""

from collections.abc import Callable, Iterable

from xbd.units import SUPER_ORDER, SUPER_PAGES


class Waiting:
    """The domains of a host that wait for memory, and those that were offered some."""

    def __init__(self) -> None:
        # By order of the refused extents, and in the order in which domains were refused.
        self._by_order: dict[int, dict[int, None]] = {0: {}, SUPER_ORDER: {}}
        # A lower bound of what any domain that waits for single frames can be notified of: with less free none is
        # looked at.
        self._least_pages = SUPER_PAGES
        self._offered: dict[int, int] = {}
        self._offered_pages = 0

    @property
    def is_empty(self) -> bool:
        """Whether no domain waits, and none has been offered anything."""
        return not (self._by_order[0] or self._by_order[SUPER_ORDER] or self._offered)

    @property
    def has_offers(self) -> bool:
        """Whether any domain was offered memory, and has not tried to get it yet."""
        return bool(self._offered)

    def refuse(self, domid: int, order: int, lacking_pages: int) -> None:
        """Queue a domain whose populate of *order* stopped for want of host memory, unless it lacks nothing."""
        self.forget(domid)
        if lacking_pages <= 0:
            return
        self._by_order[order][domid] = None
        if not order:
            self._least_pages = min(self._least_pages, lacking_pages)

    def forget(self, domid: int) -> None:
        """Remove a domain, and what it was offered: it got memory, reboots, or ends."""
        for waiting in self._by_order.values():
            waiting.pop(domid, None)
        self._offered_pages -= self._offered.pop(domid, 0)

    def withdraw_offers(self) -> None:
        """Take back what was offered and not taken, so that others can be notified."""
        self._offered.clear()
        self._offered_pages = 0

    def is_ready(self, free_pages: int, free_superframes: int) -> bool:
        """Whether `take` may return anything; its cost does not depend on how many wait."""
        left = free_pages - self._offered_pages
        if self._by_order[0] and left >= self._least_pages:
            return True
        return bool(self._by_order[SUPER_ORDER]) and free_superframes > 0 and left >= SUPER_PAGES

    def take(self, free_pages: int, free_superframes: int, lacking_pages: Callable[[int], int]) -> list[int]:
        """Take the domains that are to be notified now.

        Args:
            free_pages: frames of the host that are neither used nor claimed.
            free_superframes: whole superframes among them.
            lacking_pages: how many pages a domain may still get; one that lacks none (any more) leaves the queue.
        """
        told = self._take_for_pages(free_pages - self._offered_pages, lacking_pages)
        left = min(free_superframes, (free_pages - self._offered_pages) // SUPER_PAGES)
        blocks = self._by_order[SUPER_ORDER]
        for domid in list(blocks) if left > 0 else ():
            if lacking_pages(domid) >= SUPER_PAGES:
                if left == 0:
                    break
                self._offer(domid, SUPER_PAGES)
                told.append(domid)
                left -= 1
            del blocks[domid]
        return told

    def _take_for_pages(self, left: int, lacking_pages: Callable[[int], int]) -> list[int]:
        """Take those that wait for single frames, of which *left* are free."""
        told: list[int] = []
        off_the_list: list[int] = []
        least = SUPER_PAGES
        for domid in self._by_order[0]:
            if left < self._least_pages:
                least = self._least_pages
                break
            enough = min(lacking_pages(domid), SUPER_PAGES)
            if enough <= left:
                off_the_list.append(domid)
                if enough > 0:
                    self._offer(domid, enough)
                    told.append(domid)
                    left -= enough
            else:
                least = min(least, enough)
        self._least_pages = least
        self._drop(off_the_list)
        return told

    def _drop(self, domids: Iterable[int]) -> None:
        for domid in domids:
            del self._by_order[0][domid]

    def _offer(self, domid: int, pages: int) -> None:
        self._offered[domid] = pages
        self._offered_pages += pages
