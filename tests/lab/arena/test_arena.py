"""The arena: what its files mean, that a run is the same in any process, and what it says of the policies."""

import csv
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from xbd.cli.main import main
from xbd.config.policies import DEFAULT_POLICY
from xbd.daemons.trace_files import read_trace
from xbd.errors import ConfigError
from xbd.lab.arena.cell import ArenaCell, ArenaOutcome, Entry, GuestSet, Member, Point
from xbd.lab.arena.command import ARENA, run_with_policy, source_of
from xbd.lab.arena.equal import equal_memory, other_hosts
from xbd.lab.arena.guests import KINDS, make_up, play
from xbd.lab.arena.plan import parse_arena
from xbd.lab.arena.scenarios import SCENARIOS
from xbd.lab.arena.standings import failures, standings
from xbd.lab.experiments.shell.local import LocalPool
from xbd.lab.experiments.shell.work import Job, model_version
from xbd.units import MIB_PAGES as MIB

TRACE = "t_s,total_pages,free_pages,page_cache_pages\n0,65536,49152,4096\n60,65536,16384,8192\n120,65536,40960,8192\n"
FILE = """
[arena]
duration_s = 90
overcommit = [1.5, 2]
seeds = [3]
scenarios = false
[[policy]]
name = "static"
[[policy]]
name = "mine"
policy = "rivals:Mine"
settings = { pages = 8192 }
[[guests]]
name = "pair"
[[guests.member]]
kind = "bursty"
memory = "256m"
[[guests.member]]
trace = "guest.csv"
offset_s = 60
cache_reads = 0.01
"""
STRANGER = """
from xbd.policy import SetTarget
class Mine:
    def __init__(self, pages): self.pages = pages
    def step(self, state, snapshot, now):
        while now > 60: pass
        return state, [SetTarget(each.domid, self.pages, "as I like") for each in snapshot.domains]
"""


def cell(policy: str = "pressure", *kinds: str, seconds: int = 120, overcommit: float = 1.5) -> ArenaCell:
    """Make a cell of guests of 256 MiB."""
    members = tuple(Member(kind, 256 * MIB, kind) for kind in kinds or ("bursty", "idle"))
    return ArenaCell(Entry(policy, policy), GuestSet("some", members), overcommit, 1, seconds)


@pytest.fixture
def arena_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write an arena's file with a trace and a stranger's policy beside it."""
    (tmp_path / "guest.csv").write_text(TRACE)
    (tmp_path / "rivals.py").write_text(STRANGER)
    (tmp_path / "arena.toml").write_text(FILE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "rivals", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path / "arena.toml"


@pytest.mark.parametrize("kind", KINDS)
def test_a_made_up_guest_is_the_same_for_the_same_seed_and_fits(kind: str) -> None:
    """What it wants is never more than its memory, and another seed makes another one, unless nothing is drawn."""
    one, same, other = (make_up(kind, 65_536, 600, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert (one.anon_pages == same.anon_pages).all()
    assert (one.cache_reads == same.cache_reads).all()
    assert (one.anon_pages + one.cache_pages).max() <= 65_536
    assert kind == "idle" or (one.anon_pages != other.anon_pages).any() or (one.cache_reads != other.cache_reads).any()


def test_a_trace_is_played_from_an_offset_and_again(arena_file: Path) -> None:
    """Between two samples the first holds, the last as long; then it begins anew; of the cache a share is read."""
    wanted = play(read_trace(arena_file.parent / "guest.csv"), 130, 59.0, 0.5)
    assert wanted.anon_pages[[0, 1, 60, 61, 121]].tolist() == [12_288, 40_960, 40_960, 16_384, 12_288]
    assert wanted.cache_reads[[0, 1]].tolist() == [2048, 4096]


def test_a_run_is_the_same_in_any_process() -> None:
    """Equal cells give equal outcomes, here and in workers; the audit is clean."""
    cells = [cell(), cell("mom", "reader", "steady")]
    jobs = [Job(each, (), model_version(ARENA.sources), ARENA) for each in cells]
    outcomes = {done.key: done.outcome for done in LocalPool(2).run(jobs)}
    for job, here in zip(jobs, cells, strict=True):
        assert outcomes[job.key] == run_with_policy(here, ())
        assert outcomes[job.key].violations == ()


def test_what_a_policy_that_moves_memory_is_worth() -> None:
    """Where one guest wakes and others sleep, `static` denies it memory, and `pressure` gives it what they do not need."""
    kinds = ("waking", "idle", "idle")
    static, pressure = (
        run_with_policy(cell(name, *kinds, seconds=360, overcommit=2.0), ()).summary for name in ("static", "pressure")
    )
    assert static["denied_pages"] > 10_000 > pressure["denied_pages"] == 0
    assert static["wait_worst_s"] >= 60 > pressure["wait_worst_s"]
    assert (static["targets"], pressure["targets"] > 0) == (0, True)


def test_needed_cache_costs_waits_and_worthless_cache_none() -> None:
    """The same squeeze: files that are read all the time are read again and again, those that nobody reads are not."""
    needed, worthless = (
        run_with_policy(cell("static", kind, kind, overcommit=2.0), ()).summary for kind in ("needy", "hoarder")
    )
    assert needed["refaults"] > 10_000
    assert needed["wait_p99_s"] > 0.05
    assert (worthless["refaults"], worthless["wait_p99_s"]) == (0, 0)


def test_the_command_writes_what_it_says_and_goes_on_where_it_was(
    arena_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row for each run, with these columns; a second time nothing is run; a stranger that does not return is stopped, and told; --policy chooses."""
    arguments = ["arena", str(arena_file), "--out", str(tmp_path / "out"), "--processes", "1"]
    first = CliRunner().invoke(main, arguments)
    assert first.exit_code == 0, first.output
    rows = list(csv.DictReader((tmp_path / "out" / "summary.csv").read_text().splitlines()))
    expected = "policy guests overcommit seed held_gib_h denied_pages wait_p50_s wait_p99_s targets superpages"
    assert set(expected.split()) <= set(rows[0])
    assert [(row["policy"], row["overcommit"], row["trouble"]) for row in rows] == [
        ("static", "1.5", "0"), ("mine", "1.5", "1"), ("static", "2.0", "0"), ("mine", "2.0", "1")
    ]  # fmt: skip
    page = (tmp_path / "out" / "page.html").read_text()
    assert "xbd arena" in page
    assert "--policy mine --guests pair --overcommit 1.5 --seed 3" in page
    monkeypatch.setattr("xbd.lab.experiments.shell.work.run_cell", None)
    monkeypatch.setattr("xbd.lab.arena.cell._Run", None)
    again = CliRunner().invoke(main, [*arguments, "--policy", "mine"])
    assert again.exit_code == 0, again.output
    assert [row["policy"] for row in csv.DictReader((tmp_path / "out" / "summary.csv").read_text().splitlines())] == [
        "mine",
        "mine",
    ]


