"""The driver's back ends: what each says to its hypervisor, and that nobody else in the guest knows."""

import ast
from pathlib import Path

import numpy as np
import pytest

from tests.guest.naive_host import Driver, NaiveHost, blocks, extents_of, moved
from xbd.abi import (
    BATCH_EXTENTS,
    LIST_EXTENTS,
    BootInfo,
    Command,
    Decrease,
    Deflate,
    DomainType,
    Exchange,
    Features,
    Frames,
    Inflate,
    Load,
    Populate,
    PopulateDepopulate,
    Store,
)
from xbd.guest import DRIVERS, Guest, GuestSettings, TargetSet, Tick, override_driver
from xbd.guest.balloon.backends import back_end_of
from xbd.guest.workload import Steady

GUEST = Path(__file__).parent.parent.parent / "xbd" / "guest"
KNOWN_TO_THE_BACK_ENDS = {"Populate", "Decrease", "Exchange", "PopulateDepopulate", "Inflate", "Deflate"}
NO_WAY = Features(populate_depopulate=False, exchange=False)


def boot_of(domain_type: DomainType, features: Features | None = None) -> BootInfo:
    """Tell a guest of 16 blocks what it is."""
    host = NaiveHost(blocks(16), blocks(16), features=features or Features(), domain_type=domain_type)
    return host.boot(blocks(16))


def pages(*gfns: int) -> Frames:
    """Name some gfns."""
    return np.array(gfns, dtype=np.int64)


