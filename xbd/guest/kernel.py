"""The guest kernel: one step function over zone, workload, balloon worker and compaction.

`Guest.step(event, now)` applies an event, starts what is due in a fixed order (workload, worker,
block I/O, compaction), lets every procedure go on as far as it can, and answers with the commands to
send and the time to look again. It performs nothing itself: whoever calls it carries the commands.
"""

from dataclasses import replace
from typing import Final, assert_never

import numpy as np

from xbd.abi import BootInfo, Frames
from xbd.arrays import repeats
from xbd.guest.backing import Backing
from xbd.guest.balloon.backoff import WorkerState
from xbd.guest.boot import lay_out
from xbd.guest.components import Components
from xbd.guest.events import (
    Answered,
    CompactAsked,
    Demand,
    Event,
    LimitSet,
    MemoryFreed,
    MessagesWaiting,
    ModeSet,
    Note,
    ShutdownAsked,
    Step,
    TargetSet,
    Tick,
)
from xbd.guest.mode import ModeKind
from xbd.guest.procedures import Procedure, Procedures
from xbd.guest.settings import GuestSettings
from xbd.guest.state import REFAULT_S, REFUSED_S
from xbd.guest.statistics import GuestStatistics, Standing, count
from xbd.guest.workload.holdings import Pool
from xbd.guest.workload.playing import Player
from xbd.guest.workload.profiles import Driven, Goals, Workload
from xbd.guest.zone import PageState
from xbd.units import round_down

# A trace's demand can be met and unmet again at each of its samples.
UNMET_NOTE_EVERY_S: Final = 60.0


