"""`xbd soak`: its plan, its oracle, its counters and its report; and one real soak, short and with everything."""

import json
import math
import traceback
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import trio
from click.testing import CliRunner

from xbd.abi import Command, Decrease, Load, MemopResult, Populate, Refused, Result, Stop, Store
from xbd.cli.main import main
from xbd.config.guest import PlaysTrace
from xbd.control.guest_settings import plan_guest
from xbd.daemons.runtime.sockets import bind_unix
from xbd.errors import BadArgument
from xbd.frames import sparse_zeros
from xbd.guest.workload import Played, parse_trace
from xbd.lab.soak import population
from xbd.lab.soak.commands import CheckerCommands, check_stop
from xbd.lab.soak.options import KINDS, Options, parse_duration_s
from xbd.lab.soak.report import Report, progress_line
from xbd.lab.soak.schedule import plan_faults
from xbd.lab.soak.shell.relay import Relay
from xbd.lab.soak.shell.watcher import frame_tables_kib
from xbd.lab.soak.tally import FINDINGS_KEPT, Sample, Tally, is_flat, longest_s, slope_of, times_of
from xbd.machine import Machine
from xbd.testing.oracle import Oracle, Violation
from xbd.units import MIB_PAGES, SUPER_PAGES

# -- options and plan


@pytest.mark.parametrize(
    ("text", "seconds"), [("30s", 30), ("10m", 600), ("1h", 3600), ("1.5m", 90), ("7", 7), (" 5 S ", 5)]
)
def test_durations_are_read(text: str, seconds: float) -> None:
    """A number with s, m or h, in either case; a bare one is seconds."""
    assert parse_duration_s(text) == seconds


