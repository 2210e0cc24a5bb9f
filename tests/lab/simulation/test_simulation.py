"""Whole runs of the simulation: known seeds find nothing, and the same seed gives the same run."""

import os
import subprocess
import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from click.testing import CliRunner

import xbd
from xbd.cli.main import main
from xbd.errors import BadArgument
from xbd.lab.simulation.command import run_core
from xbd.lab.simulation.options import EXCLUDABLE, FAULTS, Options
from xbd.lab.simulation.outcome import run, seed_of

ROOT = Path(__file__).parents[3]
SHORT = 500
# All that can be left out, but the policy.
FAULTLESS = tuple(name for name in EXCLUDABLE if name != "policy")
DIGEST_OF = """
from xbd.lab.simulation.options import Options
from xbd.lab.simulation.outcome import run
print(run(Options(int({seed}), events={events})).digest)
"""


def commit() -> str:
    """Name the commit that is tested, or, where there is none, the version."""
    asked = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S607 - git is on the path of whoever works on this
    return asked.stdout.strip() or xbd.__version__


def digest_elsewhere(seed: int, events: int, hash_seed: str) -> str:
    """Run a seed in another process; returns the digest of its trace."""
    done = subprocess.run(  # noqa: S603 - it runs this very interpreter
        [sys.executable, "-c", DIGEST_OF.format(seed=seed, events=events)],
        cwd=ROOT,
        env=os.environ | {"PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


class TestRuns:
    """Whole runs."""

    @pytest.mark.parametrize("seed", range(20))
    def test_fixed_seeds_find_nothing(self, seed: int) -> None:
        """Nothing is lost, leaked or done twice under faults, and all domains settle when they stop."""
        assert run(Options(seed, events=SHORT)).violation is None

    @pytest.mark.slow
    def test_the_seed_of_this_commit_finds_nothing(self) -> None:
        """A seed derived from the commit finds nothing: each commit tries another one."""
        options = Options(seed_of(commit()), events=4 * SHORT)

        assert run(options).violation is None, options.command_line()

    def test_other_sizes_run_too(self) -> None:
        """The smallest host with one guest and the largest host with most guests find nothing."""
        assert run(Options(1, events=SHORT, superframes=6, guests=1)).violation is None
        assert run(Options(1, events=SHORT, superframes=32, guests=12)).violation is None

    def test_what_is_excluded_does_not_happen(self) -> None:
        """With all kinds of faults excluded none happens, and guests still send commands."""
        outcome = run(Options(2, events=SHORT, without=EXCLUDABLE))

        assert outcome.violation is None
        assert not outcome.tally.keys() & FAULTS.keys()
        assert outcome.tally["commands"] > 0

    @pytest.mark.slow
    def test_every_kind_of_fault_happens(self) -> None:
        """A few runs together have every kind of fault."""
        happened = {name for seed in range(30, 36) for name in run(Options(seed, events=3 * SHORT)).tally}

        assert happened >= FAULTS.keys()

    @pytest.mark.parametrize(
        ("does", "says"),
        [
            ("raise ValueError('no')", "ValueError: no"),
            pytest.param("while True: pass", "did not answer within", marks=pytest.mark.slow),
            ("return None, [SetTarget(each.domid, 1 << 60) for each in snapshot.domains]", "not 0 to"),
        ],
    )
    def test_a_strangers_policy_that_fails_harms_nobody(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, does: str, says: str
    ) -> None:
        """It is stopped, whatever it does, its trouble is in the trace, and nothing is found."""
        (tmp_path / "fails.py").write_text(
            "from xbd.policy import SetTarget\nclass Mine:\n    def step(self, state, snapshot, now):\n"
            f"        {does}\n"
        )
        monkeypatch.syspath_prepend(tmp_path)
        lines: list[str] = []
        outcome = run_core(Options(1, events=SHORT, policy="fails:Mine", without=FAULTLESS), lines.append)

        assert outcome.violation is None
        assert outcome.tally["policy failed"] > 0
        assert any(says in line for line in lines)

    def test_a_policy_that_is_not_known_is_refused(self) -> None:
        """The refusal names the closest one, and is a sentence of the command's, too."""
        with pytest.raises(BadArgument, match="did you mean 'fair'"):
            Options(0, policy="fare")
        for name, said in (("fare", "did you mean 'fair'"), ("nowhere_at_all:x", "cannot be imported")):
            result = CliRunner().invoke(main, ["simulate", "--policy", name, "--events", "1"])
            assert (result.exit_code, said in result.output) == (1, True)

    def test_an_unknown_fault_is_refused(self) -> None:
        """The refusal lists the known faults."""
        with pytest.raises(BadArgument, match="no fault 'rain'") as refused:
            Options(0, without=("rain",))

        assert "half-open" in refused.value.expected


class TestReplay:
    """A run is determined by its seed."""

    def test_the_same_seed_is_the_same_run(self) -> None:
        """Two runs of a seed have equal outcomes and equal trace lines."""
        traces: tuple[list[str], list[str]] = ([], [])
        outcomes = [run(Options(3, events=SHORT), lines.append) for lines in traces]

        assert traces[0] == traces[1]
        assert len(traces[0]) == outcomes[0].events >= SHORT
        assert outcomes[0] == outcomes[1]

    @pytest.mark.slow
    def test_another_hash_seed_gives_the_same_run(self) -> None:
        """A run depends neither on the order of a set of strings nor on addresses of objects."""
        mine = run(Options(4, events=SHORT)).digest

        assert [digest_elsewhere(4, SHORT, hash_seed) for hash_seed in ("1", "2")] == [mine, mine]

    def test_another_seed_is_another_run(self) -> None:
        """Two seeds have different traces."""
        assert run(Options(5, events=SHORT)).digest != run(Options(6, events=SHORT)).digest

    def test_more_events_begin_like_fewer(self) -> None:
        """A longer run begins with the same trace as a shorter one."""
        short: list[str] = []
        long: list[str] = []
        run(Options(7, events=SHORT), short.append)
        run(Options(7, events=2 * SHORT), long.append)

        assert short[:SHORT] == long[:SHORT]

    def test_lines_are_numbered_events_in_the_order_of_time(self) -> None:
        """Each trace line has its number and its time, both ascending."""
        lines: list[str] = []
        run(Options(8, events=SHORT), lines.append)
        numbers: Iterator[int] = count(1)
        times = []
        for line in lines:
            number, time, _ = line.split(" ", 2)
            assert int(number) == next(numbers)
            times.append(float(time))

        assert times == sorted(times)
