"""What the daemon knows of a domain beside its memory: its settings, its session, and the state of its agent."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from xbd.abi import ON_CRASH, POWEROFF, REBOOT, SHUTDOWN_REASONS
from xbd.control.saved import SavedAgent
from xbd.domain import CRASH, CRASHED, LOST, PAUSED, PAUSES, RUNNING, SHUTDOWN, SILENT, VCPUS, WAITING
from xbd.errors import BadArgument, DamagedState
from xbd.guest.mode import parse_mode
from xbd.machine.domain import Domain
from xbd.protocol.session import Session, State
from xbd.replaceable import replaceable
from xbd.shapes import FLAG, SECONDS, SETTINGS, Shape, choice, optional, text

Wake = Callable[[], None]
# The fields of a record that are saved; the name is saved by the machine.
SAVED: Final = (
    *("autostart", "guest", "mode", "shutdown_asked", "stopped", "settling", "on_crash", "crashed", "left"),
    *("pauses", "shutdown_reason", "vcpus", "started_at_s"),
)
# What an earlier version, which did not save it, would have saved.
_LATER: Final[Mapping[str, object]] = {"pauses": 0, "shutdown_reason": POWEROFF, "vcpus": 1, "started_at_s": None}
# How they are checked when they are read again; a field not named here is a boolean.
_SHAPES: Final[dict[str, Shape]] = {
    "guest": SETTINGS,
    "mode": text(),
    "on_crash": choice(ON_CRASH),
    "pauses": PAUSES,
    "shutdown_reason": choice(SHUTDOWN_REASONS),
    "vcpus": VCPUS,
    "started_at_s": optional(SECONDS),
}
# An agent that lost its connection connects again within half a second; one that has not by then is taken for dead.
CRASHED_AFTER_S: Final = 5.0
# An agent that has said how often it reports at least, and has not for so many times as long, does not answer: a busy
# machine may hold up one or two reports.
SILENT_AFTER_REPORTS: Final = 3
# After a restart of the daemon agents come back within half a second; until then no other one may boot their guests.
AWAITED_S: Final = 2.0


@dataclass(slots=True, eq=False)
class DomainRecord:
    """What the daemon knows of a domain beside its memory."""

    domid: int
    name: str
    uuid: str
    autostart: bool
    guest: dict[str, object]
    session: Session = field(default_factory=Session)
    mode: str = "normal"
    wake: Wake | None = None
    notices: dict[str, dict[str, object]] = field(default_factory=dict)
    notice_number: int = 0
    report: dict[str, object] | None = None
    # When that was reported, or confirmed; when its agent was last heard, and how often it reports at least, if it says so.
    reported_at_s: float = 0.0
    heard_at_s: float = 0.0
    report_every_s: float = math.inf
    shutdown_asked: bool = False
    stopped: bool = False
    shutdown_reason: str = POWEROFF
    settling: bool = False
    on_crash: str = "restart"
    vcpus: int = 1
    # When it was made, or its guest booted last; None: by an earlier version.
    started_at_s: float | None = None
    crashed: bool = False
    # How often a toolstack has paused it, and not unpaused it again.
    pauses: int = 0
    # Its agent has said that it stops, and that this is not a crash.
    left: bool = False
    # Its domain has been destroyed: a holder of this record must not change it any more.
    gone: bool = False
    # The daemon has restarted, and its agent, which did not say that it stops, is expected to connect again.
    awaited: bool = False
    # When it is booted again; None: it was not asked to reboot, or nobody has looked yet.
    reboot_due_s: float | None = None
    # When its agent was first missed; None: it is here, or not missed.
    missed_since: float | None = None
    saved: SavedAgent | None = None
    # Who set its target last; None: a client of an earlier daemon.
    target_set_by: str | None = None
    # Where it is noted that something of it was set: what is told of the domain may be another.
    touched: set[int] | None = None

    def __setattr__(self, name: str, value: object) -> None:
        """Set one of its parts, and note that."""
        object.__setattr__(self, name, value)
        touched: set[int] | None = getattr(self, "touched", None)
        if touched is not None:
            touched.add(self.domid)

    @classmethod
    def restored(cls, domain: Domain, saved: SavedAgent) -> "DomainRecord":
        """Make the record of a domain that an earlier daemon saved. Raises DamagedState."""
        known = cls._checked(domain.domid, saved.read())
        record = cls(domain.domid, domain.name, domain.uuid, saved=saved, session=saved.session, **known)
        record.awaited = saved.session.load()
        return record

    @staticmethod
    def _checked(domid: int, raw: dict[str, Any]) -> dict[str, Any]:
        """Check the record of a domain that an earlier daemon saved; returns it. Raises DamagedState."""
        raw = {**_LATER, **raw}
        if raw.keys() != set(SAVED):
            raise DamagedState(f"d{domid}: its record is not what this version of xbd saves")
        try:
            for key, value in raw.items():
                _SHAPES.get(key, FLAG).check(key, value)
            parse_mode(raw["mode"])
        except BadArgument as error:
            raise DamagedState(f"d{domid}: its record makes no sense: {error.message}") from error
        return raw

    def save(self) -> None:
        """Save the fields in `SAVED`, if the host's state is saved. Raises BadArgument: the settings are too long."""
        if self.saved is not None:
            self.saved.write({key: getattr(self, key) for key in SAVED})

    def reload(self, domain: Domain) -> None:
        """Take the saved values again, after a step was undone; what waits to be sent to its agent says how *domain* is now."""
        assert self.saved is not None, "nothing is undone of a domain that is not saved"
        self.name = domain.name
        for key, value in self._checked(self.domid, self.saved.read()).items():
            setattr(self, key, value)
        self.saved.session.reload(is_live=self.agent)
        if not self.shutdown_asked:
            self.notices.pop("shutdown", None)
        now: dict[str, dict[str, object]] = {
            "target": {"pages": domain.target_pages},
            "limit": {"pages": domain.max_pages},
            "mode": {"mode": self.mode},
            "paused": {"paused": self.is_paused},
        }
        for kind in now.keys() & self.notices.keys():
            self.notices[kind] |= now[kind]

    def reported(self, report: dict[str, object] | None, now_s: float) -> None:
        """Keep a report of its agent; None: the last one still holds."""
        self.report = self.report if report is None else report
        self.reported_at_s = self.heard_at_s = now_s

    def connected(self, wake: Wake, now_s: float, *, resumed: bool) -> None:
        """Note that an agent is connected; the answer to its hello has the present state, so earlier notices go."""
        self.heard_at_s = now_s
        if not resumed:
            self.report = None
        self.awaited = False
        self.missed_since = None
        self.notices.clear()
        self.wake = wake

    @property
    def is_paused(self) -> bool:
        """Whether its guest is to do nothing until it is unpaused."""
        return self.pauses > 0

    @property
    def agent(self) -> bool:
        """Whether an agent is connected."""
        return self.wake is not None

    def begin_again(self) -> None:
        """Forget that its guest has stopped, crashed, or is asked to stop: another one boots."""
        self.shutdown_asked = self.stopped = self.crashed = False
        self.shutdown_reason = POWEROFF

    @property
    def is_rebooting(self) -> bool:
        """Whether its guest has stopped to be booted again."""
        return self.stopped and self.shutdown_reason == REBOOT

    def notify(self, kind: str, **details: object) -> None:
        """Queue a numbered notice for the agent, in place of an earlier one of its kind; without an agent, nothing."""
        if self.wake is None:
            return
        self.notice_number += 1
        # Last in the queue, so that numbers rise: an agent ignores a notice with a lower number than the last.
        self.notices.pop(kind, None)
        self.notices[kind] = {"number": self.notice_number, **details}
        self.wake()

    @property
    def state(self) -> str:
        """Return the domain's state, as `xbd list` shows it."""
        if self.stopped:
            return SHUTDOWN
        if self.agent:
            return PAUSED if self.is_paused else RUNNING
        if self.crashed:
            return CRASHED
        return LOST if self.is_missed else WAITING

    @property
    def silent_at_s(self) -> float:
        """When its agent will be taken for one that does not answer, if it says nothing more."""
        return self.heard_at_s + SILENT_AFTER_REPORTS * self.report_every_s

    @replaceable
    def is_silent(self, now_s: float) -> bool:
        """Whether its agent has said nothing for so long that it is taken for one that does not answer."""
        return now_s >= self.silent_at_s

    def told(self, now_s: float) -> dict[str, Any]:
        """Say what is told of the domain beside its memory (parts of `DomainInfo`)."""
        state = self.state
        return {
            "state": SILENT if state == RUNNING and self.is_silent(now_s) else state,
            "on_crash": self.on_crash,
            "agent": self.agent,
            "autostart": self.autostart,
            "pauses": self.pauses,
            "vcpus": self.vcpus,
            "started_at_s": self.started_at_s,
            "mode": self.mode,
            "target_set_by": self.target_set_by,
            "shutdown_reason": self.shutdown_reason if state == SHUTDOWN else CRASH if state == CRASHED else None,
            "guest": self.guest,
            "report": self.report,
            "report_age_s": None if self.report is None else now_s - self.reported_at_s,
        }

    @property
    def is_missed(self) -> bool:
        """Whether the agent is gone without having said so, and no other agent may take its place."""
        gone = self.session.state is State.LOST and not self.left
        return gone and (self.awaited or self.on_crash != "restart") and not (self.stopped or self.crashed)

    @property
    def missed_limit_s(self) -> float:
        """How long its agent may be missed before it is taken for dead."""
        return AWAITED_S if self.on_crash == "restart" else CRASHED_AFTER_S
