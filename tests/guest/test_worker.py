"""The balloon worker: playbooks of its states and delays, and which extents it names."""

from collections.abc import Mapping
from itertools import groupby

import numpy as np
import pytest

from tests.guest.naive_host import Driver, NaiveHost, blocks, moved
from xbd.abi import Decrease, DomainType, Populate
from xbd.guest import (
    DRIVERS,
    Answered,
    Event,
    Guest,
    GuestSettings,
    LimitSet,
    MemoryFreed,
    ModeSet,
    ShutdownAsked,
    TargetSet,
    Tick,
    override_driver,
    parse_mode,
)
from xbd.guest.balloon.backoff import Backoff, WorkerState
from xbd.guest.workload import Idle, Steady, Workload
from xbd.guest.workload.holdings import Pool
from xbd.units import SUPER_ORDER, SUPER_PAGES

EMPTY = Idle(used=0, cache=0, kernel=0)
# The driver must do the same whoever its hypervisor is; only lists are shorter on virtio.
on_both_back_ends = pytest.mark.parametrize("domain_type", [DomainType.PVH, DomainType.VIRTIO])


def booted(
    *,
    size: int = 16,
    populated: int | None = None,
    strategy: str = "full",
    workload: Workload = EMPTY,
    kernel_pages: int | None = None,
    free_frames: int = 1 << 40,
    superframes: int = 1 << 40,
    domain_type: DomainType = DomainType.PVH,
    driver_options: Mapping[str, object] | None = None,
) -> Driver:
    """Boot a guest of *size* blocks, of which *populated* are backed."""
    pages = blocks(size if populated is None else populated)
    naive = NaiveHost(blocks(size), max_pages=blocks(size), free_frames=free_frames, superframes=superframes)
    naive.domain_type = domain_type
    boot = naive.boot(pages)
    settings = override_driver(DRIVERS[strategy], driver_options or {})
    guest = Guest(boot, GuestSettings(settings, verify=True, kernel_pages=kernel_pages), 1, workload)
    driver = Driver(guest, naive)
    driver.do(Tick())
    naive.executed.clear()
    return driver


def shape(driver: Driver) -> list[tuple[str, int, int]]:
    """Sum the executed operations up as (kind, order, extents) and forget them."""
    seen = [(kind, order, gfns.size) for kind, order, gfns in moved(driver.host.executed)]
    driver.host.executed.clear()
    return seen


def joined(driver: Driver) -> list[tuple[str, int, int]]:
    """Sum up as `shape`, however many lists it took."""
    runs = groupby(shape(driver), key=lambda listed: listed[:2])
    return [(kind, order, sum(extents for _, _, extents in run)) for (kind, order), run in runs]


def state(driver: Driver) -> tuple[str, int, int]:
    """Say the worker's state, delay and count as sysfs does."""
    statistics = driver.guest.statistics()
    return statistics.worker_state, statistics.schedule_delay, statistics.retry_count


def test_delays_double_and_the_fourth_failure_cancels() -> None:
    """>> AGAIN four times << 2, 4, 8 s, then CANCELLED; DONE resets."""
    backoff = Backoff(delay_max_s=32, retry_max=4)
    pauses = [(backoff.note(WorkerState.AGAIN), backoff.pause_s) for _ in range(4)]
    assert [(str(state), pause) for state, pause in pauses] == [
        ("again", 2.0),
        ("again", 4.0),
        ("again", 8.0),
        ("cancelled", 3600.0),
    ]
    assert (backoff.schedule_delay, backoff.retry_count) == (1, 1)
    backoff.note(WorkerState.AGAIN)
    backoff.note(WorkerState.DONE)
    assert (backoff.schedule_delay, backoff.retry_count) == (1, 1)
    backoff.note(WorkerState.WAIT)
    assert backoff.pause_s == 1.0


def test_without_a_limit_the_delay_stops_growing() -> None:
    """retry_max 0 tries for ever, at most every 32 s."""
    backoff = Backoff(delay_max_s=32, retry_max=0)
    delays = []
    for _ in range(8):
        backoff.note(WorkerState.AGAIN)
        delays.append(backoff.pause_s)
    assert delays == [2, 4, 8, 16, 32, 32, 32, 32]