@pytest.mark.parametrize("text", ["", "s", "-1s", "0s", "0.5", "1d", "1e3s", "nan", "10 m 3 s"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    """What cannot be read, and what is too short to be a soak, is named with what would do."""
    with pytest.raises(BadArgument, match="duration"):
        parse_duration_s(text)


def test_a_command_line_repeats_the_soak() -> None:
    """The command has every option that is not the default."""
    options = Options(7, 90.0, 5, ("cut", "flood"), autoballoon=True)

    assert (
        options.command_line()
        == "xbd soak --guests 7 --duration 90s --seed 5 --without cut --without flood --autoballoon"
    )
    assert options.as_map()["command"] == options.command_line()


@pytest.mark.parametrize("duration_s", [1.0, 30.0, 600.0])
def test_same_seed_same_faults(duration_s: float) -> None:
    """A plan follows from its options; every kind happens, in the order of times, and none after the end."""
    plan = plan_faults(Options(5, duration_s, 3))

    assert plan == plan_faults(Options(5, duration_s, 3)) != plan_faults(Options(5, duration_s, 4))
    assert plan == sorted(plan)
    assert all(0 <= fault.at_s < duration_s and 0 <= fault.draw < 1 for fault in plan)
    assert all(fault.length_s <= duration_s / 4 for fault in plan)
    if duration_s == 600.0:
        assert {fault.kind for fault in plan} == set(KINDS)


def test_a_kind_that_is_left_out_changes_no_other() -> None:
    """Without a kind, the others happen at the same times; without all kinds the plan is empty."""
    everything = plan_faults(Options(5, 60.0, 1))

    assert plan_faults(Options(5, 60.0, 1, ("cut",))) == [fault for fault in everything if fault.kind != "cut"]
    assert plan_faults(Options(5, 60.0, 1, tuple(KINDS))) == []


def test_the_daemon_is_left_alive_in_the_end() -> None:
    """In the last third it is not killed, whatever else happens."""
    options = Options(5, 600.0, 1)
    killed = [fault.at_s for fault in plan_faults(options) if fault.kind == "kill-daemon"]

    assert options.calm_from_s == pytest.approx(400.0)
    assert 0 < max(killed) < options.calm_from_s
    assert max(fault.at_s for fault in plan_faults(options)) > options.calm_from_s
    assert Options(5, 600.0, 1, ("kill-daemon",)).calm_from_s == 600.0


def test_a_daemon_of_many_guests_is_killed_more_seldom() -> None:
    """Three hundred need three times as long as a hundred to be back; other faults happen as often."""
    times = [Counter(fault.kind for fault in plan_faults(Options(guests, 1e5, 1))) for guests in (20, 100, 300)]
    kills = [counted.pop("kill-daemon") for counted in times]
    assert times[0] == times[1] == times[2]
    assert kills[0] == kills[1] == pytest.approx(3 * kills[2], rel=0.05)


# -- guests


def test_guests_are_of_all_kinds_and_can_be_created() -> None:
    """Each has settings that a host accepts, a name of its own, targets within its bounds, and an agent process."""
    rng = np.random.default_rng(1)
    drawn = [population.draw_guest(number, rng, single=number % 25 == 0) for number in range(1, 101)]

    assert len({spec.name for spec in drawn}) == len(drawn)
    assert {spec.name[0] for spec in drawn} == {*population.GROUPS, population.SINGLE}
    assert all(spec.autostart == (spec.name[0] in population.GROUPS) for spec in drawn)
    assert {spec.on_crash for spec in drawn} == {"restart", "destroy", "preserve"}
    assert all(plan_guest(spec.guest).settings.verify for spec in drawn)
    assert any(plan_guest(spec.guest).workload.io_pages_s for spec in drawn)
    for spec in drawn:
        for pages in (
            spec.target_pages,
            population.final_target(spec.max_pages),
            population.draw_target(spec.max_pages, rng),
        ):
            assert 0 < pages <= spec.max_pages
            assert pages % SUPER_PAGES == spec.max_pages % SUPER_PAGES == 0


def test_some_guests_play_the_traces_that_are_given(tmp_path: Path) -> None:
    """Each in its size, and never so much of it that it could not be at a target; without traces all is drawn as before."""
    text = "t_s,total_pages,free_pages,page_cache_pages\n" + "".join(
        f"{n},6170914,{n * 40000},{n}\n" for n in range(99)
    )
    trace, given = parse_trace(text, "t.csv"), [tmp_path / "trace0.csv", tmp_path / "trace1.csv"]
    drawn = [population.draw_guest(number, np.random.default_rng(number), traces=given) for number in range(1, 101)]
    plain = [population.draw_guest(number, np.random.default_rng(number)) for number in range(1, 101)]
    played = [
        (spec, plan.workload) for spec in drawn if isinstance((plan := plan_guest(spec.guest)).workload, PlaysTrace)
    ]

    assert 20 < len(played) < 50
    assert not any(isinstance(plan_guest(spec.guest).workload, PlaysTrace) for spec in plain)
    assert {spec.name for spec in drawn} == {spec.name for spec in plain}
    for spec, workload in played:
        size = spec.max_pages // MIB_PAGES
        assert Path(workload.trace) in {tmp_path / f"trace{number}-{size}m.csv" for number in range(2)}
        made = parse_trace(population.fit(trace, spec.max_pages), "made")
        Played(trace=made, pace=workload.pace).check(spec.max_pages)
        assert int((made.anon_pages + made.cache_pages).max()) <= population.TRACE_MOST_SHARE * spec.max_pages + 2
    assert Options(5, 30.0, 1, traces=("a b.csv",)).command_line().endswith("--trace 'a b.csv'")


@pytest.mark.parametrize("guests", [1, 200, 1000])
def test_many_guests_do_in_all_as_much_as_two_hundred(guests: int) -> None:
    """Up to 200 tick every 0.7 to 2 s; of 1,000 each does a fifth; everything else is drawn as ever."""
    one, all_ = (
        [population.draw_guest(number, np.random.default_rng(number), guests=count) for number in range(99)]
        for count in (1, guests)
    )
    ratio = max(guests / 200, 1)

    for few, many in zip(one, all_, strict=True):
        before, after = plan_guest(few.guest).workload, plan_guest(many.guest).workload
        assert not isinstance(before, PlaysTrace)
        assert not isinstance(after, PlaysTrace)
        assert after.tick_s == pytest.approx(before.tick_s * ratio, abs=0.02 * ratio)
        assert after.io_pages_s == max(int(before.io_pages_s / ratio), min(before.io_pages_s, 1))
        assert replace(few, guest={}) == replace(many, guest={})


@pytest.mark.parametrize("guests", [1, 5, 100])
def test_in_the_end_all_guests_fit(guests: int) -> None:
    """The sum of the final targets is less than the host has beside dom0, checker and flooder."""
    rng = np.random.default_rng(guests)
    last = sum(population.final_target(population.draw_guest(number, rng).max_pages) for number in range(guests))

    assert last + population.DOM0_PAGES + population.CHECKER_PAGES < population.host_memory_pages(guests)


def test_what_a_daemon_served_in_a_row_is_judged_by_the_last_seconds() -> None:
    """A span counts as far as it lies in them; one that is over before counts nothing, and one that goes on until now."""
    spans = [(0.0, 20.0), (25.0, 28.5), (29.0, math.inf)]

    assert longest_s([], 30.0, 10.0) == 0
    assert longest_s(spans, 30.0, 10.0) == 3.5
    assert longest_s(spans, 29.5, 10.0) == 3.5
    assert longest_s(spans[:2], 26.0, 10.0) == 4.0
    assert longest_s(spans, 39.0, 10.0) == 10.0
    assert longest_s(spans[:1], 40.0, 10.0) <= 0


# -- the checker guest


def answer(oracle: Oracle, command: Command, result: Result) -> None:
    """Send a command and answer it."""
    oracle.issue([command])
    oracle.answered(result)
    check_stop(command, result)


def test_the_oracle_agrees_with_a_machine() -> None:
    """After random commands on a real machine, pages and words of oracle and machine are equal."""
    machine = Machine(16)
    domid = machine.create("witness", max_pages=4 * SUPER_PAGES, target_pages=4 * SUPER_PAGES)
    oracle = Oracle(domid, 4 * SUPER_PAGES)
    oracle.boot(machine.reboot(domid))
    commands = CheckerCommands(oracle, np.random.default_rng(3))
    kinds = set()
    for _ in range(400):
        command = commands.draw()
        assert command is not None
        kinds.add(type(command))
        answer(oracle, command, machine.execute(domid, command))
    for load in commands.loads():
        answer(oracle, load, machine.execute(domid, load))

    assert kinds == {Populate, Decrease, Store, Load}
    assert oracle.tot_pages == machine.domain(domid).tot_pages


def test_the_checker_has_one_call_in_flight_on_each_block() -> None:
    """With a call on every block nothing is drawn; an answer frees its block."""
    oracle = Oracle(1, 2 * SUPER_PAGES)
    commands = CheckerCommands(oracle, np.random.default_rng(0))
    for _ in range(2):
        command = commands.draw()
        assert isinstance(command, Populate)
        oracle.issue([command])

    assert commands.draw() is None
    oracle.answered(MemopResult(0, Stop.ENOMEM))
    assert oracle.tot_pages == 0
    assert commands.draw() is not None


@pytest.mark.parametrize("result", [Refused("EINVAL", "no"), MemopResult(0, Stop.E2BIG)])
def test_the_checker_is_refused_nothing_but_memory(result: Result) -> None:
    """A refusal, and a stop for another reason than memory, are wrong for each of its commands."""
    with pytest.raises(Violation, match=r"EINVAL|E2BIG"):
        answer(Oracle(1, SUPER_PAGES), Populate(np.arange(3)), result)


# -- counters and reports


def test_a_slope_is_that_of_a_line() -> None:
    """Points on a line give its slope per hour, past the warm-up; a few points give none."""
    slope = slope_of([(float(at), 3.0 + at / 60) for at in range(100)])

    assert slope is not None
    assert (round(slope.per_hour, 6), slope.seconds, slope.samples) == (60.0, 49.0, 50)
    assert round(slope.growth, 6) == round(49 / 60, 6)
    assert slope_of([(float(at), 1.0) for at in range(5)]) is None
    assert slope_of([(1.0, 1.0)] * 20) is None


def test_frame_tables_are_told_from_other_memory() -> None:
    """What a process touches of a sparse table counts as one; an ordinary array does not."""
    before = frame_tables_kib(Path("/proc/self/smaps").read_text("utf-8"))
    table = sparse_zeros(4 << 20, np.uint8)
    table[: 2 << 20] = 1
    other = np.ones(3 << 20, dtype=np.uint8)
    after = frame_tables_kib(Path("/proc/self/smaps").read_text("utf-8"))

    assert after - before == (2 << 20) // 1024
    assert int(other.sum()) == other.size


def test_growth_within_the_noise_is_flat() -> None:
    """A rise is flat if it is small, or slow; one that is neither is not; mapped files are only shown."""
    tally = Tally()
    for at in range(200):
        tally.samples.append(Sample(float(at), 50.0 + at, 40.0 + at, 20.0))
    slopes = tally.slopes()

    assert slopes["own_mib"] is not None
    assert slopes["descriptors"] is not None
    assert not is_flat("own_mib", slopes["own_mib"])
    assert not is_flat("descriptors", slopes["own_mib"])
    assert is_flat("rss_mib", slopes["own_mib"])
    assert is_flat("own_mib", replace(slopes["own_mib"], seconds=10.0))
    assert is_flat("descriptors", slopes["descriptors"])
    slow = slope_of([(600.0 * at, 40.0 + at) for at in range(20)])
    assert slow is not None
    assert is_flat("own_mib", slow)


def test_each_finding_is_recorded_once() -> None:
    """The same thing found again says nothing new, and of very many the first are kept."""
    tally = Tally()
    for number in range(FINDINGS_KEPT + 3):
        tally.found(f"finding {number}", at_s=1.0)
        tally.found(f"finding {number}", at_s=2.0)

    assert len(tally.findings) == FINDINGS_KEPT
    assert tally.more_findings == 3
    assert tally.findings[0] == "    1.0 s: finding 0"


def test_percentiles_of_times() -> None:
    """The median, the 99th percentile and the worst; of nothing, nothing."""
    times = times_of([0.001] * 99 + [1.0])

    assert times is not None
    assert (times.count, times.median_s, times.worst_s) == (100, 0.001, 1.0)
    assert 0.001 < times.p99_s < 1.0
    assert times_of([]) is None


def test_a_report_has_everything() -> None:
    """Text and JSON have the operations, faults, latencies, late ticks, slopes, leaks and findings, and how to run it again."""
    tally = Tally()
    tally.operations["witness hypercalls"] = 300
    tally.faults["cut"] = 2
    tally.took("agents_back", 0.4)
    tally.took("agents_back", 1.4)
    tally.ticks.update({"ticks": 2000, "ticks_late": 30})
    tally.tick_worst_ms = 2500
    tally.samples += [Sample(float(at), 50.0, 40.0, 20.0) for at in range(20)]
    report = Report(Options(5, 30.0, 1, ("flood",)), tally, 30.0, left_out={"full-disk": "no mount"})
    report.leaks = {"zombies": 0}
    written, text = report.as_map(), report.render()

    assert written["ok"] is True
    assert "all is well" in text
    assert "10/s" in text
    assert "leaks: none (zombies)" in text
    late = "guests' ticks: 2,000, 1.50% of them 100 ms late or more, faults included; the worst 2.50 s"
    assert late in text
    assert written["ticks"] == {"ticks": 2000, "ticks_late": 30, "tick_worst_ms": 2500}
    assert "full-disk: no mount" in text
    assert written["faults_left_out"] == {"full-disk": "no mount", "flood": "--without"}
    assert written["agents_back_within_1_s"] == {"restarts": 1, "of": 2}
    assert written["slopes"]["own_mib"]["flat"] is True
    assert json.loads(json.dumps(written)) == written

    tally.found("a page was lost", at_s=3.0)
    report.leaks = {"zombies": 2}
    assert report.as_map()["ok"] is False
    assert "FOUND at 3.0 s: a page was lost" in report.render()
    assert "leaks: 2 zombies" in report.render()
    assert report.render().endswith("again: xbd soak --guests 5 --duration 30s --seed 1 --without flood")
    assert "1 found" in progress_line(report.options, tally, 12.0, "soaks")


# -- the relay


async def test_the_relay_carries_and_cuts(tmp_path: Path) -> None:
    """What connects to a relay's socket reaches the host's of the same name, until it is cut or the host's is gone."""
    host, own = tmp_path / "host", tmp_path / "relay"
    for directory in (host, own):
        directory.mkdir()
    path = host / "hypervisor.sock"
    async with trio.open_nursery() as nursery:
        listener = trio.SocketListener(trio.socket.from_stdlib_socket(bind_unix(path)))
        nursery.start_soon(trio.serve_listeners, _echo, [listener])
        relay = Relay(host, own, nursery)
        nursery.start_soon(relay.follow)
        with trio.fail_after(10):
            while not (own / path.name).exists():  # noqa: ASYNC110 - it polls
                await trio.sleep(0.01)
            stream = await trio.open_unix_socket(str(own / path.name))
            for line in ("slow 0.2", "slow 0"):
                relay.execute(line)
                await stream.send_all(b"there and back")
                assert await stream.receive_some(100) == b"there and back"
            relay.execute("cut 1 0.5")
            assert await stream.receive_some(1) == b""
            await stream.aclose()
            path.unlink()
            while (own / path.name).exists():  # noqa: ASYNC110
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()


async def _echo(stream: trio.SocketStream) -> None:
    async for piece in stream:
        await stream.send_all(piece)


# -- a real soak


@pytest.mark.slow
def test_a_short_soak_of_a_few_guests_finds_nothing(tmp_path: Path) -> None:
    """Five guests, a few seconds, every fault: nothing is lost, nothing is left, and the report says so."""
    report_file = tmp_path / "report.json"
    arguments = ["soak", "--guests", "5", "--duration", "5s", "--seed", "3", "--json", str(report_file)]
    outcome = CliRunner().invoke(main, arguments)
    assert outcome.exit_code == 0, "".join(traceback.format_exception(outcome.exception)) + outcome.output
    written = json.loads(report_file.read_text(encoding="utf-8"))

    assert written["findings"] == []
    assert outcome.exit_code == 0
    assert written["restarts"] == written["faults"]["kill-daemon"] > 0
    assert written["operations"]["checks by the witness"] >= 2
    assert written["ticks"]["ticks"] > 0
    assert not any(written["leaks"].values())
