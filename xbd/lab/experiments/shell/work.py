"""Jobs: a cell to be run by some process, here or elsewhere, with the version of the model that must run it."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np

import xbd
from xbd.control.series import lines_of
from xbd.errors import XbdError
from xbd.guest.workload import Trace
from xbd.lab.experiments.cell import run_cell
from xbd.lab.experiments.grid import Grid, digest
from xbd.lab.experiments.meter import Sample
from xbd.lab.experiments.outcome import OutcomeOf, Watch
from xbd.lab.series import told_of
from xbd.testing.virtual_host import VirtualHost

# The sources that decide a cell's numbers: after a change of any byte, cells are run again.
_MODEL: Final = (
    *("abi", "units.py", "errors.py", "frames", "storage", "machine", "guest", "policy"),
    *(
        "config/strategies.py",
        "testing/virtual_host.py",
        "lab/replay/variants.py",
        "lab/replay/replay.py",
        "lab/costs/counts.py",
    ),
    *(f"lab/experiments/{module}.py" for module in ("cell", "churn", "grid", "meter", "outcome")),
)


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of cells: what *runs* one, what its samples are made of, and which *sources* beside `_MODEL` decide its numbers."""

    runs: Callable[[Any, Sequence[Trace], Watch | None], OutcomeOf[Any, Any]]
    sample: Callable[..., object]
    sources: tuple[str, ...] = ()


EXPERIMENT: Final = Kind(run_cell, Sample)


class CellFailed(XbdError):
    """A cell could not be run. Names it and says why."""


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """A cell (`AnyCell`) with the traces that it replays; *model*: the version that must run it; *kind*: how.

    *series*: whether its series is wanted, too.
    """

    cell: Any
    traces: tuple[Trace, ...]
    model: str
    kind: Kind = EXPERIMENT
    series: bool = False

    @property
    def key(self) -> str:
        """The key of its outcome."""
        key: str = self.cell.key(self.model)
        return key


@dataclass(frozen=True, slots=True, eq=False)
class Done:
    """A finished job: its key, its outcome, how long it took, and the lines of its series, if that was wanted."""

    key: str
    outcome: OutcomeOf[Any, Any]
    elapsed_s: float
    series: str | None = None


class Pool(Protocol):
    """Anything that can do jobs."""

    def run(self, jobs: Sequence[Job]) -> Iterator[Done]:
        """Do all jobs, in any order. Raises CellFailed."""


def jobs_of(grid: Grid, *, series: bool = False) -> list[Job]:
    """Make a job of each cell of a grid; *series*: with the series of each."""
    return [Job(cell, grid.traces_of(cell), model_version(), series=series) for cell in grid.cells]


def do(job: Job) -> Done:
    """Do one job, in this process. Raises CellFailed."""
    if model_version(job.kind.sources) != job.model:
        raise CellFailed(
            f"{job.cell.label()}: this process has model {model_version(job.kind.sources)}, but the grid is run with {job.model};"
            f" install the same xbd and numpy everywhere"
        )
    began = time.perf_counter()
    lines: list[str] = []

    def watch(now: float, host: VirtualHost, demand_pages: Mapping[int, int]) -> None:
        lines.append(lines_of(job.cell.label(), now, *told_of(host), demand_pages))

    try:
        outcome = job.kind.runs(job.cell, job.traces, watch if job.series else None)
    except XbdError as error:
        raise CellFailed(f"{job.cell.label()}: {error}") from error
    return Done(job.key, outcome, time.perf_counter() - began, "".join(lines) if job.series else None)


@cache
def model_version(more: tuple[str, ...] = ()) -> str:
    """Return a hash of the sources of everything that decides a cell's numbers; *more*: those of its kind."""
    top = Path(xbd.__file__).parent
    sources = [
        file
        for name in (*_MODEL, *more)
        for file in ([top / name] if name.endswith(".py") else (top / name).rglob("*.py"))
    ]
    versions = [f"{file.relative_to(top).as_posix()} {digest(file.read_bytes())}" for file in sources]
    return digest("\n".join([*sorted(versions), f"numpy {np.__version__}"]).encode())
