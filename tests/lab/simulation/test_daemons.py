"""The simulation of the daemons: known seeds find nothing, the same seed is the same run, and what is missing is found."""

import json
import os
import subprocess
import sys
import types
from dataclasses import replace
from pathlib import Path

import pytest
import structlog
from click.testing import CliRunner

from tests.lab.simulation.test_simulation import ROOT, commit
from xbd.cli.main import main
from xbd.config.policies import BUILT_IN
from xbd.daemons.runtime import outside
from xbd.errors import BadArgument, ConfigError, HypercallError
from xbd.lab.simulation.daemons.ledger import Keys, Ledger, Promise
from xbd.lab.simulation.daemons.options import FAULTS, DaemonOptions, make_plan, rng_for
from xbd.lab.simulation.daemons.points import POINTS
from xbd.lab.simulation.daemons.report import never_reached
from xbd.lab.simulation.daemons.trace import Trace
from xbd.lab.simulation.outcome import seed_of
from xbd.lab.simulation.shell import runs
from xbd.lab.simulation.shell.daemon_switches import DAEMON_SWITCHES
from xbd.lab.simulation.shell.faulty_calls import FaultyCalls
from xbd.lab.simulation.shell.healing import Healing, descriptors
from xbd.lab.simulation.shell.log_pipe import LogPipe, Routed, configure
from xbd.lab.simulation.shell.process import Process, current
from xbd.lab.simulation.shell.runs import run
from xbd.lab.simulation.shell.scheduler import NotSeeded, seeded
from xbd.lab.simulation.shell.services import Places
from xbd.testing.oracle import Violation

SHORT_S = 4.0
DIGEST_OF = """
from xbd.lab.simulation.daemons.options import DaemonOptions
from xbd.lab.simulation.shell.runs import run
print(run(DaemonOptions({seed}, {seconds})).digest)
"""
# By mechanism: a seed that fails without it, and after how many seconds of faults.
KNOWN: dict[str, tuple[int, float]] = {
    "redemption": (3, 8.0),
    "closed-listener": (2, 8.0),
    "log-sink": (0, 2.0),
    "state-json": (1, 2.0),
    "checksums": (1, 8.0),
    "whose-log": (66, 2.0),
    "lock": (3, 8.0),
    "agent-shares": (1, 2.0),
    "deadlines": (13, 2.0),
    "rations": (56, 10.0),
    "back-off": (0, 2.0),
    "answer-window": (63, 8.0),
    "refusals": (0, 8.0),
    "start-refusals": (12, 2.0),
    "undo": (56, 8.0),
    "patience": (0, 2.0),
    "places": (10, 4.0),
    "stale-sockets": (0, 8.0),
    "socket-files": (0, 2.0),
    "store-damage": (1, 2.0),
    "store-save": (6, 2.0),
    "manifest": (1, 2.0),
    "room-first": (0, 2.0),
    "lives-in-store": (2, 2.0),
    "fresh-judgement": (0, 2.0),
    "report-anew": (1, 8.0),
    "silent": (0, 2.0),
    "lease": (9, 8.0),
    "policy-guard": (16, 4.0),
    "policy-bounds": (19, 8.0),
}


async def ended(process: Process) -> int:
    """Be a process that has nothing to do."""
    del process
    return 0


