"""Slots: all or none, from where they are taken, what bounds them, and that everything comes back."""

import numpy as np
import pytest

from tests.guest.naive_host import Driver, NaiveHost, ballooned, blocks, moved
from xbd.abi import DomainType, Features
from xbd.guest import DRIVERS, Guest, GuestSettings, TargetSet, Tick, override_driver
from xbd.guest.workload import Idle, Steady, Workload
from xbd.guest.workload.holdings import Pool
from xbd.guest.zone import Mobility, PageState
from xbd.units import SUPER_PAGES

SIZE = 16
EMPTY = Idle(used=0, cache=0, kernel=0)


def booted(
    target: int = SIZE,
    *,
    workload: Workload = EMPTY,
    domain_type: DomainType = DomainType.PVH,
    strategy: str = "full",
    **options: object,
) -> Driver:
    """Boot a guest of 16 blocks and bring it to *target* of them."""
    host = NaiveHost(blocks(SIZE), blocks(SIZE), domain_type=domain_type)
    settings = GuestSettings(override_driver(DRIVERS[strategy], options), verify=True)
    driver = Driver(Guest(host.boot(blocks(SIZE)), settings, 1, workload), host)
    driver.do(Tick())
    driver.do(TargetSet(blocks(target)))
    host.executed.clear()
    return driver


def ask(driver: Driver, count: int) -> int:
    """Request slots, wait for the answer, and say how many came."""
    driver.request(count)
    driver.settle()
    driver.assert_sound()
    return driver.slots.answers[-1]


def shape(driver: Driver) -> list[tuple[str, int, int]]:
    """Name what was backed and unbacked since last asked, as (what, order, extents)."""
    seen = [(kind, order, gfns.size) for kind, order, gfns in moved(driver.host.executed)]
    driver.host.executed.clear()
    return seen


# -- from where


def test_slots_come_from_ballooned_single_pages_first() -> None:
    """No 2 MiB page is broken while single ones do, and nothing is asked of the host."""
    driver = booted()
    driver.do(TargetSet(blocks(14) + 100))
    driver.run_for(2)
    driver.host.executed.clear()
    assert ask(driver, 412) == 412
    statistics = driver.guest.statistics()
    assert (statistics.balloon_2m_pages, statistics.balloon_4k_pages, statistics.slots) == (blocks(1), 0, 412)
    assert driver.host.executed == []


def test_else_a_2_mib_page_is_broken_and_what_is_left_of_it_serves_deflation() -> None:
    """100 slots leave 412 single pages, which come back to the guest; the slots do not."""
    driver = booted(14)
    assert ask(driver, 100) == 100
    assert driver.guest.statistics().balloon_4k_pages == 412
    driver.do(TargetSet(blocks(SIZE)))
    driver.assert_sound()
    statistics = driver.guest.statistics()
    assert statistics.current_pages == statistics.aim_pages == blocks(SIZE) - 100
    assert shape(driver) == [("Populate", 9, 1), ("Populate", 0, 412)]


@pytest.mark.parametrize("domain_type", [DomainType.PVH, DomainType.VIRTIO])
def test_else_the_balloon_inflates_a_little_more_and_deflates_when_they_come_back(domain_type: DomainType) -> None:
    """A guest at its full size gives up just so many pages, whole blocks first, and has them back after."""
    driver = booted(domain_type=domain_type)
    assert ask(driver, 700) == 700
    assert shape(driver) == [("Decrease", 9, 1), ("Decrease", 0, 188)]
    driver.release()
    driver.settle()
    driver.assert_sound()
    statistics = driver.guest.statistics()
    assert (statistics.current_pages, statistics.slots) == (blocks(SIZE), 0)
    assert shape(driver) == [("Populate", 9, 1), ("Populate", 0, 188)]


def test_page_cache_is_dropped_for_slots_as_for_the_worker() -> None:
    """A guest that is full of cache gives up of that what the slots lack."""
    driver = booted(workload=Idle(used=0.2, cache=0.8, kernel=0))
    before = driver.guest.statistics()
    assert before.guest_free_pages < 1000 < before.cache_pages
    assert ask(driver, 1000) == 1000
    after = driver.guest.statistics()
    assert 0 < before.cache_pages - after.cache_pages <= 1000
    assert after.guest_free_pages >= driver.guest._zone.watermarks.low_pages


