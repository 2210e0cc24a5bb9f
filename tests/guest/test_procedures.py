"""Procedures that wait: order, locks, partial results."""

from collections.abc import Generator

import numpy as np

from xbd.abi import MAX_WORDS, Decrease, Frames, Load, LoadResult, MemopResult, Populate, Refused, Result, Stop, Store
from xbd.guest.procedures import (
    Call,
    Lock,
    Procedure,
    Procedures,
    Request,
    carry_out,
    load_words,
    split_calls,
    store_words,
)


def gfns(count: int, first: int = 0) -> Frames:
    """Name some gfns in a row."""
    return np.arange(first, first + count, dtype=np.int64)


def one_call(log: list[str], name: str, size: int) -> Procedure:
    """Yield *size* commands once, and log when that begins and ends."""
    log.append(f"{name} begins")
    results = yield [Populate(gfns(1, i)) for i in range(size)]
    log.append(f"{name} ends with {len(results)}")


def test_results_go_to_the_oldest_commands() -> None:
    """Two procedures share the 8 commands in flight; a third waits until there is room."""
    log: list[str] = []
    procedures = Procedures()
    for name, size in (("a", 3), ("b", 5), ("c", 1)):
        procedures.start(one_call(log, name, size))
    assert len(procedures.run()) == 8
    procedures.answer([MemopResult(1)] * 2)
    assert len(procedures.run()) == 1
    procedures.answer([MemopResult(1)] * 7)
    assert procedures.run() == []
    assert log == ["a begins", "b begins", "c begins", "a ends with 3", "b ends with 5", "c ends with 1"]


def holder(log: list[str], name: str, lock: Lock) -> Procedure:
    """Hold a lock over one command."""
    yield lock
    log.append(f"{name} holds")
    yield [Populate(gfns(1))]
    log.append(f"{name} gives up")
    lock.release()


def test_a_lock_is_held_by_one_and_passed_on_in_order() -> None:
    """Who asks first holds first, and who only tries does not jump the queue."""
    log: list[str] = []
    lock = Lock()
    procedures = Procedures(lock)
    for name in "abc":
        procedures.start(holder(log, name, lock))
    for _ in range(3):
        assert len(procedures.run()) == 1
        assert not lock.try_acquire()
        procedures.answer([MemopResult(1)])
    procedures.run()
    assert log == [f"{name} {what}" for name in "abc" for what in ("holds", "gives up")]
    assert lock.try_acquire()


def drive(procedure: Generator[Request, list[Result], object], answers: list[list[Result]]) -> list[int]:
    """Feed a procedure its results; returns how many commands it yielded each time."""
    sizes = []
    request = next(procedure)
    for index, results in enumerate(answers):
        assert isinstance(request, list)
        sizes.append(len(request))
        try:
            request = procedure.send(results)
        except StopIteration:
            assert index == len(answers) - 1
            return sizes
    raise AssertionError("the procedure wants more results")


def test_budget_means_the_rest_again_and_an_error_means_no_more() -> None:
    """Each call is settled on its own: done, stopped, or gone on with."""
    calls = split_calls(Decrease, gfns(1200))
    assert [call.extents.size for call in calls] == [512, 512, 176]
    sizes = drive(
        carry_out(calls),
        [
            [MemopResult(512), MemopResult(100, Stop.BUDGET), MemopResult(3, Stop.EBUSY)],
            [MemopResult(0, Stop.BUDGET)],
            [MemopResult(412)],
        ],
    )
    assert sizes == [3, 1, 1]
    assert [(call.done, call.stop) for call in calls] == [(512, None), (512, None), (3, "EBUSY")]
    assert calls[2].left.tolist() == list(range(1027, 1200))


def test_more_than_eight_calls_go_eight_at_a_time() -> None:
    """A long list never has more than 8 in flight."""
    calls = split_calls(Populate, gfns(10), size=1)
    done: list[Result] = [MemopResult(1)]
    assert drive(carry_out(calls), [done * 8, done * 2]) == [8, 2]


def test_a_host_that_only_says_budget_is_given_up() -> None:
    """BUDGET without progress is not followed for ever."""
    call = Call(Populate, gfns(5))
    for _ in range(65):
        call.settle(MemopResult(0, Stop.BUDGET))
    assert call.finished
    assert call.stop == Stop.BUDGET


def test_a_refusal_stops_a_call_with_its_errno() -> None:
    """Nothing was tried: nothing is done."""
    call = Call(Populate, gfns(5))
    call.settle(Refused("EOPNOTSUPP", "no"))
    assert (call.done, call.stop) == (0, "EOPNOTSUPP")


def finish(procedure: Generator[Request, list[Result], object], host: dict[int, int], budget: int) -> object:
    """Run a load or store against a dict of words; each command does at most *budget* pages."""
    try:
        request = next(procedure)
        while True:
            assert isinstance(request, list)
            results: list[Result] = []
            for command in request:
                assert isinstance(command, Load | Store)
                assert 0 < command.gfns.size <= MAX_WORDS
                done, words, stop = 0, [], None
                for index, gfn in enumerate(command.gfns.tolist()):
                    if gfn not in host or done == budget:
                        stop = Stop.BUDGET if gfn in host else Stop.EFAULT
                        break
                    if isinstance(command, Store):
                        host[gfn] = int(command.words[index])
                    words.append(host[gfn])
                    done += 1
                is_load = isinstance(command, Load)
                loaded = np.array(words, dtype=np.uint64)
                results.append(LoadResult(done, stop, loaded) if is_load else MemopResult(done, stop))
            request = procedure.send(results)
    except StopIteration as end:
        return end.value


def test_words_are_loaded_and_stored_whatever_the_budget() -> None:
    """Any number of turns gives the same words; a page that is not there is stepped over and counted."""
    for budget in (1, 3, 100):
        host = dict.fromkeys(range(50), 0)
        words = np.arange(1, 51, dtype=np.uint64)
        assert finish(store_words(gfns(50), words), host, budget) == 0
        assert host == {gfn: gfn + 1 for gfn in range(50)}
        del host[7], host[8], host[49]
        loaded = finish(load_words(gfns(50)), host, budget)
        assert isinstance(loaded, tuple)
        assert loaded[1] == 3
        assert {gfn: word for gfn, word in enumerate(loaded[0].tolist()) if word} == host
        assert finish(store_words(gfns(50), words), host, budget) == 3


def test_long_lists_are_cut_at_what_a_message_holds() -> None:
    """More than 8 messages' worth of words goes in several rounds."""
    count = 9 * MAX_WORDS + 5
    host = dict.fromkeys(range(count), 3)
    loaded = finish(load_words(gfns(count)), host, count)
    assert isinstance(loaded, tuple)
    assert loaded[1] == 0
    assert (loaded[0] == 3).all()
