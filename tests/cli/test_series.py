"""Time series: one table from replay, experiment, simulation and a live host; what cannot be written is said."""

import csv
import os
import resource
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests.cli.views import told
from tests.docs.pages import DOCS, rows_of
from tests.lab.experiments.tiny_grid import trace_text, write_tiny
from tests.processes import running
from xbd.cli.main import main
from xbd.cli.series_file import series_file
from xbd.config.strategies import STRATEGIES
from xbd.control.series import COLUMNS, header, lines_of
from xbd.daemons.trace_files import read_trace
from xbd.domain import read_domain
from xbd.lab.replay.replay import Replay, ReplayOptions
from xbd.lab.series import told_of

_HOST = {"frames": 4096, "free_frames": 1024, "free_superframes": 2, "shattered_superframes": 1, "claimed_frames": 0}


def xbd(*arguments: str) -> Result:
    """Run an `xbd` command in this process."""
    return CliRunner().invoke(main, arguments)


def read(path: Path) -> list[dict[str, str]]:
    """Read a series."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """Write a trace of 20 samples."""
    path = tmp_path / "guest.csv"
    path.write_text(trace_text(3), encoding="utf-8")
    return path


def test_every_column_is_documented() -> None:
    """The table of the page names the columns that there are, in their order, with their meanings."""
    written = [(cells[0].strip("`"), cells[1]) for cells in rows_of(DOCS / "lab.md", "Series")]

    assert written == list(COLUMNS.items())


def test_what_a_guest_reports_is_a_figure_or_nothing() -> None:
    """A report of other types, as a hostile agent may send it, leaves its cells empty and the row whole."""
    domain = read_domain(told(report={"pages_denied": "many", "cache_pages": [1], "guest_free_pages": 7}))
    (_, row) = csv.DictReader((header() + lines_of("x", 1.5, _HOST, [domain])).splitlines())

    assert (row["denied_pages"], row["cache_pages"], row["free_pages"]) == ("", "", "7")
    assert row["t_s"] == "1.5"
    assert None not in row


def test_a_replays_series_ends_where_its_report_does(trace: Path, tmp_path: Path) -> None:
    """Rows for host and guest at each sample; the last ones have what a replay without a series ends with."""
    out = tmp_path / "out.csv"
    result = xbd("replay", str(trace), "--series", str(out), "--overcommit", "1.2", "--variant", "two_calls")
    rows = read(out)
    run = Replay([read_trace(trace)], ReplayOptions(STRATEGIES["full"], 1.2, variant="two_calls"))
    *_, last_s = run.run()
    guest = run.report().guests[0]

    assert result.exit_code == 0
    assert [row["kind"] for row in rows] == ["host", "domain"] * 20
    assert float(rows[-1]["t_s"]) == last_s == 38
    assert rows[-1]["run"] == "full/two_calls"
    assert float(rows[-1]["superpage_coverage"]) == pytest.approx(guest.superpage_coverage, abs=1e-6)
    assert int(rows[-1]["held_pages"]) == guest.tot_pages
    assert int(rows[-1]["denied_pages"]) == guest.pages_denied
    assert int(rows[-1]["hypercalls"]) == sum(guest.hypercalls.values()) > 0
    assert int(rows[-1]["demand_pages"]) == run.demand_pages()[run.domids[0]]


def test_a_look_changes_nothing(trace: Path) -> None:
    """A replay that is looked at after each sample reports what one that is not looked at does."""
    reports = []
    for is_looked_at in (False, True):
        run = Replay([read_trace(trace)], ReplayOptions(STRATEGIES["stock"], 1.3))
        for _ in run.run():
            if is_looked_at:
                told_of(run.host)
        reports.append(asdict(run.report()))

    assert reports[0] == reports[1]


def test_a_simulations_series_leaves_it_as_it_is(tmp_path: Path) -> None:
    """The digest of the trace is the same with a series and without; the rows are in the order of time."""
    out = tmp_path / "out.csv"
    with_series = xbd("simulate", "--seed", "7", "--events", "300", "--series", str(out))
    rows = read(out)
    times = [float(row["t_s"]) for row in rows]

    assert with_series.output == xbd("simulate", "--seed", "7", "--events", "300").output
    assert times == sorted(times)
    assert {row["kind"] for row in rows} == {"host", "domain"}
    assert {row["run"] for row in rows} == {"7"}
    assert xbd("simulate", "--seeds", "2", "--series", str(out)).exit_code == 2
    assert "--series goes without --daemons" in xbd("simulate", "--daemons", "--series", str(out)).output


def test_an_experiments_series_is_the_same_from_kept_cells(tmp_path: Path) -> None:
    """Cells that were run without a series are run again; those that have one are read, and nothing differs."""
    grid, first, again = write_tiny(tmp_path), tmp_path / "first.csv", tmp_path / "again.csv"
    arguments = ("experiment", str(grid), "--out", str(tmp_path / "out"), "--processes", "1", "--only", "stock")
    assert xbd(*arguments).exit_code == 0
    assert xbd(*arguments, "--series", str(first)).exit_code == 0
    cells = tmp_path / "out" / "cells"
    written = {path.name: path.stat().st_mtime_ns for path in cells.iterdir()}
    assert xbd(*arguments, "--series", str(again)).exit_code == 0
    rows = read(first)

    assert first.read_bytes() == again.read_bytes()
    assert {path.name: path.stat().st_mtime_ns for path in cells.iterdir()} == written
    # Two workloads and two seeds: 11 moments of three guests, 5 of two; the host has a row, too.
    assert len(rows) == 2 * 11 * 4 + 2 * 5 * 3
    assert len({row["run"] for row in rows}) == 4


@pytest.fixture
def _small_files() -> Iterator[None]:
    """Let files grow to 4,000 bytes: writing beyond that fails as on a full disk, at a moment's middle."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.usefixtures("_small_files")
