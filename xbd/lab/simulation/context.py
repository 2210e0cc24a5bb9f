"""What the parts of a world may know of it, and ask of it."""

from collections import Counter
from collections.abc import Mapping
from typing import Protocol

from xbd.abi import BootInfo
from xbd.guest import Guest
from xbd.lab.simulation.connection import Client, Connection
from xbd.lab.simulation.options import Plan
from xbd.lab.simulation.oracle import Oracle
from xbd.lab.simulation.rng import Schedule
from xbd.lab.simulation.watched import WatchedHost


class Context(Protocol):
    """A world, as its parts see it.

    Attributes: *healing*: no fault happens any more, and nobody changes anything on purpose. *tally*: how often what
    happened.
    """

    schedule: Schedule
    plan: Plan
    tally: Counter[str]
    healing: bool

    @property
    def host(self) -> WatchedHost:
        """The daemon's core, as it is now."""

    @property
    def daemon_up(self) -> bool:
        """Whether the daemon runs."""

    def trace_more(self, text: str) -> None:
        """Add something to the line of the event that is under way."""

    def new_session(self) -> str:
        """Name a session as no other."""

    def oracle(self, domid: int) -> Oracle:
        """Find a living domain's book."""

    def make_guest(self, boot: BootInfo, settings: Mapping[str, object], oracle: Oracle) -> Guest:
        """Build the guest of a domain, which keeps its book."""

    def open_domain(self, domid: int, birth: int, client: Client) -> Connection | None:
        """Connect to a domain's socket; None: the domain is gone."""

    def open_socket(self, name: str, client: Client, domid: int) -> Connection:
        """Connect anybody to the socket of a domain that lives."""

    def open_toolstack(self, name: str, client: Client) -> Connection:
        """Connect to the toolstack's socket."""

    def connections(self) -> list[tuple[Connection, int | None]]:
        """List the connections that neither end has let go of, with the domains that they are for."""

    def end_connections(self, *, in_order: bool) -> None:
        """Lose every connection, with all that is on it; *in_order*: the daemon knows."""
