"""The command line: usage, and every command against a real host of real processes."""

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import click
import pexpect  # type: ignore[import-untyped]  # it ships no types
import pytest
import trio
from click.testing import CliRunner, Result

from tests.peer import connect
from tests.processes import running
from xbd.cli import follow
from xbd.cli.commands import inspect, memory
from xbd.cli.main import COMMANDS, EXAMPLES, main
from xbd.client.runtime_dir import domain_socket

HOST = """
[host]
memory = "1g"
name = "testing"
[[guest]]
name = "web{n}"
count = 3
maximum = "64m"
seed = 1
[[guest]]
name = "lonely"
maximum = "16m"
autostart = false
"""

Run = Callable[..., Result]


def xbd(*arguments: str) -> Result:
    """Run an `xbd` command in this process."""
    return CliRunner().invoke(main, arguments)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a directory for the host; its sockets lie in `run`."""
    return tmp_path_factory.mktemp("host")


@pytest.fixture(scope="module")
def run(directory: Path) -> Iterator[Run]:
    """Run commands against a host that is up; what a test creates or changes it puts back."""
    host_file = directory / "host.toml"
    host_file.write_text(HOST)
    with running("up", str(host_file), "--runtime-dir", str(directory / "run")) as up:
        up.wait_until_it_says("3 guests are running")
        yield lambda *arguments: CliRunner().invoke(main, arguments, env={"XBD_SOCKET": str(directory / "run")})


def told(result: Result) -> Any:  # noqa: ANN401 - whatever JSON holds
    """Parse what a command printed with --json."""
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


# -- why a domain holds what it holds


def test_whoever_says_why_says_the_same(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """`mem-set --wait`, `wait`, `explain` and `top` give one text for a domain that is not at its target."""
    before = told(run("info", "lonely", "--json"))["target_pages"]
    (asked,) = told(run("mem-set", "lonely", "8m", "--json"))
    (set_,) = json.loads(run("mem-set", "lonely", "8m", "--wait", "--json").stdout)
    waited = run("wait", "lonely", "--timeout", "0", "--json")
    explained = told(run("explain", "lonely", "--json"))
    said = run("explain", "lonely").output.splitlines()
    monkeypatch.setenv("COLUMNS", "300")
    shown = run("top", "--once").output
    run("mem-set", "lonely", str(before // 256) + "m")

    why = "no agent is connected (the domain is waiting); start one with `xbd guest lonely`"
    assert asked["governed"] is False
    assert (set_["outcome"], set_["reason"]) == ("stuck", why)
    assert (waited.exit_code, json.loads(waited.stdout)[0]["reason"]) == (1, why)
    (one,) = explained["domains"]
    assert one["hindrances"] == [{"code": "no-agent", "text": why}]
    assert [reason["code"] for reason in one["target"]] == ["target-set-by"]
    assert one["target_set_by"] == "xbd mem-set"
    assert said == [
        "lonely holds 16 MiB, its target is 8 MiB",
        "  its target, 8 MiB, was set by xbd mem-set",
        f"  {why}",
    ]
    assert why[:50] in shown


def test_a_domain_at_its_target_has_its_target_explained_alone(run: Run) -> None:
    """Nothing hinders it; several are explained one after the other, and one that is none is an error."""
    domains = told(run("explain", "web*", "--json"))["domains"]
    assert [(one["name"], one["hindrances"]) for one in domains] == [("web1", []), ("web2", []), ("web3", [])]
    assert "nobody is an invalid domain identifier" in run("explain", "nobody").output
    assert told(run("explain", "web1", "--json"))["autoballoon"] == "none"


def test_what_autoballoon_decides_is_explained_or_why_it_is_not_known(
    run: Run, directory: Path, tmp_path: Path
) -> None:
    """The governed line and its reason, by the daemon; of one that is stopped, that it does not answer; of none, nothing."""
    settings = tmp_path / "autoballoon.toml"
    settings.write_text('[autoballoon]\ndomains = ["lonely"]\n')
    socket = str(directory / "run")
    with running("autoballoon", "--config", str(settings), "--socket", socket) as daemon:
        daemon.wait_until_it_says("autoballoon_ready")
        while not (governed := told(run("explain", "lonely", "--json"))["domains"][0]["target"])[1:]:
            pass
        hint = run("mem-set", "lonely", "16m").output
        web = told(run("explain", "web1", "--json"))
        daemon.process.send_signal(signal.SIGSTOP)
        hung = run("explain", "lonely")
        daemon.process.send_signal(signal.SIGCONT)
    words = "autoballoon governs lonely and may set another target"
    assert [reason["code"] for reason in governed[1:]] == ["governed", "policy-goal", "policy-unable"]
    assert governed[1]["text"].startswith(words)
    assert words in hint
    assert web["autoballoon"] == "runs"
    assert [reason["code"] for reason in web["domains"][0]["target"]] == ["target-set-by"]
    assert "what autoballoon decides is not known: " in hung.output
    assert hung.exit_code == 0
    assert "autoballoon governs" not in run("explain", "lonely").output


def test_a_domain_is_created_that_plays_a_trace(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A workload is a name or a table as in host files; a trace's path is relative to here, and looked at first."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "web.csv").write_text("t_s,total_pages,free_pages,page_cache_pages\n0,8100,7000,100\n")
    create = ("create", "player", "--target", "32m", "--no-start", "--workload")
    assert run(*create, '{ trace = "web.csv", speed = 10 }').exit_code == 0
    (told_of,) = told(run("list", "player", "--json"))
    assert told_of["guest"]["workload"] == {"trace": str(tmp_path / "web.csv"), "speed": 10}
    assert [reason["code"] for reason in told(run("explain", "player", "--json"))["domains"][0]["workload"]] == [
        "trace"
    ]
    assert run("destroy", "player").exit_code == 0
    for workload, said in (
        ('{ trace = "no.csv" }', "no.csv: cannot be read: No such file or directory"),
        ('{ trace = "web.csv", sped = 3 }', "guest.workload.sped: is not a key of this section; did you mean 'speed'?"),
        ("{ trace = ", "--workload: is not TOML"),
        ("trace", "guest.workload.trace: is missing"),
    ):
        refused = run(*create, workload)
        assert refused.exit_code != 0
        assert said in refused.stderr
    small = run("create", "player", "--target", "30m", "--workload", '{ trace = "web.csv" }')
    assert (
        'web.csv: it is of a guest of 8100 pages, which a domain with a maximum of "32m" plays; this one has "30m"'
        in small.stderr
    )


# -- usage


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_explains_itself(name: str) -> None:
    """Its line in the table is where it is said to be, and its help ends with examples that it would understand."""
    result = xbd(name, "--help")
    assert result.exit_code == 0
    assert f"Usage: xbd {name}" in result.output
    for example in EXAMPLES[name]:
        assert example in result.output
        program, command, *arguments = shlex.split(example.partition(" && ")[0])
        assert (program, command) == ("xbd", name)
        with contextlib.ExitStack() as stack:
            found = main.get_command(click.Context(main), name)
            assert found is not None
            # Files that an example names need not be there.
            stack.enter_context(found.make_context(name, arguments, resilient_parsing="FILE" in example))


def test_the_shell_completes_commands_and_domains(run: Run, directory: Path) -> None:
    """By the command line library's own means; where there is no hypervisor, nothing is offered and nothing said."""
    del run

    def complete(words: str, runtime_dir: Path) -> list[str]:
        told = subprocess.run(
            [sys.executable, "-m", "xbd"],
            env=os.environ
            | {
                "_XBD_COMPLETE": "bash_complete",
                "COMP_WORDS": words,
                "COMP_CWORD": str(words.count(" ")),
                "XBD_SOCKET": str(runtime_dir),
            },
            capture_output=True,
            text=True,
            check=False,
        )
        assert told.stderr == ""
        return [line.partition(",")[2] for line in told.stdout.splitlines() if line]

    assert complete("xbd mem-", directory) == ["mem-set", "mem-max"]
    assert complete("xbd info we", directory / "run") == ["web1", "web2", "web3"]
    assert complete("xbd info we", directory / "nowhere") == []