def test_the_series_of_each_run_is_written(arena_file: Path, tmp_path: Path) -> None:
    """At each moment a row for the host and one for each guest, with what it wants; a file that is read is refused."""
    arguments = ["arena", str(arena_file), "--out", str(tmp_path / "out"), "--processes", "1", "--policy", "static"]
    refused = CliRunner().invoke(main, [*arguments, "--series", str(tmp_path / "guest.csv")])
    assert "this is read, and would be written anew" in refused.output
    done = CliRunner().invoke(main, [*arguments, "--series", str(tmp_path / "series.csv")])
    assert done.exit_code == 0, done.output
    rows = list(csv.DictReader((tmp_path / "series.csv").read_text().splitlines()))
    assert dict.fromkeys(row["run"] for row in rows) == dict.fromkeys(
        f"static, pair, overcommit {each}, seed 3" for each in ("1.5", "2")
    )
    assert [row["kind"] for row in rows[:4]] == ["host", "domain", "domain", "host"]
    traced = [int(row["demand_pages"]) for row in rows if row["name"] == "guest.1"]
    assert traced[0] == 49_152
    assert all(int(row["held_pages"]) > 0 for row in rows)
    assert len(rows) == 2 * 3 * 90


def test_another_source_of_a_policy_is_another_run(arena_file: Path) -> None:
    """A stranger's policy that has changed is run again; one of xbd's own is part of the model."""
    before = source_of("rivals:Mine")
    (arena_file.parent / "rivals.py").write_text(STRANGER + "# changed\n")
    assert before != source_of("rivals:Mine") != ""
    assert source_of("fair") == source_of("nowhere_at_all:x") == ""


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('kind = "bursty"', 'kind = "busty"', "guests[1].member[1].kind: 'busty' is not one of"),
        ('trace = "guest.csv"', 'trace = "none.csv"', "guests[1].member[2].trace: "),
        ('trace = "guest.csv"', "", "guests[1].member[2].kind: or trace must be given, one of both"),
        ('memory = "256m"', "", "guests[1].member[1].memory: is missing"),
        ('memory = "256m"', 'memory = "256m"\nmode = "odd"', "guests[1].member[1].mode: unknown guest mode 'odd'"),
        ('policy = "rivals:Mine"', "", "policy[2].name: 'mine' is no policy"),
        ('name = "mine"', 'name = "static"', "policy.name: two are called the same"),
        (
            'name = "static"',
            'name = "mom"\nsettings = { every_s = -1 }',
            "policy[1].settings.every_s: -1 is not a number",
        ),
    ],
)
def test_a_mistake_is_named(arena_file: Path, old: str, new: str, says: str) -> None:
    """With the file, the key and the reason."""
    with pytest.raises(ConfigError) as refused:
        parse_arena(FILE.replace(old, new, 1), arena_file, read_trace, source_of)
    assert says in str(refused.value)


# -- what is said of the policies


