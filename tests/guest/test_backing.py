"""What a host backs by faults: counted by first touches, and forgotten when memory is given up."""

import numpy as np

from tests.guest.naive_host import Driver, NaiveHost, blocks
from xbd.guest import DRIVERS, Demand, Guest, GuestSettings, TargetSet
from xbd.guest.backing import Backing
from xbd.guest.workload import Driven
from xbd.units import SUPER_PAGES


def test_an_untouched_block_is_one_fault_and_a_page_that_was_given_up_is_one() -> None:
    """A block is backed at its first touch; after a page of it was given up, that page is backed by itself."""
    backing = Backing(4 * SUPER_PAGES)
    backing.use(np.array([3, 700, 701]))
    assert (backing.faults_2m, backing.faults_4k) == (2, 0)
    backing.use(np.array([4, 5]))
    backing.take(np.array([4, 5, 1030]), 0)
    assert backing.touched_4k_taken == 2, "what was never touched frees nothing"
    backing.use(np.array([4, 5, 6]))
    assert (backing.faults_2m, backing.faults_4k) == (2, 2)


def test_a_block_that_was_given_up_whole_is_one_fault_again() -> None:
    """Of blocks given up as one, those that were touched are counted; touched again, each is one fault."""
    backing = Backing(4 * SUPER_PAGES)
    backing.use(np.arange(SUPER_PAGES))
    backing.take(np.array([0, SUPER_PAGES]), 9)
    assert backing.touched_2m_taken == 1
    backing.use(np.arange(2 * SUPER_PAGES))
    assert (backing.faults_2m, backing.faults_4k) == (3, 0)


def test_a_guest_counts_what_its_programs_and_its_kernel_touch() -> None:
    """Used, given up by single pages, and used again; without the setting there is nothing that counts."""
    host = NaiveHost(blocks(8), blocks(8))
    settings = GuestSettings(DRIVERS["linux-virtio"], kernel_pages=50, count_faults=True, huge_pages=False)
    driver = Driver(Guest(host.boot(blocks(8)), settings, 1, Driven()), host)
    driver.do(Demand(3000, 0))
    backing = driver.guest.backing
    assert backing is not None
    assert (backing.faults_2m, backing.faults_4k) == (7, 0), "a block of the kernel, and six of its programs"
    driver.do(Demand(1000, 0))
    driver.do(TargetSet(blocks(3)))
    taken = backing.touched_4k_taken
    assert 0 < taken <= 7 * SUPER_PAGES, "what was never touched is not among it"
    driver.do(TargetSet(blocks(8)))
    driver.do(Demand(3500, 0))
    assert taken - 500 <= backing.faults_4k <= taken
    assert Guest(host.boot(blocks(8)), GuestSettings(), 1, Driven()).backing is None
