"""The statistics that a guest reports. They are its own claim: whoever reads them must not trust them."""

from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from xbd.guest.components import Components
from xbd.guest.zone import PageState
from xbd.units import PAGE_BYTES, PAGE_KIB

# Free memory or page cache that differs by less than this part of the guest's memory is the same to whoever acts on it.
_SAME_SHIFT: Final = 6
# Pressure matters in steps of 5 %.
_PRESSURE_STEPS: Final = 20


class Standing(NamedTuple):
    """What others act on of a guest's statistics: *exact* values, and *levels_pages*, where less than *least_pages* is no change."""

    exact: tuple[object, ...]
    levels_pages: tuple[int, ...]
    least_pages: int

    @classmethod
    def of(cls, components: Components) -> "Standing":
        """Take it from a guest's components, without counting the rest."""
        zone, programs = components.zone, components.programs
        wrong = (programs.pages_denied, programs.unmet_pages, programs.content_errors, components.io.mismatches)
        waits = (int(components.waits.pressure * _PRESSURE_STEPS), programs.queue.pages > 0)
        states = (components.worker.backoff.state, components.directives.mode, *waits)
        levels_pages = (zone.free.free_frames, programs.reclaimable_pages)
        least_pages = max(zone.gfn_count >> _SAME_SHIFT, 1)
        return cls((components.balloon.current_pages, *wrong, *states), levels_pages, least_pages)

    def matters_after(self, before: "Standing | None") -> bool:
        """Whether who acted on what was *before* might act otherwise now; None: nothing is known."""
        if before is None or self.exact != before.exact:
            return True
        levels = zip(self.levels_pages, before.levels_pages, strict=True)
        return any(abs(now - then) >= self.least_pages for now, then in levels)


@dataclass(frozen=True, slots=True)
class GuestStatistics:
    """A guest at one moment; counts since boot unless a name says otherwise.

    *available_pages*: what programs could get without another target: free beyond the kernel's reserve, and page cache.
    *pages_refaulted*: of the page cache, dropped and read again. *waiting_pages*: what programs wait for. *waited_ms*: time
    in which any program waited for memory or for such reading, at `REFAULT_S` a page; *pressure_ppm*: its share of the last
    ten seconds, in millionths.

    *ticks*: of the workload; *ticks_late*: those that came 100 ms after their time or later, as when the machine has too much
    to do, and after a pause or an outage, too; *tick_worst_ms*: how late the worst was. Of a guest that plays a trace the
    ticks are its samples: *ticks_skipped*: those whose time had passed, so that they were never played; *trace_s*: the
    time of the trace that is reached, *trace_rounds*: how often it has begun anew.

    *unmet_pages*: what programs want now and do not hold, as it was refused; *pages_denied* counts all that ever was.

    Block I/O, as a front end and as a back end together: *io_requests*: sent and received; *io_errors*: those that
    failed
    or were refused; *io_mismatches*: words, or requests, that were not what was written; *io_mapped_pages*: pages of other
    domains that are mapped now; *io_deferred_pages*: pages whose grants could not be ended yet.

    `current_kb`, `low_kb`, `high_kb`, `target_kb`, `target`, `schedule_delay`, `max_schedule_delay`, `retry_count` and
    `max_retry_count` are what Linux's Xen balloon driver shows in sysfs; `target` is in bytes there. *wake_when_told*: a
    worker that was refused tries again when it is told its target again or of free memory (1), or it does not (0).
    """

    gfn_count: int
    current_pages: int
    target_pages: int
    limit_pages: int
    aim_pages: int
    balloon_4k_pages: int
    balloon_2m_pages: int
    slots: int
    slots_max_pages: int
    slot_requests_refused: int
    isolated_pages: int
    guest_free_pages: int
    guest_free_superframes: int
    movable_pages: int
    unmovable_pages: int
    cache_pages: int
    pages_allocated: int
    pages_freed: int
    pages_denied: int
    unmet_pages: int
    cache_dropped: int
    available_pages: int
    pages_refaulted: int
    waiting_pages: int
    waited_ms: int
    pressure_ppm: int
    content_errors: int
    pages_inflated: int
    pages_deflated: int
    blocks_inflated: int
    blocks_deflated: int
    pages_migrated: int
    pages_half_done: int
    pages_not_migrated: int
    blocks_exchanged: int
    exchanges_failed: int
    migrations_without_headroom: int
    pages_moved: int
    failed_extents: int
    compaction_passes: int
    compaction_failures: int
    partly_ballooned: int
    io_requests: int
    io_pages_written: int
    io_pages_read: int
    io_errors: int
    io_mismatches: int
    io_mapped_pages: int
    io_deferred_pages: int
    ticks: int
    ticks_late: int
    tick_worst_ms: int
    ticks_skipped: int
    trace_s: int
    trace_rounds: int
    worker_state: str
    mode: str
    migration_way: str
    current_kb: int
    low_kb: int
    high_kb: int
    target_kb: int
    target: int
    schedule_delay: int
    max_schedule_delay: int
    retry_count: int
    max_retry_count: int
    wake_when_told: int

    def as_lies(self) -> "GuestStatistics":
        """Return what a guest in mode `lies` reports: that it has reached its target, and needs all of it."""
        return replace(
            self,
            current_pages=self.target_pages,
            current_kb=self.target_pages * PAGE_KIB,
            balloon_4k_pages=0,
            balloon_2m_pages=max(self.gfn_count - self.target_pages, 0),
            guest_free_pages=0,
            guest_free_superframes=0,
            movable_pages=self.target_pages,
            available_pages=0,
            pressure_ppm=1_000_000,
            worker_state="done",
        )


