"""Strategies: presets of settings for the hypervisor, its guests' balloon drivers and the toolstack.

A strategy sets the hypervisor and the drivers together, which share no other settings, and what the toolstack
rounds targets to: `stock` is today's Xen and Linux, `full` (the default) is what xbd is about. Between
them each line adds something to the one before it, so that what a part is worth can be measured; the
controls take one thing away from `full` (or `worker`), so that no part gets the credit of another.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from xbd.abi import LIST_EXTENTS, MAX_DOMAIN_PAGES, DomainType
from xbd.errors import unknown_name
from xbd.guest import DRIVERS, DriverSettings
from xbd.machine.settings import TODAYS_XEN, HostSettings
from xbd.target_rules import XL_BEYOND_PAGES
from xbd.units import SUPER_PAGES


@dataclass(frozen=True, slots=True)
class Strategy:
    """One way to go about memory.

    *host*: what the hypervisor does. *driver*: the balloon driver. *granularity_pages*: targets are multiples of so
    many pages. *domain_type*: the type of domains that do not say theirs. *about*: what it switches, in a line.
    *limit_beyond_pages*: what a domain on a virtual host may hold beyond its target; 0: up to the next superpage.
    """

    name: str
    host: HostSettings
    driver: DriverSettings
    about: str
    granularity_pages: int = SUPER_PAGES
    domain_type: DomainType = DomainType.PVH
    limit_beyond_pages: int = 0


_FULL: Final = HostSettings()
# A Xen that exchanges pages of translated guests, too, and lets a block that is whole again be a superpage.
_EXCHANGING: Final = replace(TODAYS_XEN, exchange_translated=True, coalesce=True)
_RELOCATING: Final = replace(_FULL, home_fill="populate_depopulate", keep_holes=False)
_QUEUES: Final = DRIVERS["queues"]
# Linux's driver under KVM has no limit beside its target: what migration holds for a moment is not counted.
_KVM_BEYOND_PAGES: Final = LIST_EXTENTS

_ALL: Final = (
    Strategy("stock", TODAYS_XEN, DRIVERS["stock"], "today's Xen and Linux: 4 KiB, no migration, no coalescing", 1,
             limit_beyond_pages=XL_BEYOND_PAGES),
    Strategy("huge-queue", TODAYS_XEN, _QUEUES, "stock with queues of 2 MiB and 4 KiB pages", 1),
    Strategy("exchange", _EXCHANGING, DRIVERS["full"], "huge-queue with migration by XENMEM_exchange", 1),
    Strategy("worker", _EXCHANGING, DRIVERS["worker"], "exchange, and a worker that swaps 512 small pages for one", 1),
    Strategy("relocate", _RELOCATING, DRIVERS["full"], "huge-queue with migration by populate_depopulate", 1),
    Strategy("full", _FULL, DRIVERS["full"], "relocate with targets in 2 MiB, home_fill always, keep_holes"),
    Strategy("virtio", _FULL, DRIVERS["full"], "full on virtio-balloon: two calls", domain_type=DomainType.VIRTIO),
    Strategy("linux-virtio", TODAYS_XEN, DRIVERS["linux-virtio"], "today's Linux under KVM: 4 KiB, pages that migrate", 1,
             DomainType.VIRTIO, _KVM_BEYOND_PAGES),
    Strategy("free-page-reporting", TODAYS_XEN, DRIVERS["reporting"], "Linux under KVM: free 2 MiB go, and come back in an"
             " allocation; no target counts", 1, DomainType.VIRTIO, MAX_DOMAIN_PAGES // 2),
    Strategy("full-linux", _FULL, DRIVERS["full-linux"], "full with Linux's compaction in place of its own"),
    Strategy("worker-only", _EXCHANGING, DRIVERS["worker-only"], "control: worker without migration", 1),
    Strategy("home", _FULL, _QUEUES, "control: full without migration"),
    Strategy("relocate-only", replace(_FULL, home_fill="populate_depopulate"), DRIVERS["full"],
             "control: full with home_fill in populate_depopulate only"),
    Strategy("full-no-keep", replace(_FULL, keep_holes=False), DRIVERS["full"], "control: full without keep_holes"),
    Strategy("full-4k-targets", _FULL, DRIVERS["full"], "control: full with targets in 4 KiB", 1),
)  # fmt: skip
STRATEGIES: Final[Mapping[str, Strategy]] = {strategy.name: strategy for strategy in _ALL}
DEFAULT_STRATEGY: Final = "full"


def find_strategy(name: str) -> Strategy:
    """Look a strategy up by its name. Raises BadArgument: there is none; names a close one and all known ones."""
    strategy = STRATEGIES.get(name) if isinstance(name, str) else None
    if strategy is None:
        raise unknown_name("strategy", name, STRATEGIES)
    return strategy
