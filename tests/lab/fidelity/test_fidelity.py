"""How far the guest model is from a real guest: the measure, the command, and what the model does as a kernel does."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from xbd.errors import BadArgument, TraceError
from xbd.guest import Demand, GuestSettings
from xbd.guest.workload import Driven, Trace, parse_trace
from xbd.guest.workload.holdings import Pool
from xbd.guest.workload.placement import PROCESSORS, share_out
from xbd.guest.zone import PageState
from xbd.lab.fidelity.command import command
from xbd.lab.fidelity.curve import compare, model_curve
from xbd.testing.virtual_host import VirtualHost
from xbd.units import SUPER_PAGES

BLOCKS = 64
TOTAL = BLOCKS * SUPER_PAGES + 77


def trace_text(demand: list[tuple[int, int]], superframes: list[int] | None = None) -> str:
    """Write a trace of a guest of 128 MiB (and a few pages) that holds these (anonymous, cache) pages, 2 s apart."""
    lines = ["t_s,total_pages,free_pages,page_cache_pages" + (",free_superframes" if superframes else "")]
    for sample, (anon, cache) in enumerate(demand):
        line = f"{sample * 2.0},{TOTAL},{TOTAL - anon - cache},{cache}"
        lines.append(line + (f",{superframes[sample]}" if superframes else ""))
    return "\n".join(lines)


def swinging(samples: int = 30) -> Trace:
    """Make a trace whose demand swings, and whose truth is a slope."""
    demand = [(4000 + sample * 37 % 11 * 1500, 500 + 60 * sample) for sample in range(samples)]
    return parse_trace(trace_text(demand, [50 - sample for sample in range(samples)]), "swinging")


def driven(workload: Driven | None = None) -> tuple[VirtualHost, int]:
    """Boot a guest that demand drives, on a host of its own."""
    host = VirtualHost(BLOCKS + 2, seed=1)
    pages = BLOCKS * SUPER_PAGES
    domid = host.create("guest", max_pages=pages, target_pages=pages, workload=workload or Driven())
    return host, domid


def demand(host: VirtualHost, domid: int, *steps: tuple[int, int]) -> int:
    """Let the guest hold these (anonymous, cache) pages, one after the other; returns its whole free superframes."""
    for anon, cache in steps:
        host.send(domid, Demand(anon, cache))
        assert host.guest(domid).check() == []
    return host.guest(domid).statistics().guest_free_superframes


# -- the measure


def test_a_curve_is_at_no_distance_from_itself() -> None:
    """The truth for a model: no error, no bias, and a ratio of 0."""
    trace = swinging()
    found = compare(trace, trace.free_superframes)

    assert (found.error, found.error_share, found.bias, found.worst, found.ratio) == (0, 0, 0, 0, 0)
    assert (found.samples, found.superframes) == (30, BLOCKS)


def test_the_distance_of_a_curve_that_is_known() -> None:
    """Shifted by 3, and by -13 at one place: mean, share, sign and the worst moment are as counted by hand."""
    trace = swinging()
    curve = trace.free_superframes + 3
    curve[7] -= 16
    found = compare(trace, curve)

    assert found.error == pytest.approx((29 * 3 + 13) / 30)
    assert found.error_share == pytest.approx(found.error / BLOCKS)
    assert found.bias == pytest.approx((29 * 3 - 13) / 30)
    assert (found.worst, found.worst_at_s) == (-13, 14.0)


def test_the_best_constant_is_the_median() -> None:
    """A model that says the median all the time has a ratio of exactly 1, and any other constant a worse one."""
    trace = swinging()
    median = np.full(30, int(np.median(trace.free_superframes)))

    assert compare(trace, median).ratio == pytest.approx(1, abs=0.01)
    assert compare(trace, median).constant_error == pytest.approx(7.5)
    for other in (-9, -4, 5, 20):
        ratio = compare(trace, median + other).ratio
        assert ratio is not None
        assert ratio > 1


def test_a_truth_that_never_moves_has_no_ratio() -> None:
    """Where the best constant is never wrong there is nothing to divide by."""
    trace = parse_trace(trace_text([(1000, 0)] * 4, [60] * 4), "still")
    found = compare(trace, np.full(4, 58))

    assert (found.error, found.constant_error, found.ratio) == (2, 0, None)


def test_what_cannot_be_compared_is_refused() -> None:
    """A trace without the column, a curve of another length, and a guest smaller than a superframe."""
    with pytest.raises(TraceError, match="free_superframes"):
        compare(parse_trace(trace_text([(1000, 0)]), "blind"), np.zeros(1, dtype=np.int64))
    with pytest.raises(BadArgument, match="29 samples"):
        compare(swinging(), np.zeros(29, dtype=np.int64))
    tiny = parse_trace("t_s,total_pages,free_pages,page_cache_pages,free_superframes\n0,100,50,10,0", "tiny")
    with pytest.raises(TraceError, match="at least 512"):
        model_curve(tiny, 0)


# -- the model's curve


def test_the_same_seed_gives_the_same_curve() -> None:
    """Two runs agree to the last superframe; the curve never has more whole superframes than free pages allow."""
    trace = swinging()
    curve = model_curve(trace, 3)

    assert (curve == model_curve(trace, 3)).all()
    assert (curve <= (TOTAL - trace.anon_pages - trace.cache_pages) // SUPER_PAGES).all()
    assert curve.size == trace.samples


def test_memory_of_a_process_that_ends_comes_back_whole() -> None:
    """Where nothing else has touched its blocks since, all but the few that listed pages lie in are whole again."""
    host, domid = driven()
    before = demand(host, domid, (3000, 0))
    in_between = demand(host, domid, (3000 + 20 * SUPER_PAGES, 0))
    after = demand(host, domid, (3000, 0))
    listed = host.guest(domid)._programs.holdings.pages[Pool.LISTED]

    assert in_between <= before - 20
    assert 0 < listed <= host.guest(domid)._zone.watermarks.low_pages
    assert after >= before - listed
    assert after > in_between


def test_what_was_freed_last_stays_with_a_processor() -> None:
    """A program that ends leaves a processor's list full, never all of them beyond the low watermark; who asks next gets that."""
    host, domid = driven()
    demand(host, domid, (20_000, 0), (12_000, 0))
    guest = host.guest(domid)
    holdings, zone = guest._programs.holdings, guest._zone

    assert holdings.pages[Pool.LISTED] == zone.watermarks.low_pages // PROCESSORS
    demand(host, domid, (12_100, 0))
    assert holdings.pages[Pool.LISTED] == zone.watermarks.low_pages // PROCESSORS - 100
    demand(host, domid, *[(20_000, 0), (2_000, 0)] * 20)
    assert holdings.pages[Pool.LISTED] <= zone.watermarks.low_pages
    demand(host, domid, (0, 0))
    assert guest.statistics().movable_pages == 0