def count(components: Components) -> GuestStatistics:
    """Count everything about a guest, honestly."""
    return GuestStatistics(**_counts(components), **_sysfs(components))  # type: ignore[arg-type]  # two halves of one record


def _counts(components: Components) -> dict[str, int | str]:
    zone, balloon, programs, worker = components.zone, components.balloon, components.programs, components.worker
    player = components.player
    return {
        "gfn_count": zone.gfn_count,
        "current_pages": balloon.current_pages,
        "target_pages": components.directives.target_pages,
        "limit_pages": components.directives.limit_pages,
        "aim_pages": worker.aim_pages,
        "balloon_4k_pages": zone.total(PageState.BALLOON_4K),
        "balloon_2m_pages": zone.total(PageState.BALLOON_2M),
        "slots": components.slots.handed_out,
        "slots_max_pages": components.slots.limit_pages,
        "slot_requests_refused": components.slots.refused,
        "isolated_pages": zone.total(PageState.ISOLATED),
        "guest_free_pages": zone.free.free_frames,
        "guest_free_superframes": zone.free.free_superframes,
        "movable_pages": zone.total(PageState.MOVABLE),
        "unmovable_pages": zone.total(PageState.UNMOVABLE),
        "cache_pages": programs.reclaimable_pages,
        "pages_allocated": programs.pages_allocated,
        "pages_freed": programs.pages_freed,
        "pages_denied": programs.pages_denied,
        "unmet_pages": programs.unmet_pages,
        "cache_dropped": programs.cache_dropped,
        "available_pages": zone.spare_pages(zone.watermarks.min_pages) + programs.reclaimable_pages,
        "pages_refaulted": programs.pages_refaulted,
        "waiting_pages": programs.queue.pages,
        "waited_ms": int(components.waits.total_s * 1000),
        "pressure_ppm": round(components.waits.pressure * 1e6),
        "content_errors": programs.content_errors,
        "pages_inflated": components.transfers.pages_inflated,
        "pages_deflated": components.transfers.pages_deflated,
        "blocks_inflated": components.transfers.blocks_inflated,
        "blocks_deflated": components.transfers.blocks_deflated,
        "pages_migrated": components.migration.pages_migrated,
        "pages_half_done": components.migration.pages_half_done,
        "pages_not_migrated": components.migration.pages_unchanged,
        "blocks_exchanged": components.exchanger.blocks_exchanged,
        "exchanges_failed": components.exchanger.failures,
        "migrations_without_headroom": components.migration.refused_without_headroom,
        "pages_moved": components.compaction.pages_moved,
        "failed_extents": components.transfers.failed_extents,
        "compaction_passes": components.compaction.passes,
        "compaction_failures": components.compaction.failures,
        "partly_ballooned": balloon.partly_ballooned(),
        **components.io.counts(),
        "ticks": components.ticks.count,
        "ticks_late": components.ticks.late,
        "tick_worst_ms": int(components.ticks.worst_s * 1000),
        "ticks_skipped": player.skipped if player else 0,
        "trace_s": int(player.trace.seconds[player.at]) if player else 0,
        "trace_rounds": player.rounds if player else 0,
        "worker_state": str(worker.backoff.state),
        "mode": str(components.directives.mode),
        "migration_way": components.migration.way,
    }


def _sysfs(components: Components) -> dict[str, int]:
    zone, backoff = components.zone, components.worker.backoff
    return {
        "current_kb": components.balloon.current_pages * PAGE_KIB,
        "low_kb": zone.total(PageState.BALLOON_4K) * PAGE_KIB + zone.total(PageState.BALLOON_2M) * PAGE_KIB,
        # Ballooned high memory, a key of sysfs; the machines modelled here are 64-bit and have none.
        "high_kb": 0,
        "target_kb": components.directives.target_pages * PAGE_KIB,
        "target": components.directives.target_pages * PAGE_BYTES,
        "schedule_delay": backoff.schedule_delay,
        "max_schedule_delay": backoff.delay_max_s,
        "retry_count": backoff.retry_count,
        "max_retry_count": backoff.retry_max,
        "wake_when_told": int(components.worker.wakes_when_told),
    }