# -- all or none


def test_more_than_the_bound_is_refused_without_a_command() -> None:
    """An eighth of the gfns by default, over all requests together; what comes back can be had again."""
    driver = booted(8)
    assert driver.guest.statistics().slots_max_pages == blocks(2)
    assert [ask(driver, count) for count in (blocks(2) + 1, 1000, 25, 24, 1)] == [0, 1000, 0, 24, 0]
    assert driver.guest.statistics().slot_requests_refused == 3
    driver.release()
    assert ask(driver, 1000) == 1000
    assert driver.host.executed == []


@pytest.mark.parametrize(("most", "came"), [(0, 0), (100, 100)])
def test_the_bound_can_be_set(most: int, came: int) -> None:
    """0 means that there are no slots."""
    driver = booted(8, slots_max_pages=most)
    assert ask(driver, 100) == came
    assert ask(driver, 1) == 0


def test_without_a_queue_of_slots_there_are_none() -> None:
    """A driver whose queues are set without one refuses."""
    driver = booted(8, queues=["2m", "4k"])
    assert ask(driver, 1) == 0
    assert driver.guest.statistics().slots_max_pages == 0


def test_no_slots_are_no_request() -> None:
    """Asking for nothing is neither served nor refused."""
    driver = booted()
    assert ask(driver, 0) == 0
    assert driver.guest.statistics().slot_requests_refused == 0


def test_the_guest_s_reserves_are_not_dug_into() -> None:
    """Where programs hold everything above the low watermark a request gets nothing and nothing is tried."""
    driver = booted(workload=Idle(used=0.9, cache=0, kernel=0))
    spare = driver.guest._zone.spare_pages(driver.guest._zone.watermarks.low_pages)
    assert 0 < spare < 1000
    assert ask(driver, spare + 1) == 0
    assert driver.host.executed == []
    assert ask(driver, spare) == spare
    assert driver.guest.statistics().guest_free_pages == driver.guest._zone.watermarks.low_pages


def test_inflating_for_slots_stops_at_the_driver_s_floor() -> None:
    """What the balloon has can be had; beyond that the guest keeps its floor, though its pages are free."""
    driver = booted(SIZE - 1, floor_pages=blocks(SIZE - 2), slots_max_pages=blocks(4))
    assert [ask(driver, count) for count in (blocks(2) + 1, blocks(1), blocks(1), 1)] == [0, blocks(1), blocks(1), 0]
    assert driver.guest.statistics().current_pages == blocks(SIZE - 2)


def test_a_host_that_does_not_take_the_pages_gives_no_slots() -> None:
    """What could be inflated is put back by the worker: the guest ends where it was."""
    driver = booted()
    driver.host.refuse_chance = 1.0
    assert ask(driver, 700) == 0
    driver.host.refuse_chance = 0.0
    assert driver.guest.statistics().current_pages == blocks(SIZE)
    driver.request(700)
    driver.host.refuse_chance = 0.5
    driver.settle()
    driver.host.refuse_chance = 1e-9
    driver.run_for(10)
    driver.assert_sound()
    statistics = driver.guest.statistics()
    assert statistics.current_pages == blocks(SIZE) - statistics.slots
    assert statistics.balloon_2m_pages == statistics.balloon_4k_pages == 0


def test_pages_that_programs_take_meanwhile_are_theirs() -> None:
    """Cache was dropped for a request, but somebody was quicker: the request gets nothing, and no reserve is touched."""
    driver = booted(workload=Idle(used=0.2, cache=0.8, kernel=0))
    driver.request(1000)
    assert driver.queue, "the words of the cache are being read before it goes"
    zone = driver.guest._zone
    quick = zone.allocate(zone.spare_pages(0), Mobility.MOVABLE, PageState.ISOLATED)
    while driver.guest._balloon.token.held:
        driver.answer()
    assert driver.slots.answers == [0]
    assert moved(driver.host.executed) == []
    zone.release(quick, PageState.ISOLATED)
    driver.settle()
    driver.assert_sound()