def test_help_names_every_command() -> None:
    """Without importing any of them."""
    result = xbd("--help")
    assert result.exit_code == 0
    assert all(f"\n  {name} " in result.output for name in COMMANDS)


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["list", "--nonsense"],
        ["mem-set"],
        ["mem-set", "web1"],
        ["mem-max", "web1"],
        ["destroy"],
        ["create", "web1"],
        ["create", "web1", "--memory", "1g", "--target", "1g"],
        ["create", "web1", "--target", "1g", "--maxmem", "2g", "--maximum", "2g"],
        ["create"],
        ["guest-mode", "web1"],
        ["wait", "web1", "--for", "godot"],
        ["wait", "web1", "--timeout", "soon"],
        ["audit", "extra"],
        ["hypervisor"],
        ["hypervisor", "--memory", "1g", "--config", "x.toml"],
        ["hypervisor", "--config", "x.toml", "--strategy", "stock"],
        ["guest"],
        ["up"],
    ],
)
def test_wrong_usage_exits_2(arguments: list[str]) -> None:
    """With a usage line, and before anything is tried."""
    result = xbd(*arguments)
    assert result.exit_code == 2
    assert "Usage:" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "exit_code", "words"),
    [
        (["mem-set", "web1", "256x"], 1, "invalid memory size: 256x"),
        (["create", "web1", "--target", "2g", "--maximum", "1g"], 1, "raise --maximum or lower --target"),
        (["hypervisor", "--memory", "100t"], 1, "at most 64 TiB"),
        (["hypervisor", "--memory", "3m"], 1, 'a multiple of 2 MiB, such as "2m" or "4m"'),
        (["--socket", "/nonexistent/s", "list"], 1, "no hypervisor at /nonexistent/s"),
        (["list", "--socket", "/nonexistent/s"], 1, "start one with `xbd up HOST.toml`"),
        (["list", "--socket", "/" + "x" * 120], 78, "at most 107"),
        (["up", "/nonexistent.toml"], 78, "/nonexistent.toml: cannot be read"),
        (["hypervisor", "--config", "/nonexistent.toml"], 78, "/nonexistent.toml: cannot be read"),
        (["hypervisor", "--memory", "1g", "--runtime-dir", "/" + "x" * 100], 78, "at most 107"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_sentence(arguments: list[str], exit_code: int, words: str) -> None:
    """On stderr, one line, nothing on stdout; exit 1, or 78 where a setting is to blame."""
    result = xbd(*arguments)
    assert (result.exit_code, result.stdout) == (exit_code, "")
    assert words in result.stderr
    assert result.stderr.count("\n") == 1


def test_an_unknown_key_in_a_host_file_exits_78(tmp_path: Path) -> None:
    """Naming file, key and what was meant."""
    host_file = tmp_path / "host.toml"
    host_file.write_text(HOST.replace("[[guest]]", 'strateg = "full"\n[[guest]]', 1))
    for command in (["up", str(host_file)], ["hypervisor", "--config", str(host_file)]):
        result = xbd(*command)
        assert result.exit_code == 78
        assert result.stderr == f"{host_file}: host.strateg: is not a key of this section; did you mean 'strategy'?\n"


# -- against a host


def test_list_names_what_scripts_rely_on(run: Run) -> None:
    """A list of objects; sizes in pages."""
    domains = told(run("list", "--json"))
    assert [domain["name"] for domain in domains] == ["web1", "web2", "web3", "lonely"]
    for domain in domains:
        assert {
            "domid",
            "name",
            "state",
            "tot_pages",
            "target_pages",
            "max_pages",
            "superpage_coverage",
        } <= domain.keys()
    assert [domain["state"] for domain in domains] == ["running", "running", "running", "waiting"]
    assert domains[0]["tot_pages"] == 16384


def test_list_takes_names_and_patterns(run: Run) -> None:
    """As a table in xl's layout."""
    lines = run("list", "web*", "4").stdout.splitlines()
    assert lines[0].startswith("Name                                        ID   Mem")
    assert [line.split()[0] for line in lines[1:]] == ["web1", "web2", "web3", "lonely"]
    assert run("list", "web2").stdout.splitlines()[1].startswith("web2                                         2    64")


def test_info_tells_of_the_host_and_of_domains(run: Run) -> None:
    """One domain that is named is one object, several are a list."""
    assert told(run("info", "--json"))["name"] == "testing"
    assert "total_memory              : 1024\n" in run("info").stdout
    assert told(run("info", "web1", "--json"))["domid"] == 1
    assert len(told(run("info", "web*", "--json"))) == 3
    assert "state                  : waiting\n" in run("info", "lonely").stdout


def test_audit_finds_nothing(run: Run) -> None:
    """`violations` is a list, empty when all holds."""
    assert told(run("audit", "--json")) == {"violations": []}
    assert run("audit").stdout == "all holds: no violations\n"


def test_an_audit_that_finds_something_exits_1(monkeypatch: pytest.MonkeyPatch) -> None:
    """And says what, in either form."""
    monkeypatch.setattr(inspect, "with_client", lambda *_: ["m0x2 has two owners"])
    as_json, as_text = xbd("audit", "--json"), xbd("audit")
    assert (as_json.exit_code, as_text.exit_code) == (1, 1)
    assert json.loads(as_json.stdout) == {"violations": ["m0x2 has two owners"]}
    assert as_text.stdout == "m0x2 has two owners\n"


def test_many_domains_are_set_at_once_and_waited_for(run: Run) -> None:
    """To a share of each one's static maximum and back; no progress is drawn where nobody sees it."""
    result = run("mem-set", "web*", "50%", "--wait")
    assert result.exit_code == 0
    assert result.stdout == "".join(f"web{n}: target 32 MiB, reached\n" for n in (1, 2, 3))
    assert result.stderr == ""
    assert {(d["tot_pages"], d["max_pages"]) for d in told(run("list", "web*", "--json"))} == {(8192, 8192)}
    outcomes = told(run("mem-set", "web1", "web2", "3", "64m", "--wait", "--json"))
    assert [(one["outcome"], one["tot_pages"], one["asked_pages"]) for one in outcomes] == [
        ("reached", 16384, 16384)
    ] * 3
    assert told(run("audit", "--json")) == {"violations": []}


def test_rounding_is_said(run: Run) -> None:
    """On stderr, and in JSON by both figures."""
    result = run("mem-set", "web1", "63m", "--wait")
    assert result.stderr == "target is 62 MiB (63 MiB rounded to a multiple of 2 MiB)\n"
    assert result.stdout == "web1: target 62 MiB, reached\n"
    [one] = told(run("mem-set", "web1", "65535k", "--json"))
    assert (one["asked_pages"], one["target_pages"], one["outcome"]) == (16383, 15872, "told")
    assert run("mem-set", "web1", "100%", "--wait").exit_code == 0


def test_beyond_the_static_maximum_nothing_is_set(run: Run) -> None:
    """Not even for those that could."""
    result = run("mem-set", "web1", "lonely", "32m")
    assert result.exit_code == 1
    assert "lonely: memory_dynamic_max must be less than or equal to memory_static_max" in result.stderr
    assert told(run("info", "web1", "--json"))["target_pages"] == 16384


@pytest.mark.parametrize("command", ["destroy", "shutdown", "list", "info", "wait"])
def test_an_unknown_name_is_refused_as_xl_does(run: Run, command: str) -> None:
    """And nothing happens to the others that were named."""
    result = run(command, "web1", "nosuch")
    assert result.exit_code == 1
    assert result.stderr.startswith("nosuch is an invalid domain identifier")
    assert told(run("info", "web1", "--json"))["state"] == "running"


def test_a_stuck_guest_fails_the_wait_and_says_why(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """And does as it was told when it is itself again."""
    assert run("guest-mode", "web2", "stuck").exit_code == 0
    with monkeypatch.context() as patched:
        patched.setattr(memory, "follow", partial(follow.follow, stuck_after_s=0.0))
        result = run("mem-set", "web2", "32m", "--wait")
    assert result.exit_code == 1
    assert result.stdout == (
        "web2: target 32 MiB, stuck at 64 MiB: its guest's mode is 'stuck'; `xbd guest-mode web2 normal` ends that\n"
    )
    assert run("guest-mode", "web2", "normal").exit_code == 0
    assert run("wait", "web2").exit_code == 0
    assert run("mem-set", "web2", "64m", "--wait").exit_code == 0


def test_a_mode_is_checked(run: Run) -> None:
    """The error names the modes that there are."""
    result = run("guest-mode", "web1", "slow")
    assert result.exit_code == 1
    assert "slow RATE" in result.stderr
    assert run("guest-mode", "web1", "floor", "16m").stdout == "web1: mode floor 16m\n"
    assert run("guest-mode", "web1", "normal").exit_code == 0


def test_a_domain_lives_from_create_to_destroy(run: Run) -> None:
    """With its agent, which `xbd guests` starts; a name that is gone is unknown."""
    created = told(run("create", "new1", "--target", "31m", "--maximum", "64m", "--workload", "steady", "--json"))
    assert (created["name"], created["target_pages"], created["max_pages"]) == ("new1", 7680, 16384)
    assert run("wait", "new1", "--for", "running").exit_code == 0
    assert run("mem-set", "new1", "100%", "--wait").exit_code == 0
    assert run("shutdown", "new1").stdout == "new1: asked to shut down\n"
    assert run("wait", "new1", "--for", "shutdown").exit_code == 0
    assert "shutdown_reason        : poweroff" in run("info", "new1").stdout
    assert run("start", "new1").stdout == "new1: started\n"
    assert run("wait", "new1", "--for", "running").exit_code == 0
    assert run("reboot", "new1").stdout == "new1: asked to reboot\n"
    assert run("wait", "new1", "--for", "shutdown").exit_code == 0
    assert run("wait", "new1", "--for", "running").exit_code == 0
    assert told(run("destroy", "new1", "--json"))[0]["error"] is None
    assert run("wait", "new1", "--for", "gone").exit_code == 0
    assert run("destroy", "new1").stderr.startswith("new1 is an invalid domain identifier")


def test_one_question_each(run: Run) -> None:
    """What xl answers under the same names: numbers, names, times, processors, claims, and the log."""
    domid = told(run("info", "web1", "--json"))["domid"]
    assert run("domid", "web1").stdout == f"{domid}\n"
    assert run("domname", f"d{domid}").stdout == run("domname", str(domid)).stdout == "web1\n"
    assert run("domid", "web*").stderr == "web* matches 3 domains; name one of them\n"
    assert run("uptime").stdout.splitlines()[0].split() == ["Name", "ID", "Uptime"]
    assert told(run("uptime", "web1", "--json"))[0]["uptime_s"] >= 0
    assert told(run("vcpu-list", "lonely", "--json"))[0] | {"domid": 0} == {
        "domid": 0,
        "name": "lonely",
        "vcpu": 0,
        "state": "-b-",
        "time_s": 0.0,
    }
    assert [row.split()[0] for row in run("vcpu-list").stdout.splitlines()][1:] == ["web1", "web2", "web3", "lonely"]
    assert [row.split()[2:] for row in run("claims").stdout.splitlines()][-1] == ["16", "0"]
    assert [row.split()[2:] for row in run("sharing", "lonely").stdout.splitlines()][-1] == ["0", "0", "0"]
    assert "hypervisor_ready" in run("dmesg").stdout
    assert told(run("dmesg", "--json"))["first"] == 0


def test_a_guest_is_called_otherwise_and_back(run: Run) -> None:
    """Every command knows it by the new name."""
    assert run("rename", "lonely", "alone").stdout == "lonely: is called alone now\n"
    assert run("info", "lonely").exit_code == 1
    assert "ENOENT" not in run("rename", "alone", "web1").stderr
    assert run("rename", "alone", "web1").stderr.startswith("EEXIST: a domain named 'web1' exists")
    assert run("rename", "alone", "lonely").exit_code == 0


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("lst", "did you mean 'list'?"),
        ("mem-sett", "did you mean 'mem-set'?"),
        ("cpupool-list", "`xbd xen xl cpupool-list`"),
    ],
)
def test_a_command_that_there_is_not_names_the_one_that_is_meant(typed: str, said: str) -> None:
    """Or Xen's own, where it is xl's and xbd has nothing like it."""
    result = xbd(typed)
    assert (result.exit_code, said in result.stderr) == (2, True)
    assert xbd("qqqq").stderr.endswith("Error: no such command 'qqqq'\n")


@pytest.mark.parametrize("command", ["mem-set", "mem-max", "claim"])
def test_a_size_below_nothing_is_refused_as_a_size(run: Run, command: str) -> None:
    """Not as an option; and an option that there is not is refused as one."""
    assert run(command, "web1", "-5").stderr.startswith("invalid memory size: -5; write a number above 0")
    assert "No such option '--wiat'" in run(command, "web1", "5m", "--wiat").stderr


def test_a_limit_may_be_beyond_the_maximum(run: Run) -> None:
    """As Xen takes it; a target may not."""
    assert run("mem-max", "lonely", "1.5g").stdout == "lonely: limit 1.5 GiB\n"
    assert told(run("info", "lonely", "--json"))["max_pages"] == 3 << 17
    assert "1.5g is asked for, 16 MiB is its maximum" in run("mem-set", "lonely", "1.5g").stderr
    assert "a claim of 1.25 GiB" in run("claim", "lonely", "1.25g").stderr
    assert run("mem-max", "lonely", "16m").exit_code == 0


def test_following_events_ends_with_their_reader(directory: Path) -> None:
    """Also where nothing happens any more that could be printed (`xbd events | head`)."""
    command = [sys.executable, "-m", "xbd", "--socket", str(directory / "run"), "events"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as following:  # noqa: S603 - our own words
        assert following.stdout is not None
        assert b"created" in following.stdout.readline()
        following.stdout.close()
        assert following.wait(60) == 1


def test_a_paused_domain_moves_when_it_is_unpaused(run: Run) -> None:
    """As often as it was paused; until then its target is not reached, and what keeps it is said."""
    assert run("pause", "web3").stdout == "web3: paused\n"
    assert run("pause", "web3").stdout == "web3: paused; it has to be unpaused 2 times\n"
    assert run("mem-set", "web3", "32m").exit_code == 0
    assert "web3: not at its target after 0.3 s: it is paused" in run("wait", "web3", "--timeout", "0.3").stdout
    assert told(run("unpause", "web3", "--json"))[0]["pauses"] == 1
    assert run("unpause", "web3").stdout == "web3: unpaused\n"
    assert run("unpause", "web3").exit_code == 1
    assert run("mem-set", "web3", "64m", "--wait").exit_code == 0


def test_old_names_of_sizes_are_taken_with_a_word_about_each(run: Run) -> None:
    """`--memory` is the target and `--maxmem` the maximum, as before; each is told its new name in a line on stderr."""
    result = run("create", "old1", "--memory", "4m", "--maxmem", "8m", "--no-start", "--json")
    created = json.loads(result.stdout)
    assert (result.exit_code, created["target_pages"], created["max_pages"]) == (0, 1024, 2048)
    assert result.stderr.splitlines() == [
        "--memory is called --target now; the old name is taken until the next release",
        "--maxmem is called --maximum now; the old name is taken until the next release",
    ]
    assert run("destroy", "old1").exit_code == 0


def test_what_was_created_is_said_by_the_names_that_it_was_asked_for(run: Run) -> None:
    """Target and maximum; without --maximum they are the same."""
    bounded = run("create", "both1", "--target", "4m", "--maximum", "8m", "--no-start").stdout
    assert bounded.startswith("created both1 (d")
    assert bounded.endswith("), target 4 MiB, maximum 8 MiB\n")
    assert run("create", "one1", "--target", "4m", "--no-start").stdout.endswith("), target 4 MiB, maximum 4 MiB\n")
    assert run("destroy", "both1", "one1").exit_code == 0


def test_a_strategy_says_the_type_of_a_domain(run: Run) -> None:
    """Unless the type is said, too."""
    for arguments, kind in (([], "virtio"), (["--type", "pv"], "pv")):
        result = run("create", f"one-{kind}", "--target", "2m", "--strategy", "virtio", "--json", *arguments)
        assert json.loads(result.stdout)["type"] == kind
        assert run("destroy", f"one-{kind}").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["web1", "--target", "2m"], "a domain named 'web1' exists"),
        (["77", "--target", "2m"], "not all digits"),
        (["big", "--target", "2g"], "ENOMEM"),
        (["odd", "--target", "2m", "--workload", "nope"], "guest.workload: 'nope' is not one of"),
        (["odd", "--target", "2m", "--minimum", "4m"], "--minimum 4m is more than --target 2m"),
    ],
)
def test_a_domain_that_cannot_be_is_not_created(run: Run, arguments: list[str], words: str) -> None:
    """The hypervisor's own words, exit 1, nothing left behind."""
    result = run("create", *arguments)
    assert result.exit_code == 1
    assert words in result.stderr
    assert len(told(run("list", "--json"))) == 4


