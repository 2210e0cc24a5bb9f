"""The demo's and the benchmarks' parts: real hosts started and stopped, figures and tables written."""

import re
import tempfile
from pathlib import Path

import pytest
from click.testing import CliRunner

from xbd.cli.main import main
from xbd.errors import ConfigError, XbdError
from xbd.lab.bench.command import render as render_figures
from xbd.lab.bench.figures import summarize
from xbd.lab.bench.shell import busy, fleet, host, wire
from xbd.lab.bench.shell.flood import FloodScale, measure_flood
from xbd.lab.bench.shell.grants import measure_grants
from xbd.lab.bench.shell.listing import measure_list
from xbd.lab.bench.shell.wire import measure_hypercalls
from xbd.lab.demo import command as demo
from xbd.lab.demo.command import Coverage, StrategyResult, render
from xbd.lab.demo.page import Story, render_page
from xbd.testing.processes import running_host

CONFIGS = Path(__file__).parents[3] / "configs"
_HOST = '[host]\nmemory = "256m"\n[[guest]]\nname = "web"\nmaximum = "64m"\n'


async def test_a_host_runs_for_the_length_of_a_block(tmp_path: Path) -> None:
    """Daemon and agents are up inside the block, and gone with their sockets after it."""
    async with running_host(_HOST, tmp_path) as client:
        (domain,) = await client.list()
        assert (domain.name, domain.agent) == ("web", True)

    assert not list((tmp_path / "run").glob("**/*.sock"))


async def test_a_host_that_does_not_start_says_why(tmp_path: Path) -> None:
    """What `xbd up` complained of is in the error."""
    with pytest.raises(XbdError, match="memroy"):
        async with running_host('[host]\nmemory = "1g"\nmemroy = "2g"\n', tmp_path):
            pass


async def test_a_directory_that_is_too_long_for_sockets_is_refused(tmp_path: Path) -> None:
    """In a sentence, and nothing was started or written; the same goes for a soak."""
    long = tmp_path / ("x" * 100)
    long.mkdir()
    with pytest.raises(ConfigError, match="use a shorter directory"):
        async with running_host(_HOST, long):
            pass
    assert list(long.iterdir()) == []


def test_a_soak_in_a_directory_that_is_too_long_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is started; nothing is left there."""
    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    outcome = CliRunner().invoke(main, ["soak", "--guests", "1", "--duration", "1s"])

    assert (outcome.exit_code, "use a shorter directory" in outcome.stderr) == (1, True)
    assert list(long.iterdir()) == []


@pytest.mark.parametrize(
    "words",
    [
        ["demo", "--page"],
        ["soak", "--guests", "1", "--duration", "1s", "--json"],
        ["bench", "--only", "list", "--record"],
        ["experiment", str(CONFIGS / "experiments" / "debate.toml"), "--series"],
        ["arena", str(CONFIGS / "experiments" / "arena.toml"), "--series"],
        ["calibrate"],
    ],
)
def test_a_file_that_cannot_be_written_is_said_before_the_work(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Minutes later it would be too late; nothing was run, and nothing is written."""
    monkeypatch.chdir(tmp_path)
    outcome = CliRunner().invoke(main, [*words, "none/of/it"])

    assert (outcome.exit_code, "none/of/it: cannot be written" in outcome.stderr) == (1, True)
    assert not outcome.stdout


async def test_hypercalls_are_measured_against_echoes(tmp_path: Path) -> None:
    """A few rounds against a real daemon and a real echo server give figures, and leave no domain behind."""
    async with running_host(_HOST, tmp_path) as client:
        figures = await measure_hypercalls(client, tmp_path / "run", tmp_path, rounds=3, calls=2)
        assert [domain.name for domain in await client.list()] == ["web"]
        assert list(await client.audit()) == []

    assert figures["hypercall_vs_echo"].ratio_to is not None
    assert figures["hypercall_pair"].low <= figures["hypercall_pair"].value <= figures["hypercall_pair"].high


async def test_looking_at_a_host_is_measured(tmp_path: Path) -> None:
    """By commands that end well, and by the processor time of the daemon, which moves."""
    figures = await measure_list(tmp_path, few=1, many=2, repeats=1)
    assert all(figure.value > 0 for figure in figures.values())
    assert {name for name, figure in figures.items() if figure.ratio_to} == {
        "list_command_vs_click",
        "list_no_changes_vs_all",
    }


async def test_calls_in_flight_are_all_answered(tmp_path: Path) -> None:
    """However many are on their way: none more than so many, and each has its answer."""
    async with wire.echo_server(tmp_path) as path, wire.connect(path) as echo:
        for count, in_flight in ((1, 8), (7, 8), (8, 8), (50, 1), (50, 8)):
            await echo.stream("populate", {"gfns": bytes(4096)}, count, in_flight)
        assert await echo.call("decrease", {}) == [512, None]
    async with wire.echo_server(tmp_path) as path, wire.connect(path) as another:
        assert await another.call("populate", {}) == [512, None]


async def test_a_trip_is_measured_against_the_wire(tmp_path: Path) -> None:
    """A guest goes down and up over a real host; as many calls are echoed."""
    host_toml = '[host]\nmemory = "2g"\n[[guest]]\nname = "web"\nmaximum = "1g"\n'
    async with running_host(host_toml, tmp_path) as client:
        figures = await host.measure_trips(client, tmp_path, "2m", 1, (0.5, 1.0))
    assert sorted(figures) == [
        "grow_2m_one_in_flight", "grow_2m_one_in_flight_vs_wire", "shrink_2m_one_in_flight",
        "shrink_2m_one_in_flight_vs_wire", "wire_2m_one_in_flight",
    ]  # fmt: skip
    assert all(figure.value > 0 for figure in figures.values())