class TestRuns:
    """Whole runs."""

    @pytest.mark.slow
    @pytest.mark.parametrize("seed", range(20))
    def test_fixed_seeds_find_nothing(self, seed: int) -> None:
        """What was acknowledged is there, nothing is left, and every daemon ends only when it is told."""
        assert run(DaemonOptions(seed, SHORT_S)).violation is None

    @pytest.mark.slow
    def test_the_seed_of_this_commit_finds_nothing(self) -> None:
        """A seed derived from the commit finds nothing: each commit tries another one."""
        options = DaemonOptions(seed_of(commit()), 2 * SHORT_S)

        assert run(options).violation is None, options.command_line()

    @pytest.mark.slow
    def test_the_same_seed_is_the_same_run(self) -> None:
        """Two runs of a seed have the same lines; a process with another hash seed has the same digest."""
        traces: tuple[list[str], list[str]] = ([], [])
        outcomes = [run(DaemonOptions(5, SHORT_S), lines.append) for lines in traces]
        elsewhere = subprocess.run(  # noqa: S603 - it runs this very interpreter
            [sys.executable, "-c", DIGEST_OF.format(seed=5, seconds=SHORT_S)],
            cwd=ROOT,
            env=os.environ | {"PYTHONHASHSEED": "3"},
            capture_output=True,
            text=True,
            check=True,
        )

        assert traces[0] == traces[1]
        assert outcomes[0] == outcomes[1]
        assert elsewhere.stdout.strip() == outcomes[0].digest

    @pytest.mark.slow
    def test_what_daemons_draw_by_chance_is_drawn_from_the_seed(self) -> None:
        """UUIDs of domains, which are another host's after a restart on its state, reach the log; they are the same twice."""
        first, second = (run(DaemonOptions(7, 3.0)) for _ in range(2))

        assert first.digest == second.digest

    @pytest.mark.slow
    def test_a_policy_that_fails_is_survived(self) -> None:
        """One that fails now and then, in a process of its own, is left for `static`, and nothing is found."""
        outcome = run(DaemonOptions(16, SHORT_S))

        assert outcome.violation is None
        assert outcome.reached["a policy failed, and static went on"] > 0

    @pytest.mark.slow
    def test_without_faults_there_are_none(self) -> None:
        """With all kinds of faults excluded none happens, people are served all the same, and no refusal is seen."""
        outcome = run(DaemonOptions(1, SHORT_S, tuple(FAULTS)))

        assert outcome.violation is None
        assert outcome.happened == {}
        assert outcome.reached["the scraper got a page of the host"] > 0
        assert "a create was refused" not in outcome.reached

    def test_a_plan_leaves_out_about_half_of_the_faults(self) -> None:
        """Each seed has some kinds of faults and not others, and excluding one changes no other."""
        plans = [make_plan(DaemonOptions(seed)) for seed in range(40)]
        shares = {kind: sum(plan.rates[kind] > 0 for plan in plans) / len(plans) for kind in FAULTS}
        excluded = make_plan(DaemonOptions(3, without=("disk",)))

        assert all(0.2 < share < 0.8 for share in shares.values()), shares
        assert dict(excluded.rates) == {**plans[3].rates, "disk": 0.0}

    def test_every_policy_is_drawn_unless_one_is_named(self) -> None:
        """Each of xbd's own governs in some of few seeds, and fails in some; to name one changes nothing else of a plan."""
        plans = [make_plan(DaemonOptions(seed)) for seed in range(40)]
        named = make_plan(DaemonOptions(3, policy="some.module:Policy"))

        assert {plan.policy for plan in plans} == BUILT_IN.keys()
        assert {plan.policy_fails for plan in plans} == {False, True}
        assert named == replace(plans[3], policy="some.module:Policy")
        assert "--policy some.module:Policy" in DaemonOptions(3, policy="some.module:Policy").command_line()

    def test_every_point_that_a_run_reaches_is_listed(self) -> None:
        """What a run notes is among the points, so that one which is never reached can be told."""
        outcome = run(DaemonOptions(2, 2.0))

        assert set(outcome.reached) <= POINTS
        assert set(never_reached([outcome])) == POINTS - set(outcome.reached)


class TestReports:
    """What is said of many runs."""

    @pytest.mark.slow
    def test_a_switch_ends_at_the_first_seed_that_misses_it(self) -> None:
        """Seeds beyond it are not waited for; what failed is shortened, and the command that is printed fails again."""
        result = CliRunner().invoke(
            main, ["simulate", "--daemons", "--seeds", "50", "--seconds", "1", "--switch-off", "socket-files", "--json"]
        )
        outcomes = json.loads(result.stdout)
        found = [outcome for outcome in outcomes if outcome["violation"] is not None]
        words = found[0]["shortest"]["command"].split()[1:]

        assert len(outcomes) < 10
        assert found[0]["shortest"]["events"] <= found[0]["events"]
        assert CliRunner().invoke(main, words).exit_code == 1

    def test_a_run_s_size_can_be_said(self) -> None:
        """So many guests are shared out among the operators and the policy; with every fault none is absent."""
        plan = make_plan(DaemonOptions(1, guests=30, operators=3, every_fault=True, without=("disk",)))

        assert (plan.operators, plan.names) == (3, 8)
        assert {kind for kind, rate in plan.rates.items() if not rate} == {"disk"}

    def test_a_long_run_is_calmer(self) -> None:
        """Beyond ten minutes people pause longer, and every fault is as much more seldom."""
        short, long = (make_plan(DaemonOptions(1, seconds, every_fault=True)) for seconds in (600.0, 601.0))

        assert long.calm > short.calm == 1.0
        assert long.rates == {kind: pytest.approx(rate / long.calm) for kind, rate in short.rates.items()}


