"""Replaying traces: the same seed gives the same result, and nothing is lost on the way."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image, ImageSequence

from xbd.config.strategies import STRATEGIES
from xbd.daemons.trace_files import read_trace
from xbd.errors import BadArgument
from xbd.guest.workload import parse_trace
from xbd.lab.costs.shell.files import read_prices
from xbd.lab.replay.command import command
from xbd.lab.replay.replay import Replay, ReplayOptions, ReplayReport, replay
from xbd.lab.replay.shell.animation import MOMENTS, Film
from xbd.lab.replay.variants import AS_THE_STRATEGY_SAYS, VARIANTS

_TRACES = Path(__file__).resolve().parents[4] / "shared" / "traces"


def _small_trace(phase: int) -> str:
    """Make a trace of a 32 MiB guest (and a few pages) whose demand swings."""
    total = 16 * 512 + 77
    lines = ["t_s,total_pages,free_pages,page_cache_pages"]
    for sample in range(60):
        level = (sample * 7 + phase) % 23 / 23
        cache = 200 + (sample * 13) % 300
        lines.append(f"{sample * 2.0},{total},{total - 1500 - int(level * 4500) - cache},{cache}")
    return "\n".join(lines)


def _replay(strategy: str, seed: int = 3, variant: str = AS_THE_STRATEGY_SAYS) -> ReplayReport:
    traces = [parse_trace(_small_trace(phase), name) for name, phase in (("a", 0), ("b", 11))]
    options = ReplayOptions(STRATEGIES[strategy], overcommit=1.3, seed=seed, verify=True, variant=variant)
    return replay(traces, options)


@pytest.mark.parametrize("strategy", sorted(STRATEGIES))
def test_nothing_is_lost_or_leaked(strategy: str) -> None:
    """A replay with too little memory for all ends with a clean audit and every content word right."""
    report = _replay(strategy)

    assert report.violations == []
    assert report.content_errors == 0
    assert all(guest.hypercalls for guest in report.guests)


@pytest.mark.parametrize("variant", sorted(VARIANTS))
@pytest.mark.parametrize("strategy", sorted(STRATEGIES))
def test_every_variant_loses_nothing(strategy: str, variant: str) -> None:
    """On each interface and by each way of migration audit and content words come out clean."""
    report = _replay(strategy, variant=variant)

    assert report.variant == variant
    assert report.violations == []
    assert report.content_errors == 0


def test_a_variant_leaves_only_its_own_calls() -> None:
    """A virtio guest inflates and deflates and nothing else; without populate_depopulate nobody calls it."""
    virtio = {kind.partition(":")[0] for guest in _replay("full", variant="virtio").guests for kind in guest.hypercalls}
    by_two_calls = _replay("full", variant="two_calls")
    called = {kind.partition(":")[0] for guest in by_two_calls.guests for kind in guest.hypercalls}

    assert virtio == {"inflate", "deflate"}
    assert called == {"populate", "decrease"}
    assert {guest.migration_way for guest in by_two_calls.guests} == {"two_calls"}


def test_variants_are_laid_side_by_side(tmp_path: Path) -> None:
    """Several variants give one table with a column each, in the order asked for, and as JSON a list."""
    path = tmp_path / "small.csv"
    path.write_text(_small_trace(5))
    chosen = [str(path), "--variant", "exchange", "--variant", "virtio", "--overcommit", "1.1"]
    table = CliRunner().invoke(command, chosen)
    told = json.loads(CliRunner().invoke(command, [*chosen, "--json"]).stdout)

    assert table.exit_code == 0
    assert table.stdout.splitlines()[2].split() == ["exchange", "virtio"]
    assert [report["variant"] for report in told] == ["exchange", "virtio"]


def test_same_seed_same_report() -> None:
    """Two replays of one seed agree in everything; another seed differs."""
    assert _replay("full") == _replay("full")
    assert _replay("full") != _replay("full", seed=4)


def test_full_keeps_more_superpages_than_stock() -> None:
    """On the same traces the improved design ends with more of the memory in superpages."""
    full, stock = _replay("full"), _replay("stock")

    assert min(g.superpage_coverage for g in full.guests) > max(g.superpage_coverage for g in stock.guests)


def test_json_has_the_names_that_scripts_rely_on(tmp_path: Path) -> None:
    """`xbd replay --json` prints the documented keys, and exits 0."""
    path = tmp_path / "small.csv"
    path.write_text(_small_trace(5))
    outcome = CliRunner().invoke(command, [str(path), "--json", "--verify", "--overcommit", "1.1"])
    report = json.loads(outcome.stdout)

    assert outcome.exit_code == 0
    assert {"guests", "host_free_in_whole_superframes", "elapsed_s", "trace_s", "content_errors", "violations"} <= set(
        report
    )
    assert {"superpage_coverage", "guest_free_superframes", "hypercalls", "pages_moved", "pages_denied"} <= set(
        report["guests"][0]
    )


def test_prices_are_applied_to_what_a_replay_counted(tmp_path: Path) -> None:
    """Each guest has its bill, its waits and the counts; all else is as without prices, and dearer prices cost more."""
    path = tmp_path / "small.csv"
    path.write_text(_small_trace(5))
    chosen = [str(path), str(path), "--overcommit", "1.3", "--json", "--strategy", "linux-virtio"]
    plain = json.loads(CliRunner().invoke(command, chosen).stdout)
    told = json.loads(CliRunner().invoke(command, [*chosen, "--prices", "kvm-xeon6252"]).stdout)
    (tmp_path / "dear.toml").write_text(
        read_prices("kvm-xeon6252").as_toml().replace("value = 1.4686", "value = 14.686"), encoding="utf-8"
    )
    dear = json.loads(CliRunner().invoke(command, [*chosen, "--prices", str(tmp_path / "dear.toml")]).stdout)

    for guest, without, dearer in zip(told["guests"], plain["guests"], dear["guests"], strict=True):
        assert guest["counts"]["taken_4k"] > 0
        assert guest["counts"]["faults_2m"] > 0
        assert 0 < guest["wait_p99_s"] < guest["guest_cpu_s"] + guest["host_cpu_s"]
        assert dearer["host_cpu_s"] > guest["host_cpu_s"]
        assert dearer["counts"] == guest["counts"]
        assert without.items() <= guest.items()


def test_prices_that_there_are_not_are_refused(tmp_path: Path) -> None:
    """Before anything runs, with the presets that there are; and the table says what it would cost."""
    path = tmp_path / "small.csv"
    path.write_text(_small_trace(5))
    refused = CliRunner().invoke(command, [str(path), "--prices", "xenn"])
    table = CliRunner().invoke(command, [str(path), "--prices", "xen", "--overcommit", "1.1"])

    assert (refused.exit_code, "did you mean 'xen'?" in refused.stderr) == (1, True)
    assert table.stdout.splitlines()[-2].split()[:4] == ["guest", "guest", "cpu", "s"]


def test_a_broken_line_is_named(tmp_path: Path) -> None:
    """A trace with a line that is no sample is refused, naming file and line, before anything runs."""
    path = tmp_path / "broken.csv"
    path.write_text(_small_trace(0).replace("4.0,", "4.0;", 1))
    outcome = CliRunner().invoke(command, [str(path)])

    assert outcome.exit_code == 1
    assert "broken.csv" in outcome.stderr
    assert "line 4" in outcome.stderr


def test_a_host_too_small_is_refused() -> None:
    """An overcommit that leaves no host to speak of is an error, not a crash."""
    trace = parse_trace(_small_trace(0), "a")
    with pytest.raises(BadArgument, match="superframes"):
        replay([trace], ReplayOptions(STRATEGIES["full"], overcommit=100.0))


def test_an_unknown_variant_is_refused_with_the_known_ones() -> None:
    """The refusal suggests a close name and lists all variants."""
    with pytest.raises(BadArgument, match="no variant 'two_cals'; did you mean 'two_calls'") as refused:
        _replay("full", variant="two_cals")

    assert refused.value.expected == f"one of {', '.join(VARIANTS)}"


@pytest.mark.slow
@pytest.mark.skipif(not _TRACES.is_dir(), reason="the real traces are not beside this checkout")
def test_the_beginning_of_a_real_trace() -> None:
    """The first samples of a real guest's trace replay without a content error."""
    text = (_TRACES / "clang-single.csv").read_text()
    trace = parse_trace("\n".join(text.splitlines()[:150]), "clang-single")
    report = replay([trace], ReplayOptions(STRATEGIES["full"], verify=True))

    assert report.violations == []
    assert report.content_errors == 0
    assert read_trace(_TRACES / "clang-single.csv").samples > 150


