"""Settings of a guest and of its balloon driver."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Final

from xbd.abi import BATCH_EXTENTS, MAX_IN_FLIGHT
from xbd.errors import BadArgument

# Linux's former minimum_target() asked for 1/32 of the memory plus a constant, so that no target starves a guest.
FLOOR_SHIFT: Final = 5
# Slots may take an eighth of a guest: in one of 8 GiB as many as Xen lets a domain map (262,144), and far from
# starving it.
SLOTS_SHIFT: Final = 3
# The pages that a kernel takes at boot and never gives back: 16 MiB, or a fiftieth of a small guest.
KERNEL_PAGES: Final = 4096
KERNEL_SHARE: Final = 50


@dataclass(frozen=True, slots=True)
class DriverSettings:
    """The balloon driver; the defaults are the improved driver with Linux's numbers.

    *queues*: names of `balloon.queues.QUEUES`, in the order in which deflation serves them. *unmovable*: ballooned
    pages are unmovable allocations, as in Linux today, taken in descending runs. *retry_max* is sysfs's
    max_retry_count (0: for ever), *delay_max_s* its max_schedule_delay. *wake_on_free_pages*: a cancelled inflation
    is tried again when so many pages became free (0: never, as in Linux). *floor_pages*: the driver aims no lower
    (None: 1/32 of the gfns). *wake_when_told*: a worker that was refused memory tries again at once when its target is
    set, also to the same value,
    when its limit is set, or when the host has memory for it (False: only another target wakes it, as in Linux).
    *slots_max_pages*: the most gfns handed out as slots at a time (None: an eighth of them; 0: none).
    *vacate_blocks*: how many blocks are emptied at a time for an inflation that finds none wholly free (0: none; the
    inflation goes on by single pages, and migration tidies up after it). *exchange_worker_s*: the
    period of a worker that exchanges 512 ballooned single pages for a 2 MiB page (0: there is none).
    """

    queues: tuple[str, ...] = ("2m", "4k", "foreign")
    migration: bool = True
    unmovable: bool = False
    batch_extents: int = BATCH_EXTENTS
    commands_in_flight: int = MAX_IN_FLIGHT
    delay_max_s: int = 32
    retry_max: int = 4
    wake_on_free_pages: int = 512
    wake_when_told: bool = True
    floor_pages: int | None = None
    slots_max_pages: int | None = None
    vacate_blocks: int = 64
    compaction_check_s: float = 0.5
    compaction_batches: int = 64
    exchange_worker_s: float = 0.0

    def floor(self, gfn_count: int) -> int:
        """Return the pages below which the driver never goes."""
        floor = gfn_count >> FLOOR_SHIFT if self.floor_pages is None else self.floor_pages
        return min(floor, gfn_count)

    def slots_limit(self, gfn_count: int) -> int:
        """Return how many gfns may be handed out as slots at a time."""
        return gfn_count >> SLOTS_SHIFT if self.slots_max_pages is None else self.slots_max_pages


# Linux's driver as it is.
_STOCK: Final = DriverSettings(
    queues=("stack", "foreign"), migration=False, unmovable=True, wake_on_free_pages=0, wake_when_told=False
)
# The queues alone: blocks that are not whole stay so, and none are emptied.
_QUEUES: Final = DriverSettings(migration=False, vacate_blocks=0)
DRIVERS: Final[Mapping[str, DriverSettings]] = {
    "full": DriverSettings(),
    "stock": _STOCK,
    "queues": _QUEUES,
    # As often as Linux's kcompactd looks whether there is something to do (HPAGE_FRAG_CHECK_INTERVAL_MSEC).
    "worker": DriverSettings(exchange_worker_s=0.5),
    "worker-only": replace(_QUEUES, exchange_worker_s=0.5),
}


@dataclass(frozen=True, slots=True)
class BlockBackEnd:
    """Settings of a guest that serves other domains' block I/O; *persistent*: pages granted once stay mapped."""

    persistent: bool = False


@dataclass(frozen=True, slots=True)
class GuestSettings:
    """One guest.

    *driver*: its balloon driver. *verify*: every content word is checked. *kernel_pages*: what its kernel holds (None:
    a small share). *block_back_end*: it serves others' disks (None: it does not).
    """

    driver: DriverSettings = field(default_factory=DriverSettings)
    verify: bool = False
    kernel_pages: int | None = None
    block_back_end: BlockBackEnd | None = None

    def kernel_footprint(self, populated_pages: int) -> int:
        """Count the pages that the kernel takes at boot."""
        wanted = min(KERNEL_PAGES, populated_pages // KERNEL_SHARE) if self.kernel_pages is None else self.kernel_pages
        return min(wanted, populated_pages // 2)


def override_driver(driver: DriverSettings, options: Mapping[str, object]) -> DriverSettings:
    """Return *driver* with some settings replaced; BadArgument names an unknown one or a wrong type."""
    known = {f.name: getattr(driver, f.name) for f in fields(driver)}
    checked: dict[str, object] = {}
    for name, chosen in options.items():
        if name not in known:
            raise BadArgument(f"the balloon driver has no setting {name!r}", ", ".join(known))
        checked[name] = _checked(name, chosen, known[name])
    return replace(driver, **checked)  # type: ignore[arg-type]  # each was checked against the default's type


def _checked(name: str, chosen: object, default: object) -> object:
    """Check one setting against the type of its default."""
    if name == "queues":
        if isinstance(chosen, list | tuple) and chosen and all(isinstance(queue, str) for queue in chosen):
            from xbd.guest.balloon.queues import check_queue_names  # noqa: PLC0415 - it needs numpy, the presets do not

            names = tuple(str(queue) for queue in chosen)
            check_queue_names(names)
            return names
        raise BadArgument(f"driver setting queues = {chosen!r}", "a list of queue names")
    if isinstance(default, bool):
        if isinstance(chosen, bool):
            return chosen
        raise BadArgument(f"driver setting {name} = {chosen!r}", "true or false")
    if isinstance(chosen, bool) or not isinstance(chosen, int | float) or chosen < 0:
        raise BadArgument(f"driver setting {name} = {chosen!r}", "a number, 0 or more")
    if not isinstance(default, float) and not isinstance(chosen, int):
        raise BadArgument(f"driver setting {name} = {chosen!r}", "a whole number")
    least, most = {"batch_extents": (1, BATCH_EXTENTS), "commands_in_flight": (1, MAX_IN_FLIGHT)}.get(
        name, (0, 1 << 31)
    )
    if not least <= chosen <= most:
        raise BadArgument(f"driver setting {name} = {chosen!r}", f"{least} to {most}")
    return chosen
