"""Where the model is wrong: by phase, by order of block, and without each of its mechanisms."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from xbd.errors import TraceError
from xbd.guest.workload import Trace, parse_trace
from xbd.lab.fidelity.ablation import MECHANISMS, ablations
from xbd.lab.fidelity.command import command
from xbd.lab.fidelity.curve import model_curve, model_free, whole
from xbd.lab.fidelity.split import AFTER_LOAD, IDLE, LOAD, START, by_order, by_phase, phases_of
from xbd.units import SUPER_PAGES

BLOCKS = 64
TOTAL = BLOCKS * SUPER_PAGES
ORDER_COLUMNS = ",".join(f"order{order}" for order in range(11))


def trace_text(demand: list[tuple[int, int]], *, orders: bool = True) -> str:
    """Write a trace of a guest of 128 MiB that holds these (anonymous, cache) pages, 100 s apart, a third of the free ones whole."""
    lines = ["t_s,total_pages,free_pages,page_cache_pages,free_superframes" + (f",{ORDER_COLUMNS}" if orders else "")]
    for sample, (anon, cache) in enumerate(demand):
        free = TOTAL - anon - cache
        supers = free // SUPER_PAGES // 3
        by_order = [free - supers * SUPER_PAGES, *[0] * 8, supers, 0]
        cells = [sample * 100, TOTAL, free, cache, supers, *(by_order if orders else [])]
        lines.append(",".join(map(str, cells)))
    return "\n".join(lines)


def busy(*, orders: bool = True) -> Trace:
    """Make a trace of programs that come and go while files are read."""
    demand = [(1000 + 1300 * (n * 7 % 11), 500 + 200 * (n % 13)) for n in range(24)]
    return parse_trace(trace_text(demand, orders=orders), "busy")


def test_phases_follow_from_what_programs_hold() -> None:
    """A rise by a tenth is a load, a fall by three quarters ends it; page cache and smaller changes are neither."""
    held = [1000, 4000, 5000, 20_000, 12_000, 5500, 5500, 5500, 5500, 5500, 8000, 15_000, 6500]
    trace = parse_trace(trace_text([(pages, 100 + 900 * (n % 3)) for n, pages in enumerate(held)]), "phases")

    assert phases_of(trace) == [START, START, *[LOAD] * 3, *[AFTER_LOAD] * 4, IDLE, IDLE, LOAD, AFTER_LOAD]


def test_errors_by_phase_and_by_order_are_those_counted_by_hand() -> None:
    """Eight blocks too many in each load and four pages too few in small pieces show where they are, and nowhere else."""
    trace = busy()
    loads = np.array(phases_of(trace)) == LOAD
    free = np.zeros((trace.samples, 10), dtype=np.int64)
    free[:, 0] = trace.free_by_order[:, 0] - 4
    free[:, 9] = trace.free_by_order[:, 9] + loads * 8 * SUPER_PAGES
    phases, orders = by_phase(trace, free), by_order(trace, free)

    assert 0 < phases[LOAD].samples == np.count_nonzero(loads) < trace.samples
    assert phases[LOAD].error_share == phases[LOAD].bias_share == pytest.approx(8 / BLOCKS)
    assert sum(one.samples for one in phases.values()) == trace.samples
    assert all(one.error_share == 0 for name, one in phases.items() if name != LOAD)
    assert (orders["0-3"].error_share, orders["0-3"].bias_share) == pytest.approx((4 / TOTAL, -4 / TOTAL))
    assert orders["4-8"].error_share == 0
    assert orders["9 and up"].error_share == pytest.approx(8 / BLOCKS * loads.mean())


def test_a_trace_without_orders_is_split_by_phase_alone() -> None:
    """Where the trace does not say the orders nothing is made up."""
    trace = busy(orders=False)
    free = model_free(trace, 0)

    assert by_order(trace, free) == {}
    assert by_phase(trace, free)


def test_the_orders_of_the_model_add_up_to_its_free_memory() -> None:
    """What the model says by order is all that the demand leaves free, but for what its kernel holds."""
    trace = busy()
    free = model_free(trace, 3)
    left = TOTAL - trace.anon_pages - trace.cache_pages

    assert (whole(free) == model_curve(trace, 3)).all()
    assert (free.sum(axis=1) <= left).all()
    assert (free.sum(axis=1) > left - TOTAL // 4).all()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (",order7,", ",order_7,", "line 1.*order7.*all of order0 to order10"),
        (",order7,", ",order6,", "line 1.*order6, order7"),
        (",0,0\n", ",0,999\n", "line 2: the free blocks of all orders"),
    ],
)
def test_columns_of_orders_that_cannot_be_are_named(old: str, new: str, said: str) -> None:
    """One of the eleven is missing or double, or the blocks are more than the memory."""
    text = trace_text([(31_000, 500), (31_000, 500)])
    assert old in text
    with pytest.raises(TraceError, match=said):
        parse_trace(text.replace(old, new, 1), "bad")


def test_every_mechanism_is_missed_and_comes_back() -> None:
    """Without each mechanism the model's curve is another one, and with all of them it is the first again."""
    trace = busy()
    curve = model_curve(trace, 1)
    same = [name for name, _, without in ablations(trace, 1) if (without == curve).all()]

    assert same == []
    assert (model_curve(trace, 1) == curve).all()


def test_the_command_splits_the_error_and_writes_a_page(tmp_path: Path) -> None:
    """Text and JSON have both splits, and the page has each mechanism and needs nothing from elsewhere."""
    path, page = tmp_path / "busy.csv", tmp_path / "page.html"
    path.write_text(trace_text([(1000, 200), (12_000, 2000), (1500, 900), (1500, 500)]))
    text = CliRunner().invoke(command, [str(path), "--report", str(page)])
    one = json.loads(CliRunner().invoke(command, [str(path), "--json"]).stdout)["traces"][0]
    html = page.read_text()

    assert text.exit_code == 0
    assert "busy, whole blocks, by phase:" in text.stdout
    assert set(one["phases"]) == {START, LOAD, AFTER_LOAD}
    assert set(one["orders"]) == {"0-3", "4-8", "9 and up"}
    assert one["orders"]["9 and up"]["error_share"] == pytest.approx(one["error_share"])
    assert all(name in html for name in MECHANISMS)
    assert "http" not in html


def test_a_page_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """A folder that is not there is an error of one sentence."""
    path = tmp_path / "busy.csv"
    path.write_text(trace_text([(1000, 200), (1000, 200)]))
    outcome = CliRunner().invoke(command, [str(path), "--report", str(tmp_path / "no" / "page.html")])

    assert outcome.exit_code == 1
    assert "page.html" in outcome.stderr
