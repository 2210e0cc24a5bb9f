"""A host for tests of code that uses xbd: on virtual time, in the test's own process, without a daemon.

    import xbd.testing

    def test_my_policy() -> None:
        with xbd.testing.host("2g") as host:
            web = host.add("web", "512m")
            host.set_target(web, 256 * MIB_PAGES)
            host.advance(host.now + 10)
            assert host.machine.domain_info(web).tot_pages == 256 * MIB_PAGES

When the block ends everything is audited: a lost frame, or a guest whose counters differ from those of the
hypervisor, fails the test.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from xbd.abi import DomainType
from xbd.config.host import DOM0_NAME
from xbd.config.strategies import DEFAULT_STRATEGY, Strategy, find_strategy
from xbd.daemons.policy_process import started_policy
from xbd.guest import BlockBackEnd, GuestSettings
from xbd.guest.workload import Workload, make_workload
from xbd.policy import Policy, Settings
from xbd.testing.governor import Governor
from xbd.testing.virtual_host import VirtualHost
from xbd.units import SUPER_PAGES, parse_superpages

__all__ = ["Host", "host"]


class Host(VirtualHost):
    """A `VirtualHost` whose guests are added with sizes such as `512m`, all with the strategy of the host.

    Attributes: *policies*: ends the processes of strangers' policies, when it is closed.
    """

    def __init__(self, superframes: int, strategy: Strategy, seed: int) -> None:
        super().__init__(superframes, strategy.host, seed=seed)
        self.limit_beyond_pages = strategy.limit_beyond_pages
        self._strategy = strategy
        self._governor: Governor | None = None
        self.policies = ExitStack()
        self._looks_every_s = 1.0

    def govern(
        self, policy: str | Policy, settings: Settings | None = None, *, every_s: float = 1.0, **own: object
    ) -> Governor:
        """Let a policy set the targets of all guests but dom0 from now on, as autoballoon does.

        Args:
            policy: the name of one, or `module:object`, which runs in a process of its own and is stopped there if it
                does not return; or a policy, which is asked in this process.
            settings: of the safety layer around it.
            every_s: how often it looks, in virtual seconds.
            own: the settings of a policy that is named.

        Returns:
            What governs: its `state` has the decisions of the last step, with their reasons.

        Raises:
            BadArgument, BadSetting, PolicyFailed: there is no such policy, or it refuses its settings; nothing has changed.
        """
        made = self.policies.enter_context(started_policy(policy, own)) if isinstance(policy, str) else policy
        self._governor, self._looks_every_s = Governor(self, made, settings), every_s
        return self._governor

    def advance(self, until: float) -> None:
        """Advance time to *until*; a policy that governs looks at the guests now and then meanwhile."""
        while self._governor is not None and self.now + self._looks_every_s <= until:
            super().advance(self.now + self._looks_every_s)
            self._governor.step()
        super().advance(until)

    def add(
        self,
        name: str,
        memory: str | int,
        target: str | int | None = None,
        *,
        workload: str | Workload = "idle",
        verify: bool = True,
        kernel_pages: int | None = None,
        domain_type: DomainType | None = None,
    ) -> int:
        """Boot a guest and return its domid.

        Args:
            name: of the domain.
            memory: the most it may hold, such as `512m`, or a number of MiB; a multiple of 2 MiB.
            target: what it holds at first; None: all of *memory*.
            workload: the name of a profile, or a workload.
            verify: whether the guest checks every content word.
            kernel_pages: what its kernel holds from the start; None: a small share of its memory.
            domain_type: PVH, PV or virtio; None: the strategy's.

        Raises:
            BadSize, BadArgument, OutOfFrames: what was wrong, and for an unknown profile the known ones; nothing has
                changed.
        """
        max_pages = parse_superpages(memory)
        return self.create(
            name,
            max_pages=max_pages,
            target_pages=max_pages if target is None else parse_superpages(target),
            settings=GuestSettings(self._strategy.driver, verify=verify, kernel_pages=kernel_pages),
            workload=make_workload(workload) if isinstance(workload, str) else workload,
            domain_type=domain_type or self._strategy.domain_type,
        )

    def add_dom0(self, memory: str | int, target: str | int | None = None, *, persistent_grants: bool = False) -> int:
        """Boot dom0, whose back end serves the disks of guests that do block I/O; returns its domid, 0.

        Sizes as in `add`. Raises as `add` does.
        """
        max_pages = parse_superpages(memory)
        return self.create(
            DOM0_NAME,
            domid=0,
            max_pages=max_pages,
            target_pages=max_pages if target is None else parse_superpages(target),
            settings=GuestSettings(self._strategy.driver, block_back_end=BlockBackEnd(persistent=persistent_grants)),
        )


@contextmanager
def host(memory: str | int = "1g", *, strategy: str = DEFAULT_STRATEGY, seed: int = 0) -> Iterator[Host]:
    """Run a host with *memory* for the length of a `with` block, then audit it.

    Args:
        memory: of the host, such as `4g`, or a number of MiB; a multiple of 2 MiB.
        strategy: the name of a strategy, for the host and its guests: a key of `xbd.config.strategies.STRATEGIES`.
        seed: of all random numbers; the same seed gives the same run.

    Raises:
        BadArgument: there is no such strategy; names the closest one and all known ones. Nothing was made.
        BadSize: *memory* is no size, or no multiple of 2 MiB: nothing is ever rounded. Nothing was made.
        AssertionError: at the end, with every violation that the audit found.
    """
    running = Host(parse_superpages(memory) // SUPER_PAGES, find_strategy(strategy), seed)
    with running.policies:
        yield running
    violations = running.check()
    assert not violations, "the host does not add up: " + "; ".join(violations)
