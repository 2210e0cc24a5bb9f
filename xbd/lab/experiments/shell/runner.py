"""Run a grid: read the finished cells from the store, run the others in a pool, and store each when it is finished."""

import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import click

from xbd.lab.experiments.grid import Grid
from xbd.lab.experiments.outcome import OutcomeOf
from xbd.lab.experiments.results import Results
from xbd.lab.experiments.shell.store import Store
from xbd.lab.experiments.shell.work import Done, Job, Pool, jobs_of

_PROGRESS_EVERY_S: Final = 0.5


def run_grid(
    grid: Grid, store: Store, pool: Pool, watch: Callable[[Done], None] | None = None, *, series: bool = False
) -> Results:
    """Run all cells of a grid that were not run yet; arguments and errors as of `run_jobs`.

    *series*: the store shall have the series of each, too.
    """
    return Results(run_jobs(jobs_of(grid, series=series), store, pool, watch))


def run_jobs(
    jobs: Sequence[Job], store: Store, pool: Pool, watch: Callable[[Done], None] | None = None
) -> list[OutcomeOf[Any, Any]]:
    """Do all jobs that were not done yet; *watch* is called with each that is finished now. Returns all outcomes, in order.

    Raises:
        CellFailed: the cells finished until then are stored.
    """
    outcomes = store.find(jobs)
    left = [job for job in jobs if job.key not in outcomes]
    progress = _Progress(len(jobs), len(left))
    for done in pool.run(left):
        store.keep(done)
        outcomes[done.key] = done.outcome
        progress.show(failed=done.outcome.failed)
        if watch is not None:
            watch(done)
    progress.clear()
    return [outcomes[job.key] for job in jobs]


class _Progress:
    """A line of progress on the terminal; nothing if stderr is no terminal."""

    def __init__(self, cells: int, left: int) -> None:
        self._cells = cells
        self._left = left
        self._done = 0
        self._failed = 0
        self._started = self._shown = time.monotonic()

    def show(self, *, failed: bool) -> None:
        """Count another finished cell."""
        self._done += 1
        self._failed += failed
        now = time.monotonic()
        if sys.stderr.isatty() and now - self._shown > _PROGRESS_EVERY_S:
            self._shown = now
            left_s = (now - self._started) / self._done * (self._left - self._done)
            finished = self._cells - self._left + self._done
            click.echo(
                f"\r{finished} of {self._cells} cells, {self._failed} failed, {left_s:,.0f} s to go ",
                nl=False,
                err=True,
            )

    def clear(self) -> None:
        """Clear the line."""
        if sys.stderr.isatty():
            click.echo("\r" + " " * 70 + "\r", nl=False, err=True)