def test_a_file_that_may_not_grow_has_whole_moments(trace: Path, tmp_path: Path) -> None:
    """The replay goes on to its report; the loss is a sentence, once, and exit code 1; no line is torn."""
    out = tmp_path / "out.csv"
    result = xbd("replay", str(trace), "--series", str(out), "--overcommit", "1.2")
    rows = read(out)

    assert result.exit_code == 1
    assert "content errors: 0" in result.stdout
    assert result.stderr.count("cannot be written: File too large") == 1
    assert f"it has the {len(rows)} rows before that" in result.stderr
    assert "the series is not whole" in result.stderr
    assert [row["kind"] for row in rows] == ["host", "domain"] * (len(rows) // 2) != []
    assert out.read_text().endswith("\n")


def test_a_full_disk_from_the_first_byte() -> None:
    """/dev/full: nothing is written, and that is said; nothing is raised before the block's end."""
    result = xbd("simulate", "--events", "50", "--series", "/dev/full")

    assert result.exit_code == 1
    assert "all is well" in result.stdout
    assert "/dev/full: cannot be written: No space left on device; it has the 0 rows before that" in result.stderr


def test_what_is_read_is_not_written(trace: Path, tmp_path: Path) -> None:
    """A series may not take the place of the trace, by whatever name; where it cannot be opened is said."""
    text, link = trace.read_text(), tmp_path / "link.csv"
    os.link(trace, link)

    assert "this is read" in xbd("replay", str(trace), "--series", str(link)).stderr
    assert trace.read_text() == text
    assert "cannot be written: No such file" in xbd("replay", str(trace), "--series", "/none/x.csv").stderr


def test_none_is_asked_for() -> None:
    """Without a path there is no series."""
    with series_file(None) as series:
        assert series is None


def test_a_live_host_is_watched(tmp_path: Path) -> None:
    """Rows for host and domains at each moment, to a file or to standard output, with the host's own figures."""
    host = tmp_path / "host.toml"
    host.write_text('[host]\nname = "x"\nmemory = "64m"\n[[guest]]\nname = "web"\nmaximum = "32m"\nautostart = false\n')
    out = tmp_path / "out.csv"
    with running("hypervisor", "--config", str(host), "--runtime-dir", str(tmp_path / "run")) as daemon:
        daemon.wait_until_it_says("hypervisor_ready")
        socket = ("--socket", str(tmp_path / "run"))
        assert xbd("watch", "--series", str(out), "--moments", "2", "--interval", "0.1", *socket).exit_code == 0
        full = xbd("watch", "--series", "/dev/full", "--moments", "2", *socket)
    rows = read(out)

    assert [(row["run"], row["kind"], row["name"]) for row in rows] == [("x", "host", ""), ("x", "domain", "web")] * 2
    assert (rows[0]["held_pages"], rows[1]["held_pages"], rows[1]["state"]) == ("8192", "8192", "waiting")
    assert float(rows[2]["t_s"]) > float(rows[0]["t_s"]) > 1e9
    assert full.exit_code == 1
    assert "No space left on device" in full.stderr
