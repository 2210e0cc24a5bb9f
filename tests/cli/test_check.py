"""`xbd check`: what it says of files good and bad, and that it starts nothing."""

import grp
import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from xbd.cli.main import main

CONFIGS = Path(__file__).parent.parent.parent / "configs"


def check(*paths: Path) -> Result:
    """Run the command."""
    return CliRunner().invoke(main, ["check", *map(str, paths)])


def test_good_files_are_summed_up() -> None:
    """On standard output, one line for each, exit 0."""
    names = ("small", "dom0", "autoballoon", "experiments/debate")
    small, dom0, policy, debate = (CONFIGS / f"{name}.toml" for name in names)
    result = check(small, dom0, policy, debate)

    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.splitlines() == [
        f"{small}: all right: host 'small' of 8 GiB, 8 guests with 6.5 GiB at first, 1.5 GiB left",
        f"{dom0}: all right: host 'dom0-and-50' of 16 GiB, dom0 and 50 guests with 13.5 GiB at first, 2.5 GiB left",
        f"{policy}: all right: autoballoon of *, policy demand, headroom 128 MiB",
        f"{debate}: all right: experiment 'Which balloon design is right?', 267 cells of 4 workloads",
    ]


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("[autoballon]\n", "a file of autoballoon"),
        ("[[grids]]\n", "an experiment's file"),
        ("[[workload]]\nname = 'w'\ntraces = ['none.csv']\n[[grid]]\n", "an experiment's file"),
        ("[[guests]]\n", "a host file"),
        ("[colour]\n", "a host file"),
        ("", "a host file"),
    ],
)
def test_a_bad_file_is_said_to_be_taken_for_one_of_a_kind(tmp_path: Path, text: str, kind: str) -> None:
    """By its sections, also where their names are slightly wrong; traces that it names are looked for."""
    bad = tmp_path / "bad.toml"
    bad.write_text(text)
    result = check(bad)

    assert result.exit_code == 78
    assert result.stderr.endswith(f"(taken for {kind})\n")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[host]\nmemory = '1g", "is not TOML"),
        ("x = " + "[" * 100_000, "is nested too deeply"),
        ("x = " + "9" * 5000, "is not TOML: "),
        ("#" * (16 << 20) + "\n", "cannot be read: it is longer than 16 MiB"),
        ("[autoballoon]\nheadroom = '3m'", "autoballoon.headroom: invalid memory size: '3m'"),
        ("[host]\nmemory = '3m'", "host.memory: invalid memory size: '3m'"),
        (
            "[host]\nmemory = '1g'\nstrateg = 'full'",
            "host.strateg: is not a key of this section; did you mean 'strategy'?",
        ),
        ("[host]\nmemory = '1g'\nlog_level = 'loud'", "host.log_level: 'loud' is not one of \"debug\", "),
        (
            "[host]\nmemory = '1g'\n[[guest]]\nname = 'a'\nmaximum = '2g'",
            "guest.target: the domains' targets are 2 GiB",
        ),
        ("[host]\nmemory = '1g'\ngroup = 'no-such-group-here'", "host.group: no group is called 'no-such-group-here'"),
        (f"[host]\nmemory = '1g'\nruntime_dir = '{'x' * 100}'", "host.runtime_dir: "),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, text: str, said: str) -> None:
    """By file, key and reason, on standard error, exit 78; other files are judged all the same."""
    bad, good = tmp_path / "bad.toml", tmp_path / "good.toml"
    bad.write_text(text)
    good.write_text(f"[host]\nmemory = '1g'\ngroup = '{grp.getgrgid(os.getegid()).gr_name}'")
    result = check(bad, good)

    assert result.exit_code == 78
    assert result.stderr.startswith(f"{bad}: {said}")
    assert result.stderr.count("\n") == 1
    assert result.stdout == f"{good}: all right: host 'host' of 1 GiB, no domains\n"


def test_an_old_name_is_taken_with_a_word_about_it(tmp_path: Path) -> None:
    """A domain's `memory` is its maximum; that is said once for the file, on standard error, and the file can be used."""
    file = tmp_path / "host.toml"
    guests = "[[guest]]\nname = 'a'\nmemory = '64m'\n[[guest]]\nname = 'b'\nmemory = '64m'\n"
    file.write_text(f"[host]\nmemory = '1g'\n[dom0]\nmemory = '256m'\n{guests}")
    result = check(file)

    assert result.exit_code == 0
    assert "all right" in result.stdout
    expected = "the key is called 'maximum' now; its old name is read until the next release"
    assert result.stderr == f"{file}: dom0.memory and 2 other sections: {expected}\n"


def test_nothing_is_started(tmp_path: Path) -> None:
    """Not even the directory that its sockets would lie in is made."""
    file = tmp_path / "host.toml"
    file.write_text("[host]\nmemory = '1g'\nruntime_dir = 'run'\n[[guest]]\nname = 'a'\nmaximum = '512m'")
    assert check(file).exit_code == 0
    assert list(tmp_path.iterdir()) == [file]


def test_a_file_that_is_not_there_exits_78(tmp_path: Path) -> None:
    """And no file at all is wrong usage."""
    result = check(tmp_path / "none.toml")
    assert (result.exit_code, result.stderr) == (
        78,
        f"{tmp_path}/none.toml: cannot be read: No such file or directory\n",
    )
    assert check().exit_code == 2


def test_verdicts_in_json(tmp_path: Path) -> None:
    """All of them on standard output, with what was wrong; the exit code is the same."""
    bad = tmp_path / "bad.toml"
    bad.write_text('[host]\nmemory = "3"\n')
    small = CONFIGS / "small.toml"
    result = CliRunner().invoke(main, ["check", str(small), str(bad), "--json"])
    assert (result.exit_code, result.stderr) == (78, "")
    good, refused = json.loads(result.stdout)
    assert (good["path"], good["good"], good["reason"], good["remarks"]) == (str(small), True, "", [])
    assert (refused["path"], refused["good"], refused["key"]) == (str(bad), False, "host.memory")
    assert "multiple of 2 MiB" in refused["reason"]


def test_traces_that_guests_are_to_play_are_looked_at(tmp_path: Path) -> None:
    """Relative to the file: one that is not there, or of a guest of another size, is refused; a good one is not."""
    host, trace = tmp_path / "host.toml", tmp_path / "web.csv"
    host.write_text(
        "[host]\nmemory = '1g'\n[[guest]]\nname = 'web'\nmaximum = '32m'\nworkload = { trace = 'web.csv' }\n"
    )
    assert "host.toml: guest.workload.trace: of 'web': " in check(host).stderr
    trace.write_text("t_s,total_pages,free_pages,page_cache_pages\n0,8000,6000,500\n")
    assert check(host).exit_code == 0
    trace.write_text(trace.read_text().replace("8000", "9000"))
    refused = check(host)
    assert refused.exit_code == 78
    assert f"{trace}: it is of a guest of 9000 pages" in refused.stderr
