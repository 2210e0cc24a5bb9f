"""Whatever is asked of a guest, and however its host answers, no page is lost and no word is wrong."""

import numpy as np
import pytest

from tests.guest.naive_host import Driver, NaiveHost, blocks
from xbd.abi import DomainType, Features
from xbd.guest import DRIVERS, Guest, GuestSettings, LimitSet, ModeSet, TargetSet, Tick, override_driver, parse_mode
from xbd.guest.workload import Bursty, Steady, UnmovableHeavy, Workload
from xbd.units import SUPER_PAGES

SIZE = 12
WORKLOADS: list[Workload] = [Steady(churn=0.1), Bursty(period_ticks=6), UnmovableHeavy(churn=0.05)]
FEATURES = [Features(), Features(populate_depopulate=False), Features(populate_depopulate=False, exchange=False)]


def random_driver(rng: np.random.Generator, strategy: str) -> Driver:
    """Boot a guest with a random map, on a host with random manners."""
    gfn_count = blocks(SIZE) + int(rng.choice([0, 0, 1, 300]))
    host = NaiveHost(gfn_count, max_pages=blocks(SIZE + 1), rng=rng, features=FEATURES[int(rng.integers(3))])
    host.domain_type = list(DomainType)[int(rng.integers(len(DomainType)))]
    host.budget_chance = float(rng.choice([0.0, 0.3, 0.9]))
    host.refuse_chance = float(rng.choice([0.0, 0.0, 0.1]))
    host.free_frames = int(rng.choice([0, 5, 600, 3000, 1 << 30]))
    host.superframes = int(rng.choice([0, 2, 1 << 30]))
    host.words = dict.fromkeys(np.flatnonzero(rng.random(gfn_count) < rng.choice([0.5, 0.97, 1.0])).tolist(), 0)
    boot = host.boot_again(target=blocks(int(rng.integers(4, SIZE + 1))))
    options = {"commands_in_flight": int(rng.integers(1, 9)), "vacate_blocks": int(rng.choice([0, 1, 64]))}
    options["batch_extents"] = int(rng.choice([100, 512]))
    driver = override_driver(DRIVERS[strategy], options)
    workload = WORKLOADS[int(rng.integers(len(WORKLOADS)))]
    return Driver(Guest(boot, GuestSettings(driver, verify=True), int(rng.integers(1 << 30)), workload), host)


def random_event(driver: Driver, rng: np.random.Generator) -> None:
    """Do one thing to the guest: an event, an answer in the middle of things, or time."""
    host = driver.host
    match int(rng.integers(10)):
        case 0:
            driver.send(TargetSet(int(rng.integers(0, blocks(SIZE + 2)))))
        case 1:
            driver.send(TargetSet(blocks(int(rng.integers(1, SIZE + 1)))))
        case 2:
            host.max_pages = int(rng.integers(3, SIZE + 2)) * SUPER_PAGES
            driver.send(LimitSet(host.max_pages))
        case 3:
            host.free_frames = int(rng.choice([0, 100, 1 << 30]))
            host.superframes = int(rng.choice([0, 1, 1 << 30]))
        case 4:
            modes = ("stuck", "slow 1m/s", "floor 10m", "ceiling 12m", "lies", "normal", "normal")
            driver.send(ModeSet(parse_mode(modes[int(rng.integers(len(modes)))])))
        case 5:
            driver.request(int(rng.choice([1, 64, 600])))
        case 6 if driver.slots.held:
            driver.release(int(rng.integers(len(driver.slots.held))))
        case _:
            driver.now += float(rng.choice([0.1, 0.6, 3.0]))
            driver.send(Tick())
    if driver.queue:
        driver.answer(int(rng.integers(1, len(driver.queue) + 1)))


@pytest.mark.parametrize("strategy", sorted(DRIVERS))
@pytest.mark.parametrize("seed", range(10))
def test_no_page_is_lost_and_no_word_is_wrong(seed: int, strategy: str) -> None:
    """Safety after every step with commands still in flight, and agreement with the host whenever it is quiet."""
    rng = np.random.default_rng(seed)
    driver = random_driver(rng, strategy)
    driver.send(Tick())
    for round_number in range(80):
        random_event(driver, rng)
        assert driver.in_flight_max <= 8
        driver.assert_sound()
        if round_number % 9 == 0:
            driver.settle()
            driver.assert_sound()
    driver.settle()
    driver.assert_sound()


@pytest.mark.parametrize("domain_type", [DomainType.PVH, DomainType.VIRTIO])
@pytest.mark.parametrize("seed", range(6))
def test_a_guest_reaches_what_can_be_reached(seed: int, domain_type: DomainType) -> None:
    """With a host that has memory, a target above what programs need is reached, and the balloon is whole blocks."""
    rng = np.random.default_rng(1000 + seed)
    host = NaiveHost(blocks(32), blocks(32), rng=rng, budget_chance=0.3, domain_type=domain_type)
    driver = Driver(Guest(host.boot(blocks(32)), GuestSettings(verify=True), seed, Steady(used=0.3)), host)
    driver.do(Tick())
    for target in rng.integers(16, 33, size=8).tolist():
        driver.do(TargetSet(blocks(target)))
        driver.run_for(5)
        driver.assert_sound()
        statistics = driver.guest.statistics()
        assert statistics.current_pages == blocks(target)
        assert statistics.balloon_4k_pages == 0
        assert statistics.balloon_2m_pages == blocks(32 - target)


def test_reboot_takes_over_a_fragmented_map() -> None:
    """A guest that boots on what its predecessor left finds its balloon in the holes, and levels itself."""
    host = NaiveHost(blocks(8), blocks(8))
    host.words = {gfn: 0 for gfn in range(blocks(8)) if gfn % 7 and not 1024 <= gfn < 1536}
    driver = Driver(Guest(host.boot_again(blocks(7)), GuestSettings(verify=True), 1, Steady()), host)
    assert driver.guest.statistics().balloon_2m_pages == 512
    driver.do(Tick())
    driver.run_for(5)
    driver.assert_sound()
    assert driver.guest.statistics().current_pages == blocks(7)
    assert driver.guest.statistics().partly_ballooned == 0
