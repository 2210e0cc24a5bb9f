"""The daemon's core: what the toolstack's methods do, and what the daemon knows of each guest's agent.

A `Host` owns the machine and, per domain, a `Record`: its session, its settings, the notices that
its agent has not been told yet, its last report. It is driven by endpoints (`xbd.services.endpoint`)
and knows no socket; what the world must do with a domain's socket goes through `Doors`.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final, Protocol

import xbd
from xbd.abi import BootInfo, Command, DomainType, Result
from xbd.errors import BadArgument, NotPermitted
from xbd.guest.mode import parse_mode
from xbd.machine import DomainInfo, Machine
from xbd.services.events import EventLog
from xbd.services.guest_settings import plan_guest
from xbd.wire import fields
from xbd.wire.commands import boot_to_wire
from xbd.wire.protocol import TOOLSTACK_METHODS, VERSION
from xbd.wire.session import Action, Session


class Doors(Protocol):
    """Where a domain's socket is opened and closed."""

    def open(self, domid: int) -> None:
        """Make a domain reachable, before its creation is answered. Raises HypercallError: it is not created."""

    def close(self, domid: int) -> None:
        """End a domain's socket and whoever is connected to it."""

    def permit_group(self, group: str | None) -> None:
        """Let *group*, beside this user and root, use the toolstack's socket. Raises ConfigError: nothing has changed."""


class NoDoors:
    """A host that nobody connects to (tests, or endpoints driven by hand)."""

    def open(self, domid: int) -> None:
        """Do nothing."""

    def close(self, domid: int) -> None:
        """Do nothing."""

    def permit_group(self, group: str | None) -> None:
        """Do nothing."""


Wake = Callable[[], None]
# The control domain's number.
DOM0: Final = 0


@dataclass(slots=True, eq=False)
class Record:
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


