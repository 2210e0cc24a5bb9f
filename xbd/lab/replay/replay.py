"""Replay real guests' traces on an emulated host, in one process, on virtual time.

Each trace drives one guest: at every sample its programs hold what the real guest held. Targets follow demand and are
set at every sample: a policy divides the host's memory, first guests above their targets shrink, then the others grow,
and only then do programs ask for new memory. Memory that is not available is denied and counted. The host is smaller than its guests together (*overcommit*).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from xbd.config.strategies import Strategy
from xbd.errors import BadArgument
from xbd.guest import GuestSettings
from xbd.guest.workload import Driven, Player, Trace
from xbd.lab.costs.bill import bill, slowdown_s
from xbd.lab.costs.counts import Counts, counts_of
from xbd.lab.costs.prices import Prices
from xbd.lab.costs.waits import Wait, WaitLog, p99_s
from xbd.lab.replay.variants import AS_THE_STRATEGY_SAYS, find_variant
from xbd.policy import Share, share_out
from xbd.testing.virtual_host import VirtualHost
from xbd.units import SUPER_PAGES, round_down, round_to_superpages, round_up

# Free memory that a guest is left with beyond its demand, so that small growth need not wait for its balloon: 1/64.
_RESERVE_SHARE = 64
# No target is below this share of a guest's memory, as no operator would set one.
_LEAST_SHARE = 32


@dataclass(frozen=True, slots=True)
class ReplayOptions:
    """How to replay: *overcommit* is the guests' memory over the host's; *verify* checks every content word.

    *variant* is of `VARIANTS`. *slack*: the share of the host that is never given out. *counted*: what prices are applied to
    is recorded; it takes a little longer.
    """

    strategy: Strategy
    overcommit: float = 1.5
    seed: int = 0
    verify: bool = False
    variant: str = AS_THE_STRATEGY_SAYS
    slack: float = 0.0
    counted: bool = False


@dataclass(frozen=True, slots=True)
class GuestReport:
    """The results of one trace's guest; *hypercalls* by `operation:stop`, means are over trace time.

    *migration_way*: the way in use at the end; *pages_migrated*: ballooned pages that moved, of them *pages_half_done*
    only half; *migrations_without_headroom*: batches of two calls that found no page of headroom.
    """

    trace: str
    superpage_coverage: float
    superpage_coverage_mean: float
    guest_free_superframes: int
    guest_free_pages: int
    tot_pages: int
    hypercalls: dict[str, int]
    extents: dict[str, int]
    pages_moved: int
    pages_denied: int
    migration_way: str
    pages_migrated: int
    pages_half_done: int
    migrations_without_headroom: int


@dataclass(frozen=True, slots=True)
class Counted:
    """What prices are applied to, of one guest: *counts*, its *waits*, and *broken_s*, time weighted by memory in 4 KiB pages."""

    counts: Counts
    waits: list[Wait]
    broken_s: float

    def priced(self, prices: Mapping[str, float]) -> dict[str, Any]:
        """Apply prices; returns a map for JSON. *slowdown_cpu_s* is for each processor that is busy all the time."""
        cost = bill(self.counts, prices)
        return {
            "guest_cpu_s": cost.guest_cpu_s,
            "host_cpu_s": cost.host_cpu_s,
            "slowdown_cpu_s": slowdown_s(self.broken_s, prices),
            "traffic_bytes": cost.traffic_bytes,
            "wait_p99_s": p99_s(self.waits, prices),
            "waits": len(self.waits),
            "broken_s": self.broken_s,
            "counts": asdict(self.counts),
        }


@dataclass(frozen=True, slots=True)
class ReplayReport:
    """The results of a replay; equal for equal seeds, but for *elapsed_s* in the map. *counted*: by guest, or empty."""

    strategy: str
    variant: str
    seed: int
    guests: list[GuestReport]
    host_pages: int
    host_free_in_whole_superframes: float
    pages_allocated_and_freed: int
    samples: int
    trace_s: float
    content_errors: int
    violations: list[str]
    counted: list[Counted]

    def as_map(self, elapsed_s: float, prices: Prices | None = None) -> dict[str, object]:
        """Return it as a map for JSON; with *prices* (of a replay that was counted) each guest has what it cost."""
        told = asdict(replace(self, counted=[]))
        del told["counted"]
        if prices is not None:
            told["prices"] = prices.name
            for guest, counted in zip(told["guests"], self.counted, strict=True):
                guest.update(counted.priced(prices.values()))
        return {**told, "elapsed_s": round(elapsed_s, 3)}


class Replay:
    """One replay: `run` yields the trace time after each sample, then `report` returns the results.

    Attributes: *host*; *domids*: the traces' guests, in their order.

    Raises BadArgument: no such variant, or the traces cannot run together on such a host.
    """

    def __init__(self, traces: Sequence[Trace], options: ReplayOptions) -> None:
        if not traces:
            raise BadArgument("no trace to replay", "at least one")
        if not options.overcommit >= 1:
            raise BadArgument(f"overcommit {options.overcommit}", "1 or more: the guests' memory over the host's")
        self.traces = list(traces)
        self.options = options
        superframes = int(sum(t.total_pages for t in traces) / options.overcommit) // SUPER_PAGES
        if superframes < 2 * len(traces):
            raise BadArgument(f"a host of {superframes} superframes for {len(traces)} guests", "a lower overcommit")
        self._variant = find_variant(options.variant)
        self.host = VirtualHost(superframes, self._variant.apply(options.strategy.host), seed=options.seed)
        self.host.limit_beyond_pages = options.strategy.limit_beyond_pages
        self._pages = superframes * SUPER_PAGES
        self._pages_given_out = int(superframes * (1 - options.slack)) * SUPER_PAGES
        self._players = [Player(trace) for trace in self.traces]
        self._coverage = np.zeros(len(traces))
        self._measured_s = 0.0
        self.domids = [self._create(trace, target) for trace, target in zip(traces, self._targets(), strict=True)]
        self._log = (
            WaitLog(self.host, self.domids, to_targets=not options.strategy.driver.report_free_s)
            if options.counted
            else None
        )

    def _create(self, trace: Trace, target_pages: int) -> int:
        return self.host.create(
            f"{trace.name}.{len(self.host.domids())}",
            max_pages=round_up(trace.total_pages),
            target_pages=round_to_superpages(target_pages),
            gfn_count=trace.total_pages,
            domain_type=self._variant.domain_type or self.options.strategy.domain_type,
            settings=GuestSettings(
                self.options.strategy.driver,
                verify=self.options.verify,
                wear=trace.wear,
                count_faults=self.options.counted,
            ),
            workload=Driven(),
        )

    def run(self) -> Iterator[float]:
        """Replay sample by sample, in the order of time; yields the trace time reached."""
        for now, changed in self._samples():
            self.host.advance(now)
            self._measure(now)
            if self._log is not None:
                self._log.close(now)
            before = [self.host.machine.domain(domid).target_pages for domid in self.domids]
            targets = self._targets()
            self._step(changed, before, targets)
            if self._log is not None:
                self._log.open(now, *_who(before, targets, [i for i in changed if self._demand_rises(i)]))
            yield now
        if self._log is not None:
            self._log.close(self.host.now)

    def _samples(self) -> Iterator[tuple[float, list[int]]]:
        """Iterate over the times at which traces have new samples, with the indices of those traces."""
        while due := [player.due_s for player in self._players if player.due_s is not None]:
            now = min(due)
            changed = [i for i, player in enumerate(self._players) if player.due_s == now]
            for i in changed:
                self._players[i].step()
            yield now, changed

    def _step(self, changed: list[int], before: list[int], targets: list[int]) -> None:
        """Apply new samples: guests that shrink go first, so that the others find free memory."""
        host = self.host
        falling = [i for i in changed if self._demand_falls(i)]
        for i in falling:
            host.send(self.domids[i], self._players[i].demand)
        for grows in (False, True):
            for domid, old, new in zip(self.domids, before, targets, strict=True):
                if old != new and grows == (new > old):
                    host.set_target(domid, new)
        for i in changed:
            if i not in falling:
                host.send(self.domids[i], self._players[i].demand)

    def demand_pages(self) -> dict[int, int]:
        """Return what the traces' programs ask for now, page cache included, by domid."""
        demands = [player.demand for player in self._players]
        return {domid: one.anon_pages + one.cache_pages for domid, one in zip(self.domids, demands, strict=True)}

    def _demand_falls(self, i: int) -> bool:
        trace, at = self.traces[i], self._players[i].at
        return at > 0 and int(trace.anon_pages[at]) < int(trace.anon_pages[at - 1])

    def _demand_rises(self, i: int) -> bool:
        trace, at = self.traces[i], self._players[i].at
        return at > 0 and int(trace.anon_pages[at]) > int(trace.anon_pages[at - 1])

    def _targets(self) -> list[int]:
        shares = []
        for player in self._players:
            total, demand = player.trace.total_pages, player.demand
            most = round_down(total)
            needed = demand.anon_pages + total // _RESERVE_SHARE
            shares.append(Share(needed, demand.cache_pages, max(most // _LEAST_SHARE, SUPER_PAGES), most))
        return share_out(self._pages_given_out, shares, self.options.strategy.granularity_pages)

    def _measure(self, now: float) -> None:
        """Add the coverage since the last sample, weighted by its time."""
        elapsed = max(now - self._measured_s, 0.0)
        for i, domid in enumerate(self.domids):
            self._coverage[i] += elapsed * self.host.machine.domain(domid).superpage_coverage
        self._measured_s = now

    def report(self) -> ReplayReport:
        """Audit the host and return the results."""
        violations = self.host.check()
        guests = [self._report_guest(i) for i in range(len(self.traces))]
        statistics = self.host.machine.statistics()
        return ReplayReport(
            strategy=self.options.strategy.name,
            variant=self.options.variant,
            seed=self.options.seed,
            guests=guests,
            host_pages=self._pages,
            host_free_in_whole_superframes=statistics.free_in_whole_superframes,
            pages_allocated_and_freed=sum(trace.allocated_and_freed_pages for trace in self.traces),
            samples=sum(trace.samples for trace in self.traces),
            trace_s=max(float(trace.seconds[-1]) for trace in self.traces),
            content_errors=sum(self.host.guest(domid).statistics().content_errors for domid in self.domids),
            violations=violations,
            counted=[self._counted(i, self._log) for i in range(len(self.traces))] if self._log is not None else [],
        )

    def _counted(self, i: int, log: WaitLog) -> Counted:
        broken_s = float(self._measured_s - self._coverage[i])
        return Counted(counts_of(self.host, self.domids[i]), log.waits[i], broken_s)

    def _report_guest(self, i: int) -> GuestReport:
        domid = self.domids[i]
        info, statistics = self.host.machine.domain_info(domid), self.host.guest(domid).statistics()
        return GuestReport(
            trace=self.traces[i].name,
            superpage_coverage=info.superpage_coverage,
            superpage_coverage_mean=float(self._coverage[i] / self._measured_s)
            if self._measured_s
            else info.superpage_coverage,
            guest_free_superframes=statistics.guest_free_superframes,
            guest_free_pages=statistics.guest_free_pages,
            tot_pages=info.tot_pages,
            hypercalls=dict(info.hypercalls),
            extents=dict(info.extents),
            pages_moved=statistics.pages_moved,
            pages_denied=statistics.pages_denied,
            migration_way=statistics.migration_way,
            pages_migrated=statistics.pages_migrated,
            pages_half_done=statistics.pages_half_done,
            migrations_without_headroom=statistics.migrations_without_headroom,
        )


def _who(before: list[int], targets: list[int], rising: list[int]) -> tuple[list[int], list[int]]:
    """Say who wants more memory, by target or demand, and who was told to shrink."""
    raised = [nth for nth, (old, new) in enumerate(zip(before, targets, strict=True)) if new > old]
    shrinking = [nth for nth, (old, new) in enumerate(zip(before, targets, strict=True)) if new < old]
    return sorted({*raised, *rising}), shrinking


def replay(
    traces: Sequence[Trace], options: ReplayOptions, watch: Callable[[float], None] | None = None
) -> ReplayReport:
    """Replay whole traces as fast as possible; *watch* is called with the trace time after each sample."""
    run = Replay(traces, options)
    for now in run.run():
        if watch is not None:
            watch(now)
    return run.report()