def test_a_type_and_a_minimum_are_kept(run: Run) -> None:
    """`info` shows them, rounding is said; a target below the minimum is refused with one sentence."""
    made = run("create", "kvm1", "--target", "32m", "--minimum", "17m", "--type", "virtio", "--no-start")
    assert "minimum 16 MiB (17 MiB rounded to a multiple of 2 MiB)" in made.stdout
    kvm = told(run("info", "kvm1", "--json"))
    assert (kvm["type"], kvm["min_pages"]) == ("virtio", 4096)
    refused = run("mem-set", "kvm1", "8m")
    assert (refused.exit_code, refused.stderr) == (1, "kvm1: 8m is less than its minimum, 16 MiB\n")
    assert run("destroy", "kvm1").stdout == "kvm1: destroyed\n"


async def _speak(runtime_dir: Path, domid: int, method: str = "", **params: object) -> Any:  # noqa: ANN401 - an answer
    """Begin a new session of a domain, make one call on its socket, and leave."""
    peer = await connect(domain_socket(runtime_dir, domid))
    await peer.call("hello", version=1, session=f"test-{method}", last_seen=None)
    answer = await peer.call(method, **params) if method else None
    await peer.stream.aclose()
    return answer


def test_who_waits_for_a_zombie_waits_for_the_last_unmap(run: Run, directory: Path) -> None:
    """It is not gone while another domain maps a page of it, named by its old name or by a pattern."""
    owner, mapper = (
        told(run("create", name, "--target", "2m", "--maximum", "4m", "--no-start", "--json"))["domid"]
        for name in ("owner", "mapper")
    )
    page, slot = bytes(8), (600).to_bytes(8, "little")
    _, _, refs = trio.run(partial(_speak, directory / "run", owner, "grant", gfns=page, to=mapper))
    call = partial(_speak, directory / "run", mapper, "map_grant", owner=owner, refs=refs, gfns=slot)
    assert trio.run(call) == [1, None]

    assert run("destroy", "owner").stdout == "owner: destroyed, but 1 of its pages are still mapped by others\n"
    assert told(run("info", str(owner), "--json"))["state"] == "zombie"
    for name in ("owner", "own*"):
        assert run("wait", name, "--for", "gone", "--timeout", "0.1").exit_code == 1
    assert run("destroy", "own*").exit_code == 1
    trio.run(_speak, directory / "run", mapper)
    assert run("wait", "owner", "--for", "gone").exit_code == 0
    assert run("destroy", "mapper").exit_code == 0


