"""Passing the machine's news on: to agents (messages, free memory) and to subscribers of the host's events.

A guest that is notified of free memory and does not take it delays the next one in the queue for a second, no
longer; see `xbd.machine.waiting`.
"""

from collections.abc import Callable, Mapping
from typing import Final

from xbd.control.domain_record import DomainRecord
from xbd.machine import Machine

# A guest that is notified of free memory populates it within milliseconds; after this long the offer is withdrawn.
OFFER_S: Final = 1.0


class Notices:
    """The notices of one host.

    Args:
        machine: where the news comes from.
        records: the domains whose agents are notified, by domid.
        zombies: names and UUIDs of the zombies by domid; those that are gone are removed.
        announce: is called with an event's kind and details.
        wake: is called when `renew_offers` has to be called again, though nothing else has happened.
    """

    def __init__(
        self,
        machine: Machine,
        records: Mapping[int, DomainRecord],
        zombies: dict[int, tuple[str, str]],
        announce: Callable[..., None],
        wake: Callable[[], None],
    ) -> None:
        self._machine = machine
        self._records = records
        self._zombies = zombies
        self._announce = announce
        self._wake = wake
        self._offers_end: float | None = None

    def deliver(self) -> None:
        """Notify agents of messages and of free memory, and announce the zombies that are gone."""
        for domid in self._machine.take_woken():
            self._records[domid].notify("messages")
        for domid in self._machine.take_vanished():
            name, uuid = self._zombies.pop(domid)
            self._announce("vanished", domid=domid, name=name, uuid=uuid)
        relieved = self._machine.take_relieved()
        for domid in relieved:
            self._records[domid].notify("memory")
        if relieved and self._offers_end is None:
            self._wake()

    def renew_offers(self, now: float) -> float | None:
        """Offer free memory that guests have not taken to the next ones; returns when to call this again, if at all."""
        if self._offers_end is not None and now >= self._offers_end:
            self._offers_end = None
            self._machine.withdraw_offers()
        if self._machine.has_news:
            self.deliver()
        if not self._machine.has_offers:
            self._offers_end = None
        elif self._offers_end is None:
            self._offers_end = now + OFFER_S
        return self._offers_end