class TestFaults:
    """What a fault does."""

    def test_a_full_disk_gives_no_file_more(self, tmp_path: Path) -> None:
        """What takes up room is refused, and so counts as what a start may be refused for; with room it is done."""
        trace = Trace(lambda: 0.0, str(tmp_path), None)
        calls = FaultyCalls({}, rng_for(1, "calls"), trace)
        process = Process("hypervisor", ended, trace, LogPipe())
        before = current.set(process)
        with (tmp_path / "file").open("wb") as file, calls.in_place():
            calls.is_full = True
            with pytest.raises(OSError, match="No space left"):
                outside.calls.write(file.fileno(), b"more")
            calls.is_full = False
            assert outside.calls.write(file.fileno(), b"more") == 4
        current.reset(before)

        assert process.struck == 1

    def test_what_a_dropped_daemon_had_under_way_is_no_file_that_is_left(self, tmp_path: Path) -> None:
        """A new file that it could not put in place lies where it was set apart; one anywhere else is a violation."""
        places = Places(tmp_path, 24)
        healing = Healing(places, {}, [], [], Trace(lambda: 0.0, str(tmp_path), None))
        (tmp_path / "gone").mkdir()
        (tmp_path / "gone" / "state.new").touch()
        healing.check_left(descriptors(), set())

        (tmp_path / "state.new").touch()
        with pytest.raises(Violation, match=r"files are left: \['state.new'\]"):
            healing.check_left(descriptors(), set())


class TestSwitches:
    """A mechanism that is switched off is missed."""

    def test_each_switch_has_a_known_seed(self) -> None:
        """Every switch has an entry in KNOWN."""
        assert KNOWN.keys() == DAEMON_SWITCHES.keys()

    @pytest.mark.slow
    @pytest.mark.parametrize("name", KNOWN)
    def test_a_mechanism_that_is_switched_off_is_missed(self, name: str) -> None:
        """A run fails without the mechanism; a change of the code may change which seed does."""
        seed, seconds = KNOWN[name]
        seeds = (seed, *range(40))

        assert any(run(DaemonOptions(one, seconds, off=(name,))).violation is not None for one in seeds)

    def test_an_unknown_switch_is_refused(self) -> None:
        """The refusal lists the known switches."""
        with pytest.raises(BadArgument, match="no switch 'gravity'") as refused:
            run(DaemonOptions(1, SHORT_S, off=("gravity",)))

        assert "log-sink" in refused.value.expected


