"""Domains that were refused memory, and whose turn it is to be told that the host has some again.

A populate that stops because the host has no memory puts its domain on a list. When so much is free and
unclaimed that it is worth another try, the domain is *told*, the one that has waited longest first: what it
lacks is enough, and a superframe always is, so a page that becomes free here and there wakes nobody. What a
domain is told of is *offered* to it until its next populate, so that memory for one does not wake a hundred.
A domain that has been told is off the list until it is refused again.

Not every guest listens: an offer that nobody takes is withdrawn by whoever knows the time, and the next
in line are told. An offer keeps nothing free; a claim does that.

Nothing of this is saved: after a restart of the daemon each agent is told its target anew, and tries again.
A domain that was refused because of its own limit is not on the list: it is told when its limit is set.
"""

from collections.abc import Callable, Iterable

from xbd.units import SUPER_ORDER, SUPER_PAGES


class Waiting:
    """Which domains of a host wait for memory, and which have been offered some."""

    def __init__(self) -> None:
        # By order of the refused extents, and in the order in which domains were refused.
        self._by_order: dict[int, dict[int, None]] = {0: {}, SUPER_ORDER: {}}
        # None of those that wait for single frames is told of fewer than so many.
        self._least_pages = SUPER_PAGES
        self._offered: dict[int, int] = {}
        self._offered_pages = 0

    @property
    def is_empty(self) -> bool:
        """Whether no domain waits, and none has been offered anything."""
        return not (self._by_order[0] or self._by_order[SUPER_ORDER] or self._offered)

    @property
    def has_offers(self) -> bool:
        """Whether a domain has been told of memory, and has not tried to get it yet."""
        return bool(self._offered)

    def refuse(self, domid: int, order: int, lacking_pages: int) -> None:
        """Put a domain on the list whose populate of *order* the host had no memory for; one that lacks nothing is not."""
        self.forget(domid)
        if lacking_pages <= 0:
            return
        self._by_order[order][domid] = None
        if not order:
            self._least_pages = min(self._least_pages, lacking_pages)

    def forget(self, domid: int) -> None:
        """Take a domain off the list, and take back what it was offered: it has got memory, reboots, or goes."""
        for waiting in self._by_order.values():
            waiting.pop(domid, None)
        self._offered_pages -= self._offered.pop(domid, 0)

    def withdraw_offers(self) -> None:
        """Let the others have what was offered and not taken."""
        self._offered.clear()
        self._offered_pages = 0

    def is_ready(self, free_pages: int, free_superframes: int) -> bool:
        """Whether `take` may have somebody to tell; costs the same however many wait."""
        left = free_pages - self._offered_pages
        if self._by_order[0] and left >= self._least_pages:
            return True
        return bool(self._by_order[SUPER_ORDER]) and free_superframes > 0 and left >= SUPER_PAGES

    def take(self, free_pages: int, free_superframes: int, lacking_pages: Callable[[int], int]) -> list[int]:
        """Say, once, who is to be told that there is memory.

        Args:
            free_pages: frames of the host that are neither used nor claimed.
            free_superframes: whole superframes among them.
            lacking_pages: how many pages a domain may still get; one that lacks none (any more) leaves the list.
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
        """Do the part of `take` for those who wait for single frames, of which *left* are there."""
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