def test_xsa_300_a_back_end_that_asks_without_end_is_refused_at_the_bound() -> None:
    """Neither a generous bound nor a low target lets slots take the guest below its floor or into its reserves."""
    for target in (SIZE, 4):
        driver = booted(target, slots_max_pages=1 << 31)
        while ask(driver, 97):
            pass
        statistics = driver.guest.statistics()
        floor = driver.guest._worker.floor_pages
        assert floor <= statistics.current_pages
        assert statistics.guest_free_pages >= driver.guest._zone.watermarks.low_pages
        assert statistics.slot_requests_refused == 1
        driver.run_for(10)
        driver.assert_sound()
        assert driver.guest.statistics().current_pages >= floor
        while driver.slots.held:
            driver.release()
        driver.settle()
        driver.assert_sound()
        assert driver.guest.statistics().current_pages == blocks(target)
    driver = booted()
    while ask(driver, 97):
        pass
    assert driver.guest.statistics().slots == blocks(2) // 97 * 97


# -- who waits for whom


def test_requests_queue_for_the_token_and_are_counted_again_when_they_have_it() -> None:
    """Two requests that the bound allows each, but not both, are asked at once while the worker is busy."""
    driver = booted()
    driver.send(TargetSet(blocks(8)))
    assert driver.guest._balloon.token.held
    for count in (1000, 900, 24):
        driver.request(count)
    assert driver.slots.answers == []
    driver.settle()
    driver.assert_sound()
    assert driver.slots.answers == [1000, 0, 24]
    assert driver.guest.statistics().slot_requests_refused == 1


def test_the_worker_waits_while_every_ballooned_gfn_is_out_as_a_slot() -> None:
    """>> 500 slots of a full-size guest << WAIT, no command; slots come back << DONE, and the guest is full again."""
    driver = booted()
    assert ask(driver, 500) == 500
    shape(driver)
    assert driver.guest.statistics().worker_state == "wait"
    assert driver.deadline == driver.now + 1.0
    driver.run_for(10)
    assert (driver.guest.statistics().worker_state, shape(driver)) == ("wait", [])
    driver.release()
    driver.settle()
    driver.assert_sound()
    statistics = driver.guest.statistics()
    assert (statistics.worker_state, statistics.current_pages) == ("done", blocks(SIZE))


def test_a_lower_target_ends_the_wait() -> None:
    """>> the target is brought below what the slots leave << the worker has nothing to wait for."""
    driver = booted()
    ask(driver, 500)
    driver.do(TargetSet(blocks(SIZE) - 500))
    driver.run_for(1.5)
    assert driver.guest.statistics().worker_state == "done"
    assert driver.deadline is None


def test_a_stuck_guest_s_slots_still_serve() -> None:
    """A worker that does nothing holds nobody up."""
    driver = booted(12)
    driver.do(TargetSet(blocks(8)))
    assert ask(driver, 300) == 300


# -- what stays where it is


