"""What the daemon knows of a domain beside its memory, and what it says of a guest whose agent is gone."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from xbd.abi import ON_CRASH
from xbd.control.saved import SavedAgent
from xbd.errors import BadArgument, DamagedState
from xbd.guest.mode import parse_mode
from xbd.protocol import fields
from xbd.protocol.session import Session, State

Wake = Callable[[], None]
# What of a record is saved; its name is the machine's.
SAVED: Final = ("autostart", "guest", "mode", "shutdown_asked", "stopped", "settling", "on_crash", "crashed", "left")
# How that is checked when it is read again; what is not named is true or false.
_CHECKS: Final[dict[str, fields.Check]] = {
    "guest": fields.settings,
    "mode": fields.text(),
    "on_crash": fields.choice(ON_CRASH),
}
# An agent whose connection was cut is back after half a second at most; one that is not, is dead.
CRASHED_AFTER_S: Final = 5.0
# After a restart of the daemon agents come back within half a second; until then no other one may boot their guests.
AWAITED_S: Final = 2.0


@dataclass(slots=True, eq=False)
class DomainRecord:
    """What the daemon knows of a domain beside its memory."""

    domid: int
    name: str
    autostart: bool
    guest: dict[str, object]
    session: Session = field(default_factory=Session)
    mode: str = "normal"
    wake: Wake | None = None
    notices: dict[str, dict[str, object]] = field(default_factory=dict)
    notice_number: int = 0
    report: dict[str, object] | None = None
    shutdown_asked: bool = False
    stopped: bool = False
    settling: bool = False
    on_crash: str = "restart"
    crashed: bool = False
    # Its agent said that it goes, and that it is not a crash.
    left: bool = False
    # Its domain has been destroyed: whoever still holds this record must leave it as it is.
    gone: bool = False
    # The daemon has restarted, and its agent, which did not say that it goes, is expected back.
    awaited: bool = False
    # When its agent was first missed; None: it is here, or not missed.
    missed_since: float | None = None
    saved: SavedAgent | None = None

    @staticmethod
    def checked(domid: int, told: dict[str, Any]) -> dict[str, Any]:
        """Check what an earlier daemon saved of a domain; returns it. Raises DamagedState."""
        if told.keys() != set(SAVED):
            raise DamagedState(f"d{domid}: its record is not what this version of xbd saves")
        try:
            for key, value in told.items():
                _CHECKS.get(key, fields.flag)(key, value)
            parse_mode(told["mode"])
        except BadArgument as error:
            raise DamagedState(f"d{domid}: its record makes no sense: {error.message}") from error
        return told

    def save(self) -> None:
        """Save what changes seldom; nothing where nothing is saved. Raises BadArgument: the settings are too long."""
        if self.saved is not None:
            self.saved.write({key: getattr(self, key) for key in SAVED})

    @property
    def agent(self) -> bool:
        """Whether an agent is connected."""
        return self.wake is not None

    def notify(self, kind: str, **details: object) -> None:
        """Leave a numbered notice for the agent; the latest of a kind wins. Without an agent there is none."""
        if self.wake is None:
            return
        self.notice_number += 1
        # Behind the others, in the order of their numbers: an agent takes an older one after a newer for a repeat.
        self.notices.pop(kind, None)
        self.notices[kind] = {"number": self.notice_number, **details}
        self.wake()

    @property
    def state(self) -> str:
        """Say how the guest is, as `xbd list` does."""
        if self.stopped:
            return "shutdown"
        if self.agent:
            return "running"
        if self.crashed:
            return "crashed"
        return "lost" if self.is_missed else "waiting"

    @property
    def is_missed(self) -> bool:
        """Whether an agent has gone without a word, and no other one may take its place."""
        gone = self.session.state is State.LOST and not self.left
        return gone and (self.awaited or self.on_crash != "restart") and not (self.stopped or self.crashed)

    @property
    def patience_s(self) -> float:
        """Tell for how long its agent is missed before something is done about it."""
        return AWAITED_S if self.on_crash == "restart" else CRASHED_AFTER_S
