"""What must hold when the faults have ended: all serves again, all that was promised is there, and in the end nothing is left."""

import os
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Final

import trio

from xbd.client.client import open_client
from xbd.daemons.runtime.state_dir import StateDir, make_machine
from xbd.errors import ConfigError, HypercallError
from xbd.lab.simulation.daemons.trace import Trace
from xbd.lab.simulation.shell import visitors
from xbd.lab.simulation.shell.damage import gone_of
from xbd.lab.simulation.shell.faulty_calls import FaultyCalls
from xbd.lab.simulation.shell.keeper import Keeper
from xbd.lab.simulation.shell.operators import LOST, Operator
from xbd.lab.simulation.shell.services import Places, make_another_host
from xbd.machine import HostSettings
from xbd.testing.oracle import Violation
from xbd.units import PAGE_KIB, SUPER_PAGES

# By then everything must serve again after the faults: a daemon is down for at most 2 s, a session is given up after
# 10, a peer that does not read after 10, an agent's pause is at most 30.
_HEALED_WITHIN_S: Final = 90.0
_POLL_S: Final = 0.5
_ANOTHER_S: Final = "another-0"
# Longer than three times an agent may be silent for.
_SILENT_WITHIN_S: Final = 45.0
_RAISES: Final = 4


class Healing:
    """Looks at a run from outside. Args: what it consists of."""

    def __init__(
        self,
        places: Places,
        keepers: Mapping[str, Keeper],
        operators: Sequence[Operator],
        clients: Sequence[visitors.StoreClient],
        trace: Trace,
    ) -> None:
        self._places = places
        self._keepers = keepers
        self._operators = operators
        self._clients = clients
        self._trace = trace

    async def await_all(self) -> None:
        """Wait until every daemon is up again. Raises Violation: one is not."""
        await self._until_nothing(self._what_is_down, "the faults")

    async def heal(self) -> None:
        """See that everything serves again, and that all is there that was promised. Raises Violation."""
        await self._until_nothing(self._what_is_missing, "the faults")
        self._trace.line("world", "all serves again")

    async def visit_another_host(self) -> None:
        """Start the hypervisor on another host's state, under the others that go on, and then on its own. Raises Violation."""
        mine, state, another = self._places.base / "mine", self._places.state, self._places.another
        async with open_client(self._places.hypervisor) as toolstack:
            domid = max((domain.domid for domain in await toolstack.list() if domain.state != "zombie"), default=1)
        make_another_host(self._places, _ANOTHER_S, domid)

        def leave() -> None:
            state.rename(mine)
            another.rename(state)

        def come_back() -> None:
            state.rename(another)
            mine.rename(state)

        async with trio.open_nursery() as nursery:
            await nursery.start(self._be_in_store_until_it_ends, domid)
            self._trace.line("world", "another host comes")
            await self._keepers["hypervisor"].restart(leave)
            await self._until_nothing(self._what_is_not_another_s, "another host came")
        self._trace.sometimes("another host was served under a living store")
        await self._keepers["hypervisor"].restart(come_back)
        await self.heal()

    async def _be_in_store_until_it_ends(self, domid: int, task_status: trio.TaskStatus[None]) -> None:
        """Hold a domain's connection to the store, if it has one. Raises Violation: it does not end with its domain."""
        try:
            stream = await trio.open_unix_socket(str(self._places.xenstored.parent / "domains" / f"{domid}.sock"))
        except OSError:
            task_status.started()
            return
        async with stream:
            task_status.started()
            with trio.move_on_after(_HEALED_WITHIN_S) as scope, suppress(trio.BrokenResourceError):
                await stream.receive_some(1)
        if scope.cancelled_caught:
            raise Violation(f"d{domid} of a host that is gone still has its connection to the store")
        self._trace.sometimes("a connection to the store ended with its domain")

    async def stop_agents(self, calls: FaultyCalls, names: Collection[str]) -> None:
        """Stop the agents, of these processes, for a while, and see that their domains show as silent, and then no longer. Raises Violation."""
        self._trace.line("world", "the agents are stopped")
        with calls.stopped(names):
            await trio.sleep(_SILENT_WITHIN_S)
            async with open_client(self._places.hypervisor) as toolstack:
                states = {domain.name: domain.state for domain in await toolstack.list() if domain.agent}
        if "running" in states.values():
            raise Violation(f"{_SILENT_WITHIN_S:g} s after their agents were stopped the domains are {states}")
        if states:
            self._trace.sometimes("agents that were stopped were shown as silent")
        await self.heal()

    async def raise_a_limit(self) -> None:
        """Raise a domain's limit, and as soon as that is answered write a target of that into the store. Raises Violation."""
        async with open_client(self._places.hypervisor) as toolstack:
            most = _RAISES * SUPER_PAGES
            try:
                domid = await toolstack.create("raised", max_pages=most, target_pages=SUPER_PAGES, autostart=False)
            except HypercallError as error:
                self._trace.line("world", f"no limit is raised: {error}")
                return
            for pages in range(2 * SUPER_PAGES, most + 1, SUPER_PAGES):
                await toolstack.set_max(domid, pages)
                await self._until_nothing(partial(self._what_is_not_shown, domid), "a domain was created")
                await self._clients[0].write(f"/local/domain/{domid}/memory/target", b"%d" % (pages * PAGE_KIB))
                await self._until_nothing(partial(self._what_is_not_aimed_at, domid, pages), "a target was written")
            await toolstack.destroy(domid)
        self._trace.sometimes("a target in the store was set beyond the limit of before")

    async def _what_is_not_shown(self, domid: int) -> str:
        shown = await self._clients[0].look_up(f"/local/domain/{domid}/memory/target")
        return "" if shown else f"d{domid} is not in the store"

    async def _what_is_not_aimed_at(self, domid: int, pages: int) -> str:
        async with open_client(self._places.hypervisor) as toolstack:
            target = (await toolstack.info(domid)).target_pages
        return "" if target == pages else f"d{domid} has a target of {target} pages, and the store says {pages}"

    async def _until_nothing(self, look: Callable[[], Awaitable[str]], since: str) -> None:
        """Look until nothing is missing. Raises Violation: something is for too long."""
        why = "nothing was tried"
        with trio.move_on_after(_HEALED_WITHIN_S):
            # It looks from outside, where nobody is told that something has changed.
            while why := await look():  # noqa: ASYNC110
                await trio.sleep(_POLL_S)
        if why:
            raise Violation(f"{_HEALED_WITHIN_S:g} s after {since}: {why}")

    async def _what_is_down(self) -> str:
        return next((f"{name} is down" for name, keeper in self._keepers.items() if not keeper.serves), "")

    async def _what_is_missing(self) -> str:
        """Look once at everything; says what does not serve yet, or nothing."""
        if down := await self._what_is_down():
            return down
        try:
            missing = await self._missing_of_host(self._operators)
            for client in self._clients:
                await client.look()
            async with open_client(self._places.autoballoon):
                pass  # it was greeted
            if not await visitors.scrape(self._places.metrics, self._trace):
                missing = missing or "the page of figures says that no host is up"
        except (*LOST, OSError, trio.BrokenResourceError) as error:
            return f"somebody is not answered: {type(error).__name__} {error}"
        return missing

    async def _what_is_not_another_s(self) -> str:
        """Look once at whether the other host's only domain has its agent, and is what the store shows."""
        client = self._clients[0]
        try:
            missing = await self._missing_of_host([])
            async with open_client(self._places.hypervisor) as toolstack:
                (domain,) = await toolstack.list()
            shown = await client.look_up(f"/local/domain/{domain.domid}/name")
            await client.look()
        except (*LOST, OSError, trio.BrokenResourceError) as error:
            return f"somebody is not answered: {type(error).__name__} {error}"
        return missing or ("" if shown == domain.name.encode() else f"the store shows {shown!r}, not {domain.name}")

    async def _missing_of_host(self, operators: Sequence[Operator]) -> str:
        async with open_client(self._places.hypervisor) as client:
            for operator in operators:
                await operator.look(client)
            violations = await client.audit()
            if violations:
                raise Violation(f"the audit finds {violations[0]}")
            for domain in await client.list():
                if domain.autostart and domain.state in ("waiting", "lost", "silent"):
                    return f"{domain.name} has no agent that answers, and is {domain.state}"
                if domain.agent and domain.report is None:
                    return f"{domain.name} has an agent, and no report"
        return ""

    def check_left(self, before: Mapping[int, str], may_stay: set[str]) -> None:
        """See that nothing is left but what is saved, and that a next daemon can use that. Raises Violation.

        Args:
            before: the descriptors that were open before.
            may_stay: the files whose removal failed.
        """
        after = descriptors()
        left = sorted(after[number] for number in after.keys() - before.keys())
        if left:
            raise Violation(f"descriptors are left open: {left}")
        # What the hypervisor that was dropped last had not done when it was.
        gone = gone_of(self._places.state)
        files = sorted(
            str(path.relative_to(self._places.base))
            for path in self._places.base.rglob("*")
            if (path.is_socket() or path.suffix == ".new") and str(path) not in may_stay and path.parent != gone
        )
        if files:
            raise Violation(f"files are left: {files}")
        try:
            state = StateDir(self._places.state)
            machine = make_machine(state, self._places.superframes, HostSettings())
        except ConfigError as error:
            raise Violation(f"what was saved cannot be used: {error}") from error
        violations = machine.audit()
        state.close(in_order=False)
        if violations:
            raise Violation(f"the audit of what was saved finds {violations[0]}")


def descriptors() -> dict[int, str]:
    """List this process's open descriptors and what they are."""
    found = {}
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - no paths are wanted
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}").partition(":")[0]  # noqa: PTH115
        except FileNotFoundError:
            continue  # the one that the listing itself had open
    return found
