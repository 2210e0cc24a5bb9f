"""Settings of a guest and of its balloon driver."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Final

from xbd.abi import BATCH_EXTENTS, MAX_IN_FLIGHT
from xbd.guest.watermarks import SMALLEST_REAL_PAGES
from xbd.settings import ListOf, Section, Setting, flag, number, whole

# Linux's former minimum_target() asked for 1/32 of the memory plus a constant, so that no target starves a guest.
FLOOR_SHIFT: Final = 5
# Slots may take an eighth of a guest: in one of 8 GiB as many as Xen lets a domain map (262,144), and far from
# starving it.
SLOTS_SHIFT: Final = 3
# The pages that a kernel takes at boot and never gives back: 46 MiB, and a struct page of 64 bytes for each page. Linux 6.1
# reserved 13,838 pages of 512 MiB. Of a smaller guest, which is a miniature of a real one, a fiftieth.
KERNEL_PAGES: Final = 11_790
PAGES_PER_STRUCT_PAGE: Final = 64
KERNEL_SHARE: Final = 50

# What one busy processor loses at least where all memory is in 4 KiB pages (3 % of its time), spent on moving pages at 5 us
# each, the most that one costs: beyond this, moving cannot pay for a guest with one busy processor (`xbd/docs/costs.md`).
MOVE_PAGES_S: Final = 6000.0

_MOST: Final = 1 << 31


def _queue(raw: object) -> str | None:
    """Accept the name of a queue; the import waits until one is written, for queues need numpy and the presets do not."""
    from xbd.guest.balloon.queues import QUEUES  # noqa: PLC0415 - see above

    return raw if isinstance(raw, str) and raw in QUEUES else None


def _choice_of_queues(names: tuple[str, ...]) -> tuple[str, ...] | None:
    """Accept what a balloon can be made of."""
    from xbd.guest.balloon.queues import can_serve  # noqa: PLC0415 - as in `_queue`

    return names if can_serve(names) else None


@dataclass(frozen=True, slots=True)
class DriverSettings:
    """The balloon driver; the defaults are the improved driver with Linux's numbers."""

    queues: Annotated[
        tuple[str, ...],
        ListOf(
            item=Setting(expected='one of "2m", "4k", "stack", "movable-stack", "foreign"', accept=_queue),
            expected="queues each once, with just one of 4 KiB pages (4k, stack or movable-stack)",
            accept=_choice_of_queues,
            doc="in which order deflation serves them; each once, and one of 4 KiB pages",
        ),
    ] = ("2m", "4k", "foreign")
    migration: Annotated[bool, flag("whether pages are moved to keep the balloon in 2 MiB pages")] = True
    unmovable: Annotated[
        bool, flag("whether ballooned pages are unmovable, as in Linux today, taken in descending runs")
    ] = False
    smallest_first: Annotated[
        bool,
        flag(
            "whether single pages are asked for as programs ask, the smallest free pieces first, as virtio-balloon does"
        ),
    ] = False
    linux_compaction: Annotated[
        bool, flag("whether the kernel compacts as Linux does; false: the driver compacts, if its pages migrate")
    ] = False
    report_free_s: Annotated[
        float,
        number(
            "whole blocks free for so long go to the host (by the queue 2m), no target counts; 0: never",
            0,
            _MOST,
            "seconds",
        ),
    ] = 0.0
    batch_extents: Annotated[int, whole("the most extents in one hypercall", 1, BATCH_EXTENTS)] = BATCH_EXTENTS
    commands_in_flight: Annotated[int, whole("the most hypercalls under way", 1, MAX_IN_FLIGHT)] = MAX_IN_FLIGHT
    delay_max_s: Annotated[int, whole("Linux's max_schedule_delay", 0, _MOST, "seconds")] = 32
    retry_max: Annotated[int, whole("Linux's max_retry_count; 0: for ever", 0, _MOST)] = 4
    wake_on_free_pages: Annotated[
        int, whole("a cancelled inflation is tried again when so many became free; 0: never, as in Linux", 0, _MOST)
    ] = 512
    wake_when_told: Annotated[
        bool,
        flag(
            "whether a worker that was refused memory tries again at once when its target or limit is set, or the host"
            " has memory for it; false: only another target wakes it, as in Linux"
        ),
    ] = True
    keeps_to_limit: Annotated[
        bool,
        flag(
            "whether the driver aims no higher than its domain's limit; false: it is refused what is beyond, as Linux is"
        ),
    ] = True
    floor_pages: Annotated[
        int | None, whole("the driver aims no lower; left out: 1/32 of the guest's frames", 0, _MOST)
    ] = None
    slots_max_pages: Annotated[
        int | None, whole("the most frames handed out as slots; left out: an eighth of them; 0: none", 0, _MOST)
    ] = None
    vacate_blocks: Annotated[
        int, whole("blocks emptied at a time for an inflation that finds none wholly free; 0: none", 0, _MOST)
    ] = 64
    compaction_check_s: Annotated[float, number("how often is looked for what to migrate", 0, _MOST, "seconds")] = 0.5
    compaction_batches: Annotated[int, whole("batches migrated at a time", 0, _MOST)] = 64
    move_pages_s: Annotated[
        float,
        number("in-use pages that the driver moves in a second at most, saved up for an hour; 0: no bound", 0, _MOST),
    ] = MOVE_PAGES_S
    exchange_worker_s: Annotated[
        float,
        number("the period of a worker that swaps 512 single pages for one; 0: there is none", 0, _MOST, "seconds"),
    ] = 0.0

    def floor(self, gfn_count: int) -> int:
        """Return the pages below which the driver never goes."""
        floor = gfn_count >> FLOOR_SHIFT if self.floor_pages is None else self.floor_pages
        return min(floor, gfn_count)

    def slots_limit(self, gfn_count: int) -> int:
        """Return how many gfns may be handed out as slots at a time."""
        return gfn_count >> SLOTS_SHIFT if self.slots_max_pages is None else self.slots_max_pages


