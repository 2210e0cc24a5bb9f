"""The parts of the simulation: byte streams, oracles, plans, and the search for a short failure."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from xbd import abi
from xbd.abi import BootInfo, Command, Frames, MemopResult, Result, Stop
from xbd.lab.simulation.options import Options, make_plan
from xbd.lab.simulation.outcome import Outcome, shrink
from xbd.lab.simulation.rng import Purpose, Rng, Schedule, make_rngs
from xbd.lab.simulation.stream import Stream
from xbd.lab.simulation.watched import WatchedOracle
from xbd.testing.oracle import Violation, same


class Line:
    """A stream whose receiver keeps what arrives."""

    def __init__(self, *, in_pieces: bool = False) -> None:
        self.schedule = Schedule()
        self.got = b""
        self.ends = 0
        self.stream = Stream(
            self.schedule,
            Rng(np.random.default_rng(1)),
            "line",
            latency_s=0.001,
            in_pieces=in_pieces,
            arrived=self._arrived,
            ended=self._ended,
        )

    def _arrived(self, piece: bytes) -> None:
        self.got += piece

    def _ended(self) -> None:
        self.ends += 1

    def wait(self, events: int) -> list[str | None]:
        """Do this many events."""
        return [self.schedule.take()[1]() for _ in range(events)]


def gfns(*numbers: int) -> Frames:
    """Make an array of gfns."""
    return np.array(numbers, dtype=np.int64)


class TestStream:
    """Byte streams that delay, split and lose."""

    def test_what_is_sent_arrives_in_order_and_then_the_end(self) -> None:
        """All messages arrive in order, also in pieces, and the end arrives once after them."""
        line = Line(in_pieces=True)
        sent = [bytes([number]) * 50 for number in range(20)]
        for message in sent:
            line.stream.send(message)
        line.stream.end()
        while not line.ends:
            line.wait(1)

        assert line.got == b"".join(sent)
        assert line.ends == 1

    def test_what_is_lost_never_arrives(self) -> None:
        """After a loss nothing arrives but the end, once; events scheduled before it do nothing."""
        line = Line()
        line.stream.send(b"a")
        line.stream.lose()
        line.stream.send(b"b")

        assert line.wait(2) == [None, "end"] or line.ends == 1
        assert line.got == b""

    def test_a_part_of_a_message_may_arrive(self) -> None:
        """A loss may let a part of a message arrive, but never all of it."""
        line = Line()
        line.stream.send(b"abcdef")
        line.stream.lose(keep_part=True)
        line.wait(3)

        assert line.ends == 1
        assert 0 < len(line.got) < 6
        assert b"abcdef".startswith(line.got)

    def test_it_can_stall(self) -> None:
        """What is sent during a stall arrives after it."""
        line = Line()
        line.stream.stall(2.0)
        line.stream.send(b"a")
        line.wait(1)

        assert line.schedule.now >= 2.0


class TestOracle:
    """What answers change, and which answers are violations."""

    def booted(self, *runs: tuple[int, int]) -> WatchedOracle:
        """Make the oracle of a guest of 1024 pages that booted with these runs populated."""
        oracle = WatchedOracle(1, 1, 1024)
        oracle.boot(BootInfo(1, "g", 1024, np.array(runs, dtype=np.int64).reshape(-1, 2), 1024, 1024))
        return oracle

    def answer(
        self, oracle: WatchedOracle, command: Command, result: Result, *, executed: Result | None = None
    ) -> None:
        """Send, execute and answer a command."""
        oracle.issue([command])
        oracle.executed += 1
        oracle.results.append(executed or result)
        oracle.answered(result)

    def test_it_follows_what_is_answered(self) -> None:
        """Pages are populated, written, read, moved and given up as the answers say."""
        oracle = self.booted((0, 4))
        self.answer(oracle, abi.Populate(gfns(8, 9)), MemopResult(2))
        self.answer(oracle, abi.Store(gfns(0, 8), np.array([5, 6], dtype=np.uint64)), MemopResult(2))
        self.answer(oracle, abi.PopulateDepopulate(gfns(20), gfns(8)), MemopResult(1))
        self.answer(oracle, abi.Decrease(gfns(3, 2)), MemopResult(1, Stop.EBUSY) if oracle.grants else MemopResult(1))

        assert np.flatnonzero(oracle.populated).tolist() == [0, 1, 2, 9, 20]
        assert int(oracle.words[0]) == 5
        assert int(oracle.words[20]) == 0

    @pytest.mark.parametrize(
        ("command", "result", "wrong"),
        [
            (abi.Populate(gfns(1)), MemopResult(1), "was given pages that it has"),
            (abi.Populate(gfns(9)), MemopResult(0, Stop.EEXIST), "is populated; it is not"),
            (abi.Decrease(gfns(9)), MemopResult(1), "did not have"),
            (abi.Decrease(gfns(1)), MemopResult(0, Stop.ENOENT), "is not populated; it is"),
            (abi.Decrease(gfns(1)), MemopResult(0, Stop.EBUSY), "granted nobody"),
            (abi.Load(gfns(1)), abi.LoadResult(1, None, np.array([7], dtype=np.uint64)), "read 0x7"),
            (abi.EndGrant(gfns(3)), MemopResult(1), "ended a grant"),
            (abi.UnmapGrant(gfns(9)), MemopResult(1), "unmapped"),
            (abi.MapGrant(2, gfns(0), gfns(1)), MemopResult(1), "where something is"),
        ],
    )
    def test_an_answer_that_cannot_be_is_a_violation(self, command: Command, result: Result, wrong: str) -> None:
        """Each impossible answer raises a violation that says what is wrong with it."""
        with pytest.raises(Violation, match=wrong):
            self.answer(self.booted((0, 4)), command, result)

    def test_an_answer_that_is_not_the_result_is_a_violation(self) -> None:
        """The answer that a guest gets must equal the result of the execution."""
        with pytest.raises(Violation, match="was answered"):
            self.answer(self.booted(), abi.Populate(gfns(1)), MemopResult(1), executed=MemopResult(0, Stop.ENOMEM))

    def test_a_guest_that_boots_finds_what_was_there(self) -> None:
        """A rebooted guest finds the same pages, but for those in doubt; an oracle that finds others goes on from them."""
        oracle = self.booted((0, 4))
        oracle.issue([abi.Decrease(gfns(0))])
        oracle.results.append(MemopResult(1))
        info = BootInfo(1, "g", 1024, np.array([(1, 4)], dtype=np.int64), 1024, 1024)
        oracle.boot(info)
        oracle.issue([abi.Decrease(gfns(2))])
        with pytest.raises(Violation, match="when it booted"):
            oracle.boot(replace(info, runs=np.array([(2, 4)], dtype=np.int64)))
        assert (oracle.in_flight, oracle.tot_pages) == ([], 2)

    def test_what_others_may_write_is_not_known(self) -> None:
        """The word of a page granted writable is unknown until its owner writes it after the end of the grant."""
        oracle = self.booted((0, 4))
        self.answer(oracle, abi.Grant(gfns(1), 2), abi.GrantResult(1, None, gfns(0)))
        self.answer(oracle, abi.Load(gfns(1)), abi.LoadResult(1, None, np.array([7], dtype=np.uint64)))
        self.answer(oracle, abi.EndGrant(gfns(0)), MemopResult(1))
        self.answer(oracle, abi.Store(gfns(1), np.array([3], dtype=np.uint64)), MemopResult(1))

        assert not oracle.words_unknown.any()
        assert int(oracle.words[1]) == 3

    def test_commands_are_compared_with_all_that_is_in_them(self) -> None:
        """Commands are equal only if type, arrays and numbers are."""
        assert same(abi.Populate(gfns(1, 2)), abi.Populate(gfns(1, 2)))
        assert not same(abi.Populate(gfns(1, 2)), abi.Populate(gfns(1, 3)))
        assert not same(abi.Populate(gfns(1, 2)), abi.Decrease(gfns(1, 2)))


class TestPlan:
    """Plans, drawn from options and seed."""

    def test_what_is_fixed_changes_nothing_else(self) -> None:
        """Fixing sizes or excluding a fault leaves all other rates as the seed draws them."""
        plans = [
            make_plan(options, make_rngs(9)[Purpose.PLAN])
            for options in (Options(9), Options(9, superframes=8, guests=2), Options(9, without=("cut",)))
        ]

        assert plans[0].rates == plans[1].rates
        assert plans[2].rates == {**plans[0].rates, "cut": 0.0}
        assert (plans[1].superframes, plans[1].guests) == (8, 2)


class TestShrink:
    """The search for a short failure."""

    def outcome(self, options: Options, violation: str | None, events: int, tally: Mapping[str, int]) -> Outcome:
        """Make the outcome of a run."""
        return Outcome(options, events, 1.0, "", violation, violation is not None and events > options.events, tally)

    def test_faults_that_do_not_matter_are_left_out(self) -> None:
        """Faults without an influence are excluded, and the run ends at the failure."""

        def run_one(options: Options) -> Outcome:
            found = "cut" not in options.without and options.events >= 70
            tally = {"cut": 3, "slow": 2}
            return self.outcome(options, "wrong" if found else None, 70 if found else options.events + 9, tally)

        shortest = shrink(run_one(Options(1, events=1000)), run_one)

        assert shortest.options.events == 70
        assert "slow" in shortest.options.without
        assert "cut" not in shortest.options.without

    def test_what_does_not_come_to_rest_is_healed_sooner(self) -> None:
        """The number of events before the healing is bisected."""

        def run_one(options: Options) -> Outcome:
            found = options.events >= 300
            return self.outcome(options, "restless" if found else None, options.events + 100, {})

        shortest = shrink(run_one(Options(1, events=1000)), run_one)

        assert 300 <= shortest.options.events <= 320

    def test_a_command_line_repeats_the_run(self) -> None:
        """The command has every option that is not the default."""
        options = Options(3, 70, superframes=8, without=("cut",), off=("claims",), compare_every=1)

        assert options.command_line() == (
            "xbd simulate --seed 3 --events 70 --superframes 8 --compare-every 1 --without cut --switch-off claims"
        )
