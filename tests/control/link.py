"""A connection between an agent and its domain's endpoint, for tests: carried by hand, cut at will."""

from itertools import count

from xbd.control.agent import Agent
from xbd.control.controller import Controller
from xbd.control.endpoint import DomainEndpoint


class Link:
    """A connection between an agent and its domain's endpoint, carried by hand, that can be cut."""

    def __init__(self, host: Controller, domid: int, agent: Agent) -> None:
        self.host, self.domid, self.agent = host, domid, agent
        self.now = 0.0
        self.sent = b""
        self.connect()

    def connect(self) -> None:
        """Open a connection and say hello."""
        self.endpoint = DomainEndpoint(self.host, self.domid, lambda: None)
        self.sent = self.agent.connected()

    def cut(self) -> None:
        """Lose the connection with all that is on it, and open another."""
        self.endpoint.closed()
        self.connect()

    def carry(self) -> bool:
        """Carry what the agent has sent to the daemon and its answers back; says whether there was anything."""
        told = b""
        if self.sent:
            self.endpoint.feed(self.sent)
        told += self.endpoint.take_pending()
        while self.endpoint.more:
            told += self.endpoint.turn()
        assert self.endpoint.dropped is None
        moved = bool(self.sent or told)
        self.sent = self.agent.receive(told, self.now) if told else b""
        return moved

    def settle(self) -> None:
        """Carry until nothing moves."""
        while self.carry():
            pass

    def advance(self, seconds: float) -> None:
        """Let time go by, waking the agent at its deadlines."""
        until = self.now + seconds
        while self.agent.deadline is not None and self.agent.deadline <= until:
            self.now = max(self.now, self.agent.deadline)
            self.sent += self.agent.tick(self.now)
            self.settle()
        self.now = until


def new_agent() -> Agent:
    """Make an agent whose sessions are named in sequence."""
    numbers = count()
    return Agent(lambda: f"session-{next(numbers)}")