# Linux's driver as it is: one thread, which waits for each hypercall, and is told its target alone.
_STOCK: Final = DriverSettings(
    queues=("stack", "foreign"),
    migration=False,
    unmovable=True,
    linux_compaction=True,
    commands_in_flight=1,
    keeps_to_limit=False,
    wake_on_free_pages=0,
    wake_when_told=False,
)
# The queues alone: blocks that are not whole stay so, and none are emptied.
_QUEUES: Final = DriverSettings(migration=False, vacate_blocks=0)
DRIVERS: Final[Mapping[str, DriverSettings]] = {
    "full": DriverSettings(),
    "stock": _STOCK,
    "linux-virtio": replace(
        _STOCK,
        queues=("movable-stack", "foreign"),
        migration=True,
        unmovable=False,
        smallest_first=True,
        # It tries again for ever, and soon.
        delay_max_s=1,
        retry_max=0,
    ),
    "full-linux": DriverSettings(linux_compaction=True),
    "reporting": DriverSettings(migration=False, vacate_blocks=0, linux_compaction=True, report_free_s=2.0),
    "queues": _QUEUES,
    # As often as Linux's kcompactd looks whether there is something to do (HPAGE_FRAG_CHECK_INTERVAL_MSEC).
    "worker": DriverSettings(exchange_worker_s=0.5),
    "worker-only": replace(_QUEUES, exchange_worker_s=0.5),
}


@dataclass(frozen=True, slots=True)
class BlockBackEnd:
    """Settings of a guest that serves other domains' block I/O."""

    persistent: Annotated[bool, flag("whether pages granted once stay granted and mapped")] = False


@dataclass(frozen=True, slots=True)
class GuestSettings:
    """One guest.

    *driver*: its balloon driver. *verify*: every content word is checked. *kernel_pages*: what its kernel holds (None:
    as much as Linux). *block_back_end*: it serves others' disks (None: it does not). *wear*: as if it had been up for
    long, the share of its free memory that lies in broken blocks as its programs begin; 0: it has just booted.
    *huge_pages*: its processes get transparent huge pages, and its kernel keeps free what these need. *patience_s*: for so
    long its programs ask again for memory that they did not get; 0: they end at once.
    *huge_pages*: its processes get transparent huge pages, and its kernel keeps free what these need. *count_faults*: first
    touches are counted, as a host that backs memory by faults has them (`backing`).
    """

    driver: DriverSettings = field(default_factory=DriverSettings)
    verify: bool = False
    kernel_pages: int | None = None
    block_back_end: BlockBackEnd | None = None
    wear: float = 0.0
    huge_pages: bool = True
    patience_s: float = 0.0
    count_faults: bool = False

    def kernel_footprint(self, populated_pages: int) -> int:
        """Count the pages that the kernel takes at boot."""
        wanted = self.kernel_pages
        if wanted is None:
            wanted = KERNEL_PAGES + populated_pages // PAGES_PER_STRUCT_PAGE
            if populated_pages < SMALLEST_REAL_PAGES:
                wanted = populated_pages // KERNEL_SHARE
        return min(wanted, populated_pages // 2)


def override_driver(driver: DriverSettings, options: Mapping[str, object]) -> DriverSettings:
    """Return *driver* with some settings replaced. Raises BadSetting, under `driver`."""
    overrides = Section(of=DriverSettings, only=()).check("driver", options)
    return replace(driver, **overrides)  # type: ignore[arg-type]  # each was checked, and is one of its fields