async def test_a_fleet_is_measured_against_one_guest(tmp_path: Path) -> None:
    """Three guests retargeted at once, one guest three times, and what the two more cost."""
    figures = await fleet.measure_fleet(tmp_path, guests=3)
    assert figures["retarget_1000_vs_one"].ratio_to is not None
    assert all(figure.value > 0 for figure in figures.values())


async def test_many_idle_guests_are_started_listed_and_halved(tmp_path: Path) -> None:
    """Three stand for ten thousand: each figure is of them all."""
    figures = await fleet.measure_idle(tmp_path, guests=3)
    assert figures.keys() == {f"idle_10000_{name}" for name in ("start", "list", "to_half", "memory")}
    assert all(figure.value > 0 for figure in figures.values())


async def test_busy_guests_are_tried_on_a_host_of_their_own(tmp_path: Path) -> None:
    """A few guests, half of them bursty, with their policy: their ticks are counted, and each number that was tried is told."""
    said: list[str] = []
    scale = busy.BusyScale(warm_up_s=0.5, measured_s=5.0, first=8, most=8)
    figures = await busy.measure_busy(tmp_path, said.append, scale)
    assert re.match(
        r"8 guests: (carried|not carried): [1-9][0-9]* ticks, [0-9.]+% late, the worst by [0-9]+ ms", said[0]
    )
    assert 0 <= figures["busy_guests"].value <= 8


async def test_mapping_is_measured_against_populating(tmp_path: Path) -> None:
    """A round of each against a real daemon gives figures; no domain, grant or mapping is left behind."""
    async with running_host(_HOST, tmp_path) as client:
        figures = await measure_grants(client, tmp_path / "run", rounds=3)
        assert [domain.name for domain in await client.list()] == ["web"]
        assert list(await client.audit()) == []

    assert figures["grant_map_vs_populate"].ratio_to is not None


async def test_a_flood_is_measured_against_quiet(tmp_path: Path) -> None:
    """Each kind of flood is a process that comes about and goes; no domain is left behind, the audit is clean."""
    scale = FloodScale(rounds=2, calls_per_round=20, crowds=(2,))
    async with running_host('[host]\nmemory = "1g"\n', tmp_path) as client:
        figures = await measure_flood(client, tmp_path / "run", scale)
        assert list(await client.list()) == []
        assert list(await client.audit()) == []

    kinds = ("", "_2", "_loads", "_longest", "_breaking", "_garbage", "_reboots", "_broken_reboots")
    assert figures.keys() == {"hypercall_p99"} | {f"flood_p99{kind}" for kind in kinds}
    assert figures["flood_p99"].ratio_to is not None


def test_a_quick_search_is_of_busy_guests_alone() -> None:
    """Where the option would do nothing it is refused."""
    outcome = CliRunner().invoke(main, ["bench", "--only", "allocator", "--quick"])
    assert (outcome.exit_code, "--quick is for --only busy" in outcome.output) == (2, True)


def test_a_figure_is_a_median_with_its_quartiles() -> None:
    """Repeats become their median and quartiles, spelt out for JSON; only a ratio says to what."""
    figure = summarize([4.0, 1.0, 3.0, 2.0, 5.0], "us")

    assert figure.as_map() == {"value": 3.0, "unit": "us", "low": 1.5, "high": 4.5}
    assert summarize([2.0], "ratio", "a floor").as_map()["ratio_to"] == "a floor"
    assert render_figures({"echo": figure}).splitlines()[1].split() == ["echo", "3.00", "1.50", "to", "4.50", "us"]


def test_the_table_shows_what_was_counted() -> None:
    """Each strategy is a column of the demo's table, each count a row."""
    told = StrategyResult(Coverage(1.0, 0.661, 0.52), 0.984, 5632, 2_883_584, 0, 7, 0, [])
    lines = render({"stock": told}).splitlines()

    assert lines[0].split() == ["stock"]
    assert [line.split()[-1] for line in lines[1:]] == [
        "100.0%", "66.1%", "52.0%", "98.4%", "5,632", "2,883,584", "0", "7", "0",
    ]  # fmt: skip


async def test_the_page_has_the_run_s_own_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shorter story, on a real host: a curve that begins whole, both phases, a square for each superframe, one page."""
    for name, shorter in {"_GUESTS": 2, "_MEMORY": "64m", "_TARGET": "48m", "_SMALL": "32m", "_LARGE": "64m"}.items():
        monkeypatch.setattr(demo, name, shorter)
    monkeypatch.setattr(demo, "_CHURN_ROUNDS", 1)
    story, said = Story(), list[str]()
    result = await demo._run_strategy("full", 0, tmp_path, said.append, story)
    page = render_page(
        {"full": story}, demo._rows({"full": result}), "all <well>", "xbd demo --page x", with_plots=True
    )

    assert result.violations == []
    assert [f"full: {phase}" for _, phase in story.phases] == said[1:]
    assert len(story.curve) > 2
    assert story.curve[0][1] == 1.0
    assert 0 <= story.phases[0][0] <= story.phases[1][0] <= story.curve[-1][0] + 60
    assert story.squares is not None
    # 96 MiB are 48 superframes, in squares of 8 by 8 pixels.
    assert (story.squares != 255).any(axis=2).sum() == 48 * 64
    assert page.count("<img") == 2
    assert "all &lt;well&gt;" in page
    assert f"{result.superpage_coverage.churn:.1%}" in page
    assert "matplotlib is not installed" in render_page({"full": story}, [], "", "", with_plots=False)
