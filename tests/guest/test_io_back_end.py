"""One batch of a back end, command by command, and what a back end keeps of a front end."""

import numpy as np
import pytest

from xbd.abi import Command, LoadResult, MapGrant, MemopResult, Refused, Result, Stop
from xbd.guest.io.client import Client
from xbd.guest.io.commands import step_over
from xbd.guest.io.messages import RING_REQUESTS, Request, Status
from xbd.guest.io.service import Batch
from xbd.guest.procedures import Lock, Procedure


def client(*, persistent: bool = False) -> Client:
    """Connect a front end with a disk of 256 sectors."""
    return Client.connect(5, 1, 256, persistent=persistent)


def request(number: int, *, write: bool = True, pages: int = 4) -> Request:
    """Make a request whose references are its number and what follows."""
    return Request(number, write, 0, np.arange(number * 100, number * 100 + pages, dtype=np.int64))


def play(procedure: Procedure, *results: Result) -> list[Command]:
    """Run a procedure that yields one command at a time, with these results; returns the commands."""
    commands: list[Command] = []
    try:
        yielded = next(procedure)
        for result in results:
            assert not isinstance(yielded, Lock)
            commands += yielded
            yielded = procedure.send([result])
    except StopIteration:
        return commands
    raise AssertionError(f"another command came: {yielded}")


def test_a_page_that_is_refused_ends_its_request_and_no_other() -> None:
    """The second request's second page is a bad reference: its others are not tried, the third's are."""
    batch = Batch(client(), [request(1), request(2), request(3)])
    commands = play(batch.map(np.arange(1000, 1012)), MemopResult(5, Stop.ENOENT), MemopResult(4))
    assert [command.refs.tolist() for command in commands if isinstance(command, MapGrant)] == [
        [100, 101, 102, 103, 200, 201, 202, 203, 300, 301, 302, 303],
        [300, 301, 302, 303],
    ]
    mapped, unmapped = batch.slots_to_return()
    assert mapped.tolist() == [1000, 1001, 1002, 1003, 1004, 1008, 1009, 1010, 1011]
    assert unmapped.tolist() == [1005, 1006, 1007]


def test_nothing_is_mapped_of_a_front_end_that_is_gone() -> None:
    """Under its domain's number there may be another by now: no command is issued, and all of it has failed."""
    gone = client()
    batch = Batch(gone, [request(1), request(2, write=False)])
    gone.gone = True
    assert play(batch.map(np.arange(1000, 1008))) == []
    assert play(batch.write()) == []
    assert play(batch.read()) == []
    assert [response.status for response in batch.responses()] == [Status.ERROR] * 2
    assert batch.slots_to_return()[1].tolist() == list(range(1000, 1008))


def test_it_is_not_mapped_on_when_it_goes_in_the_middle() -> None:
    """After half of a batch the front end is lost: the rest is not asked for, and nothing stays mapped."""
    lost = client(persistent=True)
    batch = Batch(lost, [request(1), request(2)])
    mapping = batch.map(np.arange(1000, 1008))
    next(mapping)
    lost.gone = True
    with pytest.raises(StopIteration):
        mapping.send([MemopResult(4, Stop.BUDGET)])
    assert batch.keep(100) == 0
    assert batch.slots_to_return()[0].tolist() == [1000, 1001, 1002, 1003]


def test_a_page_that_cannot_be_read_is_an_error_and_no_mismatch() -> None:
    """A mapping that was cut off in the middle: its request fails, and nobody is said to have written a wrong word."""
    batch = Batch(client(), [request(1)])
    play(batch.map(np.arange(1000, 1004)), MemopResult(4))
    play(batch.write(), LoadResult(2, Stop.EFAULT, np.zeros(2, dtype=np.uint64)))
    assert [response.status for response in batch.responses()] == [Status.ERROR]
    assert batch.mismatches == 0


def test_what_is_kept_is_bounded_and_named_once() -> None:
    """Of two requests for the same pages one mapping each stays, up to the bound; the next batch needs only the others."""
    owner = client(persistent=True)
    batch = Batch(owner, [request(1), request(1)])
    play(batch.map(np.arange(1000, 1008)), MemopResult(8))
    assert batch.keep(3) == owner.kept == 3
    assert batch.slots_to_return()[0].tolist() == [1003, 1004, 1005, 1006, 1007]
    again = Batch(owner, [request(1), request(1)])
    assert again.bare.tolist() == [3, 4, 5, 6, 7]
    play(again.map(np.arange(2000, 2005)), MemopResult(5))
    assert again.keep(100) == 1
    assert owner.forget_kept().tolist() == [1000, 1001, 1002, 2000]
    assert owner.kept == 0


def test_no_more_requests_are_held_than_a_ring_has() -> None:
    """Waiting, in service and answered but not told: together 32, whatever they are."""
    owner = client()
    beyond = Request(7, write=True, sector=253, refs=np.arange(4, dtype=np.int64))
    accepted = [owner.accept(beyond if number % 2 else request(number)) for number in range(40)]
    assert accepted == [True] * RING_REQUESTS + [False] * 8
    assert len(owner.answers) == 16
    taken = owner.take_batch()
    assert not owner.accept(request(50))
    assert owner.put_back(taken, 4) == taken[:4]
    assert not owner.accept(request(50))
    assert [each.number for each in owner.waiting] == [each.number for each in taken[4:]]


def test_a_hypervisor_that_only_says_budget_is_given_up() -> None:
    """So is one that refuses the command: nothing is done, and it ends."""
    groups = np.zeros(3, dtype=np.int64)

    def unmap() -> Procedure:
        done = yield from step_over(lambda at: MapGrant(1, at, at), groups)
        assert not done.any()

    assert len(play(unmap(), *[MemopResult(0, Stop.BUDGET)] * 65)) == 65
    assert len(play(unmap(), Refused("ESRCH", "no such domain"))) == 1
