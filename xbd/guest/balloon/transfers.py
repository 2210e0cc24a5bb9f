"""Backing and unbacking the balloon's pages: isolated extents become lists, lists commands, results settled pages.

All pages that move between guest and host go through here, in lists no longer than the back end and
the settings allow. The caller holds the balloon's token and has isolated the extents; each of them is
settled when these procedures return.
"""

from collections.abc import Callable, Generator
from typing import Final, NamedTuple

from xbd.abi import Command, Frames, Result, Stop
from xbd.guest.backing import Backing
from xbd.guest.balloon.backends import BackEnd
from xbd.guest.balloon.balloon import Balloon
from xbd.guest.procedures import Call, Request, carry_out, split_calls
from xbd.guest.settings import DriverSettings

_NO_MEMORY: Final = frozenset({Stop.ENOMEM, Stop.E2BIG})
_Make = Callable[[Frames], Command]


class Extents(NamedTuple):
    """Extents of one order, by their bases."""

    gfns: Frames
    order: int

    @property
    def pages(self) -> int:
        """Count their pages."""
        return int(self.gfns.size) << self.order


class Transfers:
    """The lists of one driver.

    Attributes: *list_extents*: the most that a list names. *pages_inflated*, *pages_deflated*: counts; *blocks_inflated*,
    *blocks_deflated*: of these, the extents of 2 MiB.
    *failed_extents*: extents that the hypervisor refused for another reason than memory.
    """

    def __init__(self, balloon: Balloon, back_end: BackEnd, settings: DriverSettings, backing: Backing | None) -> None:
        self._balloon = balloon
        self._back_end = back_end
        self._backing = backing
        self.list_extents = min(settings.batch_extents, back_end.list_extents)
        self.pages_inflated = 0
        self.pages_deflated = 0
        self.blocks_inflated = 0
        self.blocks_deflated = 0
        self.failed_extents = 0

    def lists(self, extents: Extents) -> int:
        """Count the lists that these extents take."""
        return -(-int(extents.gfns.size) // self.list_extents)

    def unback(self, *extents: Extents) -> Generator[Request, list[Result], int]:
        """Give extents to the host, in this order; those it takes are ballooned, the rest freed. Returns the pages."""
        before = self._balloon.current_pages
        calls = self._cut(self._back_end.decreasing, extents)
        yield from carry_out([call for call, _ in calls])
        for call, order in calls:
            self._balloon.settle_inflated(call.did, order)
            self._balloon.settle_not_inflated(call.left, order)
            self.blocks_inflated += call.done if order else 0
            if self._backing is not None:
                self._backing.take(call.did, order)
            self._note_failure(call)
        gone = before - self._balloon.current_pages
        self.pages_inflated += gone
        return gone

    def back(self, *extents: Extents) -> Generator[Request, list[Result], bool]:
        """Get extents from the host, in this order; those it backs are freed, the rest ballooned again.

        Returns whether the host lacked whole superframes.
        """
        before = self._balloon.current_pages
        calls = self._cut(self._back_end.populating, extents)
        yield from carry_out([call for call, _ in calls])
        for call, order in calls:
            self._balloon.settle_deflated(call.did, order)
            self._balloon.settle_not_deflated(call.left, order)
            self.blocks_deflated += call.done if order else 0
            self._note_failure(call)
        self.pages_deflated += self._balloon.current_pages - before
        return any(order and call.stop == Stop.ENOMEM for call, order in calls)

    def _cut(self, making: Callable[[int], _Make], extents: tuple[Extents, ...]) -> list[tuple[Call, int]]:
        """Cut the extents into calls of a list each, with their orders."""
        return [
            (call, part.order)
            for part in extents
            for call in split_calls(making(part.order), part.gfns, self.list_extents)
        ]

    def _note_failure(self, call: Call) -> None:
        if call.stop is not None and call.stop not in _NO_MEMORY:
            self.failed_extents += 1
