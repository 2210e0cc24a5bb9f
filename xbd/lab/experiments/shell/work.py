"""A cell as work for some process, here or elsewhere, and which version of the model does it."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final, Protocol

import numpy as np

import xbd
from xbd.errors import XbdError
from xbd.guest.workload import Trace
from xbd.lab.experiments.cell import Outcome, run_cell
from xbd.lab.experiments.grid import Cell, Grid, digest

# What decides a cell's numbers: change a byte of it, and the cell is run again.
_MODEL: Final = (
    *("abi.py", "units.py", "errors.py", "frames", "storage", "machine", "guest", "policy"),
    *("config/strategies.py", "testing/virtual_host.py", "lab/replay/variants.py", "lab/replay/replay.py"),
    *(f"lab/experiments/{module}.py" for module in ("cell", "churn", "grid", "meter")),
)


class CellFailed(XbdError):
    """A cell could not be run. Names it and says why."""


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """A cell with the traces that it plays; *model* is the version that is to run it."""

    cell: Cell
    traces: tuple[Trace, ...]
    model: str

    @property
    def key(self) -> str:
        """Name what comes of it."""
        return self.cell.key(self.model)


@dataclass(frozen=True, slots=True, eq=False)
class Done:
    """A job done."""

    key: str
    outcome: Outcome
    elapsed_s: float


class Pool(Protocol):
    """Whoever does jobs."""

    def run(self, jobs: Sequence[Job]) -> Iterator[Done]:
        """Do all jobs, in any order. Raises CellFailed."""


def jobs_of(grid: Grid) -> list[Job]:
    """Make a job of each cell of a grid."""
    return [Job(cell, grid.traces_of(cell), model_version()) for cell in grid.cells]


def do(job: Job) -> Done:
    """Do one job, in this process. Raises CellFailed."""
    if model_version() != job.model:
        raise CellFailed(
            f"{job.cell.label()}: this process has model {model_version()}, but the grid is run with {job.model};"
            f" install the same xbd and numpy everywhere"
        )
    began = time.perf_counter()
    try:
        outcome = run_cell(job.cell, job.traces)
    except XbdError as error:
        raise CellFailed(f"{job.cell.label()}: {error}") from error
    return Done(job.key, outcome, time.perf_counter() - began)


@cache
def model_version() -> str:
    """Name the version of everything that decides a cell's numbers, from its sources."""
    top = Path(xbd.__file__).parent
    sources = [
        file for name in _MODEL for file in ([top / name] if name.endswith(".py") else (top / name).rglob("*.py"))
    ]
    told = [f"{file.relative_to(top).as_posix()} {digest(file.read_bytes())}" for file in sources]
    return digest("\n".join([*sorted(told), f"numpy {np.__version__}"]).encode())
