"""What a guest says of itself. It is the guest's own word: whoever reads it must not trust it."""

from dataclasses import dataclass, replace

from xbd.units import PAGE_KIB


@dataclass(frozen=True, slots=True)
class GuestStatistics:
    """A guest at one moment; counts since boot unless a name says otherwise.

    `current_kb`, `low_kb`, `high_kb`, `target_kb`, `target`, `schedule_delay`, `max_schedule_delay`, `retry_count` and
    `max_retry_count` are what Linux's Xen balloon driver shows in sysfs; `target` is in bytes there.
    """

    gfn_count: int
    current_pages: int
    target_pages: int
    limit_pages: int
    aim_pages: int
    balloon_4k_pages: int
    balloon_2m_pages: int
    slots: int
    isolated_pages: int
    guest_free_pages: int
    guest_free_superframes: int
    movable_pages: int
    unmovable_pages: int
    cache_pages: int
    pages_allocated: int
    pages_freed: int
    pages_denied: int
    cache_dropped: int
    content_errors: int
    pages_inflated: int
    pages_deflated: int
    pages_migrated: int
    pages_half_done: int
    pages_moved: int
    failed_extents: int
    compaction_passes: int
    compaction_failures: int
    partly_ballooned: int
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

    def as_lies(self) -> "GuestStatistics":
        """Return what a guest in mode `lies` reports: it claims to have reached its target, and to need it all."""
        return replace(
            self,
            current_pages=self.target_pages,
            current_kb=self.target_pages * PAGE_KIB,
            balloon_4k_pages=0,
            balloon_2m_pages=max(self.gfn_count - self.target_pages, 0),
            guest_free_pages=0,
            guest_free_superframes=0,
            movable_pages=self.target_pages,
            worker_state="done",
        )