def test_page_cache_that_lingers_pins_blocks() -> None:
    """Cache read while processes run keeps far more blocks from being whole than it fills, until it is dropped."""
    host, domid = driven()
    demand(host, domid, (3000, 0), (3000 + 20 * SUPER_PAGES, 1000))
    lingering = demand(host, domid, (3000, 1000))
    holdings, blocks = host.guest(domid)._programs.holdings, 20
    pinned = np.unique(holdings.held() // SUPER_PAGES).size

    assert pinned >= blocks
    assert lingering <= BLOCKS - pinned
    assert demand(host, domid, (0, 0)) > lingering + blocks // 2


def test_unmovable_memory_clusters_in_blocks_of_its_own() -> None:
    """The kernel's own pages, asked for in small pieces between others, lie in hardly more blocks than they fill."""
    host, domid = driven()
    demand(host, domid, *[(1000 + 400 * step, 300 * (step % 3)) for step in range(40)])
    counts = host.guest(domid)._zone.counts
    unmovable = counts[PageState.UNMOVABLE]
    blocks = int(np.count_nonzero(unmovable))

    assert blocks <= -(-int(unmovable.sum(dtype=np.int64)) // SUPER_PAGES) + 1
    assert int(counts[PageState.MOVABLE][unmovable > 0].sum(dtype=np.int64)) == 0


def test_small_free_runs_are_given_before_a_block_is_broken() -> None:
    """While the mixed blocks have room for it, no small demand costs a whole one."""
    host, domid = driven()
    low = demand(host, domid, (20_000, 1000), (8000, 1000))
    guest = host.guest(domid)
    room = guest.statistics().guest_free_pages - low * SUPER_PAGES

    assert room > 2000
    # Below 512 pages at a time nothing is mapped as a huge page.
    grown = demand(host, domid, *[(8000 + step, 1000) for step in range(400, 2000, 400)])
    assert grown >= low - 1


def test_a_demand_in_one_piece_may_be_huge_pages() -> None:
    """Of much memory asked for at once a part is whole blocks, which come back whole however it is cut otherwise."""
    host, domid = driven()
    seen = 0
    for _ in range(30):
        demand(host, domid, (20_000, 0))
        seen = max(seen, host.guest(domid)._programs.holdings.pages[Pool.HUGE])
        demand(host, domid, (2000, 0))

    assert seen > 0
    assert seen % SUPER_PAGES == 0


@pytest.mark.parametrize(
    ("count", "cache"), [(0, 0), (1, 0), (1, 1), (7, 3), (8, 1), (130, 129), (517, 8), (5000, 777)]
)
def test_free_pages_are_dealt_out_once_each(count: int, cache: int) -> None:
    """Processes and cache get as many as they are to get, and every page goes to one of them."""
    gfns = np.arange(count, dtype=np.int64) * 3
    processes, cached = share_out(gfns, cache, np.random.default_rng(count))

    assert (processes.size, cached.size) == (count - cache, cache)
    assert sorted([*processes.tolist(), *cached.tolist()]) == gfns.tolist()


def test_processes_that_were_there_first_go_last() -> None:
    """Most of what processes held at the least demand is still the same pages after three loads of five times as much."""
    host, domid = driven()
    demand(host, domid, (4096, 0))
    holdings = host.guest(domid)._programs.holdings
    first = set(holdings.held().tolist())
    demand(host, domid, *[(20_000, 3000), (4096, 1024)] * 3)
    kept = first & set(holdings.held().tolist())

    assert len(kept) > 0.7 * len(first)


def test_a_guest_that_was_up_for_long_begins_worn() -> None:
    """As its programs begin, that share of its free memory lies in broken blocks; the demand is met to the page."""
    for wear in (0.0, 0.3, 0.6):
        host = VirtualHost(BLOCKS + 2, seed=1)
        pages, settings = BLOCKS * SUPER_PAGES, GuestSettings(wear=wear)
        domid = host.create("guest", max_pages=pages, target_pages=pages, settings=settings, workload=Driven())
        whole = demand(host, domid, (6000, 3000))
        statistics = host.guest(domid).statistics()
        worn = 1 - whole * SUPER_PAGES / statistics.guest_free_pages

        assert wear - 0.05 <= worn <= wear + 0.25
        assert statistics.guest_free_pages == pages - 9000


# -- the command


def test_the_command_says_how_far_and_draws_the_curves(tmp_path: Path) -> None:
    """Text, JSON and the curves agree with each other, and exit is 0 however far the model is."""
    path, curves = tmp_path / "small.csv", tmp_path / "curves.csv"
    path.write_text(trace_text([(3000 + 800 * s, 100 * s) for s in range(12)], [60 - s for s in range(12)]))
    text = CliRunner().invoke(command, [str(path), "--curve", str(curves)])
    told = json.loads(CliRunner().invoke(command, [str(path), "--json"]).stdout)
    one = told["traces"][0]
    rows = [line.split(",") for line in curves.read_text().splitlines()]

    assert text.exit_code == 0
    assert text.stdout.splitlines()[1].split()[0] == "small"
    assert rows[0] == ["t_s", "trace", "model"]
    assert [int(row[1]) for row in rows[1:]] == [60 - s for s in range(12)]
    assert one["error"] == pytest.approx(np.mean([abs(int(row[2]) - int(row[1])) for row in rows[1:]]))
    assert {"trace", "error", "error_share", "constant_error", "ratio", "bias", "worst", "worst_at_s"} <= set(one)
    assert told["seed"] == 0


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "empty"),
        (trace_text([(1000, 0)]), "free_superframes"),
        (trace_text([(1000, 0)] * 3, [1, 2, 3]).replace("2.0,", "2.0;", 1), "line 3"),
    ],
)
def test_a_trace_that_is_none_is_named(tmp_path: Path, content: str, said: str) -> None:
    """What cannot be read or compared is an error of one sentence on stderr, and exit 1."""
    path = tmp_path / "bad.csv"
    path.write_text(content)
    outcome = CliRunner().invoke(command, [str(path)])

    assert outcome.exit_code == 1
    assert said in outcome.stderr
    assert "Traceback" not in outcome.stderr


def test_files_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    """A trace that is not there, a curve that cannot be written, and one curve for two traces."""
    path = tmp_path / "small.csv"
    path.write_text(trace_text([(1000, 0)] * 2, [60, 60]))
    missing = CliRunner().invoke(command, [str(tmp_path / "none.csv")])
    nowhere = CliRunner().invoke(command, [str(path), "--curve", str(tmp_path / "no" / "curve.csv")])
    double = CliRunner().invoke(command, [str(path), str(path), "--curve", str(tmp_path / "curve.csv")])

    assert [outcome.exit_code for outcome in (missing, nowhere, double)] == [1, 1, 1]
    assert "none.csv" in missing.stderr
    assert "curve.csv" in nowhere.stderr
    assert "--curve" in double.stderr