def test_gaps_are_said(tmp_path: Path) -> None:
    """By their lines, on standard error; what is held before one is held until its end."""
    path = tmp_path / "gappy.csv"
    lines = _small_trace(5).splitlines()
    path.write_text("\n".join(lines[:20] + lines[30:]) + "\n")
    result = CliRunner().invoke(command, [str(path), "--overcommit", "1"])

    assert result.exit_code == 0
    assert result.stderr.startswith(f"{path}: 1 gap, the first before line 21: what is held before one")


def test_an_animation_has_two_strategies(tmp_path: Path) -> None:
    """A GIF that moves; the report is that of a replay without one; a file that cannot be written is said after it."""
    path, gif = tmp_path / "small.csv", tmp_path / "small.gif"
    path.write_text(_small_trace(5))
    arguments = [str(path), "--overcommit", "1.1", "--json"]
    plain = json.loads(CliRunner().invoke(command, arguments).stdout)
    animated = CliRunner().invoke(command, [*arguments, "--animate", str(gif)])
    full = CliRunner().invoke(command, [*arguments, "--animate", "/dev/full"])

    assert json.loads(animated.stdout) | {"elapsed_s": 0} == plain | {"elapsed_s": 0}
    with Image.open(gif) as drawn:
        # A picture for each sample of the trace that has other pixels than the one before.
        assert 10 < sum(1 for _ in ImageSequence.Iterator(drawn)) <= 60
    assert full.exit_code == 1
    assert json.loads(full.stdout)["violations"] == []
    assert "/dev/full: cannot be written: No space left on device" in full.stderr
    several = CliRunner().invoke(command, [*arguments, "--animate", str(gif), "--variant", "all"])
    assert several.exit_code == 2
    assert "this is read" in CliRunner().invoke(command, [*arguments, "--animate", str(path)]).stderr


def test_a_film_ends_with_what_the_report_says() -> None:
    """Of few samples each is a moment, of many a bounded number; the last has the coverage that the report has."""
    trace = parse_trace(_small_trace(0), "a")
    run = Replay([trace], ReplayOptions(STRATEGIES["stock"], overcommit=1.1))
    film, longer = Film("stock", float(trace.seconds[-1])), Film("stock", 118.0)
    for now in run.run():
        film.see(now, run.host)
    for hundredth in range(11801):
        longer.see(hundredth / 100, run.host)

    assert [moment.t_s for moment in film.shown()] == trace.seconds.tolist()
    assert film.shown()[-1].coverage == pytest.approx(run.report().guests[0].superpage_coverage)
    assert len(longer.shown()) == MOMENTS + 1
