"""The same grid on a Dask cluster of several processes, with the same results."""

import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tests.lab.experiments.tiny_grid import tables, tiny_grid, write_tiny
from xbd.cli.main import main
from xbd.lab.experiments.shell.local import LocalPool
from xbd.lab.experiments.shell.runner import run_grid
from xbd.lab.experiments.shell.store import Store
from xbd.lab.experiments.shell.work import CellFailed, Done, jobs_of

distributed = pytest.importorskip("distributed", reason="distributed is not installed (the extra cluster)")
cluster_module = pytest.importorskip("xbd.lab.experiments.shell.cluster")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two worker processes and a scheduler on this machine, without a dashboard."""
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0", silence_logs=50
    ) as running:
        yield running


@pytest.mark.slow
def test_a_cluster_finds_the_same(tmp_path: Path, cluster: Any) -> None:  # noqa: ANN401 - an extra, of unknown types
    """The tables are byte by byte the same, though a worker is killed in the middle."""
    grid = tiny_grid(tmp_path)
    killed: list[int] = []

    def kill_once(done: Done) -> None:
        del done
        if not killed:
            killed.append(next(iter(cluster.workers.values())).pid)
            os.kill(killed[0], signal.SIGKILL)

    there = run_grid(grid, Store(tmp_path / "there"), cluster_module.ClusterPool(cluster.scheduler_address), kill_once)
    here = run_grid(grid, Store(tmp_path / "here"), LocalPool(1))

    assert len(killed) == 1
    assert tables(there) == tables(here)


@pytest.mark.slow
def test_a_cell_that_fails_there_fails_here(tmp_path: Path, cluster: Any) -> None:  # noqa: ANN401 - as above
    """The error of a worker is reported here, with the cell's name."""
    jobs = jobs_of(tiny_grid(tmp_path))
    pool = cluster_module.ClusterPool(cluster.scheduler_address)

    with pytest.raises(CellFailed, match=r"stock, churn.*install the same xbd"):
        list(pool.run([replace(jobs[0], model="other")]))
    with pytest.raises(CellFailed, match=r"stock, churn, overcommit 9.*EINVAL"):
        list(pool.run([replace(jobs[0], cell=replace(jobs[0].cell, overcommit=9.0))]))


def test_a_scheduler_that_does_not_answer_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An address without a scheduler gives a sentence and exit code 1."""
    monkeypatch.setattr(cluster_module, "_CONNECT_S", 0.1)
    arguments = ["experiment", str(write_tiny(tmp_path)), "--out", str(tmp_path / "out"), "--scheduler"]
    result = CliRunner().invoke(main, [*arguments, "tcp://127.0.0.1:1"])

    assert result.exit_code == 1
    assert "tcp://127.0.0.1:1: no Dask scheduler answers there" in result.stderr


def test_without_the_extra_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without `distributed` the refusal of `--scheduler` says what to install."""
    monkeypatch.delitem(sys.modules, "xbd.lab.experiments.shell.cluster")
    monkeypatch.setitem(sys.modules, "distributed", None)
    result = CliRunner().invoke(main, ["experiment", str(write_tiny(tmp_path)), "--scheduler", "tcp://127.0.0.1:1"])

    assert result.exit_code == 1
    assert "pip install 'xbd[cluster]' brings it" in result.stderr