class TestSeeding:
    """The order of tasks, by what trio keeps private."""

    def test_trio_can_be_seeded(self) -> None:
        """What `shell.scheduler` touches of trio, a switch and a generator, is there, and is put back.

        If this fails, trio has changed its scheduler: find in trio/_core/_run.py what its own test
        (`_tests/test_scheduler_determinism.py`) sets now, and change `shell.scheduler` alone.
        """
        from trio._core import _run  # noqa: PLC0415 - what is tested is that it is there

        before, state = _run._ALLOW_DETERMINISTIC_SCHEDULING, _run._r.getstate()
        with seeded(7):
            assert _run._ALLOW_DETERMINISTIC_SCHEDULING
        assert (_run._ALLOW_DETERMINISTIC_SCHEDULING, _run._r.getstate()) == (before, state)

    def test_a_trio_that_cannot_be_seeded_is_refused(self) -> None:
        """The refusal names what is missing and where to mend it."""
        with (
            pytest.raises(NotSeeded, match="no _ALLOW_DETERMINISTIC_SCHEDULING and no _r"),
            seeded(1, types.ModuleType("changed")),
        ):
            pass

    def test_a_disk_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Where no file system is in memory, a sentence says so, and what to do."""
        monkeypatch.setattr(runs, "file_system_of", lambda _: "ext4")
        with pytest.raises(ConfigError, match="no file system in memory"):
            runs.memory_directory()

    def test_the_kind_of_a_file_system_is_that_of_the_longest_mount(self) -> None:
        """/proc is proc, and what is not there has none."""
        assert runs.file_system_of(Path("/proc/self")) == "proc"
        assert runs.file_system_of(Path("/proc/nowhere")) == ""


class TestLedgers:
    """What people were answered, and what must be there."""

    def test_a_refusal_that_nothing_explains_is_a_violation(self) -> None:
        """A name that is taken, though its owner was never told so, was created twice; a lack of memory is none."""
        ledger = Ledger("op")
        ledger.refused("op-1", "create", HypercallError("no room", errno="ENOSPC"))
        with pytest.raises(Violation, match="create op-1 was refused"):
            ledger.refused("op-1", "create", HypercallError("there is one", errno="EEXIST"))

    def test_what_was_promised_must_be_listed(self) -> None:
        """A domain that is gone is a violation; after a call without an answer either way is right, once."""
        ledger = Ledger("op")
        ledger.created("op-1", Promise(1, 512, 512))
        with pytest.raises(Violation, match="the host has none, promised were op-1 d1"):
            ledger.compare([])
        ledger.unsure("op-1", None)
        ledger.compare([])
        assert ledger.promises == {}

    def test_keys_are_what_was_written(self) -> None:
        """Another value is a violation; one that was not safe may be the one before it."""
        keys = Keys("xs")
        keys.written("/a", b"1", is_safe=True)
        with pytest.raises(Violation, match="/a is None"):
            keys.compare("/a", None)
        keys.written("/a", b"2", is_safe=False)
        keys.compare("/a", b"1")


class TestLogPipe:
    """What came out of a log, held against what was written."""

    def test_a_count_of_lost_lines_that_is_under_way_counts(self) -> None:
        """Of a line that says how many were lost a part is out: those lines are told, and none is missing."""
        pipe = LogPipe()
        answers: list[int | None] = [None, 30, None]

        def write_log(_: int, encoded: bytes) -> int:
            if (most := answers.pop(0)) is None:
                raise BlockingIOError
            pipe.out += encoded[:most]
            return most

        before = structlog.get_config()
        configure(Routed(lambda: pipe), lambda _, __, line: line)
        with outside.replaced(write_log=write_log):
            pipe.write('{"event": "stopped"}\n')
            pipe.retry()
        structlog.configure(**before)

        assert not answers
        pipe.check("hypervisor")


class TestCommand:
    """`xbd simulate --daemons`."""

    @pytest.mark.slow
    def test_a_run_is_told_and_traced(self, tmp_path: Path) -> None:
        """The report has the digest and the points that were not reached; the trace has a line for each event."""
        trace = tmp_path / "trace.txt"
        options = ["simulate", "--daemons", "--seed", "1", "--seconds", "2", "--trace", str(trace)]
        result = CliRunner().invoke(main, options)
        outcome = json.loads(CliRunner().invoke(main, [*options, "--json"]).stdout)

        assert result.exit_code == 0
        assert f"seed 1: trace {outcome['digest']}" in result.stdout
        assert "1 run, all is well" in result.stdout
        assert len(trace.read_text().splitlines()) == outcome["events"] > 0

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            (["--daemons", "--events", "5"], "--events goes without --daemons"),
            (["--seconds", "5"], "--seconds goes with --daemons"),
            (["--daemons", "--without", "wild"], "no fault 'wild' of daemons"),
            (["--daemons", "--switch-off", "births"], "no switch 'births' of daemons"),
        ],
    )
    def test_options_of_the_other_simulation_are_refused(self, options: list[str], said: str) -> None:
        """An option that would do nothing is refused with a sentence."""
        result = CliRunner().invoke(main, ["simulate", *options])

        assert result.exit_code != 0
        assert said in result.output
