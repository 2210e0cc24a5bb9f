"""`xbd demo`: compares today's Xen with the improved balloon in under a minute, with real daemon, agents and sockets.

Eight guests with steady churn on a host without slack, once with today's Xen and Linux (`stock`)
and once with the improved balloon (`full`). All shrink and grow back; then memory moves to and fro
between two halves of them. The figures at the end are the daemon's counters.
"""

import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path

import click
import trio

from xbd.cli.common import Failure, check_writable
from xbd.cli.follow import LiveView, follow, send_targets
from xbd.cli.map_view import pixels
from xbd.client.blocking import connect
from xbd.client.client import Client
from xbd.control.frames import frames_of
from xbd.control.targets import choose, parse_amount, plan
from xbd.lab.demo.page import Story, render_page
from xbd.testing.processes import running_host
from xbd.units import SUPER_PAGES

_GUESTS = 8
# Each guest's static maximum, first target, and smaller and larger targets; the first targets fill the host.
_MEMORY, _TARGET, _SMALL, _LARGE = "512m", "384m", "256m", "512m"
_CHURN_ROUNDS = 4
# After a change of targets, two periods of compaction: its effect belongs to the change.
_SETTLE_S = 1.2
_STRATEGIES = ("stock", "full")
# How often the share in superpages is noted for the page.
_LOOK_EVERY_S = 0.25
_HOST = """
[host]
memory = "{memory}m"
strategy = "{strategy}"

[[guest]]
name = "web{{n}}"
count = {half}
maximum = "{maximum}"
target = "{target}"
workload = {{ profile = "steady", used = 0.36, churn = 0.05, tick_s = 0.25 }}
seed = {seed}
verify = true

[[guest]]
name = "db{{n}}"
count = {half}
maximum = "{maximum}"
target = "{target}"
workload = {{ profile = "unmovable", used = 0.24, kernel = 0.08, churn = 0.05, period_ticks = 12, tick_s = 0.25 }}
seed = {seed}
verify = true
"""

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Coverage:
    """Share of the guests' memory in superpages: at first, after one trip down and up, after churn."""

    before: float
    round_trip: float
    churn: float


@dataclass(frozen=True, slots=True)
class StrategyResult:
    """The figures of one strategy."""

    superpage_coverage: Coverage
    host_free_in_whole_superframes: float
    hypercalls: int
    extents: int
    pages_moved: int
    pages_migrated: int
    content_errors: int
    violations: list[str]


@click.command("demo")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0))
@click.option(
    "--page",
    "page_path",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write a page that tells the story with this run's own data (pictures need the extra plots).",
)
@click.option("--json", "as_json", is_flag=True, help="Print the table as JSON.")
def command(*, seed: int, page_path: Path | None, as_json: bool) -> None:
    """Show the whole story in under a minute: 8 guests shrink, grow and churn, first `stock`, then `full`.

    Everything runs for real, in a temporary directory that is removed at the end.
    """

    def say(line: str) -> None:
        if not as_json or sys.stderr.isatty():
            click.echo(line, err=True)

    check_writable(page_path)
    results: dict[str, StrategyResult] = {}
    stories: dict[str, Story] = {name: Story() for name in _STRATEGIES}
    for strategy in _STRATEGIES:
        with tempfile.TemporaryDirectory(prefix="xbd-demo-") as directory:
            # Its errors come in groups, which `xbd` turns into a sentence.
            results[strategy] = trio.run(_run_strategy, strategy, seed, Path(directory), say, stories[strategy])
    click.echo(
        json.dumps({name: asdict(one) for name, one in results.items()}, indent=2) if as_json else render(results)
    )
    if page_path is not None:
        _write_page(page_path, stories, results, seed)
    if any(one.violations or one.content_errors for one in results.values()):
        raise SystemExit(1)


def _write_page(path: Path, stories: dict[str, Story], results: dict[str, StrategyResult], seed: int) -> None:
    """Write the page. Raises Failure: it cannot be written."""
    wrong = sum(one.content_errors + len(one.violations) for one in results.values())
    ends_well = "every page's content was right, and the audit found nothing" if not wrong else f"{wrong} errors"
    again = f"xbd demo --seed {seed} --page {path}"
    page = render_page(stories, _rows(results), ends_well, again, with_plots=find_spec("matplotlib") is not None)
    try:
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise Failure(f"{path}: cannot be written: {error.strerror or error}") from error


async def _watch(client: Client, story: Story) -> None:
    """Note the share of memory in superpages, from time to time."""
    while True:
        story.curve.append((trio.current_time(), await _coverage(client)))
        await trio.sleep(_LOOK_EVERY_S)


