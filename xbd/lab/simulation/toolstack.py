"""The toolstack of a simulation: an operator that makes random calls, and the autoballoon policy."""

from collections import deque
from typing import Any, Final

from xbd.config.policies import BUILT_IN
from xbd.control.balancer import Balancer
from xbd.domain import HARD, SOFT, DomainInfo, read_domain
from xbd.errors import HypercallError
from xbd.lab.simulation.caller import Caller
from xbd.lab.simulation.context import Context
from xbd.lab.simulation.rng import Rng
from xbd.lab.simulation.wild_policy import WildPolicy
from xbd.policy import Action, SetTarget, Settings, Snapshot
from xbd.policy import Policy as AnyPolicy
from xbd.policy.model import bounds_of
from xbd.protocol.toolstack_session import Outcome
from xbd.testing.oracle import Violation
from xbd.units import SUPER_PAGES

_MODES: Final = ("normal", "normal", "normal", "stuck", "lies", "slow 8MiB/s", "floor 6MiB", "ceiling 4MiB")
# The calls of the operator; a method is drawn as often as it is listed.
_METHODS: Final = (
    *("set_target",) * 10,
    *("set_max",) * 5,
    *("claim",) * 3,
    *("guest_mode",) * 3,
    *("destroy",) * 3,
    *("shutdown", "audit", "info"),
)
# And of that of a host of several nodes.
_BY_NODE: Final = (*_METHODS, *("claim_set",) * 4, *("offline",) * 2, *("online",) * 2)
# Names of hostile guests. The course of every seed depends on its length: it is part of the messages.
HOSTILE_PREFIX: Final = "wild"
_POLICY_EVERY_S: Final = 1.0
_SETTINGS: Final = Settings(headroom_pages=SUPER_PAGES, threshold_pages=SUPER_PAGES, min_interval_s=2.0)
# How likely an operator has the file read again at a look, once the policy has failed.
_RELOADS: Final = 0.1
_PROFILES: Final = ("idle", "steady", "bursty", "unmovable")
# Long, so that the workloads make only a small part of the events.
_TICKS_S: Final = (0.3, 1.0, 3.0)