def test_the_map_says_what_the_host_says(run: Run, tmp_path: Path) -> None:
    """Counts agree with those of `info`; piped it is letters and a legend; --png writes a picture."""
    drawn, host = told(run("map", "--json")), told(run("info", "--json"))
    assert (drawn["superframes"], drawn["free"]) == (host["superframes"], host["free_superframes"])
    assert drawn["shattered"] == host["shattered_superframes"]
    assert {row["name"] for row in drawn["owners"]} == {"web1", "web2", "web3", "lonely"}
    piped = run("map", "--by", "state", "--width", "64").stdout
    assert set(piped.splitlines()[0]) <= set(".#+")
    path = tmp_path / "host.png"
    assert run("map", "--png", str(path)).stdout == f"wrote {path}\n"
    assert path.read_bytes().startswith(b"\x89PNG")
    assert "cannot write" in run("map", "--png", str(tmp_path / "no" / "x.png")).stderr
    assert run("map", "--watch", "--png", str(path)).exit_code == 2


def test_the_map_is_watched_until_ctrl_c(run: Run, directory: Path) -> None:
    """In a terminal, picture after picture, with what changed since the last one; Ctrl-C is exit code 130."""
    command = ["-m", "xbd", "--socket", str(directory / "run"), "map", "--watch", "--by", "state"]
    watching = pexpect.spawn(sys.executable, command, timeout=60)
    watching.expect("since the last look 0 superpages came to be, 0 broke")
    assert run("create", "seen", "--target", "16m", "--maximum", "16m", "--no-start").exit_code == 0
    watching.expect("since the last look 8 superpages came to be")
    assert run("destroy", "seen").exit_code == 0
    watching.sendintr()
    watching.expect(pexpect.EOF)
    watching.close()

    assert watching.exitstatus == 130


