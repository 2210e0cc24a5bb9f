"""Who is told that a host has memory again: whom, in which order, how often."""

import numpy as np
import pytest

from xbd.abi import Decrease, MemopResult, Populate, Stop
from xbd.machine import HostSettings, Machine
from xbd.units import SUPER_ORDER, SUPER_PAGES


def pages(first: int, count: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """List *count* gfns from *first*."""
    return np.arange(first, first + count, dtype=np.int64)


def full_machine(waiters: int, *, lacking: int = 2 * SUPER_PAGES) -> Machine:
    """Make a host without a free frame: d1 holds 8 superframes, each of *waiters* one, and lacks *lacking* pages.

    All of the waiters have been refused memory, in the order of their domids.
    """
    machine = Machine(8 + waiters, settings=HostSettings())
    machine.create("rich", max_pages=8 * SUPER_PAGES, target_pages=8 * SUPER_PAGES)
    for number in range(waiters):
        domid = machine.create(f"w{number}", max_pages=64 * SUPER_PAGES, target_pages=SUPER_PAGES)
        machine.set_target(domid, SUPER_PAGES + lacking)
    for number in range(waiters):
        refuse(machine, 2 + number)
    return machine


def refuse(machine: Machine, domid: int, order: int = 0) -> None:
    """Let a domain ask for memory that the host has not got."""
    first = machine.domain(domid).p2m.gfn_count - SUPER_PAGES
    assert machine.execute(domid, Populate(pages(first, 1), order)) == MemopResult(0, Stop.ENOMEM)


def free(machine: Machine, first: int, count: int) -> None:
    """Let d1 give up pages."""
    assert machine.execute(1, Decrease(pages(first, count), 0)) == MemopResult(count)


def test_memory_for_one_wakes_one_and_the_longest_waiter_first() -> None:
    """Three wait, superframes become free one by one: each time one more is told, in the order of their refusals."""
    machine = full_machine(3)
    assert (machine.has_news, machine.take_relieved()) == (False, [])
    told = []
    for block in range(4):
        free(machine, block * SUPER_PAGES, SUPER_PAGES)
        told.append((machine.has_news, machine.take_relieved()))
    assert told == [(True, [2]), (True, [3]), (True, [4]), (False, [])]


def test_much_memory_at_once_wakes_as_many_as_it_is_for() -> None:
    """Five wait, three superframes become free at once: three are told."""
    machine = full_machine(5)
    machine.execute(1, Decrease(pages(0, 3) * SUPER_PAGES, SUPER_ORDER))
    assert machine.take_relieved() == [2, 3, 4]


def test_a_page_here_and_there_wakes_nobody() -> None:
    """Only when a whole superframe's worth is free is one told who lacks more than that."""
    machine = full_machine(1)
    for page in range(0, SUPER_PAGES - 1, 73):
        free(machine, page, 1)
        assert machine.take_relieved() == []
    assert not machine.has_news


def test_who_lacks_little_is_told_when_that_is_free() -> None:
    """Ten pages are enough for one who lacks ten, though the one before it in the line lacks more."""
    machine = full_machine(2)
    machine.set_target(3, SUPER_PAGES + 10)
    refuse(machine, 3)
    free(machine, 0, 9)
    assert machine.take_relieved() == []
    free(machine, 9, 1)
    assert machine.take_relieved() == [3]


def test_who_was_told_is_told_again_only_after_another_refusal() -> None:
    """However much becomes free meanwhile; and after a success there is nothing to be told of."""
    machine = full_machine(1)
    free(machine, 0, SUPER_PAGES)
    assert machine.take_relieved() == [2]
    free(machine, SUPER_PAGES, SUPER_PAGES)
    assert machine.take_relieved() == []
    assert machine.execute(2, Populate(pages(SUPER_PAGES, 2 * SUPER_PAGES), 0)).stop is Stop.BUDGET  # type: ignore[union-attr]
    free(machine, 2 * SUPER_PAGES, SUPER_PAGES)
    assert machine.take_relieved() == []


def test_what_nobody_takes_is_offered_to_the_next() -> None:
    """One that does not listen keeps the others waiting only until its offer is withdrawn."""
    machine = full_machine(2)
    free(machine, 0, SUPER_PAGES)
    assert (machine.take_relieved(), machine.take_relieved()) == ([2], [])
    assert (machine.has_offers, machine.has_news) == (True, False)
    machine.withdraw_offers()
    assert (machine.has_offers, machine.has_news) == (False, True)
    assert machine.take_relieved() == [3]
    machine.withdraw_offers()
    assert (machine.has_news, machine.take_relieved()) == (False, [])


def test_an_order_9_refusal_waits_for_a_whole_superframe() -> None:
    """Scattered pages do not help it; when the last of a superframe's pages is free it is told."""
    machine = full_machine(1)
    refuse(machine, 2, SUPER_ORDER)
    free(machine, 0, SUPER_PAGES - 1)
    free(machine, SUPER_PAGES, SUPER_PAGES - 1)
    assert machine.take_relieved() == []
    free(machine, SUPER_PAGES - 1, 1)
    assert machine.take_relieved() == [2]


def test_a_claim_that_ends_and_a_domain_that_goes_free_memory_too() -> None:
    """What was promised to another, or held by one that is destroyed, is there for who waits."""
    machine = full_machine(1, lacking=9 * SUPER_PAGES)
    free(machine, 0, SUPER_PAGES)
    machine.claim(1, 8 * SUPER_PAGES)
    assert machine.take_relieved() == []
    machine.claim(1, 0)
    assert machine.take_relieved() == [2]
    assert machine.execute(2, Populate(pages(SUPER_PAGES, SUPER_PAGES), 0)) == MemopResult(SUPER_PAGES)
    refuse(machine, 2)
    machine.destroy(1)
    assert machine.take_relieved() == [2]


@pytest.mark.parametrize("ends", ["destroy", "reboot"])
def test_one_that_ends_waits_no_more(ends: str) -> None:
    """Neither what was a guest nor the one that boots in its place is told of what it never asked for."""
    machine = full_machine(2)
    getattr(machine, ends)(2)
    free(machine, 0, SUPER_PAGES)
    assert machine.take_relieved()[:1] == [3]
    assert 2 not in machine.take_relieved()


def test_one_whose_target_was_lowered_lacks_nothing() -> None:
    """It leaves the line, and what is free is for the next."""
    machine = full_machine(2)
    machine.set_target(2, SUPER_PAGES)
    free(machine, 0, SUPER_PAGES)
    assert machine.take_relieved() == [3]


def test_a_refusal_by_the_own_limit_is_nothing_to_wait_for() -> None:
    """E2BIG is not about the host's memory: who is told is told by its limit."""
    machine = Machine(8)
    domid = machine.create("small", max_pages=4 * SUPER_PAGES, target_pages=SUPER_PAGES)
    machine.set_target(domid, 2 * SUPER_PAGES)
    machine.set_max_pages(domid, SUPER_PAGES)
    assert machine.execute(domid, Populate(pages(SUPER_PAGES, 1), 0)) == MemopResult(0, Stop.E2BIG)
    machine.execute(domid, Decrease(pages(0, 1), 0))
    assert machine.take_relieved() == []


def test_a_thousand_who_wait_get_one_notice_for_each_superframe() -> None:
    """A guest that gives up and takes back the same memory cannot make the host tell all the others each time."""
    machine = full_machine(1000)
    notices = 0
    for _ in range(50):
        free(machine, 0, SUPER_PAGES)
        notices += len(machine.take_relieved())
        assert machine.execute(1, Populate(pages(0, SUPER_PAGES), 0)) == MemopResult(SUPER_PAGES)
    assert notices == 1
    machine.withdraw_offers()
    free(machine, 0, SUPER_PAGES)
    assert machine.take_relieved() == [3]
