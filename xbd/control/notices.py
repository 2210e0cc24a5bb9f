"""What the machine has to tell, brought to those whom it concerns: agents, and whoever follows the host's events.

A guest that was told of free memory and lets it lie keeps the next in line waiting for a second, no longer; see
`xbd.machine.waiting`.
"""

from collections.abc import Callable, Mapping
from typing import Final

from xbd.control.domain_record import DomainRecord
from xbd.machine import Machine

# A guest that is told of free memory asks for it within milliseconds; one that has not by then is not waited for.
OFFER_S: Final = 1.0


class Notices:
    """The notices of one host.

    Args:
        machine: which has something to tell.
        records: whose agents are told, by domid.
        zombies: names of the zombies by domid; those that are gone are removed.
        announce: is called with an event's kind and details.
        wake: is called when `renew_offers` has something to look after, though nothing else has happened.
    """

    def __init__(
        self,
        machine: Machine,
        records: Mapping[int, DomainRecord],
        zombies: dict[int, str],
        announce: Callable[..., None],
        wake: Callable[[], None],
    ) -> None:
        self._machine = machine
        self._records = records
        self._zombies = zombies
        self._announce = announce
        self._wake = wake
        self._offers_end: float | None = None

    def tell(self) -> None:
        """Tell agents that they have messages, or that there is memory again, and the toolstack which zombies are gone."""
        for domid in self._machine.take_woken():
            self._records[domid].notify("messages")
        for domid in self._machine.take_vanished():
            self._announce("vanished", domid=domid, name=self._zombies.pop(domid))
        relieved = self._machine.take_relieved()
        for domid in relieved:
            self._records[domid].notify("memory")
        if relieved and self._offers_end is None:
            self._wake()

    def renew_offers(self, now: float) -> float | None:
        """Tell the next guests of free memory that others were told of and let lie; returns when to do so again, if at all."""
        if self._offers_end is not None and now >= self._offers_end:
            self._offers_end = None
            self._machine.withdraw_offers()
        if self._machine.has_news:
            self.tell()
        if not self._machine.has_offers:
            self._offers_end = None
        elif self._offers_end is None:
            self._offers_end = now + OFFER_S
        return self._offers_end
