"""The components of a guest, and how they are put together: zone, programs, balloon driver, compaction, block I/O."""

from dataclasses import dataclass

import numpy as np

from xbd.abi import BootInfo
from xbd.guest.backing import Backing
from xbd.guest.balloon.backends import back_end_of
from xbd.guest.balloon.balloon import Balloon
from xbd.guest.balloon.exchanger import Exchanger
from xbd.guest.balloon.foreign import ForeignSlots
from xbd.guest.balloon.migration import Migration
from xbd.guest.balloon.reporting import Reporting
from xbd.guest.balloon.transfers import Transfers
from xbd.guest.balloon.worker import Worker
from xbd.guest.compaction import Compaction
from xbd.guest.io import BlockIo
from xbd.guest.linux_compaction import LinuxCompaction
from xbd.guest.mode import GuestMode
from xbd.guest.settings import GuestSettings
from xbd.guest.state import Clock, Directives, Ticks, Waits
from xbd.guest.workload.playing import Played, Player
from xbd.guest.workload.profiles import Workload
from xbd.guest.workload.programs import Programs
from xbd.guest.zone import Zone


@dataclass(frozen=True, slots=True, eq=False)
class Components:
    """The components of one guest; each is described in its own module. *player*: None for a guest that plays no trace."""

    clock: Clock
    ticks: Ticks
    waits: Waits
    directives: Directives
    zone: Zone
    programs: Programs
    balloon: Balloon
    transfers: Transfers
    migration: Migration
    compaction: Compaction | LinuxCompaction
    worker: Worker
    exchanger: Exchanger
    reporting: Reporting
    slots: ForeignSlots
    io: BlockIo
    player: Player | None
    backing: Backing | None

    @classmethod
    def build(
        cls, boot: BootInfo, settings: GuestSettings, seed: int, workload: Workload, rng: np.random.Generator
    ) -> "Components":
        """Build the components of a guest, whose pages have no state yet; arguments as of `Guest`."""
        clock, directives = Clock(), Directives(boot.target_pages, boot.max_pages, GuestMode())
        zone = Zone(boot.gfn_count, huge_pages=settings.huge_pages)
        driver, back_end = settings.driver, back_end_of(boot)
        balloon = Balloon(zone, driver.queues, unmovable=driver.unmovable, smallest_first=driver.smallest_first)
        backing = Backing(boot.gfn_count) if settings.count_faults else None
        programs = Programs(zone, settings, seed, rng, young_share=workload.young_share, clock=clock, backing=backing)
        transfers = Transfers(balloon, back_end, driver, backing)
        migration = Migration(balloon, back_end, transfers.list_extents, backing)
        kind = LinuxCompaction if driver.linux_compaction else Compaction
        compaction = kind(
            zone, balloon, programs=programs, migration=migration, directives=directives, settings=driver, clock=clock
        )
        worker = Worker(
            zone,
            balloon,
            transfers=transfers,
            programs=programs,
            directives=directives,
            settings=driver,
            clock=clock,
            vacate=compaction.vacate,
        )
        exchanger = Exchanger(balloon, back_end, directives=directives, settings=driver, clock=clock)
        reporting = Reporting(zone, balloon, transfers, directives=directives, settings=driver, clock=clock)
        if driver.report_free_s:
            programs.take_back = reporting.take_back
        slots = ForeignSlots(zone, balloon, programs=programs, transfers=transfers, settings=driver)
        io = BlockIo.of(
            boot,
            settings.block_back_end,
            zone,
            slots,
            pages_s=workload.io_pages_s if back_end.grants else 0.0,
            seed=seed,
            rng=rng.spawn(1)[0],
            directives=directives,
            clock=clock,
        )
        return cls(
            clock,
            Ticks(),
            Waits(),
            directives,
            zone,
            programs,
            balloon,
            transfers,
            migration,
            compaction,
            worker,
            exchanger,
            reporting,
            slots,
            io,
            Player(workload.trace, workload.pace) if isinstance(workload, Played) else None,
            backing,
        )