def test_only_the_back_ends_know_the_commands_that_move_memory() -> None:
    """No other module of the guest imports one of them, by any name, and none reaches for them through a module."""
    seen: dict[str, set[str]] = {}
    for path in sorted(GUEST.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
            if isinstance(node, ast.ImportFrom):
                names = {alias.name for alias in node.names}
                assert not (node.module == "xbd" and "abi" in names), f"{path}: imports the whole of xbd.abi"
                seen.setdefault(path.relative_to(GUEST).as_posix(), set()).update(names & KNOWN_TO_THE_BACK_ENDS)
            elif isinstance(node, ast.Import):
                assert not any(alias.name.startswith("xbd") for alias in node.names), f"{path}: imports a module whole"
    assert {path for path, names in seen.items() if names} == {"balloon/backends.py"}
    assert seen["balloon/backends.py"] == KNOWN_TO_THE_BACK_ENDS


@pytest.mark.parametrize("domain_type", [DomainType.PV, DomainType.PVH])
def test_xen_s_back_end_backs_and_unbacks_by_reservation_calls(domain_type: DomainType) -> None:
    """Lists of one page of frame numbers, and grants if the host has them."""
    back_end = back_end_of(boot_of(domain_type))
    assert (back_end.name, back_end.list_extents, back_end.grants) == ("xen", BATCH_EXTENTS, True)
    assert not back_end_of(boot_of(domain_type, Features(grants=False))).grants
    populate, decrease = back_end.populating(9)(pages(512)), back_end.decrease(pages(1, 2), 0)
    assert isinstance(populate, Populate)
    assert isinstance(decrease, Decrease)
    assert (populate.order, populate.gfns.tolist()) == (9, [512])
    assert (decrease.order, decrease.gfns.tolist()) == (0, [1, 2])


def test_virtio_s_back_end_has_its_lists_and_nothing_else() -> None:
    """Lists of 256, no way to migrate in one step, no grants, whatever the host offers to Xen's domains."""
    back_end = back_end_of(boot_of(DomainType.VIRTIO))
    assert (back_end.name, back_end.list_extents) == ("virtio", LIST_EXTENTS)
    assert (back_end.ways, back_end.grants) == ((), False)
    assert isinstance(back_end.populating(0)(pages(1)), Deflate)
    inflate = back_end.decreasing(9)(pages(512))
    assert isinstance(inflate, Inflate)
    assert inflate.order == 9


@pytest.mark.parametrize(
    ("features", "names"),
    [
        (Features(), ["populate_depopulate", "exchange"]),
        (Features(populate_depopulate=False), ["exchange"]),
        (Features(exchange=False), ["populate_depopulate"]),
        (NO_WAY, []),
    ],
)
def test_the_ways_are_those_that_the_host_offers_best_first(features: Features, names: list[str]) -> None:
    """Each of them backs the old page and unbacks the new one."""
    ways = back_end_of(boot_of(DomainType.PVH, features)).ways
    assert [way.name for way in ways] == names
    for way in ways:
        command = way.make(pages(1, 2), pages(8, 9))
        backed, unbacked = {
            "populate_depopulate": lambda c: (c.populate, c.depopulate),
            "exchange": lambda c: (c.gets, c.gives),
        }[way.name](command)
        assert (backed.tolist(), unbacked.tolist()) == ([1, 2], [8, 9])


def churned(domain_type: DomainType, features: Features, batch_extents: int, strategy: str = "full") -> Driver:
    """Lead a guest up and down, and through requests for slots, with lists of at most *batch_extents*."""
    host = NaiveHost(blocks(32), blocks(32), features=features, domain_type=domain_type)
    settings = GuestSettings(override_driver(DRIVERS[strategy], {"batch_extents": batch_extents}), verify=True)
    driver = Driver(Guest(host.boot(blocks(32)), settings, 3, Steady(used=0.3, churn=0.1)), host)
    driver.do(Tick())
    for target in (20, 30, 14, 31, 17):
        driver.do(TargetSet(blocks(target) + 77))
        driver.request(blocks(1) + 300)
        driver.settle()
        driver.run_for(4)
        driver.assert_sound()
        driver.release()
        driver.settle()
        driver.run_for(4)
        driver.assert_sound()
        assert driver.guest.statistics().current_pages == blocks(target) + 77
    return driver


CASES = [
    (DomainType.PVH, Features(), "populate_depopulate", {Populate, Decrease, PopulateDepopulate}),
    (DomainType.PV, Features(populate_depopulate=False), "exchange", {Populate, Decrease, Exchange}),
    (DomainType.PVH, NO_WAY, "two_calls", {Populate, Decrease}),
    (DomainType.VIRTIO, Features(), "two_calls", {Inflate, Deflate}),
]


@pytest.mark.parametrize(
    ("domain_type", "features", "way", "kinds"), CASES, ids=["whole", "exchange", "two calls", "virtio"]
)
def test_one_driver_works_with_every_back_end_and_each_of_the_three_ways(
    domain_type: DomainType, features: Features, way: str, kinds: set[type[Command]]
) -> None:
    """The same guest reaches the same targets with the same whole blocks, by commands of its own hypervisor alone."""
    driver = churned(domain_type, features, BATCH_EXTENTS)
    statistics = driver.guest.statistics()
    assert statistics.migration_way == way
    assert statistics.pages_migrated > 0
    assert (statistics.balloon_2m_pages, statistics.balloon_4k_pages) == (blocks(14), 512 - 77)
    assert driver.slots.answers == [blocks(1) + 300] * 5
    assert {type(c) for c in driver.host.executed} == kinds | {Load, Store}


@pytest.mark.parametrize("strategy", ["full", "stock"])
@pytest.mark.parametrize("domain_type", [DomainType.PVH, DomainType.VIRTIO])
@pytest.mark.parametrize("batch_extents", [7, 512])
def test_no_list_is_longer_than_settings_and_back_end_allow(
    strategy: str, domain_type: DomainType, batch_extents: int
) -> None:
    """Whoever sends it: the worker, a migration in one step or two, or a request for slots; and long ones are sent."""
    most = min(batch_extents, LIST_EXTENTS if domain_type is DomainType.VIRTIO else BATCH_EXTENTS)
    driver = churned(domain_type, Features(), batch_extents, strategy)
    assert most // 2 < max(extents_of(command) for command in driver.host.executed) <= most
    assert len({kind for kind, _, _ in moved(driver.host.executed)}) == 2