class Guest:
    """One booted guest.

    Args:
        boot: what the hypervisor told it of itself.
        settings: its driver, and whether content words are checked.
        seed: of all its randomness and of its content words.
        workload: what it runs; `Driven` for one that `Demand` events drive.

    Attributes: *domid*, *name*; *shut_down*: the guest has ended, and nothing of it is in flight.
    """

    def __init__(self, boot: BootInfo, settings: GuestSettings, seed: int, workload: Workload) -> None:
        self.domid = boot.domid
        self.name = boot.name
        self.shut_down = False
        self._workload = workload
        self._rng = np.random.default_rng(seed)
        components = self._components = Components.build(boot, settings, seed, workload, self._rng)
        self._clock, self._directives, self._zone = components.clock, components.directives, components.zone
        self._balloon, self._programs, self._migration = components.balloon, components.programs, components.migration
        self._compaction, self._worker, self._exchanger = components.compaction, components.worker, components.exchanger
        self._reporting = components.reporting
        self._slots, self._io, self._backing = components.slots, components.io, components.backing
        self._procedures = Procedures(self._programs.pages_lock, self._balloon.token)
        self._kernel_pages = self._boot(boot, settings)
        self._goals: Goals | None = None
        self._workload_running = False
        self._programs_began = False
        self._ticks, self._waits = components.ticks, components.waits
        self._player, self._plays_since = components.player, 0.0
        self._next_tick: float | None = 0.0 if workload.tick_s or self._player else None
        self._noted: tuple[WorkerState, int, int] = (WorkerState.DONE, self._balloon.current_pages, 0)
        self._noted_no_headroom = False
        self._noted_mismatches = 0
        self._unmet_noted_at: float | None = None
        self._notes: list[Note] = []

    def _boot(self, boot: BootInfo, settings: GuestSettings) -> int:
        """Give every gfn its first state; returns how many pages the kernel keeps for itself."""
        laid_out = lay_out(boot.runs, boot.gfn_count)
        # Pages that fill no whole block are the kernel's: they can never be part of a 2 MiB page.
        ends_at = round_down(boot.gfn_count)
        tail = laid_out.populated_pages[laid_out.populated_pages >= ends_at]
        self._zone.adopt_free(laid_out.populated_blocks, laid_out.populated_pages[laid_out.populated_pages < ends_at])
        self._zone.adopt(tail, PageState.UNMOVABLE)
        self._balloon.adopt(laid_out)
        wanted = max(settings.kernel_footprint(laid_out.populated) - tail.size, 0)
        kernel_pages = int(tail.size) + self._zone.allocate_for_good(wanted)
        if self._backing is not None:
            self._backing.use(self._zone.unmovable())
        return kernel_pages

    # -- steps

    def step(self, event: Event, now: float) -> Step:
        """Apply one event and go on as far as possible.

        Args:
            event: what happened; results come back in the order in which commands were sent.
            now: seconds, never less than before.

        Returns:
            Commands to carry out in this order (with those in flight never more than 8), when to call with `Tick` if
            nothing else happens first, and notes for a log.
        """
        self._clock.now = now
        self._waits.pass_to(now)
        self._apply(event)
        commands = self._procedures.run()
        while not self._directives.stopping and self._start_due():
            commands += self._procedures.run()
        self._note_changes()
        notes, self._notes = self._notes, []
        return Step(commands, None if self._directives.stopping else self._deadline(), notes)

    def _apply(self, event: Event) -> None:
        match event:
            case Answered(results):
                self._procedures.answer(results)
            case TargetSet() | LimitSet() | ModeSet() | ShutdownAsked():
                self._obey(event)
            case Demand(anon_pages, cache_pages, cache_reads, at_random):
                self._demand(anon_pages, cache_pages, cache_reads, at_random=at_random)
            case MessagesWaiting():
                self._io.messages_waiting()
            case CompactAsked():
                self._compaction.ask()
            case MemoryFreed():
                self._worker.retry_on_room()
            case Tick():
                pass
            case _ as unreachable:
                assert_never(unreachable)

    def _obey(self, event: TargetSet | LimitSet | ModeSet | ShutdownAsked) -> None:
        """Do as it is told from outside."""
        match event:
            case TargetSet(pages):
                self._directives.target_pages = pages
                self._worker.retry_on_target()
            case LimitSet(pages):
                self._directives.limit_pages = pages
                self._worker.retry_on_room()
            case ModeSet(mode):
                self._directives.mode = mode
                self._notes.append(Note("mode", {"mode": str(mode)}))
            case ShutdownAsked():
                self._directives.stopping = True

    def _demand(self, anon_pages: int, cache_pages: int, cache_reads: int | None, *, at_random: bool = False) -> None:
        """Set the goals of a driven workload; what the kernel holds anyway is part of the demand."""
        assert isinstance(self._workload, Driven), f"guest {self.name} is not driven by demand: {self._workload}"
        goals = self._workload.demanded(max(anon_pages - self._kernel_pages, 0), cache_pages, cache_reads)
        self._goals = replace(goals, at_random=at_random)

    def _start_due(self) -> bool:
        """Start the procedures that are due, in a fixed order; says whether there was one."""
        started = False
        if self._goals_due():
            self._workload_running = True
            self._procedures.start(self._run_workload())
            started = True
        if self._worker.due():
            self._worker.running = True
            self._procedures.start(self._run_worker())
            started = True
        if self._exchanger.due():
            self._exchanger.running = True
            self._procedures.start(self._exchanger.run())
            started = True
        for procedure in self._io.start_due():
            self._procedures.start(procedure)
            started = True
        if self._reporting.due():
            self._reporting.running = True
            self._procedures.start(self._reporting.run())
            started = True
        # Last, because it tidies up the blocks that the others have just left partly ballooned.
        if self._compaction.due():
            self._compaction.running = True
            self._procedures.start(self._compaction.run())
            started = True
        return started

    def _goals_due(self) -> bool:
        if self._workload_running:
            return False
        if self._next_tick is not None and self._clock.now >= self._next_tick:
            tick, now = self._ticks.count, self._clock.now
            if self._player is not None:
                self._play(self._player, now, self._next_tick)
                return self._goals is not None
            self._goals = self._workload.goals(self._zone.gfn_count, tick, self._rng)
            self._ticks.came(now, self._next_tick)
            self._next_tick = None if self._workload.settled(tick) else now + self._workload.tick_s
        return self._goals is not None

    def _play(self, player: Player, now: float, due: float) -> None:
        """Set the goals of the trace's sample that is due; playing begins with the first step."""
        if not self._ticks.count and not due:
            self._plays_since = now
            if gaps := player.trace.gap_lines:
                # Nothing is made up for them: what was held before each is held until its end.
                told: dict[str, int | str] = {"trace": player.trace.name, "gaps": len(gaps), "first_line": gaps[0]}
                self._notes.append(Note("trace_gaps", told))
        if player.advance(now - self._plays_since):
            self._ticks.came(now, due)
            self._demand(player.demand.anon_pages, player.demand.cache_pages, player.demand.cache_reads)
        due_s = player.due_s
        self._next_tick = None if due_s is None else self._plays_since + due_s

    def _run_workload(self) -> Procedure:
        goals, self._goals = self._goals, None
        assert goals is not None, "the workload was started without goals"
        programs = self._programs
        refaulted, denied = programs.pages_refaulted, programs.pages_denied
        yield from programs.reach(goals) if self._programs_began else programs.begin(goals)
        refused_s = REFUSED_S if programs.pages_denied > denied else 0.0
        self._waits.add((programs.pages_refaulted - refaulted) * REFAULT_S + refused_s)
        self._waits.stall(stalled=programs.queue.pages > 0)
        self._programs_began = True
        self._workload_running = False

    def _run_worker(self) -> Procedure:
        yield from self._worker.run()
        if self._balloon.partly_ballooned() > 0 or self._worker.blocks_lacking:
            self._compaction.wake()

    def _deadline(self) -> float | None:
        times = [self._worker.deadline(), self._compaction.deadline(), self._exchanger.deadline(), self._io.deadline()]
        times.append(self._waits.deadline())
        times.append(self._reporting.deadline())
        if not self._workload_running:
            times.append(self._next_tick)
        return min((time for time in times if time is not None), default=None)

    def _note_changes(self) -> None:
        state, current, errors = self._noted
        backoff = self._worker.backoff
        if backoff.state is not state:
            self._notes.append(Note("worker", {"state": str(backoff.state), "retry_count": backoff.retry_count}))
        settled = not self._worker.running and self._worker.credit() == 0
        if settled and self._balloon.current_pages != current:
            current = self._balloon.current_pages
            self._notes.append(Note("settled", {"pages": current}))
        if self._programs.content_errors > errors:
            errors = self._programs.content_errors
            self._notes.append(Note("content_errors", {"pages": errors}))
        if self._io.mismatches > self._noted_mismatches:
            self._noted_mismatches = self._io.mismatches
            self._notes.append(Note("io_mismatches", {"count": self._noted_mismatches}))
        if self._player is not None:
            self._note_unmet(self._player)
        if self._migration.lacks_headroom != self._noted_no_headroom:
            self._noted_no_headroom = self._migration.lacks_headroom
            if self._noted_no_headroom:
                fields = {"pages": self._balloon.current_pages, "limit_pages": self._directives.limit_pages}
                self._notes.append(Note("no_headroom", fields))
        self._noted = (backoff.state, current, errors)
        if self._directives.stopping and not self.shut_down and not self._procedures.in_flight_count:
            self.shut_down = True
            self._notes.append(Note("shutdown"))

    def _note_unmet(self, player: Player) -> None:
        """Note that the trace's demand is not met, and then again once a minute while it is not."""
        pages, now = self._programs.unmet_pages, self._clock.now
        if pages and (self._unmet_noted_at is None or now - self._unmet_noted_at >= UNMET_NOTE_EVERY_S):
            self._unmet_noted_at = now
            trace_s = round(float(player.trace.seconds[player.at]), 2)
            self._notes.append(Note("demand_unmet", {"pages": pages, "trace": player.trace.name, "trace_s": trace_s}))

    # -- queries

    @property
    def quiet(self) -> bool:
        """Whether no command is in flight."""
        return self._procedures.in_flight_count == 0

    def statistics(self) -> GuestStatistics:
        """Count everything; in mode `lies`, lie."""
        honest = count(self._components)
        return honest.as_lies() if self._directives.mode.kind is ModeKind.LIES else honest

    def take_waited(self) -> list[tuple[float, float]]:
        """Return when programs asked for memory and how long it took until they had it, in seconds, since this was asked last."""
        return self._programs.queue.take_waited()

    def end_waiting(self) -> int:
        """Let no program wait for memory any more; returns how many pages were waited for, which they never had."""
        return self._programs.queue.end(self._clock.now)

    @property
    def backing(self) -> Backing | None:
        """What counts its faults; None without `GuestSettings.count_faults`."""
        return self._backing

    def free_by_order(self) -> Frames:
        """Count the free pages by the order of the piece that they lie in: (10,) int64, those of whole blocks last."""
        return self._zone.free_by_order()

    def report(self) -> dict[str, int | str]:
        """Return the statistics as a plain map, for the wire."""
        statistics = self.statistics()
        return {name: getattr(statistics, name) for name in GuestStatistics.__slots__}

    def standing(self) -> Standing:
        """Return what others act on of its statistics."""
        return Standing.of(self._components)

    def check(self) -> list[str]:
        """Recompute every counter and say what disagrees; what is in flight is left out where it must be."""
        wrong = self._zone.check() + self._balloon.check() + self._slots.check()
        if self.quiet:
            wrong += self._programs.check() + self._io.check()
            wrong += self._check_unmovable()
            if self._zone.total(PageState.ISOLATED):
                wrong.append(f"guest: {self._zone.total(PageState.ISOLATED)} pages are isolated with nothing in flight")
        return wrong

    def _check_unmovable(self) -> list[str]:
        """Compare the unmovable pages with those that the kernel, its programs and its block I/O hold."""
        pages, _ = self._io.held()
        held = self._kernel_pages + self._programs.holdings.pages[Pool.KERNEL] + pages.size
        wrong = np.count_nonzero(self._zone.state[pages] != PageState.UNMOVABLE) + repeats(pages).size
        if wrong or held != self._zone.total(PageState.UNMOVABLE):
            unmovable = self._zone.total(PageState.UNMOVABLE)
            return [f"guest: {unmovable} pages are unmovable, {held} are held so, {wrong} of them for I/O are not"]
        return []

    def slots(self) -> Frames:
        """List the gfns that are slots, ascending."""
        return np.flatnonzero(self._zone.state == PageState.SLOT)

    def grants(self) -> Frames:
        """List the references of what it has granted; complete while nothing is in flight."""
        _, refs = self._io.held()
        return refs[refs >= 0]
