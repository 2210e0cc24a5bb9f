"""A real Linux's virtio balloon, step by step, and the same steps in the model.

Measured: Linux 6.1 with CONFIG_BALLOON_COMPACTION, 512 MiB, one processor, its pages read out of /proc/kpageflags; what was
in use when it was fresh is given to the model, all else it has to find out.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np

from xbd.config.strategies import STRATEGIES
from xbd.guest import CompactAsked, Demand, GuestSettings
from xbd.guest.workload import Driven
from xbd.guest.zone import PageState
from xbd.lab.experiments.tables import TextTable
from xbd.testing.virtual_host import VirtualHost
from xbd.units import MIB_PAGES, SUPER_PAGES

_STRATEGY: Final = "linux-virtio"
_MEMORY_PAGES: Final = 512 * MIB_PAGES
# What was not free when the guest was fresh: kernel, reserved and slab, and pages on the LRU.
_KERNEL_PAGES: Final = 14_170 + 3_380
_LRU_PAGES: Final = 960
_FREE_BLOCKS: Final = 214
_PROGRAM_PAGES: Final = 300 * MIB_PAGES
_SETTLES_S: Final = 120.0
# As near as the model is held to what was measured: a share, or so many blocks if that is more.
TOLERATED_SHARE: Final = 0.1
TOLERATED_BLOCKS: Final = 6


@dataclass(frozen=True, slots=True)
class Blocks:
    """A guest's blocks of 2 MiB: wholly free, wholly and partly ballooned; None: it was not measured."""

    free: int
    wholly: int
    partly: int


@dataclass(frozen=True, slots=True)
class BalloonStep:
    """A step: what was done, what the model has, and what was *measured* (None: it is kept to compare with)."""

    name: str
    blocks: Blocks
    ballooned_pages: int
    migrated: int
    measured: Blocks | None

    @property
    def is_near(self) -> bool:
        """Whether each figure is within a tenth or six blocks of what was measured."""
        if self.measured is None:
            return True
        return all(
            abs(getattr(self.blocks, name) - (real := getattr(self.measured, name)))
            <= max(TOLERATED_SHARE * real, TOLERATED_BLOCKS)
            for name in ("free", "wholly", "partly")
        )


@dataclass(eq=False)
class _Guest:
    """The guest alone on a host, and what was seen of it."""

    seed: int
    host: VirtualHost = field(init=False)
    domid: int = field(init=False)

    def __post_init__(self) -> None:
        strategy = STRATEGIES[_STRATEGY]
        self.host = VirtualHost(2 * _MEMORY_PAGES // SUPER_PAGES, strategy.host, seed=self.seed)
        self.host.limit_beyond_pages = strategy.limit_beyond_pages
        self.domid = self.host.create(
            "real",
            max_pages=_MEMORY_PAGES,
            target_pages=_MEMORY_PAGES,
            domain_type=strategy.domain_type,
            # Of so little memory Linux has no transparent huge pages, and no driver a floor that these steps reach.
            settings=GuestSettings(
                replace(strategy.driver, floor_pages=0), kernel_pages=_KERNEL_PAGES, huge_pages=False
            ),
            workload=Driven(),
        )

    def hold(self, pages: int, *, at_random: bool = False) -> None:
        """Let programs hold so much; *at_random*: what they give back are single pages."""
        self.host.send(self.domid, Demand(_KERNEL_PAGES + pages, 0, at_random=at_random))

    def boot(self) -> None:
        """Become fresh: what booting needed has gone, and what stayed lies in all blocks that are not free."""
        in_kernel = -(-_KERNEL_PAGES // SUPER_PAGES)
        self.hold((_MEMORY_PAGES // SUPER_PAGES - _FREE_BLOCKS - in_kernel) * SUPER_PAGES)
        self.hold(2 * _LRU_PAGES, at_random=True)
        self.hold(_LRU_PAGES, at_random=True)

    def touch_and_give_back(self) -> None:
        """Let a program touch 300 MiB in 4 KiB pages, and give every other page back, at random."""
        self.hold(_LRU_PAGES + _PROGRAM_PAGES)
        self.hold(_LRU_PAGES + _PROGRAM_PAGES // 2, at_random=True)

    def balloon(self, mib: int) -> None:
        """Set its target."""
        self.host.set_target(self.domid, mib * MIB_PAGES)
        self.settle()

    def compact(self) -> None:
        """Write to /proc/sys/vm/compact_memory."""
        self.host.send(self.domid, CompactAsked())
        self.settle()

    def settle(self) -> None:
        """Let time pass until nothing more happens."""
        self.host.advance(self.host.now + _SETTLES_S)

    def see(self, name: str, measured: Blocks | None) -> BalloonStep:
        """Count its blocks."""
        guest = self.host.guest(self.domid)
        zone, told = guest._zone, guest.statistics()  # noqa: SLF001 - as /proc/kpageflags shows it
        ballooned = zone.counts[PageState.BALLOON_4K]
        wholly = int(np.count_nonzero(ballooned == SUPER_PAGES))
        blocks = Blocks(zone.free.free_superframes, wholly, int(np.count_nonzero(ballooned)) - wholly)
        return BalloonStep(name, blocks, told.balloon_4k_pages, told.pages_migrated, measured)


_STEPS: Final[tuple[tuple[str, Callable[[_Guest], None], Blocks | None], ...]] = (
    ("fresh", _Guest.boot, Blocks(214, 0, 0)),
    ("balloon to 256 MiB", lambda guest: guest.balloon(256), Blocks(90, 123, 7)),
    ("compact memory", _Guest.compact, Blocks(90, 123, 7)),
    ("balloon to 500 MiB", lambda guest: guest.balloon(500), Blocks(211, 1, 7)),
    ("a program gives every other page back", _Guest.touch_and_give_back, Blocks(62, 1, 7)),
    ("balloon to 340 MiB", lambda guest: guest.balloon(340), Blocks(57, 5, 157)),
    ("the program ends", lambda guest: guest.hold(_LRU_PAGES), None),
    ("compact memory again", _Guest.compact, None),
    ("balloon to 500 MiB again", lambda guest: guest.balloon(500), None),
)


def balloon_steps(seed: int) -> list[BalloonStep]:
    """Run all steps; the last three have nothing to be compared with here."""
    guest = _Guest(seed)
    steps = []
    for name, do, measured in _STEPS:
        do(guest)
        steps.append(guest.see(name, measured))
    wrong = guest.host.check()
    assert not wrong, f"the audit found {wrong}"
    return steps


def table_of(steps: list[BalloonStep]) -> TextTable:
    """Format them."""
    rows = tuple(
        (
            step.name,
            f"{step.ballooned_pages:,}",
            f"{step.migrated:,}",
            *(
                f"{getattr(step.blocks, name)}"
                + ("" if step.measured is None else f" ({getattr(step.measured, name)})")
                for name in ("free", "wholly", "partly")
            ),
        )
        for step in steps
    )
    about = "Blocks of 2 MiB of a guest of 512 MiB with a virtio balloon; in brackets what a real Linux 6.1 had."
    head = ("step", "ballooned pages", "migrated", "free blocks", "wholly ballooned", "partly")
    return TextTable("a real balloon", about, head, rows)