def test_ctrl_c_ends_the_waiting_and_not_the_moving(run: Run, directory: Path) -> None:
    """Who is still on its way is named, the targets stay set, and the exit code is the shell's for Ctrl-C."""
    assert run("guest-mode", "web1", "slow 512KiB/s").exit_code == 0
    with running("--socket", str(directory / "run"), "mem-set", "web1", "web2", "16m", "--wait") as waiting:
        # Both have been told, limits last: one is there, the other moves, as slowly as it may.
        while {(one := told(run("info", "web2", "--json")))["tot_pages"], one["max_pages"]} != {4096}:
            pass
        assert waiting.end() == 130
    assert any("interrupted; the targets stay set" in line for line in waiting.said)
    assert told(run("info", "web1", "--json"))["target_pages"] == 4096
    assert run("guest-mode", "web1", "normal").exit_code == 0
    assert run("mem-set", "web1", "web2", "64m", "--wait").exit_code == 0


def test_a_claim_is_made_and_taken_back(run: Run) -> None:
    """What is outstanding is said; a claim that cannot be is refused with the hypervisor's reason."""
    assert run("create", "heir", "--target", "8m", "--maximum", "32m", "--no-start").exit_code == 0
    assert run("claim", "heir", "24m").stdout == "heir: claims 24 MiB, 16 MiB of it outstanding\n"
    assert told(run("info", "--json"))["claimed_frames"] == 4096
    again = run("claim", "heir", "30m")
    assert (again.exit_code, "outstanding" in again.stderr) == (1, True)
    assert run("claim", "heir", "none").stdout == "heir: claims nothing\n"
    assert run("claim", "heir", "4m").exit_code == 1
    assert run("destroy", "heir").exit_code == 0


