"""The toolstack of a simulation: an operator who does anything at any time, and the policy."""

from collections import deque
from typing import Any, Final

from xbd.control.balancer import Balancer, snapshot_of
from xbd.errors import HypercallError
from xbd.lab.simulation.caller import Caller, Outcome
from xbd.lab.simulation.context import Context
from xbd.lab.simulation.rng import Lots
from xbd.lab.simulation.violation import Violation
from xbd.policy import Action, SetTarget, Settings
from xbd.protocol.views import DomainView, domain_view
from xbd.units import SUPER_PAGES

_MODES: Final = ("normal", "normal", "normal", "stuck", "lies", "slow 8MiB/s", "floor 6MiB", "ceiling 4MiB")
# What an operator does, each as often as it stands here.
_METHODS: Final = (
    *("set_target",) * 10,
    *("set_max",) * 5,
    *("claim",) * 3,
    *("guest_mode",) * 3,
    *("destroy",) * 3,
    *("shutdown", "audit", "info"),
)
_POLICY_EVERY_S: Final = 1.0
_PROFILES: Final = ("idle", "steady", "bursty", "unmovable")
# Small guests on slow machines: what they do is to be a small part of what happens.
_TICKS_S: Final = (0.3, 1.0, 3.0)


class Operator:
    """Somebody with a toolstack, and no plan."""

    def __init__(self, world: Context, lots: Lots) -> None:
        self._world = world
        self._lots = lots
        self._caller = Caller(world, "operator")
        self._names = 0
        # Guests begin small and are to grow, all of them.
        self._scarce = "memory" in world.plan.weathers

    def act(self) -> None:
        """Begin something, unless something is under way."""
        if not self._caller.idle or not self._world.daemon_up:
            return
        domids = self._world.host.machine.living_domains()
        guests = [domid for domid in domids if domid]
        lots = self._lots
        if len(guests) < self._world.plan.guests and lots.chance(0.5):
            self._create()
        elif guests:
            self._change(lots.pick(guests), lots.pick(domids))

    def _change(self, guest: int, domid: int) -> None:
        """Do something to *domid*, or, what dom0 is spared, to *guest*."""
        method = self._lots.pick(_METHODS)
        if method in ("destroy", "shutdown"):
            domid = guest
        params = self._params(method, domid)
        self._call(
            method, **({} if method == "audit" else {"domain" if method == "info" else "domid": domid}), **params
        )

    def _params(self, method: str, domid: int) -> dict[str, object]:
        lots, machine = self._lots, self._world.host.machine
        domain, ceiling = machine.living(domid), machine.ceiling(domid)
        match method:
            case "set_max":
                # Mostly what policies do: up, all the way.
                return {"pages": ceiling if lots.chance(0.6) else 1 + lots.below(ceiling)}
            case "claim":
                beyond = 1 + lots.below(max(domain.max_pages - domain.tot_pages, 1))
                return {"pages": domain.tot_pages + beyond if lots.chance(0.7) else 0}
            case "guest_mode":
                return {"mode": lots.pick(_MODES)}
            case "set_target" if lots.chance(0.1):
                return {"pages": 1 + lots.below(domain.max_pages)}
            case "set_target":
                blocks = max(domain.max_pages // SUPER_PAGES, 1)
                wanted = blocks if self._scarce and lots.chance(0.4) else 1 + lots.below(blocks)
                return {"pages": wanted * SUPER_PAGES}
            case _:
                return {}

    def _create(self) -> None:
        lots = self._lots
        plan = self._world.plan
        most = max(2, min(8, plan.superframes // (2 if self._scarce else plan.guests + 1)))
        max_blocks = most - lots.below(most // 2 + 1) if self._scarce else 1 + lots.below(most)
        target_blocks = 1 + lots.below(max(max_blocks // 2, 1) if self._scarce else max_blocks)
        self._names += 1
        guest: dict[str, object] = {"strategy": lots.pick(("full", "full", "full", "stock")), "verify": True}
        profile = lots.pick(_PROFILES)
        used = "low" if profile == "bursty" else "used"
        io = lots.pick((0, 10, 60)) if profile != "unmovable" else 0
        guest["workload"] = {
            "profile": profile,
            "tick_s": lots.pick(_TICKS_S),
            used: lots.between(0.05, 0.4),
            "io_pages_s": io,
            **({"churn": lots.between(0.0, 0.1)} if profile in ("steady", "unmovable") else {}),
        }
        kind = lots.pick(("pvh", "pvh", "pvh", "pv", "virtio"))
        hostile = "wild" in self._world.plan.weathers and lots.chance(0.5)
        self._call(
            "create",
            name=f"{'wild' if hostile else 'guest'}{self._names}",
            max_pages=max_blocks * SUPER_PAGES,
            target_pages=target_blocks * SUPER_PAGES,
            min_pages=lots.below(target_blocks + 1) * SUPER_PAGES if lots.chance(0.3) else 0,
            type=kind,
            on_crash=lots.pick(("restart", "restart", "destroy", "preserve")),
            guest=guest,
        )

    def _call(self, method: str, **params: object) -> None:
        self._world.trace_more(f"operator {method} {params}")
        self._caller.call(method, params, lambda outcome: self._done(method, outcome))

    def _done(self, method: str, outcome: Outcome) -> None:
        if method == "audit" and isinstance(outcome, dict) and outcome["violations"]:
            raise Violation(f"the daemon's own audit says: {outcome['violations'][0]}")


class Policy:
    """The autoballoon daemon: looks once a second, and sets what the policy says, one call after the other."""

    def __init__(self, world: Context) -> None:
        self._world = world
        self._caller = Caller(world, "policy")
        self._balancer = Balancer(Settings(headroom_pages=SUPER_PAGES, threshold_pages=SUPER_PAGES, min_interval_s=2.0))
        self._host: dict[str, Any] = {}
        self._actions: deque[Action] = deque()
        world.schedule.after(_POLICY_EVERY_S, "policy", self._look)

    def _look(self) -> str:
        if not self._world.healing:
            self._world.schedule.after(_POLICY_EVERY_S, "policy", self._look)
            if self._caller.idle:
                self._caller.call("host", {}, self._seen_host)
                return "looks"
        return "waits"

    def _seen_host(self, outcome: Outcome) -> None:
        if isinstance(outcome, dict):
            self._host = outcome
            self._caller.call("list", {}, self._seen_domains)

    def _seen_domains(self, outcome: Outcome) -> None:
        if isinstance(outcome, dict):
            domains: list[DomainView] = [domain_view(told) for told in outcome["domains"]]
            snapshot = snapshot_of(self._host, [domain for domain in domains if domain.state != "zombie"])
            self._actions = deque(self._balancer.look(snapshot, self._world.schedule.now))
            self._next()

    def _next(self) -> None:
        if self._actions and not self._world.healing:
            action = self._actions.popleft()
            method = "set_target" if isinstance(action, SetTarget) else "set_max"
            self._caller.call(method, {"domid": action.domid, "pages": action.pages}, self._set)

    def _set(self, outcome: Outcome) -> None:
        if isinstance(outcome, HypercallError):
            self._actions.clear()
        self._next()
