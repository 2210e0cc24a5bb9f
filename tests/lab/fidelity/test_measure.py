"""Measuring the machine at hand: the programs that hold memory, and the trace that is written."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from xbd.guest.workload import parse_trace
from xbd.lab.fidelity.shell import holder, measure

MIB = 1 << 20


@pytest.mark.parametrize("kind", [holder.SMALL, holder.HUGE, holder.OTHER])
def test_a_program_holds_memory_of_its_own_until_it_is_told(kind: str, tmp_path: Path) -> None:
    """All of it is anonymous memory, no file has a name, and the program ends when its input does."""
    numbers = (str(16 * MIB), "0", "600")
    with subprocess.Popen(  # noqa: S603 - our own
        [sys.executable, "-m", holder.__name__, kind, *numbers, str(tmp_path)], stdin=subprocess.PIPE
    ) as program:
        rollup = Path(f"/proc/{program.pid}/smaps_rollup")
        held = 0
        while held < 16 * 1024 and program.poll() is None:
            found = re.search(r"^Anonymous: +(\d+) kB$", rollup.read_text(), re.MULTILINE)
            held = int(found[1]) if found else 0
        names = list(tmp_path.iterdir())

    assert held >= 16 * 1024
    assert names == []
    assert program.returncode == 0


def test_a_measurement_is_a_trace_and_leaves_nothing_else(tmp_path: Path) -> None:
    """Two seconds on this machine are a trace that can be read, with all orders, in which all programs have ended well."""
    path = tmp_path / "here.csv"
    outcome = CliRunner().invoke(measure.command, [str(path), "--memory", "64m", "--seconds", "2"])

    assert outcome.exit_code == 0, outcome.output
    trace = parse_trace(path.read_text(), "here")
    assert trace.samples > 10
    assert trace.free_by_order.shape == (trace.samples, 11)
    assert (trace.free_superframes * 512 == trace.free_by_order[:, 9:].sum(axis=1)).all()
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("path", "options", "said"),
    [
        ("here.csv", ["--memory", "1m"], "--memory: 1m"),
        ("here.csv", ["--memory", "900t"], "half of what is available"),
        ("no/here.csv", ["--memory", "64m"], "No such file"),
    ],
)
def test_what_cannot_be_measured_is_refused(tmp_path: Path, path: str, options: list[str], said: str) -> None:
    """Too little memory, more than there is, and a folder that is not there: a sentence, and no file."""
    outcome = CliRunner().invoke(measure.command, [str(tmp_path / path), *options])

    assert outcome.exit_code == 1
    assert said in outcome.stderr
    assert list(tmp_path.iterdir()) == []