def test_mem_max_leaves_the_target_alone(run: Run) -> None:
    """It may be below what the domain holds."""
    assert run("mem-max", "lonely", "8m").stdout == "lonely: limit 8 MiB\n"
    seen = told(run("info", "lonely", "--json"))
    assert (seen["max_pages"], seen["target_pages"], seen["tot_pages"]) == (2048, 4096, 4096)
    assert told(run("mem-max", "lonely", "100%", "--json"))[0]["max_pages"] == 4096


def test_waiting_ends_in_time(run: Run) -> None:
    """And says how things stand."""
    result = run("wait", "lonely", "--for", "running", "--timeout", "0")
    assert result.exit_code == 1
    assert result.stdout == "lonely: not running after 0 s: it is waiting, holds 16 MiB, its target is 16 MiB\n"
    assert json.loads(run("wait", "lonely", "--for", "gone", "--timeout", "0", "--json").stdout)[0]["met"] is False


def test_events_are_lines(run: Run) -> None:
    """Of JSON, or for a person; from any number on."""
    lines = run("events", "--no-follow", "--json").stdout.splitlines()
    events = [json.loads(line) for line in lines]
    assert [event["number"] for event in events] == list(range(1, len(events) + 1))
    assert events[0] | {"event": "created", "name": "web1", "domid": 1} == events[0]
    rest = run("events", "--no-follow", "--since", "3").stdout.splitlines()
    assert len(rest) == len(run("events", "--no-follow").stdout.splitlines()) - 2
