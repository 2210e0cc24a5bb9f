"""The results directory: a file for each finished cell, named by the cell's key, and written atomically."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from xbd.cli.series_file import SeriesFile
from xbd.errors import XbdError
from xbd.lab.experiments.outcome import OutcomeOf
from xbd.lab.experiments.shell.work import Done, Job

_SUFFIX: Final = ".json"
_SERIES_SUFFIX: Final = ".series.csv"


class CannotKeep(XbdError):
    """The results directory cannot be used. Names it and says why."""


class Store:
    """The results directory of an experiment.

    A finished cell is read from there, as long as neither it nor the model has changed.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._cells = directory / "cells"
        try:
            self._cells.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CannotKeep(f"{directory}: cannot be made a directory: {error.strerror or error}") from error

    def forget(self) -> None:
        """Remove every finished cell."""
        for suffix in (_SUFFIX, _SERIES_SUFFIX):
            for file in self._cells.glob("*" + suffix):
                file.unlink()

    def keep(self, done: Done) -> None:
        """Write a finished cell atomically, its series first: a cell that is there has all that was wanted of it."""
        if done.series is not None:
            self.write(f"cells/{done.key}{_SERIES_SUFFIX}", done.series)
        outcome = done.outcome
        kept = {
            "cell": outcome.cell.coordinates(),
            "elapsed_s": round(done.elapsed_s, 3),
            "summary": outcome.summary,
            "samples": [list(asdict(sample).values()) for sample in outcome.samples],
            "violations": outcome.violations,
        }
        self.write(f"cells/{done.key}{_SUFFIX}", json.dumps(kept))

    def write(self, name: str, text: str) -> Path:
        """Write a file of the directory atomically; returns its path."""
        path = self.directory / name
        try:
            unfinished = path.with_name(path.name + ".new")
            unfinished.write_text(text, encoding="utf-8")
            unfinished.replace(path)
        except OSError as error:
            raise CannotKeep(f"{path}: cannot be written: {error.strerror or error}") from error
        return path

    def find(self, jobs: Sequence[Job]) -> dict[str, OutcomeOf[Any, Any]]:
        """Read the outcomes of the jobs that were done before, by key."""
        found = {job.key: self._read(job) for job in jobs}
        return {key: outcome for key, outcome in found.items() if outcome is not None}

    def write_series(self, jobs: Sequence[Job], series: SeriesFile) -> None:
        """Write the series of finished jobs into one file, one after the other. Raises CannotKeep: they cannot be read."""
        for job in jobs:
            series.add_lines(self._series_of(job))

    def _series_of(self, job: Job) -> str:
        """Read the lines of a finished cell's series. Raises CannotKeep: they cannot be read."""
        path = self._cells / (job.key + _SERIES_SUFFIX)
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise CannotKeep(f"{path}: cannot be read: {error}; --fresh runs all cells again") from error

    def _read(self, job: Job) -> OutcomeOf[Any, Any] | None:
        if job.series and not (self._cells / (job.key + _SERIES_SUFFIX)).exists():
            return None
        try:
            kept: dict[str, Any] = json.loads((self._cells / (job.key + _SUFFIX)).read_text(encoding="utf-8"))
            samples = tuple(job.kind.sample(*sample) for sample in kept["samples"])
            return OutcomeOf(job.cell, kept["summary"], samples, tuple(kept["violations"]))
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError):
            # The file is damaged: the cell is run again.
            return None