class Operator:
    """A toolstack user who makes random calls, one at a time."""

    def __init__(self, world: Context, rng: Rng) -> None:
        self._world = world
        self._rng = rng
        self._caller = Caller(world, "operator")
        self._names = 0
        # All guests begin small and are told to grow.
        self._scarce = "memory" in world.plan.conditions

    def act(self) -> None:
        """Make a random call, unless one is in flight or the daemon is down."""
        if not self._caller.idle or not self._world.daemon_up:
            return
        domids = self._world.host.machine.living_domains()
        guests = [domid for domid in domids if domid]
        rng = self._rng
        if len(guests) < self._world.plan.guests and rng.bernoulli(0.5):
            self._create()
        elif guests:
            self._change(rng.choice(guests), rng.choice(domids))

    def _change(self, guest: int, domid: int) -> None:
        """Make a random call about *domid*; about *guest* if it would end the domain, which never is dom0."""
        method = self._rng.choice(_METHODS if self._world.plan.nodes is None else _BY_NODE)
        if method in ("offline", "online"):
            node = self._rng.below(self._world.host.machine.host.nodes.count)
            self._call(method, node=node, pages=(1 + self._rng.below(2)) * SUPER_PAGES)
            return
        if method in ("destroy", "shutdown"):
            domid = guest
        params = self._params(method, domid)
        self._call(
            method, **({} if method == "audit" else {"domain" if method == "info" else "domid": domid}), **params
        )

    def _params(self, method: str, domid: int) -> dict[str, object]:
        rng, machine = self._rng, self._world.host.machine
        domain, ceiling = machine.living(domid), machine.ceiling(domid)
        match method:
            case "set_max":
                # Mostly as policies do: up to the maximum.
                return {"pages": ceiling if rng.bernoulli(0.6) else 1 + rng.below(ceiling)}
            case "claim" | "claim_set":
                room = max(domain.max_pages - domain.tot_pages, 1)
                return self._claim(domain.tot_pages, room) if method == "claim" else {"claims": self._claims(room)}
            case "guest_mode":
                return {"mode": rng.choice(_MODES)}
            case "set_target" if rng.bernoulli(0.1):
                return {"pages": 1 + rng.below(domain.max_pages)}
            case "set_target":
                blocks = max(domain.max_pages // SUPER_PAGES, 1)
                wanted = blocks if self._scarce and rng.bernoulli(0.4) else 1 + rng.below(blocks)
                return {"pages": wanted * SUPER_PAGES}
            case _:
                return {}

    def _claim(self, tot_pages: int, room_pages: int) -> dict[str, object]:
        beyond = 1 + self._rng.below(room_pages)
        return {"pages": tot_pages + beyond if self._rng.bernoulli(0.7) else 0}

    def _claims(self, room_pages: int) -> list[dict[str, object]]:
        """Draw a claim set, now and then one that cannot be, or none."""
        rng, host = self._rng, self._world.host.machine.host
        if rng.bernoulli(0.5):
            # All that a node has: then whoever else takes memory there breaks the promise.
            node = rng.below(host.nodes.count)
            return [{"pages": max(min(room_pages, host.free_on(node) - host.node_claims[node]), 0), "node": node}]
        targets = [None, *range(host.nodes.count), rng.below(host.nodes.count + 1)]
        chosen = [targets[rng.below(len(targets))] for _ in range(rng.below(4))]
        return [{"pages": 1 + rng.below(room_pages // len(chosen) + 1), "node": node} for node in chosen]

    def _affinity(self) -> dict[str, object]:
        """Draw where the memory of a new domain should lie, on a host of several nodes."""
        rng, nodes = self._rng, self._world.plan.nodes
        if nodes is None or rng.bernoulli(0.3):
            return {}
        chosen = sorted({rng.below(nodes.count) for _ in range(1 + rng.below(2))})
        return {"nodes": chosen, "affinity": HARD if rng.bernoulli(0.4) else SOFT}

    def _create(self) -> None:
        rng = self._rng
        plan = self._world.plan
        most = max(2, min(8, plan.superframes // (2 if self._scarce else plan.guests + 1)))
        max_blocks = most - rng.below(most // 2 + 1) if self._scarce else 1 + rng.below(most)
        target_blocks = 1 + rng.below(max(max_blocks // 2, 1) if self._scarce else max_blocks)
        self._names += 1
        guest: dict[str, object] = {"strategy": rng.choice(("full", "full", "full", "stock")), "verify": True}
        profile = rng.choice(_PROFILES)
        used = "low" if profile == "bursty" else "used"
        io = rng.choice((0, 10, 60)) if profile != "unmovable" else 0
        guest["workload"] = {
            "profile": profile,
            "tick_s": rng.choice(_TICKS_S),
            used: rng.uniform(0.05, 0.4),
            "io_pages_s": io,
            **({"churn": rng.uniform(0.0, 0.1)} if profile in ("steady", "unmovable") else {}),
        }
        kind = rng.choice(("pvh", "pvh", "pvh", "pv", "virtio"))
        hostile = "wild" in self._world.plan.conditions and rng.bernoulli(0.5)
        self._call(
            "create",
            name=f"{HOSTILE_PREFIX if hostile else 'guest'}{self._names}",
            max_pages=max_blocks * SUPER_PAGES,
            target_pages=target_blocks * SUPER_PAGES,
            min_pages=rng.below(target_blocks + 1) * SUPER_PAGES if rng.bernoulli(0.3) else 0,
            type=kind,
            on_crash=rng.choice(("restart", "restart", "destroy", "preserve")),
            guest=guest,
            **self._affinity(),
        )

    def _call(self, method: str, **params: object) -> None:
        self._world.trace_detail(f"operator {method} {params}")
        self._caller.call(method, params, lambda outcome: self._done(method, outcome))

    def _done(self, method: str, outcome: Outcome) -> None:
        if method == "audit" and isinstance(outcome, dict) and outcome["violations"]:
            raise Violation(f"the daemon's own audit says: {outcome['violations'][0]}")


class Policy:
    """The autoballoon daemon: queries the host once a second and applies the policy's actions, one call after the other.

    Which policy it is is drawn from the seed, unless *policy* is given, and it fails now and then; a while after that the
    file is read again.
    """

    def __init__(self, world: Context, rng: Rng, policy: AnyPolicy | None = None) -> None:
        self._given = policy
        self._world = world
        self._rng = rng
        self._caller = Caller(world, "policy")
        self._balancer = Balancer(_SETTINGS, self._draw())
        self._host: dict[str, Any] = {}
        self._actions: deque[Action] = deque()
        world.schedule.after(_POLICY_EVERY_S, "policy", self._query)

    def _draw(self) -> AnyPolicy:
        drawn = BUILT_IN[self._rng.choice(tuple(BUILT_IN))]()
        return WildPolicy(self._given or drawn, self._rng)

    def _query(self) -> str:
        if not self._world.healing:
            self._world.schedule.after(_POLICY_EVERY_S, "policy", self._query)
            if self._caller.idle:
                self._caller.call("host", {}, self._handle_host)
                return "looks"
        return "waits"

    def _handle_host(self, outcome: Outcome) -> None:
        if isinstance(outcome, dict):
            self._host = outcome
            self._caller.call("list", {}, self._handle_domains)

    def _handle_domains(self, outcome: Outcome) -> None:
        if isinstance(outcome, dict):
            domains: list[DomainInfo] = [read_domain(raw) for raw in outcome["domains"]]
            snapshot = self._balancer.snapshot(self._host, [domain for domain in domains if domain.state != "zombie"])
            if self._balancer.state.trouble and self._rng.bernoulli(_RELOADS):
                self._balancer.change(_SETTINGS, self._draw())
            failed = bool(self._balancer.state.trouble)
            self._actions = deque(self._balancer.step(snapshot, self._world.schedule.now))
            if self._balancer.state.trouble and not failed:
                self._world.tally["policy failed"] += 1
                self._world.trace_detail(f"the policy failed: {self._balancer.state.trouble}")
            self._check_bounds(snapshot)
            for domain in snapshot.domains:
                if self._balancer.state.progress[domain.domid].life != domain.life:
                    raise Violation(f"the policy takes d{domain.domid} for a domain that is gone")
            self._next_action()

    def _check_bounds(self, snapshot: Snapshot) -> None:
        """See that whatever the policy wants stays within each domain's bounds. Raises Violation."""
        by_domid = {domain.domid: bounds_of(domain) for domain in snapshot.domains}
        for action in self._actions:
            bounds = by_domid[action.domid]
            if bounds.clamp(action.pages) != action.pages or action.pages % SUPER_PAGES:
                raise Violation(f"the policy's {action} is not within {bounds}, in whole superpages")

    def _next_action(self) -> None:
        if self._actions and not self._world.healing:
            action = self._actions.popleft()
            method = "set_target" if isinstance(action, SetTarget) else "set_max"
            self._caller.call(method, {"domid": action.domid, "pages": action.pages}, self._handle_set)

    def _handle_set(self, outcome: Outcome) -> None:
        if isinstance(outcome, HypercallError):
            self._actions.clear()
        self._next_action()
