"""The hypervisor daemon's core: the toolstack's methods, and the state of each domain's agent.

What it works on is its `HostState`: the machine and, per domain, a `DomainRecord`; pausing and stopping guests is `DomainLife`'s. It is driven by endpoints (`xbd.control.endpoint`)
and knows no socket; what the world must do with a domain's socket goes through `DomainSockets`.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict
from functools import partial
from typing import Final
from uuid import UUID

import xbd
from xbd.abi import MULTICALL_CALLS, MULTICALL_EXTENTS, MULTICALL_LEAVES, TURN_COST_LEAF, Command, Refused, Result
from xbd.control.console import Console
from xbd.control.domain_life import DomainLife
from xbd.control.domain_record import DomainRecord, Wake
from xbd.control.domain_sockets import DomainSockets
from xbd.control.drawn import tell_blocks, tell_frames, tell_superframe
from xbd.control.guest_settings import plan_guest
from xbd.control.notices import Notices
from xbd.control.waits import TargetWaits
from xbd.domain import DOM0, HARD, DomainSpec
from xbd.errors import BadArgument, NotPermitted, OutOfResources
from xbd.guest.mode import parse_mode
from xbd.machine import Machine
from xbd.machine.domain import NO_RUNS
from xbd.machine.provision import refused
from xbd.machine.reboot import Reboot
from xbd.protocol import fields
from xbd.protocol.codec import VERSION
from xbd.protocol.commands import boot_to_wire, extents_of, not_begun
from xbd.protocol.methods import CHANGING_METHODS, TOOLSTACK_METHODS
from xbd.protocol.session import Action
from xbd.replaceable import replaceable
from xbd.shapes import STATISTICS
from xbd.target_rules import Bound, broken_bound, is_reached
from xbd.units import exact_size

# Who sets a target without saying who it is.
ANY_CLIENT: Final = "a client"


class Controller(DomainLife):
    """One host, as its toolstack and its agents use it."""

    def __init__(
        self,
        machine: Machine,
        *,
        clock: Callable[[], float],
        name: str = "host",
        sockets: DomainSockets | None = None,
        seed: UUID | None = None,
        monotonic: Callable[[], float] | None = None,
        console: Console | None = None,
    ) -> None:
        super().__init__(machine, clock=clock, name=name, sockets=sockets, seed=seed, monotonic=monotonic)
        self.console = console or Console()
        self._waits = TargetWaits()
        self._notices = Notices(machine, self._records, self._zombies, self._announce, self._wake_subscribers)
        self._methods: Final[dict[str, Callable[..., dict[str, object]]]] = {
            "info": self._info,
            "host": self._describe,
            "create": lambda **params: self._create(DomainSpec(**params)),
            "destroy": self._destroy,
            "shutdown": self._shutdown,
            "pause": self._pause,
            "unpause": self._unpause,
            "start": self._start,
            "rename": self._rename,
            "set_target": self._set_target,
            "set_max": self._set_max,
            "claim": self._claim,
            "claim_set": self._claim_set,
            "offline": self._offline,
            "online": self._online,
            "guest_mode": self._guest_mode,
            "frames": partial(tell_frames, machine),
            "superframe": partial(tell_superframe, machine),
            "blocks": partial(tell_blocks, machine),
            "console": lambda: {"text": self.console.text, "first": self.console.first},
            "audit": lambda: {"violations": self.audit()},
        }

    def call(self, method: str, untrusted_params: object, client: str = ANY_CLIENT) -> dict[str, object]:
        """Execute a call of a toolstack's *client*, and return its answer.

        Raises:
            HypercallError: unknown method, wrong parameters, or the machine's refusal; nothing has changed.
        """
        handler = self._methods.get(method)
        if handler is None:
            raise BadArgument(f"unknown method {method!r:.80}", f"one of {', '.join(TOOLSTACK_METHODS)}")
        params = fields.check_params(method, TOOLSTACK_METHODS[method].params, untrusted_params)
        if method not in CHANGING_METHODS:
            with refused(f"{method} cannot be answered"):
                return handler(**params)
        answer = handler(**params)
        if method == "set_target":
            self.record(self.machine.find(params["domid"])).target_set_by = client
        self._notices.deliver()
        return answer

    def list(self, untrusted_params: object) -> bytes:
        """Answer a call of `list`, packed. Raises HypercallError: wrong parameters, or there is no memory for it."""
        params = fields.check_params("list", TOOLSTACK_METHODS["list"].params, untrusted_params)
        with refused("list cannot be answered"):
            return self.listing.answer(params["since"])

    # -- the toolstack's methods; parameters are checked

    def _info(self, domain: int | str) -> dict[str, object]:
        return self.told(self.machine.find(domain))

    def _describe(self) -> dict[str, object]:
        counts = asdict(self.machine.statistics())
        settings = asdict(self.machine.settings)
        return {
            "name": self.name,
            "uuid": self.uuid,
            "version": xbd.__version__,
            "protocol": VERSION,
            **counts,
            "nodes": [asdict(node) for node in self.machine.node_statistics()],
            **self._waits.told(),
            "guests_wait": self.why_guests_wait() or None,
            "settings": settings,
        }

    def _create(self, spec: DomainSpec, domid: int | None = None) -> dict[str, object]:
        plan_guest(spec.guest)  # refused now: the agent would find it later, and could not answer the caller
        domid = self.machine.domain_table.free_domid() if domid is None else domid
        uuid = self._uuid_of(self.machine.domain_table.births + 1)
        record = DomainRecord(domid, spec.name, uuid, spec.autostart, dict(spec.guest), on_crash=spec.on_crash)
        record.vcpus, record.started_at_s = spec.vcpus, self.clock()
        # The domain itself is created last, whole or not at all; if it is refused, the rest is undone.
        with ExitStack() as undo:
            undo.callback(self._drop_saved, domid)
            with refused("the domain is not created"):
                self._save_new(record)
                if self.sockets is not None:
                    self.sockets.open(domid)
                    undo.callback(self.sockets.close, domid)
            self.machine.create(
                spec.name,
                max_pages=spec.max_pages,
                target_pages=spec.target_pages,
                min_pages=spec.min_pages,
                domain_type=spec.type,
                domid=domid,
                uuid=uuid,
                nodes=spec.nodes,
                is_hard=spec.affinity == HARD,
            )
            undo.pop_all()
        record.target_set_by = "create"
        self._keep(record)
        told = {"target_pages": spec.target_pages, "max_pages": spec.max_pages, "autostart": spec.autostart}
        self._event("created", record, **told)
        return {"domid": domid}

    def create_dom0(self, params: Mapping[str, object]) -> None:
        """Make the control domain, by the parameters of a `create` call. Raises HypercallError: nothing has changed."""
        checked = fields.check_params("create", TOOLSTACK_METHODS["create"].params, dict(params))
        self._create(DomainSpec(**checked), DOM0)

    def _destroy(self, domid: int | str) -> dict[str, object]:
        record = self._not_dom0(domid, "destroyed")
        zombie_pages = self.machine.destroy(record.domid)
        self._drop_saved(record.domid)
        self._event("destroyed", record, zombie_pages=zombie_pages)
        # The connections end last, when nothing can fail any more.
        del self._records[record.domid]
        record.gone = True
        if self.sockets is not None:
            self.sockets.close(record.domid)
        if zombie_pages:
            self._zombies[record.domid] = record.name, record.uuid
        return {"zombie_pages": zombie_pages}

    def _set_target(self, domid: int | str, pages: int, reason: str | None) -> dict[str, object]:
        domain = self.machine.domain(self.record(self.machine.find(domid)).domid)
        if broken_bound(pages, domain.min_pages, domain.max_pages) is Bound.MOST:
            raise BadArgument(
                f"target {exact_size(pages)} is beyond the limit of d{domain.domid}",
                f"at most {exact_size(domain.max_pages)}",
            )
        self.machine.set_target(domain.domid, pages)
        record = self.record(domain.domid)
        record.settling = True
        record.save()
        self._waits.begin(domain.domid, self.now_s())
        record.notify("target", pages=pages)
        self._event("target", record, pages=pages, **({} if reason is None else {"reason": reason}))
        self._check_settled(record)
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
        return {"claimed_pages": self._tell_claims(record)["claimed_pages"]}

    def _claim_set(self, domid: int | str, claims: Sequence[tuple[int, int | None]]) -> dict[str, object]:
        record = self.record(self.machine.find(domid))
        self.machine.claim_set(record.domid, claims)
        return self._tell_claims(record)

    def _tell_claims(self, record: DomainRecord) -> dict[str, object]:
        domain = self.machine.domain(record.domid)
        told: dict[str, object] = {"claimed_pages": domain.claimed_pages, "node_claims": list(domain.node_claims)}
        self._event("claim", record, **told)
        return told

    def _offline(self, node: int, pages: int) -> dict[str, object]:
        recalled = self.machine.go_offline(node, pages)
        for domid in recalled:
            self._tell_claims(self.record(domid))
        return {"recalled": {str(domid): lost for domid, lost in recalled.items()}}

    def _online(self, node: int, pages: int) -> dict[str, object]:
        self.machine.come_online(node, pages)
        return {}

    def _guest_mode(self, domid: int | str, mode: str) -> dict[str, object]:
        record = self.record(self.machine.find(domid))
        record.mode = str(parse_mode(mode))
        record.save()
        record.notify("mode", mode=record.mode)
        self._event("mode", record, mode=record.mode)
        return {"mode": record.mode}

    # -- the guests' side, driven by their endpoints

    def execute_alone(self, record: DomainRecord, command: Command) -> tuple[int, Result]:
        """Execute one turn of the command of a guest's call; returns its cost, in extents, and the result."""
        return self._execute(record, command)

    @replaceable
    def execute_together(
        self, record: DomainRecord, commands: Sequence[Command | Refused]
    ) -> tuple[int, Sequence[Result]]:
        """Execute one turn of several commands, in order and in one step; returns its cost, and the results.

        The first one begins whatever it asks for, and the others as long as they have place in the turn; from the first
        that has none on they are to be called again. One that is refused does not stop the next, as in Xen's multicall.
        """
        spent = named = 0
        has_place = True
        results: list[Result] = []
        for command in commands:
            if isinstance(command, Refused):
                results.append(command)
                continue
            before, named = named, named + extents_of(command)
            has_place = has_place and (
                not spent or (named <= MULTICALL_EXTENTS and spent - before <= MULTICALL_LEAVES * TURN_COST_LEAF)
            )
            if not has_place:
                results.append(self.put_off(record, command))
                continue
            cost, result = self._execute(record, command)
            results.append(result)
            spent += cost
        return spent, results

    def _execute(self, record: DomainRecord, command: Command) -> tuple[int, Result]:
        """Execute a command, and reckon what it cost, in extents."""
        domain = self.machine.domain_table.domains[record.domid]
        leaves = domain.leaves
        result = self.execute(record, command)
        cost = extents_of(command)
        if not getattr(command, "order", 0):
            # Single pages broke superpages, or put them together.
            cost += abs(domain.leaves - leaves) * TURN_COST_LEAF
        return cost, result

    def put_off(self, record: DomainRecord, command: Command) -> Result:  # noqa: ARG002 - for who watches
        """Answer a command that has no place in its turn."""
        return not_begun(command)

    def execute(self, record: DomainRecord, command: Command) -> Result:
        """Execute one turn of a guest's command."""
        result = self.machine.execute(record.domid, command)
        if self.machine.has_news:
            self._notices.deliver()
        if record.settling:
            self._check_settled(record)
        return result

    def open_session(self, record: DomainRecord, msgid: int, session: str, last_seen: int | None) -> Reboot | None:
        """Open the session that an agent's hello asks for; returns the guest's reboot, to go on with: None where it is resumed.

        Raises:
            HypercallError: another agent is connected, or the session cannot be resumed.
        """
        if record.crashed and session != record.session.name:
            raise NotPermitted(f"d{record.domid} has crashed and is preserved", "its own agent; or `xbd start` it")
        domid, may_boot = record.domid, session != record.session.name or last_seen is None
        contacts = self.machine.reserve_reboot(domid) if may_boot else None
        resumed = record.session.hello(msgid, session, last_seen) is Action.RESUME
        record.crashed = record.left = False
        if resumed:
            record.save()
            return None
        reboot = self.machine.begin_reboot(domid, contacts)
        record.begin_again()
        record.started_at_s = self.clock()
        record.save()
        self._notices.deliver()
        return reboot

    def connect(self, record: DomainRecord, reboot: Reboot | None, wake: Wake) -> dict[str, object]:
        """Admit the agent whose session was opened, when its *reboot* is done; returns what its hello is answered."""
        resumed = reboot is None
        boot = reboot.info() if reboot else self.machine.boot_info(record.domid, runs=NO_RUNS)
        self._event("agent_connected", record, resumed=resumed)
        more = {
            "guest": record.guest,
            "mode": record.mode,
            "shutdown": record.shutdown_asked,
            "paused": record.is_paused,
            "multicall": MULTICALL_CALLS,
        }
        answer = {"resumed": resumed, **boot_to_wire(boot), **more}
        # What is not saved is changed last, when nothing can fail any more.
        record.connected(wake, self.now_s(), resumed=resumed)
        return answer

    def disconnect(self, record: DomainRecord) -> None:
        """Note that a domain's agent has lost its connection; its session may be resumed."""
        # Without an agent its reboot was not done yet.
        was_connected = record.agent
        record.session.disconnect()
        record.wake = None
        record.notices.clear()
        if was_connected and not record.gone:
            self._event("agent_lost", record)

    def reported(self, record: DomainRecord, untrusted_report: object) -> None:
        """Keep an agent's report of its guest. Raises BadArgument: it is no flat map."""
        if type(untrusted_report) is list and len(untrusted_report) == 1:
            untrusted_report = untrusted_report[0]
        record.reported(STATISTICS.check("report", untrusted_report), self.now_s())

    def tick(self, now: float) -> float | None:
        """Handle agents that have died, guests to be booted again, and offers that were not taken; returns when to call this again, None: after the next event."""
        missed = [record for record in self._records.values() if record.is_missed]
        due = self._reboot(now)
        for record in missed:
            if record.missed_since is None:
                record.missed_since = now
            deadline = record.missed_since + record.missed_limit_s
            if now < deadline:
                due.append(deadline)
            elif record.on_crash == "restart":
                self._event("agent_lost", record)
                record.awaited = False
            else:
                self._crash(record)
        renewed = self._notices.renew_offers(now)
        return min(due if renewed is None else [*due, renewed], default=None)

    def _crash(self, record: DomainRecord) -> None:
        record.crashed = True
        record.save()
        self._event("crashed", record, on_crash=record.on_crash)
        if record.on_crash == "destroy":
            # If the system lacks the resources for that, it stays crashed and can be destroyed later.
            with suppress(OutOfResources):
                self._destroy(record.domid)

    def _check_settled(self, record: DomainRecord) -> None:
        domain = self.machine.domain(record.domid)
        if record.settling and is_reached(domain.tot_pages, domain.target_pages):
            record.settling = False
            record.save()
            self._waits.end(record.domid, self.now_s())
            self._event("settled", record, pages=domain.tot_pages)
