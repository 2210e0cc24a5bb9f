"""The interface of a world that its parts use."""

from collections import Counter
from collections.abc import Mapping
from typing import Protocol

from xbd.abi import BootInfo
from xbd.guest import Guest
from xbd.lab.simulation.connection import Client, Connection
from xbd.lab.simulation.options import Options, Plan
from xbd.lab.simulation.rng import Schedule
from xbd.lab.simulation.watched import WatchedController, WatchedOracle


class Context(Protocol):
    """The part of `World` that operator, players, faults and daemon use.

    Attributes: *healing*: the faults have stopped, and operator and policy do nothing more. *tally*: counts of faults and
    other happenings, by name.
    """

    options: Options
    schedule: Schedule
    plan: Plan
    tally: Counter[str]
    healing: bool

    @property
    def host(self) -> WatchedController:
        """The daemon's core, as it is now."""

    @property
    def now(self) -> float:
        """The time, in seconds since the epoch of virtual time."""

    @property
    def daemon_up(self) -> bool:
        """Whether the daemon runs."""

    def trace_detail(self, text: str) -> None:
        """Append text to the trace line of the current event."""

    def new_session(self) -> str:
        """Return a session name that was not used before."""

    def oracle(self, domid: int) -> WatchedOracle:
        """Find a living domain's oracle."""

    def make_guest(self, boot: BootInfo, settings: Mapping[str, object], oracle: WatchedOracle) -> Guest:
        """Build the guest of a domain; its commands and answers go through *oracle*."""

    def open_domain(self, domid: int, birth: int, client: Client) -> Connection | None:
        """Connect to a domain's socket; None: the domain is gone."""

    def open_socket(self, name: str, client: Client, domid: int) -> Connection:
        """Connect a client named *name* to the socket of a living domain."""

    def open_toolstack(self, name: str, client: Client) -> Connection:
        """Connect to the toolstack's socket."""

    def connections(self) -> list[tuple[Connection, int | None]]:
        """List the connections that are open at both ends, each with its domid; None: a toolstack connection."""

    def end_connections(self, *, in_order: bool) -> None:
        """Break every connection and lose what is in transit; *in_order*: the daemon closes its ends first."""