async def _run_strategy(strategy: str, seed: int, directory: Path, say: Say, story: Story) -> StrategyResult:
    """Run one strategy's host through the story; what is seen meanwhile is noted in *story*."""
    memory_mib = _GUESTS * int(_TARGET[:-1])
    host_toml = _HOST.format(
        memory=memory_mib, strategy=strategy, half=_GUESTS // 2, maximum=_MEMORY, target=_TARGET, seed=seed
    )
    say(f"{strategy}: starting a host of {memory_mib} MiB and {_GUESTS} guests of {_TARGET} (at most {_MEMORY})")
    async with running_host(host_toml, directory) as client, trio.open_nursery() as nursery:
        began_s = trio.current_time()
        nursery.start_soon(_watch, client, story)

        def begin(phase: str) -> None:
            story.phases.append((trio.current_time(), phase))
            say(f"{strategy}: {phase}")

        async def move(names: Sequence[str], size: str) -> None:
            await trio.to_thread.run_sync(_move, directory / "run", names, size)
            await trio.sleep(_SETTLE_S)

        before = await _coverage(client)
        begin(f"all shrink to {_SMALL} and grow back to {_TARGET}")
        await move(["*"], _SMALL)
        await move(["*"], _TARGET)
        round_trip = await _coverage(client)
        begin(f"memory moves to and fro between the two halves, {_CHURN_ROUNDS} times")
        names = [domain.name for domain in await client.list()]
        halves = names[: _GUESTS // 2], names[_GUESTS // 2 :]
        for turn in range(_CHURN_ROUNDS):
            await move(halves[turn % 2], _SMALL)
            await move(halves[(turn + 1) % 2], _LARGE)
        await move(["*"], _SMALL)
        free = float((await client.host())["free_in_whole_superframes"])
        await move(["*"], _TARGET)
        story.squares = pixels(frames_of(await client.call("frames")), "state")
        result = await _sum_up(client, Coverage(before, round_trip, await _coverage(client)), free)
        nursery.cancel_scope.cancel()
    story.curve = [(t_s - began_s, share) for t_s, share in story.curve]
    story.phases = [(t_s - began_s, phase) for t_s, phase in story.phases]
    return result


def _move(runtime_dir: Path, names: Sequence[str], size: str) -> None:
    """Set targets and follow the guests there; a guest that gives no more is left where it is."""
    view = LiveView()
    with connect(runtime_dir) as client:
        following = send_targets(client, plan(choose(client.list(), names), parse_amount(size)))
        follow(client, following, view.show)
    view.clear()


async def _coverage(client: Client) -> float:
    domains = await client.list()
    leaves = sum(domain.leaves for domain in domains)
    return round(leaves * SUPER_PAGES / max(sum(domain.tot_pages for domain in domains), 1), 4)


async def _sum_up(client: Client, coverage: Coverage, free_in_whole: float) -> StrategyResult:
    domains = await client.list()
    return StrategyResult(
        superpage_coverage=coverage,
        host_free_in_whole_superframes=round(free_in_whole, 4),
        hypercalls=sum(sum(domain.hypercalls.values()) for domain in domains),
        extents=sum(sum(domain.extents.values()) for domain in domains),
        pages_moved=sum(int(domain.reported.get("pages_moved", 0)) for domain in domains),
        pages_migrated=sum(int(domain.reported.get("pages_migrated", 0)) for domain in domains),
        content_errors=sum(int(domain.reported.get("content_errors", 0)) for domain in domains),
        violations=list(await client.audit()),
    )


def render(results: dict[str, StrategyResult]) -> str:
    """Format the table."""
    lines = [("", *results), *_rows(results)]
    return "\n".join(f"{title:42}" + "".join(f"{cell:>12}" for cell in cells) for title, *cells in lines)


def _rows(results: dict[str, StrategyResult]) -> list[tuple[str, ...]]:
    """Make the table's rows: what it is, and a cell for each strategy."""
    rows: list[tuple[str, Callable[[StrategyResult], str]]] = [
        ("superpage coverage before", lambda one: f"{one.superpage_coverage.before:.1%}"),
        ("  after one trip down and up", lambda one: f"{one.superpage_coverage.round_trip:.1%}"),
        ("  after churn", lambda one: f"{one.superpage_coverage.churn:.1%}"),
        ("host's free memory in whole superframes", lambda one: f"{one.host_free_in_whole_superframes:.1%}"),
        ("hypercalls", lambda one: f"{one.hypercalls:,}"),
        ("extents in them", lambda one: f"{one.extents:,}"),
        ("in-use pages moved by compaction", lambda one: f"{one.pages_moved:,}"),
        ("ballooned pages migrated", lambda one: f"{one.pages_migrated:,}"),
        ("content errors, violations", lambda one: f"{one.content_errors}, {len(one.violations)}"),
    ]
    return [(title, *(cell(one) for one in results.values())) for title, cell in rows]
