"""The agent process of one domain: its guest, its connections one after the other, and the pauses between them."""

from collections.abc import Mapping
from typing import Final

from xbd.abi import BootInfo
from xbd.control.agent import Agent
from xbd.errors import Busy, HypercallError, NotPermitted, ProtocolError
from xbd.guest import Guest
from xbd.lab.simulation.connection import Connection
from xbd.lab.simulation.context import Context
from xbd.lab.simulation.watched import WatchedGuest
from xbd.protocol.backoff import FIRST_PAUSE_S, Backoff
from xbd.testing.oracle import Violation

# Agents round their deadlines up.
_GRAIN_S: Final = 0.001
# Notes that a guest makes only if something is wrong.
_WRONG: Final = frozenset({"content_errors", "io_mismatches"})


class Player:
    """The agent process of one domain.

    Attributes: *domid*, *birth* of the domain; *agent*: its core; *connection*: the open one, if any; *ended*: the
    process has ended.
    """

    def __init__(self, world: Context, domid: int, birth: int) -> None:
        self._world = world
        self.domid = domid
        self.birth = birth
        self._oracle = world.oracle(domid)
        self.agent = self._new_agent()
        self.connection: Connection | None = None
        self.ended = False
        self._pauses = Backoff()
        self._timer: float | None = None
        self._generation = 0
        self.connect_after(0.001)

    @property
    def guest(self) -> WatchedGuest | None:
        """The agent's guest; None until it has booted."""
        guest = self.agent.guest
        assert guest is None or isinstance(guest, WatchedGuest)
        return guest

    def _new_agent(self) -> Agent:
        return Agent(self._world.new_session, self._make_guest)

    def _make_guest(self, boot: BootInfo, settings: Mapping[str, object]) -> Guest:
        return self._world.make_guest(boot, settings, self._oracle)

    # -- connecting

    def connect_after(self, delay_s: float) -> None:
        """Schedule an attempt to connect."""
        generation = self._generation
        self._world.schedule.after(delay_s, f"d{self.domid} connect", lambda: self._connect(generation))

    def _connect(self, generation: int) -> str | None:
        if generation != self._generation or self.ended or self.connection is not None:
            return None
        if not self._world.daemon_up:
            self._pause()
            return "no daemon"
        connection = self._world.open_domain(self.domid, self.birth, self)
        if connection is None:
            self.end()
            return "no domain"
        self.connection = connection
        self._oracle = self._world.oracle(self.domid)
        if self.agent.guest is None:
            self._oracle.reboot_pending = True
        connection.send(self.agent.connected())
        self._set_timer()
        return "hello"

    def _pause(self) -> None:
        self.connect_after(self._pauses.next_s())

    def _drop(self) -> None:
        connection, self.connection = self.connection, None
        self._timer = None
        if connection is not None:
            connection.close()

    def end(self) -> None:
        """End the process and close its connection."""
        self._drop()
        self.ended = True

    def crash(self) -> None:
        """Kill the process: the guest is lost. The agent host notices later."""
        self.end()

    def leave(self) -> None:
        """Tell the daemon that the agent leaves, and end: another agent may boot the guest."""
        if self.connection is not None:
            self.connection.send(self.agent.leaving())
        self.end()

    # -- the connection's client

    def received(self, connection: Connection, piece: bytes) -> None:
        """Handle bytes from the daemon."""
        if connection is not self.connection:
            return
        was_booted = self.agent.guest is not None
        try:
            outgoing = self.agent.receive(piece, self._world.schedule.now)
        except Busy:
            # The daemon may not have noticed yet that the last connection is gone.
            self._drop()
            self._pause()
            return
        except NotPermitted:
            # The domain is preserved as it was when its last agent died.
            self.end()
            return
        except HypercallError as error:
            if self.agent.guest is None or not self._oracle.reboot_pending:
                raise Violation(f"d{self.domid}: hello was refused: {error}") from error
            # Another agent has booted the domain meanwhile: this guest is lost.
            self.agent.forget()
            self._drop()
            self.connect_after(FIRST_PAUSE_S)
            return
        except ProtocolError as error:
            if not connection.call_repeated:
                raise Violation(f"d{self.domid}: {error}") from error
            self._drop()
            self._pause()
            return
        if not was_booted and self.agent.guest is not None:
            self._pauses.reset()
        self._send_and_set_timer(outgoing)

    def lost(self, connection: Connection) -> None:
        """Reconnect, after a pause, when the connection was lost."""
        if connection is self.connection:
            self._drop()
            self._pause()

    def _send_and_set_timer(self, outgoing: bytes) -> None:
        assert self.connection is not None
        self.connection.send(outgoing)
        wrong = [note for note in self.agent.take_notes() if note.name in _WRONG]
        if wrong:
            raise Violation(f"d{self.domid}: its guest reports {wrong[0].name} {dict(wrong[0].fields)}")
        if self.agent.finished:
            self.end()
        else:
            self._set_timer()

    # -- deadlines of the agent

    def _set_timer(self) -> None:
        deadline = self.agent.deadline
        if deadline is None or (self._timer is not None and self._timer <= deadline):
            return
        self._timer = deadline
        generation, connection = self._generation, self.connection
        self._world.schedule.after(
            max(deadline - self._world.schedule.now, _GRAIN_S),
            f"d{self.domid} tick",
            lambda: self._tick(generation, connection, deadline),
        )

    def _tick(self, generation: int, connection: Connection | None, deadline: float) -> str | None:
        if generation != self._generation or connection is not self.connection or connection is None:
            return None
        if self._timer != deadline:
            return None
        self._timer = None
        due = self.agent.deadline
        if due is None or due > self._world.schedule.now:
            self._set_timer()
            return None
        self._send_and_set_timer(self.agent.tick(self._world.schedule.now))
        return ""