@on_both_back_ends
def test_inflation_and_deflation_move_whole_blocks(domain_type: DomainType) -> None:
    """>> half the target, then all of it << one order-9 decrease, one order-9 populate, lowest blocks first."""
    driver = booted(domain_type=domain_type)
    driver.do(TargetSet(blocks(8)))
    assert joined(driver) == [("Decrease", SUPER_ORDER, 8)]
    driver.assert_sound()
    driver.do(TargetSet(blocks(11)))
    ((_, _, gfns),) = moved(driver.host.executed)
    assert (gfns // SUPER_PAGES).tolist() == [8, 9, 10]
    assert joined(driver) == [("Populate", SUPER_ORDER, 3)]
    driver.assert_sound()
    assert driver.notes.count("settled") == 2


@on_both_back_ends
def test_a_rest_that_is_no_block_goes_by_single_pages(domain_type: DomainType) -> None:
    """>> a target between blocks << whole blocks first, then a batch of single pages; and back, pages last."""
    driver = booted(domain_type=domain_type)
    driver.do(TargetSet(blocks(10) + 100))
    assert joined(driver) == [("Decrease", SUPER_ORDER, 5), ("Decrease", 0, 412)]
    driver.do(TargetSet(blocks(16)))
    assert joined(driver) == [("Populate", SUPER_ORDER, 5), ("Populate", 0, 412)]
    driver.assert_sound()


@on_both_back_ends
def test_a_block_is_broken_only_when_there_is_no_single_page(domain_type: DomainType) -> None:
    """>> 10 pages wanted, then 400 << one block is split; then the rest of it is used before any other."""
    driver = booted(domain_type=domain_type)
    driver.do(TargetSet(blocks(8)))
    driver.host.executed.clear()
    driver.do(TargetSet(blocks(8) + 10))
    assert joined(driver) == [("Populate", 0, 10)]
    driver.do(TargetSet(blocks(8) + 410))
    assert joined(driver) == [("Populate", 0, 400)]
    assert driver.guest.statistics().balloon_2m_pages == blocks(7)
    assert driver.guest.statistics().balloon_4k_pages == 102
    driver.assert_sound()


@on_both_back_ends
def test_without_whole_superframes_the_host_is_asked_for_single_frames(domain_type: DomainType) -> None:
    """>> order 9 gets ENOMEM << the block is split and populated by order 0."""
    driver = booted(populated=8, superframes=1, domain_type=domain_type)
    driver.do(TargetSet(blocks(12)))
    seen = joined(driver)
    assert seen[:2] == [("Populate", SUPER_ORDER, 4), ("Populate", 0, 512)]
    assert driver.guest.statistics().current_pages == blocks(12)
    driver.assert_sound()


def test_up_to_eight_commands_are_in_flight() -> None:
    """>> much to deflate by single pages << 8 commands of 512 at once, then 8 more."""
    driver = booted(size=32, populated=8, strategy="stock", driver_options={"commands_in_flight": 8})
    driver.send(TargetSet(blocks(28)))
    assert [command.gfns.size for command in driver.queue if isinstance(command, Populate)] == [512] * 8
    driver.settle()
    assert driver.in_flight_max == 8
    driver.assert_sound()


def test_a_batch_is_no_more_commands_than_may_be_in_flight() -> None:
    """>> blocks and single pages to deflate, 2 commands of 3 extents at a time << what there is room for, each time."""
    options = {"commands_in_flight": 2, "batch_extents": 3, "migration": False}
    driver = booted(populated=8, driver_options=options)
    driver.send(TargetSet(blocks(15) + 5))
    seen = []
    while driver.queue:
        seen.append([(order, gfns.size) for _, order, gfns in moved(list(driver.queue))])
        driver.answer(len(driver.queue))
    assert seen == [[(9, 3), (9, 3)], [(9, 1), (0, 3)], [(0, 2)]]
    driver.assert_sound()


def cancelled(*, strategy: str = "full", domain_type: DomainType = DomainType.PVH) -> Driver:
    """Boot a guest of 8 blocks that wanted 10, was refused them for a minute, and has been cancelled; then memory is free."""
    driver = booted(populated=8, free_frames=0, strategy=strategy, domain_type=domain_type)
    driver.do(TargetSet(blocks(10)))
    driver.run_for(60)
    assert state(driver)[0] == "cancelled"
    driver.host.free_frames = 1 << 30
    driver.host.executed.clear()
    return driver


@pytest.mark.parametrize("event", [TargetSet(blocks(10)), LimitSet(blocks(16)), MemoryFreed()], ids=repr)
@on_both_back_ends
def test_a_cancelled_deflation_is_woken_by_whatever_it_is_told(domain_type: DomainType, event: Event) -> None:
    """>> the same target again, the limit, or free memory << it grows at once."""
    driver = cancelled(domain_type=domain_type)
    driver.do(event)
    assert driver.guest.statistics().current_pages == blocks(10)
    assert state(driver) == ("done", 1, 1)
    driver.assert_sound()


@pytest.mark.parametrize("event", [TargetSet(blocks(10)), LimitSet(blocks(16)), MemoryFreed()], ids=repr)
def test_a_deflation_that_backs_off_begins_anew_when_it_is_told(event: Event) -> None:
    """>> told after the third failure, in vain << tried at once, and then after 2, 4 and 8 s as from the beginning."""
    driver = booted(populated=8, free_frames=0)
    driver.do(TargetSet(blocks(10)))
    driver.run_for(6)
    assert state(driver) == ("again", 8, 4)
    driver.host.executed.clear()
    driver.do(event)
    assert shape(driver) != []
    assert state(driver) == ("again", 2, 2)
    driver.run_for(13)
    assert state(driver)[0] == "again"
    driver.run_for(1)
    assert state(driver)[0] == "cancelled"


@pytest.mark.parametrize("event", [TargetSet(blocks(10)), LimitSet(blocks(16)), MemoryFreed()], ids=repr)
def test_what_a_worker_is_told_during_a_batch_is_not_lost(event: Event) -> None:
    """>> told between the last try's refusal and its answer << tried once more, at once."""
    driver = booted(populated=8, free_frames=0)
    driver.do(TargetSet(blocks(10)))
    driver.run_for(13.9)
    driver.now = 14.0
    driver.send(Tick())
    refused = [driver.host.execute(driver.queue.popleft()) for _ in range(len(driver.queue))]
    driver.host.free_frames = 1 << 30
    driver.send(event)
    assert not driver.queue
    driver.do(Answered(refused))
    assert driver.guest.statistics().current_pages == blocks(10)
    driver.assert_sound()


def test_a_worker_that_is_told_in_vain_tries_once_each_time() -> None:
    """>> told ten times while the host has nothing << ten tries at once, and no more of them."""
    driver = cancelled()
    driver.host.free_frames = 0
    for told in range(1, 11):
        driver.do(MemoryFreed())
        tries = [kind for kind, order, _ in moved(driver.host.executed) if (kind, order) == ("Populate", 0)]
        assert len(tries) == told
    driver.assert_sound()


def test_free_memory_of_the_host_does_not_concern_who_gives_memory_up() -> None:
    """>> an inflation was cancelled, the host has memory << nothing is tried; the same target again << it is."""
    driver = booted(workload=Idle(used=0.6, cache=0, kernel=0))
    driver.do(TargetSet(blocks(8)))
    driver.run_for(60)
    driver.host.executed.clear()
    for event in (MemoryFreed(), LimitSet(blocks(16))):
        driver.do(event)
        assert state(driver)[0] == "cancelled"
    driver.do(TargetSet(blocks(8)))
    assert state(driver)[0] == "again"


@on_both_back_ends
def test_a_cancelled_stock_deflation_is_woken_by_another_target_only(domain_type: DomainType) -> None:
    """>> memory is free, the same target, the limit again << nothing; another target << it goes on (semantics section 8)."""
    driver = cancelled(strategy="stock", domain_type=domain_type)
    for event in (MemoryFreed(), TargetSet(blocks(10)), LimitSet(blocks(16))):
        driver.do(event)
        driver.run_for(60)
    assert driver.guest.statistics().current_pages == blocks(8)
    assert driver.guest.statistics().wake_when_told == 0
    driver.do(TargetSet(blocks(11)))
    assert driver.guest.statistics().current_pages == blocks(11)


@on_both_back_ends
def test_a_cancelled_worker_looks_again_after_an_hour(domain_type: DomainType) -> None:
    """>> an hour passes << the worker tries again."""
    driver = booted(populated=8, free_frames=0, domain_type=domain_type)
    driver.do(TargetSet(blocks(10)))
    driver.run_for(60)
    driver.host.free_frames = 1 << 30
    driver.run_for(3600)
    assert driver.guest.statistics().current_pages == blocks(10)


@on_both_back_ends
def test_any_change_of_the_credit_wakes_a_worker_that_waits(domain_type: DomainType) -> None:
    """>> AGAIN with 2 s to wait, then a new target at once << it does not wait."""
    driver = booted(populated=8, free_frames=0, domain_type=domain_type)
    driver.do(TargetSet(blocks(10)))
    assert state(driver) == ("again", 2, 2)
    driver.host.free_frames = 1 << 30
    driver.do(TargetSet(blocks(9)))
    assert state(driver) == ("done", 1, 1)
    assert driver.guest.statistics().current_pages == blocks(9)


@pytest.mark.parametrize(("strategy", "woken"), [("full", True), ("stock", False)])
def test_freed_pages_wake_a_cancelled_inflation(strategy: str, woken: bool) -> None:  # noqa: FBT001 - a parameter
    """>> the guest's own memory becomes free << the improved driver goes on, Linux's has forgotten the guest."""
    driver = booted(strategy=strategy, workload=Idle(used=0.6, cache=0, kernel=0))
    driver.do(TargetSet(blocks(8)))
    driver.run_for(60)
    assert state(driver)[0] == "cancelled"
    stopped_at = driver.guest.statistics().current_pages
    programs = driver.guest._programs
    driver.guest._procedures.start(programs._free(Pool.ANON, 1000))
    driver.do(Tick())
    assert (driver.guest.statistics().current_pages < stopped_at) == woken


@on_both_back_ends
def test_inflation_leaves_the_reserves_alone_but_drops_the_cache(domain_type: DomainType) -> None:
    """>> a target below what the programs hold << cache goes, programs and reserves stay, the shortfall is visible."""
    driver = booted(workload=Idle(used=0.5, cache=0.3, kernel=0), domain_type=domain_type)
    driver.do(TargetSet(blocks(4)))
    statistics = driver.guest.statistics()
    assert statistics.cache_pages == 0
    assert statistics.guest_free_pages == driver.guest._zone.watermarks.low_pages
    assert statistics.current_pages > statistics.target_pages
    assert statistics.worker_state == "again"
    assert statistics.movable_pages == blocks(8)
    driver.assert_sound()


@on_both_back_ends
def test_an_absurd_target_stops_at_the_floor(domain_type: DomainType) -> None:
    """>> target 0 << the guest keeps 1/32 of its pages and is content."""
    driver = booted(size=64, kernel_pages=100, domain_type=domain_type)
    driver.do(TargetSet(0))
    statistics = driver.guest.statistics()
    assert statistics.current_pages == statistics.aim_pages == blocks(2)
    assert statistics.worker_state == "done"


@on_both_back_ends
def test_targets_beyond_limit_or_memory_are_not_tried(domain_type: DomainType) -> None:
    """>> a target above what there is << it aims at what there is, without a single refused hypercall."""
    driver = booted(populated=8, domain_type=domain_type)
    driver.do(LimitSet(blocks(10)))
    driver.do(TargetSet(blocks(1000)))
    assert joined(driver) == [("Populate", SUPER_ORDER, 2)]
    assert state(driver)[0] == "done"


def test_a_stuck_guest_does_nothing_until_it_is_normal_again() -> None:
    """>> mode stuck, a target, mode normal << nothing, then all of it."""
    driver = booted()
    driver.do(ModeSet(parse_mode("stuck")))
    driver.do(TargetSet(blocks(8)))
    driver.run_for(100)
    assert shape(driver) == []
    driver.do(ModeSet(parse_mode("normal")))
    assert shape(driver) == [("Decrease", SUPER_ORDER, 8)]


@on_both_back_ends
def test_a_slow_guest_keeps_its_rate(domain_type: DomainType) -> None:
    """>> slow 4MiB/s << two blocks a second."""
    driver = booted(domain_type=domain_type)
    driver.do(ModeSet(parse_mode("slow 4MiB/s")))
    driver.do(TargetSet(blocks(6)))
    seen = []
    for _ in range(7):
        seen.append((blocks(16) - driver.guest.statistics().current_pages) // SUPER_PAGES)
        driver.run_for(1)
    assert seen == [2, 4, 6, 8, 10, 10, 10]


def test_floor_and_ceiling_modes_hold_the_guest() -> None:
    """>> floor and ceiling << the guest goes no further."""
    driver = booted()
    driver.do(ModeSet(parse_mode("floor 20m")))
    driver.do(TargetSet(blocks(4)))
    assert driver.guest.statistics().current_pages == blocks(10)
    driver.do(ModeSet(parse_mode("ceiling 24m")))
    driver.do(TargetSet(blocks(16)))
    assert driver.guest.statistics().current_pages == blocks(12)


def test_a_liar_reports_its_target_as_reached() -> None:
    """>> mode lies with an unreachable target << the report is content, the truth is not."""
    driver = booted(workload=Idle(used=0.9, cache=0, kernel=0))
    driver.do(ModeSet(parse_mode("lies")))
    driver.do(TargetSet(blocks(2)))
    report = driver.guest.report()
    assert report["current_pages"] == blocks(2)
    assert len(driver.host.words) > blocks(8)
    assert all(type(number) in (int, str) for number in report.values())


def test_stock_takes_whole_blocks_in_descending_runs() -> None:
    """>> 2 blocks and a half << a call after the other, each descends, the next lies above; the last ones come back first."""
    driver = booted(strategy="stock", workload=Steady(used=0.3, cache=0, kernel=0, churn=0))
    driver.do(TargetSet(blocks(13) + 256))
    calls = [c.gfns for c in driver.host.executed if isinstance(c, Decrease)]
    gfns = np.concatenate(calls)
    assert ([call.size for call in calls], driver.in_flight_max) == ([512, 512, 256], 1)
    assert len(set((gfns // SUPER_PAGES).tolist())) == 3
    for call in calls:
        assert all(step == -1 for step in np.diff(call) if step > -SUPER_PAGES)
    assert [call[0] for call in calls] == sorted(call[0] for call in calls)
    driver.host.executed.clear()
    driver.do(TargetSet(blocks(14)))
    (back,) = [c for c in driver.host.executed if isinstance(c, Populate)]
    assert set(back.gfns.tolist()) == set(gfns[-256:].tolist())
    driver.assert_sound()


def test_the_sysfs_names_are_in_the_report() -> None:
    """What Linux shows in sysfs is there under the same names."""
    driver = booted()
    driver.do(TargetSet(blocks(8)))
    report = driver.guest.report()
    assert report["current_kb"] == report["target_kb"] == blocks(8) * 4
    assert report["target"] == blocks(8) * 4096
    assert report["low_kb"] == blocks(8) * 4
    names = ("high_kb", "schedule_delay", "max_schedule_delay", "retry_count", "max_retry_count")
    assert [report[name] for name in names] == [0, 1, 32, 1, 4]


def test_shutdown_waits_for_what_is_in_flight() -> None:
    """>> shutdown asked with commands in flight << it is noted when they are answered, and nothing new is begun."""
    driver = booted()
    driver.send(TargetSet(blocks(8)))
    assert driver.queue
    driver.send(ShutdownAsked())
    assert not driver.guest.shut_down
    driver.settle()
    assert vars(driver.guest)["shut_down"]
    assert driver.notes[-1] == "shutdown"
    driver.do(TargetSet(blocks(4)))
    assert driver.deadline is None
    assert driver.guest.statistics().current_pages == blocks(8)
    driver.assert_sound()