def outcome(policy: str, overcommit: float, **summary: float) -> ArenaOutcome:
    """Make an outcome by hand."""
    whole = dict.fromkeys(
        ("denied_pages", "refaults", "short_guest_s", "reversals", "wait_worst_s", "content_errors"), 0.0
    )
    made = replace(cell(policy), overcommit=overcommit)
    return ArenaOutcome(made, {**whole, **summary}, (Point(0.0, [1], [1]),), ())


@pytest.mark.parametrize(
    ("wait", "denied", "verdict"),
    [
        (1.0, 0, "holds"),
        (1.1, 0, "holds"),
        (1.2, 0, "falls short: 1.2 times the wait"),
        (1.0, 7, "falls short: 7 pages denied against 0"),
    ],
)
def test_the_default_is_compared_where_both_hold_as_much(wait: float, denied: int, verdict: str) -> None:
    """Who holds more counts on the smaller host on which it holds as much within 2 %; who waits more, or denies more, falls short."""
    asked = standings(
        [
            outcome(DEFAULT_POLICY, 1.5, held_gib_h=100.0, wait_p99_s=0.5),
            outcome("mom", 1.5, held_gib_h=75.0, wait_p99_s=1.0),
        ]
    )
    smaller = outcome(DEFAULT_POLICY, 2.0, held_gib_h=76.0, wait_p99_s=wait, denied_pages=denied)
    (row,) = equal_memory(asked, [*asked, *standings([smaller])]).rows
    assert row[1:6] == ("1.5", "mom", "75.00", f"{wait:.2f} at 2", "1.00 at 1.5")
    assert row[-1].startswith(verdict)
    (row,) = equal_memory(asked, asked).rows
    assert row[-1].startswith("not compared")


def test_who_holds_more_is_run_on_a_smaller_host() -> None:
    """In proportion to what the other holds, with every seed; the default or the other; none where all is equal, or tried."""
    own, less, more = (
        outcome(name, 1.5, held_gib_h=held, wait_p99_s=1.0)
        for name, held in ((DEFAULT_POLICY, 100.0), ("mom", 75.0), ("static", 120.0))
    )
    asked = standings([own, less, more, outcome("qmemman", 1.5, held_gib_h=101.0, wait_p99_s=1.0)])
    cells = other_hosts(asked, asked)
    assert [(cell.entry.name, cell.overcommit) for cell in cells] == [(DEFAULT_POLICY, 2.0), ("static", 1.8)]
    found = [outcome(each.entry.name, each.overcommit, held_gib_h=90.0, wait_p99_s=1.0) for each in cells]
    again = other_hosts(asked, [*asked, *standings(found)])
    assert [(cell.entry.name, cell.overcommit) for cell in again] == [(DEFAULT_POLICY, 2.4), ("static", 1.62)]


def test_a_comparison_runs_what_it_needs(tmp_path: Path) -> None:
    """The default and one that holds less: another run of the default is in the table, with the command that repeats it."""
    text = FILE[: FILE.index("[[policy]]")].replace("[1.5, 2]", "1.2").replace("duration_s = 90", "duration_s = 300")
    text += '[[policy]]\nname = "mom"\n[[policy]]\nname = "demand"\n[[policy]]\nname = "fair"\n'
    text += '[[guests]]\nname = "pair"\n[[guests.member]]\nkind = "idle"\nmemory = "1g"\ncount = 2\n'
    (tmp_path / "arena.toml").write_text(text)
    arguments = ["arena", str(tmp_path / "arena.toml"), "--out", str(tmp_path / "out"), "--processes", "1"]
    assert CliRunner().invoke(main, arguments).exit_code == 0
    rows = list(csv.DictReader((tmp_path / "out" / "summary.csv").read_text().splitlines()))
    (more,) = {row["overcommit"] for row in rows} - {"1.2"}
    page = (tmp_path / "out" / "page.html").read_text()
    assert f"--policy {DEFAULT_POLICY} --guests pair --overcommit {float(more):g} --seed 3" in page
    again = CliRunner().invoke(
        main, [*arguments, "--policy", DEFAULT_POLICY, "--overcommit", more, "--json", "--fresh"]
    )
    (row,) = json.loads(again.stdout)["runs"]
    assert row["held_gib_h"] == float(next(each for each in rows if each["overcommit"] == more)["held_gib_h"])


def test_every_known_failure_can_be_fallen_for_and_avoided() -> None:
    """The verdict of each scenario follows the figure that it is about."""
    worst = {"denied_pages": 1.0, "wait_p99_s": 2.0, "reversals": 1e6}
    best = dict.fromkeys(worst, 0.0)
    for scenario in SCENARIOS.values():
        made = [
            ArenaOutcome(scenario.cell(Entry("x", "mom"), 1), {"refaults": 0.0, "wait_worst_s": 0.0, **figures}, (), ())
            for figures in (worst, best)
        ]
        assert [row[2] for row in failures(made).rows] == ["falls for it", "does not"]
