"""The periodic worker that exchanges 512 ballooned single pages for a 2 MiB page."""

from dataclasses import replace

from tests.guest.naive_host import Driver, NaiveHost, blocks
from xbd.abi import DomainType, Exchange, Features
from xbd.guest import DRIVERS, DriverSettings, Guest, GuestSettings, TargetSet, Tick
from xbd.guest.workload import Idle

SIZE = 16
# Nothing else tidies up, so that what it does is seen.
ALONE = replace(DRIVERS["worker"], migration=False, vacate_blocks=0)


def a_guest_in_pieces(settings: DriverSettings, features: Features | None = None) -> Driver:
    """Boot a guest whose balloon is every second page of its upper half: 2,048 single pages."""
    host = NaiveHost(blocks(SIZE), blocks(SIZE), features=features or Features())
    host.words = {gfn: 0 for gfn in range(blocks(SIZE)) if gfn < blocks(SIZE // 2) or gfn % 2}
    guest = Guest(host.boot_again(len(host.words)), GuestSettings(settings, verify=True), 1, Idle(used=0.1))
    driver = Driver(guest, host)
    driver.do(Tick())
    return driver


def test_single_pages_become_2_mib_pages_and_nothing_else_changes() -> None:
    """Within its period nothing happens; then whole blocks take their place, and the guest holds what it held."""
    driver = a_guest_in_pieces(ALONE)
    before = driver.guest.statistics()
    assert before.balloon_4k_pages == 2048
    driver.run_for(0.4)
    assert driver.guest.statistics().blocks_exchanged == 0
    driver.run_for(0.2)
    driver.assert_sound()
    after = driver.guest.statistics()
    assert (after.blocks_exchanged, after.exchanges_failed) == (4, 0)
    assert (after.balloon_4k_pages, after.balloon_2m_pages) == (0, 2048)
    assert after.current_pages == before.current_pages
    assert driver.deadline is None
    asked = [command for command in driver.host.executed if isinstance(command, Exchange)]
    assert {(command.gives_order, command.gets_order) for command in asked} == {(9, 0)}


def test_fewer_than_512_pages_are_left_alone() -> None:
    """There is nothing to look for, and no time to look again."""
    driver = a_guest_in_pieces(ALONE)
    driver.run_for(1.0)
    driver.do(TargetSet(driver.guest.statistics().current_pages - 511))
    driver.run_for(5.0)
    statistics = driver.guest.statistics()
    assert statistics.balloon_4k_pages == 511
    assert statistics.blocks_exchanged == 4


def test_a_host_without_free_frames_refuses_and_is_asked_again() -> None:
    """All is as it was, and when the host has frames the next turn has its way."""
    driver = a_guest_in_pieces(ALONE)
    driver.host.free_frames = 511
    driver.run_for(2.1)
    driver.assert_sound()
    statistics = driver.guest.statistics()
    assert (statistics.blocks_exchanged, statistics.exchanges_failed) == (0, 4)
    driver.host.free_frames = 512
    driver.run_for(1.0)
    driver.assert_sound()
    assert driver.guest.statistics().blocks_exchanged == 4


def test_it_is_there_only_where_the_host_exchanges() -> None:
    """Neither a host without exchange nor a virtio balloon is asked, nor is a driver that has it switched off."""
    without = a_guest_in_pieces(ALONE, Features(exchange=False))
    off = a_guest_in_pieces(replace(ALONE, exchange_worker_s=0.0))
    host = NaiveHost(blocks(4), blocks(4), domain_type=DomainType.VIRTIO)
    virtio = Driver(Guest(host.boot(blocks(2)), GuestSettings(ALONE), 1, Idle()), host)
    virtio.do(TargetSet(900))
    for driver in (without, off, virtio):
        driver.run_for(5.0)
        assert driver.guest.statistics().blocks_exchanged == driver.guest.statistics().exchanges_failed == 0
        assert not any(isinstance(command, Exchange) for command in driver.host.executed)
