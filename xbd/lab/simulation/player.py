"""Who plays a domain's guest: an agent, its connections one after the other, and its pauses between them."""

from collections.abc import Mapping
from typing import Final

from xbd.abi import BootInfo
from xbd.control.agent import Agent
from xbd.errors import Busy, HypercallError, NotPermitted, ProtocolError
from xbd.guest import Guest
from xbd.lab.simulation.connection import Connection
from xbd.lab.simulation.context import Context
from xbd.lab.simulation.violation import Violation
from xbd.lab.simulation.watched import WatchedGuest

FIRST_PAUSE_S: Final = 0.05
LONGEST_PAUSE_S: Final = 2.0
# Agents round their deadlines up.
_GRAIN_S: Final = 0.001
# What a guest notes only if something is wrong.
_WRONG: Final = frozenset({"content_errors", "io_mismatches"})


class Player:
    """The agent of one domain.

    Attributes: *domid*, *birth*; *guest*: None until it has booted; *over*: it will never do anything again.
    """

    def __init__(self, world: Context, domid: int, birth: int) -> None:
        self._world = world
        self.domid = domid
        self.birth = birth
        self._book = world.oracle(domid)
        self.agent = self._new_agent()
        self.connection: Connection | None = None
        self.over = False
        self._pause_s = FIRST_PAUSE_S
        self._timer: float | None = None
        self._generation = 0
        self.connect_after(0.001)

    @property
    def guest(self) -> WatchedGuest | None:
        """The guest that it plays."""
        guest = self.agent.guest
        assert guest is None or isinstance(guest, WatchedGuest)
        return guest

    def _new_agent(self) -> Agent:
        return Agent(self._world.new_session, self._make_guest)

    def _make_guest(self, boot: BootInfo, settings: Mapping[str, object]) -> Guest:
        return self._world.make_guest(boot, settings, self._book)

    # -- connecting

    def connect_after(self, delay_s: float) -> None:
        """Try to connect, some time later."""
        generation = self._generation
        self._world.schedule.after(delay_s, f"d{self.domid} connect", lambda: self._connect(generation))

    def _connect(self, generation: int) -> str | None:
        if generation != self._generation or self.over or self.connection is not None:
            return None
        if not self._world.daemon_up:
            self._pause()
            return "no daemon"
        connection = self._world.open_domain(self.domid, self.birth, self)
        if connection is None:
            self.end()
            return "no domain"
        self.connection = connection
        self._book = self._world.oracle(self.domid)
        if self.agent.guest is None:
            self._book.unsure = True
        connection.send(self.agent.connected())
        self._set_timer()
        return "hello"

    def _pause(self) -> None:
        self.connect_after(self._pause_s)
        self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)

    def _drop(self) -> None:
        connection, self.connection = self.connection, None
        self._timer = None
        if connection is not None:
            connection.close()

    def end(self) -> None:
        """Be gone."""
        self._drop()
        self.over = True

    def crash(self) -> None:
        """Be killed: the guest is gone. The agent host finds out."""
        self.end()

    def leave(self) -> None:
        """Go, and say so: another agent may boot the guest."""
        if self.connection is not None:
            self.connection.send(self.agent.leaving())
        self.end()

    # -- the connection's client

    def received(self, connection: Connection, piece: bytes) -> None:
        """Take bytes from the daemon."""
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
            # It is to be preserved as it was when its last agent died.
            self.end()
            return
        except HypercallError as error:
            if self.agent.guest is None or not self._book.unsure:
                raise Violation(f"d{self.domid}: hello was refused: {error}") from error
            # Somebody else has booted the domain meanwhile: this guest is gone.
            self.agent.forget()
            self._drop()
            self.connect_after(FIRST_PAUSE_S)
            return
        except ProtocolError as error:
            if not connection.tampered:
                raise Violation(f"d{self.domid}: {error}") from error
            self._drop()
            self._pause()
            return
        if not was_booted and self.agent.guest is not None:
            self._pause_s = FIRST_PAUSE_S
        self._go_on(outgoing)

    def lost(self, connection: Connection) -> None:
        """Note that the connection is gone."""
        if connection is self.connection:
            self._drop()
            self._pause()

    def _go_on(self, outgoing: bytes) -> None:
        assert self.connection is not None
        self.connection.send(outgoing)
        wrong = [note for note in self.agent.take_notes() if note.name in _WRONG]
        if wrong:
            raise Violation(f"d{self.domid}: its guest notes {wrong[0].name} {dict(wrong[0].fields)}")
        if self.agent.finished:
            self.end()
        else:
            self._set_timer()

    # -- its deadlines

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
        self._go_on(self.agent.tick(self._world.schedule.now))
        return ""
