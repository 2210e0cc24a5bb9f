"""`xbd simulate`: its report, its exit code, its trace."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from xbd.cli.main import main


def simulate(*arguments: str) -> Result:
    """Run the command."""
    return CliRunner().invoke(main, ["simulate", *arguments])


def test_a_run_without_a_failure() -> None:
    """The report says how many events there were, which faults, and the digest of the trace."""
    result = simulate("--seed", "3", "--events", "300")

    assert result.exit_code == 0
    assert "seed 3: trace " in result.stdout
    assert "1 run, all is well" in result.stdout


def test_a_failure_is_shortened_and_can_be_repeated() -> None:
    """The report has the seed and a command that repeats the failure, which it does; exit code 1."""
    result = simulate("--seed", "0", "--events", "400", "--switch-off", "scrub-on-free", "--without", "slow")

    assert result.exit_code == 1
    assert "seed 0 fails at event" in result.stdout
    (again,) = [line.strip() for line in result.stdout.splitlines() if line.strip().startswith("again: ")]
    words = again.removeprefix("again: xbd simulate ").split()
    assert words[words.index("--switch-off") + 1] == "scrub-on-free"
    assert simulate(*words).exit_code == 1


def test_the_trace_is_a_line_for_each_event(tmp_path: Path) -> None:
    """The trace has as many lines as there were events, those of the healing included."""
    path = tmp_path / "trace.txt"
    result = simulate("--seed", "1", "--events", "200", "--trace", str(path), "--json")
    outcome = json.loads(result.stdout)

    assert len(path.read_text().splitlines()) == outcome["events"] >= 200
    assert outcome["violation"] is None


@pytest.mark.slow
def test_several_seeds_run_side_by_side() -> None:
    """Outcomes are in the order of the seeds, whichever run ended first."""
    result = simulate("--seed", "5", "--seeds", "3", "--events", "100", "--processes", "2", "--json")

    assert [outcome["seed"] for outcome in json.loads(result.stdout)] == [5, 6, 7]


def test_a_trace_is_of_one_seed() -> None:
    """`--trace` with more than one seed is a usage error."""
    assert simulate("--seeds", "2", "--trace", "-").exit_code == 2


def test_nobody_goes_on_when_the_command_is_gone() -> None:
    """Killed, as it could not clear up after itself: the processes that it had started end as well."""
    command = [sys.executable, "-m", "xbd", "simulate", "--seeds", "100", "--events", "100000", "--processes", "2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:  # noqa: S603 - our own command
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        # Two that run seeds, and the one that keeps track of their semaphores.
        while len(children.read_text().split()) < 3:
            time.sleep(0.05)  # noqa: TID251 - the command is in a process of its own
        process.kill()
        assert process.stdout is not None
        assert process.stdout.read() == b"", "standard output ends with the last who has it"