def test_a_block_with_slots_is_never_emptied_and_its_ballooned_pages_move_away() -> None:
    """Compaction fills other blocks from the rest of a broken 2 MiB page; the slots stay where they are."""
    driver = booted(14, workload=Steady(used=0.3, churn=0))
    ask(driver, 200)
    (slots,) = (set(gfns.tolist()) for _, gfns in driver.slots.held)
    pinned = {gfn // SUPER_PAGES for gfn in slots}
    programs = driver.guest._programs
    for _ in range(6):
        driver.guest._procedures.start(programs._free(Pool.ANON, 100))
        driver.do(TargetSet(driver.guest.statistics().current_pages - 301))
        driver.run_for(2)
        driver.assert_sound()
        assert {int(gfn) for gfn in driver.slots.gfns()} == slots
    statistics = driver.guest.statistics()
    assert statistics.pages_migrated > 0
    assert statistics.partly_ballooned == 0
    counts = driver.guest._zone.counts
    assert all(counts[PageState.BALLOON_2M, block] == 0 for block in pinned)


def test_a_whole_block_of_slots_is_no_2_mib_page_until_they_come_back() -> None:
    """512 slots of one block do not coalesce; released, in any order and by parts, they are one 2 MiB page again."""
    driver = booted(15)
    assert ask(driver, 512) == 512
    statistics = driver.guest.statistics()
    assert (statistics.balloon_2m_pages, statistics.slots, statistics.partly_ballooned) == (0, 512, 0)
    driver.run_for(10)
    ((queue, gfns),) = driver.slots.held
    shuffled = np.random.default_rng(1).permutation(gfns)
    driver.slots.held = [(queue, part) for part in np.array_split(shuffled, 7)]
    while driver.slots.held:
        driver.assert_sound()
        driver.release()
    driver.settle()
    driver.assert_sound()
    assert driver.guest.statistics().balloon_2m_pages == blocks(1)
    assert driver.host.executed == []


def test_what_is_no_slot_cannot_be_released() -> None:
    """A page of the balloon, a page in use, a slot twice: a broken invariant, found at once."""
    driver = booted(8)
    ask(driver, 10)
    slots = driver.guest._slots
    ((_, gfns),) = driver.slots.held
    some = np.array(sorted(ballooned(driver.guest) - set(gfns.tolist())), dtype=np.int64)[:3]
    for wrong in (some, np.arange(3, dtype=np.int64)):
        with pytest.raises(AssertionError, match="not in the queue"):
            slots.release(wrong)
    driver.release()
    with pytest.raises(AssertionError, match="not in the queue"):
        slots.release(gfns)


@pytest.mark.parametrize("broken", ["bound", "state", "queue"])
def test_check_finds_slots_that_are_wrong(broken: str) -> None:
    """More than may be out, a slot that is no page of that state, a page of that state that is no slot."""
    driver = booted(8)
    ask(driver, 10)
    guest = driver.guest
    ((_, gfns),) = driver.slots.held
    if broken == "bound":
        guest._slots.limit_pages = 9
    elif broken == "state":
        guest._zone.change(gfns[:1], PageState.SLOT, PageState.UNMOVABLE)
    else:
        guest._balloon.queues["foreign"].remove(gfns[:1])
    assert any("slots" in line or "balloon" in line for line in guest.check())


# -- at random


def random_step(driver: Driver, rng: np.random.Generator) -> None:
    """Set a target, ask, release, let time pass, or let the host answer a part of what is in flight."""
    match int(rng.integers(6)):
        case 0:
            driver.send(TargetSet(int(rng.integers(0, blocks(SIZE + 1)))))
        case 1:
            driver.request(int(rng.choice([1, 32, 300, 512, 900])))
        case 2 | 3:
            if driver.slots.held:
                driver.release(int(rng.integers(len(driver.slots.held))))
        case _:
            driver.now += float(rng.choice([0.1, 0.6, 3.0]))
            driver.send(Tick())
    if driver.queue:
        driver.answer(int(rng.integers(1, len(driver.queue) + 1)))


@pytest.mark.parametrize("strategy", ["full", "stock"])
@pytest.mark.parametrize("domain_type", [DomainType.PVH, DomainType.VIRTIO])
@pytest.mark.parametrize("seed", range(5))
def test_slots_come_and_go_and_nothing_is_left_over(seed: int, domain_type: DomainType, strategy: str) -> None:
    """Targets, requests and releases at random: sound after every step; after the last release all is as without."""
    rng = np.random.default_rng(seed)
    host = NaiveHost(blocks(SIZE), blocks(SIZE), rng=rng, budget_chance=float(rng.choice([0, 0.5])))
    host.domain_type = domain_type
    host.features = Features(*rng.random(3) < 0.7)
    settings = GuestSettings(override_driver(DRIVERS[strategy], {"slots_max_pages": 2000}), verify=True)
    driver = Driver(Guest(host.boot(blocks(SIZE)), settings, seed, Steady(used=0.3, churn=0.05)), host)
    driver.send(Tick())
    for _ in range(80):
        random_step(driver, rng)
        driver.assert_sound()
    driver.settle()
    while driver.slots.held:
        driver.release()
        driver.assert_sound()
    driver.do(TargetSet(blocks(SIZE)))
    driver.run_for(10)
    driver.assert_sound()
    statistics = driver.guest.statistics()
    assert statistics.current_pages == blocks(SIZE)
    assert (statistics.slots, statistics.balloon_2m_pages, statistics.balloon_4k_pages) == (0, 0, 0)
    assert sum(1 for came in driver.slots.answers if came) > 0