class Host:
    """One host: its machine, its domains' records, its events."""

    def __init__(self, machine: Machine, *, name: str = "host", doors: Doors | None = None) -> None:
        self.machine = machine
        self.name = name
        self.doors: Doors = doors or NoDoors()
        self.events = EventLog()
        self.subscribers: set[Wake] = set()
        self._records: dict[int, Record] = {}
        self._zombies: dict[int, str] = {}
        self._methods: Final[dict[str, Callable[..., dict[str, object]]]] = {
            "list": self._list,
            "info": self._info,
            "host": self._describe,
            "create": self._create,
            "destroy": self._destroy,
            "shutdown": self._shutdown,
            "set_target": self._set_target,
            "set_max": self._set_max,
            "claim": self._claim,
            "guest_mode": self._guest_mode,
            "frames": self._frames,
            "audit": self._audit,
        }

    def call(self, method: str, untrusted_params: object) -> dict[str, object]:
        """Do what a toolstack asks.

        Raises:
            HypercallError: unknown method, wrong parameters, or the machine's refusal; nothing has changed.
        """
        handler = self._methods.get(method)
        if handler is None:
            raise BadArgument(f"unknown method {method!r:.80}", f"one of {', '.join(TOOLSTACK_METHODS)}")
        return handler(**fields.check_params(method, TOOLSTACK_METHODS[method].params, untrusted_params))

    # -- the toolstack's methods; parameters are checked

    def _list(self) -> dict[str, object]:
        return {"domains": [self.domain_map(domid) for domid in self.machine.domains()]}

    def _info(self, domain: int | str) -> dict[str, object]:
        return self.domain_map(self.machine.find(domain))

    def _describe(self) -> dict[str, object]:
        counts = asdict(self.machine.statistics())
        settings = asdict(self.machine.settings)
        return {"name": self.name, "version": xbd.__version__, "protocol": VERSION, **counts, "settings": settings}

    def _create(
        self,
        *,
        name: str,
        max_pages: int,
        target_pages: int,
        min_pages: int,
        type: str,  # noqa: A002 - the wire's name for it
        autostart: bool,
        guest: dict[str, object],
        domid: int | None = None,
    ) -> dict[str, object]:
        plan_guest(guest)  # refused here and now rather than by its agent, which has nobody to tell
        domid = self.machine.create(
            name,
            max_pages=max_pages,
            target_pages=target_pages,
            min_pages=min_pages,
            domain_type=DomainType(type),
            domid=domid,
        )
        try:
            self.doors.open(domid)
        except BaseException:
            self.machine.destroy(domid)
            raise
        self._records[domid] = Record(domid, name, autostart, guest)
        self._event(
            "created", self._records[domid], target_pages=target_pages, max_pages=max_pages, autostart=autostart
        )
        return {"domid": domid}

    def create_dom0(self, params: Mapping[str, object]) -> None:
        """Make the control domain, by the parameters of a `create` call. Raises HypercallError: nothing has changed."""
        self._create(**fields.check_params("create", TOOLSTACK_METHODS["create"].params, dict(params)), domid=DOM0)

    def _destroy(self, domid: int | str) -> dict[str, object]:
        record = self._not_dom0(domid, "destroyed")
        zombie_pages = self.machine.destroy(record.domid)
        del self._records[record.domid]
        self.doors.close(record.domid)
        if zombie_pages:
            self._zombies[record.domid] = record.name
        self._event("destroyed", record, zombie_pages=zombie_pages)
        self._tell_news()
        return {"zombie_pages": zombie_pages}

    def _not_dom0(self, domid: int | str, ended: str) -> Record:
        record = self.record(self.machine.find(domid))
        if record.domid == DOM0:
            raise NotPermitted(
                f"d{DOM0} is the control domain and cannot be {ended}", "a guest; end the host with its daemon"
            )
        return record

    def _shutdown(self, domid: int | str) -> dict[str, object]:
        record = self._not_dom0(domid, "shut down")
        record.shutdown_asked = True
        if record.agent:
            record.notify("shutdown")
        else:
            self.stopped(record)
        return {}

    def _set_target(self, domid: int | str, pages: int) -> dict[str, object]:
        domain = self.machine.domain(self.record(self.machine.find(domid)).domid)
        if pages > domain.max_pages:
            raise BadArgument(
                f"target {pages} pages is beyond the limit of d{domain.domid}",
                f"at most {domain.max_pages} pages (max_pages)",
            )
        self.machine.set_target(domain.domid, pages)
        record = self.record(domain.domid)
        record.settling = True
        record.notify("target", pages=pages)
        self._event("target", record, pages=pages)
        self._look_whether_settled(record)
        return {"pages": pages}

    def _set_max(self, domid: int | str, pages: int) -> dict[str, object]:
        record = self.record(self.machine.find(domid))
        self.machine.set_max_pages(record.domid, pages)
        record.notify("limit", pages=pages)
        self._event("max", record, pages=pages)
        return {"pages": pages}

    def _claim(self, domid: int | str, pages: int) -> dict[str, object]:
        record = self.record(self.machine.find(domid))
        self.machine.claim(record.domid, pages)
        claimed_pages = self.machine.domain(record.domid).claimed_pages
        self._event("claim", record, claimed_pages=claimed_pages)
        return {"claimed_pages": claimed_pages}

    def _guest_mode(self, domid: int | str, mode: str) -> dict[str, object]:
        record = self.record(self.machine.find(domid))
        record.mode = str(parse_mode(mode))
        record.notify("mode", mode=record.mode)
        self._event("mode", record, mode=record.mode)
        return {"mode": record.mode}

    def _frames(self) -> dict[str, object]:
        drawn = self.machine.frame_map()
        owner, used = (part.astype("<u2", copy=False).tobytes() for part in (drawn.owner, drawn.used))
        return {"superframes": drawn.kind.size, "kind": drawn.kind.tobytes(), "owner": owner, "used": used}

    def _audit(self) -> dict[str, object]:
        return {"violations": self.audit()}

    # -- the guests' side, driven by their endpoints

    def record(self, domid: int) -> Record:
        """Find a domain's record. Raises NoSuchDomain, also for a zombie."""
        return self._records[self.machine.living(domid).domid]

    def execute(self, record: Record, command: Command) -> Result:
        """Do one turn of a guest's command."""
        result = self.machine.execute(record.domid, command)
        if self.machine.has_news:
            self._tell_news()
        if record.settling:
            self._look_whether_settled(record)
        return result

    def connect(self, record: Record, msgid: int, session: str, last_seen: int | None, wake: Wake) -> dict[str, object]:
        """Let an agent in and tell it what it needs: a new session reboots the guest.

        Raises:
            HypercallError: another agent is connected, or the session cannot be resumed.
        """
        resumed = record.session.hello(msgid, session, last_seen) is Action.RESUME
        boot = self._resumed(record.domid) if resumed else self.machine.reboot(record.domid)
        if not resumed:
            record.shutdown_asked = record.stopped = False
            record.report = None
            self._tell_news()
        # The answer tells how things stand, so what was not told yet needs no telling.
        record.notices.clear()
        record.wake = wake
        self._event("agent_connected", record, resumed=resumed)
        more = {"guest": record.guest, "mode": record.mode, "shutdown": record.shutdown_asked}
        return {"resumed": resumed, **boot_to_wire(boot), **more}

    def _resumed(self, domid: int) -> BootInfo:
        """Tell a guest that goes on what may have changed; its map is its own affair."""
        boot = self.machine.boot_info(domid)
        return replace(boot, runs=boot.runs[:0])

    def disconnect(self, record: Record) -> None:
        """Note that a domain's agent is gone; its session may be resumed."""
        record.session.disconnect()
        record.wake = None
        record.notices.clear()
        if self._records.get(record.domid) is record:
            self._event("agent_lost", record)

    def reported(self, record: Record, untrusted_report: object) -> None:
        """Keep what an agent says of its guest. Raises BadArgument: it is no flat map."""
        report = (
            untrusted_report[0] if type(untrusted_report) is list and len(untrusted_report) == 1 else untrusted_report
        )
        record.report = fields.statistics("report", report)

    def stopped(self, record: Record) -> None:
        """Note that a guest has stopped, as it was asked."""
        if record.shutdown_asked and not record.stopped:
            record.stopped = True
            self._event("shutdown", record)

    # -- looking

    def population(self) -> tuple[int, int]:
        """Count the domains (without zombies), and those of them whose agents are connected."""
        return len(self._records), sum(record.agent for record in self._records.values())

    def domain_map(self, domid: int) -> dict[str, object]:
        """Describe a domain as it travels. Raises NoSuchDomain."""
        described = asdict_shallow(self.machine.domain_info(domid))
        record = self._records.get(domid)
        if record is None:
            # A zombie: of all that the daemon knew nothing is left.
            return described | {"agent": False, "autostart": False, "mode": "normal", "guest": {}, "report": None}
        described["state"] = "shutdown" if record.stopped else "running" if record.agent else "waiting"
        described |= {"agent": record.agent, "autostart": record.autostart, "mode": record.mode}
        described |= {"guest": record.guest, "report": record.report}
        return described

    def audit(self) -> list[str]:
        """Recompute everything; name what does not hold."""
        strangers = sorted(set(self.machine.living_domains()) ^ self._records.keys())
        return self.machine.audit() + [
            f"d{domid} is known to the machine or to the daemon alone" for domid in strangers
        ]

    def _tell_news(self) -> None:
        """Tell agents that they have messages, and the toolstack which zombies are gone."""
        for domid in self.machine.take_woken():
            self._records[domid].notify("messages")
        for domid in self.machine.take_vanished():
            self._announce("vanished", domid=domid, name=self._zombies.pop(domid))

    def _look_whether_settled(self, record: Record) -> None:
        domain = self.machine.domain(record.domid)
        if record.settling and domain.tot_pages == domain.target_pages:
            record.settling = False
            self._event("settled", record, pages=domain.tot_pages)

    def _event(self, event: str, record: Record, **details: object) -> None:
        self._announce(event, domid=record.domid, name=record.name, **details)

    def _announce(self, event: str, **details: object) -> None:
        self.events.add(event, **details)
        for wake in self.subscribers:
            wake()


def asdict_shallow(described: DomainInfo) -> dict[str, Any]:
    """Turn a domain's description into a map, without asdict's deep copies: `list` does it a thousand times."""
    return {name: getattr(described, name) for name in DomainInfo.__dataclass_fields__}
