"""A policy, inside its safety layer, on a virtual host: what autoballoon is to a real one.

What the machine refuses, the next step sees, as there. Made by name (`xbd.daemons.policy_process`), a stranger's policy
runs in a process of its own there, too; a policy that is passed as an object is asked in this one, and trusted to return.
"""

from collections.abc import Sequence

from xbd.errors import HypercallError
from xbd.guest import GuestStatistics, LimitSet, TargetSet
from xbd.policy import Action, DomainSnapshot, GuestReport, Policy, SetTarget, Settings, Snapshot, State, step
from xbd.testing.virtual_host import VirtualHost

# As `xbd.control.balancer` adds to what a guest says that it uses: a quarter.
_SLACK_SHIFT = 2


class Governor:
    """Governs the guests of a host by a policy; `step` is one look at them.

    Args:
        host: the host.
        policy: what decides.
        settings: of the safety layer.
        domids: whom it governs; None: all guests but dom0, also later ones.
        silent: who reports nothing.

    Attributes: *state*: with the policy's decisions, their reasons, and its trouble, if it has made any; *targets*: how
    many it has set; *told*: what guests last reported, by domid.
    """

    def __init__(
        self,
        host: VirtualHost,
        policy: Policy,
        settings: Settings | None = None,
        domids: Sequence[int] | None = None,
        silent: frozenset[int] = frozenset(),
    ) -> None:
        self._host = host
        self._policy = policy
        self._domids = domids
        self._silent = silent
        self.state = State(settings or Settings())
        self.targets = 0
        self.told: dict[int, GuestStatistics] = {}

    def step(self) -> list[Action]:
        """Look at the guests, and do what is decided; returns what was told the machine and was not refused."""
        self.state, actions = step(self.state, self.snapshot(), self._host.now, self._policy)
        done = [action for action in actions if self._do(action)]
        self.targets += sum(isinstance(action, SetTarget) for action in done)
        return done

    def snapshot(self) -> Snapshot:
        """Show the host as the policy sees it."""
        counts = self._host.machine.statistics()
        domids = [domid for domid in self._host.domids() if domid] if self._domids is None else self._domids
        domains = tuple(self._domain(domid) for domid in domids)
        return Snapshot(counts.free_frames, counts.frames, counts.claimed_frames, domains)

    def _domain(self, domid: int) -> DomainSnapshot:
        domain, report = self._host.machine.domain(domid), self._report(domid)
        used = report.used_pages
        return DomainSnapshot(
            domid,
            domain.tot_pages,
            domain.target_pages,
            domain.max_pages,
            domain.min_pages,
            self._host.machine.ceiling(domid),
            demand_pages=None if used is None else used + (used >> _SLACK_SHIFT),
            guest=report,
        )

    def _report(self, domid: int) -> GuestReport:
        told = self.told[domid] = self._host.guest(domid).statistics()
        if domid in self._silent:
            return GuestReport()
        return GuestReport(
            max(told.movable_pages + told.unmovable_pages - told.cache_pages, 0),
            told.guest_free_pages,
            told.cache_pages,
            told.available_pages,
            told.pages_refaulted,
            told.pressure_ppm / 1e6,
        )

    def _do(self, action: Action) -> bool:
        domid, pages = action.domid, action.pages
        try:
            if isinstance(action, SetTarget):
                self._host.machine.set_target(domid, pages)
                self._host.send(domid, TargetSet(pages))
            else:
                self._host.machine.set_max_pages(domid, pages)
                self._host.send(domid, LimitSet(pages))
        except HypercallError:
            return False
        return True
