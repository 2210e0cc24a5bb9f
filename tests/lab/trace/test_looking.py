"""Looking at traces and making others of them: what is strange is told by its line, and the same seed makes the same file."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from tests.lab.trace.test_record import ROW, UTC_S, recorded
from xbd.cli.main import main
from xbd.guest.workload import Trace, parse_trace
from xbd.lab.trace.changes import Likeness, cut, synthesise
from xbd.lab.trace.findings import findings
from xbd.lab.trace.plots import draw
from xbd.lab.trace.table import header_text, parse_table, row_text, table_text, utc_text
from xbd.lab.trace.view import text_plot

COLUMNS = list(ROW)


def trace(*arguments: str) -> Result:
    """Run the command."""
    return CliRunner().invoke(main, ["trace", *arguments])


def changed(line: int, **numbers: int) -> str:
    """Make the text of a recorder in which one line says something else."""
    lines = recorded(12).splitlines()
    row = [str(numbers.get(column, number)) for column, number in ROW.items()]
    lines[line - 1] = ",".join((lines[line - 1].split(",")[0], *row, lines[line - 1].split(",")[-1]))
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (recorded(12), []),
        (changed(5, free_pages=100_001), [(5, "implausible"), (5, "implausible")]),
        (changed(5, anon_pages=100_001), [(5, "implausible")]),
        (changed(5, free_superframes=10), [(5, "implausible")]),
        (changed(5, order10=2000), [(5, "implausible")]),
        (changed(5, total_pages=100_002), [(5, "implausible")]),
        (changed(5, faults=89), [(5, "reset")]),
        (changed(5, psi_some_us=5_000_000), [(5, "implausible"), (6, "reset")]),
        (recorded(12).rpartition(",")[0], [(13, "torn")]),
    ],
)
def test_what_is_strange_is_told_by_its_line(text: str, found: list[tuple[int, str]]) -> None:
    """More than there is, blocks that are not free, counters that fall, pressure that is faster than time, torn lines."""
    assert [(one.line, one.kind) for one in findings(parse_table(text, "t.csv"))] == found


def test_gaps_and_clocks_that_were_set_are_told_by_their_line() -> None:
    """A stretch without samples, and UTC that jumps while t_s does not; time that runs backwards is a fault."""

    def found(*times: tuple[float, float]) -> list[tuple[int, str, str]]:
        rows = "".join(row_text(now, list(ROW.values()), UTC_S + utc) + "\n" for now, utc in times)
        return [(one.line, one.kind, one.text) for one in findings(parse_table(header_text(ROW) + rows, "t.csv"))]

    assert found((0, 0), (1, 1), (2, 2), (3, 3), (30, 30), (31, 31)) == [
        (6, "gap", "no sample for 27 s, where 1 s are usual")
    ]
    assert found((0, 0), (1, 1), (2, 3602), (3, 3603)) == [(4, "clock", "the clock was set forward by 3600.0 s")]
    assert [one[:2] for one in found((0, 0), (5, 5), (4, 4), (6, 6))] == [(4, "implausible")]


def test_check_is_exit_code_1_where_a_trace_cannot_be_played(tmp_path: Path) -> None:
    """A reset is told and exit 0; a torn line is exit 1; both by file and line, in JSON too."""
    reset, torn = tmp_path / "reset.csv", tmp_path / "torn.csv"
    reset.write_text(changed(5, faults=3))
    torn.write_text(recorded(3)[:-5])
    good, bad = trace("check", str(reset)), trace("check", str(torn), str(reset))

    assert (good.exit_code, bad.exit_code) == (0, 1)
    assert good.stdout.splitlines()[0].startswith(f"{reset}: line 5: reset: faults falls from 90 to 3")
    assert f"{torn}: line 4: torn: the file ends in the middle of it" in bad.stdout
    told = json.loads(trace("check", str(torn), "--json").stdout)
    assert [(one["line"], one["kind"]) for one in told[0]["found"]] == [(4, "torn")]


def test_info_tells_demand_and_counters(tmp_path: Path) -> None:
    """Of a torn file, too, which it says."""
    path = tmp_path / "a.csv"
    path.write_text(changed(12, faults=190, psi_some_us=77)[:-2])
    told = json.loads(trace("info", str(path), "--json").stdout)

    assert (told["samples"], told["seconds"], told["step_s"], told["total_pages"]) == (11, 10, 1, 100_000)
    assert told["programs_pages"]["most"] == 100_000 - 10_000 - 4617 - 1000
    assert told["counters"]["faults"] == 100
    assert told["found"] == "torn: 1"
    assert told["from"] == utc_text(UTC_S)
    assert "wear: 0.2% of the free memory" in trace("info", str(path)).stdout


def demand(*samples: tuple[float, int, int]) -> Trace:
    """Make a trace of times, and pages of programs and cache, of 1000."""
    rows = "".join(f"{now},1000,{1000 - anon - cache},{cache}\n" for now, anon, cache in samples)
    return parse_trace("t_s,total_pages,free_pages,page_cache_pages\n" + rows, "t.csv")


def test_the_shape_over_time_is_drawn() -> None:
    """Programs, page cache above them and what is free, over time; a stretch without samples is blank; as SVG, too."""
    drawn = text_plot(demand((0, 500, 250), (1, 500, 250), (2, 250, 0), (9, 1000, 0)), 13, 4)

    assert [line[9:13] for line in drawn[:4]] == [".  #", "=  #", "#  #", "#  #"]
    svg = draw(demand((0, 500, 250), (9, 1000, 0)))
    assert svg.startswith("<?xml")
    assert "page cache" in svg
    assert svg == draw(demand((0, 500, 250), (9, 1000, 0)))


def test_a_part_is_cut_out_with_all_that_is_written(tmp_path: Path) -> None:
    """Columns that nobody knows, too; time starts at 0 again, what is torn is left out, and said."""
    path, out = tmp_path / "a.csv", tmp_path / "b.csv"
    path.write_text(
        "t_s,mood,total_pages,free_pages,page_cache_pages\n"
        + "".join(f"{now},ok,9,{now},0\n" for now in range(8))
        + "8,o"
    )
    result = trace("cut", str(path), str(out), "--from", "2s", "--to", "4s")

    assert result.stdout == f"{out}: 3 of 8 samples\n"
    assert result.stderr.startswith(f"{path}: line 10: is torn")
    assert (
        out.read_text()
        == "t_s,mood,total_pages,free_pages,page_cache_pages\n0.0,ok,9,2,0\n1.0,ok,9,3,0\n2.0,ok,9,4,0\n"
    )
    refused = trace("cut", str(path), str(out), "--from", "20s")
    assert (refused.exit_code, refused.stderr.splitlines()[-1]) == (1, f"{path}: no sample from 20 to inf s")
    assert sorted(tmp_path.iterdir()) == [path, out]


@given(st.integers(0, 11), st.integers(0, 11))
def test_what_is_cut_is_what_was_there(first: int, end: int) -> None:
    """Row by row, whatever the part."""
    table = parse_table(recorded(12), "t.csv")
    first, end = sorted((first, end))
    part = parse_table(table_text(cut(table, first, end)), "part")
    assert [row[1:] for row in part.cells] == [row[1:] for row in table.cells[first : end + 1]]
    assert part.seconds.tolist() == [float(now) for now in range(end - first + 1)]


RAMP = demand(*((now, now * 8, 100 - now) for now in range(100)))


@given(st.floats(0, 300), st.floats(0.01, 20), st.floats(0, 3), st.floats(0, 1), st.integers(0, 1 << 40))
def test_a_synthetic_guest_is_the_same_for_the_same_seed(
    shift: float, scale: float, demand_share: float, noise: float, seed: int
) -> None:
    """To the letter; and whatever is asked for, it can be played."""
    likeness = Likeness(shift, scale, demand_share, noise, seed)
    text = synthesise(RAMP, likeness)
    assert text == synthesise(RAMP, likeness)
    made = parse_trace(text, "made")
    assert made.samples == RAMP.samples
    assert made.total_pages == max(round(1000 * scale), 1)


def test_a_synthetic_guest_is_shifted_scaled_and_noisy() -> None:
    """Each by itself: later and round, larger, and away from the recorded demand by about as much as was said."""
    shifted = parse_trace(synthesise(RAMP, Likeness(shift_s=30)), "made")
    assert shifted.anon_pages[30:99].tolist() == RAMP.anon_pages[:69].tolist()
    assert shifted.anon_pages[:30].tolist() == RAMP.anon_pages[69:99].tolist()
    scaled = parse_trace(synthesise(RAMP, Likeness(scale=2)), "made")
    assert (scaled.total_pages, scaled.anon_pages.tolist()) == (2000, (2 * RAMP.anon_pages).tolist())
    halved = parse_trace(synthesise(RAMP, Likeness(demand=0.5)), "made")
    assert (halved.total_pages, halved.anon_pages.tolist()) == (1000, (RAMP.anon_pages // 2).tolist())
    flat = demand(*((10 * now, 500, 100) for now in range(3000)))
    one, other = (parse_trace(synthesise(flat, Likeness(noise=0.05, seed=seed)), "made").anon_pages for seed in (1, 2))
    assert abs(float(np.std(one)) - 25) < 3
    assert abs(float(np.mean(one)) - 500) < 5
    assert not np.array_equal(one, other)


def test_synth_writes_what_can_be_played(tmp_path: Path) -> None:
    """A guest of half the size; one that is too large for anybody is refused, and no file is left."""
    path, out = tmp_path / "a.csv", tmp_path / "b.csv"
    path.write_text(recorded(4))
    assert trace("synth", str(path), str(out), "--scale", "0.5", "--noise", "0.1", "--shift", "2s").stdout == (
        f"{out}: 4 samples of a guest of 50000 pages\n"
    )
    refused = trace("synth", str(path), str(tmp_path / "c.csv"), "--scale", "1000")
    assert refused.exit_code == 1
    assert "a number is out of range" in refused.stderr
    assert not (tmp_path / "c.csv").exists()
