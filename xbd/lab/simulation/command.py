"""`xbd simulate`: the command around `xbd.lab.simulation`: runs many seeds in several processes."""

import json
import multiprocessing
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, replace
from pathlib import Path
from typing import Final, TextIO, TypeVar

import click

from xbd.cli.common import Failure
from xbd.cli.series_file import SeriesFile, series_file, series_option
from xbd.daemons.policy_process import started_policy
from xbd.errors import BadArgument, ConfigError
from xbd.lab.simulation.daemons.options import DEFAULT_SECONDS, MOST_DAEMON_GUESTS, MOST_OPERATORS, DaemonOptions
from xbd.lab.simulation.daemons.options import FAULTS as DAEMON_FAULTS
from xbd.lab.simulation.daemons.report import DaemonOutcome
from xbd.lab.simulation.daemons.report import tell as tell_of_daemons
from xbd.lab.simulation.options import EXCLUDABLE, FAULTS, LEAST_SUPERFRAMES, MOST_SUPERFRAMES, Options
from xbd.lab.simulation.outcome import Outcome, run, shrink
from xbd.lab.simulation.shell.daemon_switches import DAEMON_SWITCHES
from xbd.lab.simulation.switches import SWITCHES
from xbd.lab.simulation.world import World, Write
from xbd.policy.plugin import PolicyFailed

_PROGRESS_EVERY_S = 0.5
# Of virtual time, between two moments of a series.
_SERIES_EVERY_S: Final = 0.25
# Of cores and of daemons; each run refuses the other's.
_EXCLUDABLE: Final = (*EXCLUDABLE, *DAEMON_FAULTS)
_SWITCHES: Final = (*SWITCHES, *(name for name in DAEMON_SWITCHES if name not in SWITCHES))
_OF_CORES: Final = ("events", "superframes", "compare_every", "series_path")
_OPTION_OF: Final = {"series_path": "--series"}
_OF_DAEMONS: Final = ("seconds", "operators", "every_fault")
AnyOptions = TypeVar("AnyOptions", Options, DaemonOptions)
Found = TypeVar("Found", Outcome, DaemonOutcome)


@click.command("simulate")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Same seed, same run.")
@click.option(
    "--seeds", default=1, show_default=True, type=click.IntRange(min=1), help="Number of seeds, from --seed on."
)
@click.option(
    "--events",
    default=10_000,
    show_default=True,
    type=click.IntRange(min=1),
    help="Events with faults, before they stop.",
)
@click.option(
    "--superframes",
    type=click.IntRange(LEAST_SUPERFRAMES, MOST_SUPERFRAMES),
    help="Size of the host. Default: drawn from the seed.",
)
@click.option(
    "--guests",
    type=click.IntRange(1, MOST_DAEMON_GUESTS),
    help="Guests at a time, at most. Default: drawn from the seed.",
)
@click.option(
    "--without", multiple=True, type=click.Choice(_EXCLUDABLE), help="Leave out this kind of fault; may be repeated."
)
@click.option(
    "--switch-off",
    "off",
    multiple=True,
    type=click.Choice(_SWITCHES),
    help="Turn this safety mechanism off; may be repeated. Ends at the first seed that misses it.",
)
@click.option(
    "--compare-every",
    default=100,
    show_default=True,
    type=click.IntRange(min=1),
    help="Events between two full comparisons.",
)
@click.option("--policy", help="Which policy moves targets, as in autoballoon.toml. Default: drawn from the seed.")
@click.option("--daemons", is_flag=True, help="Run the daemons themselves instead, with their sockets and files.")
@click.option(
    "--seconds",
    type=click.FloatRange(0, min_open=True),
    help=f"With --daemons: virtual seconds with faults, before they stop. [default: {DEFAULT_SECONDS:g}]",
)
@click.option(
    "--operators",
    type=click.IntRange(1, MOST_OPERATORS),
    help="With --daemons: how many people create and destroy. Default: drawn from the seed.",
)
@click.option("--every-fault", is_flag=True, help="With --daemons: leave out no kind of fault of its own accord.")
@click.option("--trace", type=click.File("w"), help="Write a line for each event; - is stdout.")
@series_option
@click.option("--processes", type=click.IntRange(min=1), help="Default: as many as there are processors.")
@click.option("--json", "as_json", is_flag=True, help="Print the outcomes as JSON.")
def command(
    *,
    seed: int,
    seeds: int,
    events: int,
    superframes: int | None,
    guests: int | None,
    without: tuple[str, ...],
    off: tuple[str, ...],
    compare_every: int,
    policy: str | None,
    daemons: bool,
    seconds: float | None,
    operators: int | None,
    every_fault: bool,
    trace: TextIO | None,
    series_path: Path | None,
    processes: int | None,
    as_json: bool,
) -> None:
    """Run guests, daemon, toolstack and policy on virtual time, with faults injected at random.

    While faults happen, nothing may be lost, leaked or done twice. Then they stop, and every domain must reach its
    target. A failing run is shortened and printed as a command that repeats it.

    With --daemons the hypervisor, agents, autoballoon, xenstored and metrics run as they ship, in one process, and every
    call by which they reach the outside may fail.
    """
    for option, given in (("--trace", trace), ("--series", series_path)):
        if given is not None and seeds > 1:
            raise click.UsageError(f"{option} is for one seed")
    _refuse_options_of_the_other(click.get_current_context(), daemons=daemons)
    seeds_of_run, kinds = range(seed, seed + seeds), tuple(dict.fromkeys(without))
    write = None if trace is None else lambda line: click.echo(line, file=trace)
    many = processes or os.cpu_count() or 1
    try:
        if daemons:
            from xbd.lab.simulation.shell import runs  # noqa: PLC0415 - it needs the extra metrics

            of_daemons = [
                DaemonOptions(one, seconds or DEFAULT_SECONDS, kinds, off, guests, operators, every_fault, policy)
                for one in seeds_of_run
            ]
            if seeds == 1:
                done_by_daemons = [runs.run(of_daemons[0], write)]
            else:
                done_by_daemons = _run_all(runs.run, of_daemons, many, until_found=bool(off))
            _report(done_by_daemons, runs.shrink, tell_of_daemons, as_json=as_json, alone=seeds == 1)
            return
        first = Options(seed, events, superframes, guests, kinds, off, compare_every, policy)
        of_cores = [replace(first, seed=one) for one in seeds_of_run]
        with series_file(series_path) as series:
            watch = None if series is None else _adding_to(series, seed)
            alone = seeds == 1
            done = (
                [run_core(first, write, watch)] if alone else _run_all(run_core, of_cores, many, until_found=bool(off))
            )
            _report(done, lambda found: shrink(found, run_core), tell, as_json=as_json, alone=alone)
    except (BadArgument, ConfigError, PolicyFailed) as error:
        raise Failure(str(error)) from None


def run_core(options: Options, write: Write | None = None, watch: Callable[[World], None] | None = None) -> Outcome:
    """Do one run of the cores, with the policy that the options name. Raises as `run`; PolicyFailed: it cannot be made."""
    if options.policy is None:
        return run(options, write, watch)
    with started_policy(options.policy, {}) as policy:
        return run(options, write, watch, policy)


def _adding_to(series: SeriesFile, seed: int) -> Callable[[World], None]:
    """Make what looks at a world after each event, and adds what its daemon tells to *series* from time to time."""
    due_s = 0.0

    def watch(world: World) -> None:
        nonlocal due_s
        now_s = world.schedule.now
        if world.daemon_up and now_s >= due_s:
            due_s = now_s + _SERIES_EVERY_S
            domains = [world.host.domain_info(domid) for domid in world.host.machine.domains()]
            series.add(str(seed), now_s, asdict(world.host.machine.statistics()), domains)

    return watch


def _refuse_options_of_the_other(context: click.Context, *, daemons: bool) -> None:
    """Refuse options that mean nothing to what is simulated. Raises click.UsageError."""
    for name in _OF_CORES if daemons else _OF_DAEMONS:
        if context.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT:
            option = _OPTION_OF.get(name, f"--{name.replace('_', '-')}")
            raise click.UsageError(f"{option} goes {'without' if daemons else 'with'} --daemons")


def _report(
    done: Sequence[Found],
    shrink_one: Callable[[Found], Found],
    tell_of: Callable[[Sequence[Found]], list[str]],
    *,
    as_json: bool,
    alone: bool,
) -> None:
    """Print what came of the runs, in the order of their seeds, or of one that is *alone*; exit code 1 if anything was found."""
    failed = [(outcome, shrink_one(outcome)) for outcome in done if outcome.violation is not None]
    if as_json:
        shortest = {outcome.options.seed: short.as_map() for outcome, short in failed}
        outcomes = [outcome.as_map() | {"shortest": shortest.get(outcome.options.seed)} for outcome in done]
        click.echo(json.dumps(outcomes[0] if alone else outcomes, indent=2))
    else:
        click.echo(render(done, failed, tell_of(done)))
    if failed:
        raise SystemExit(1)


def _run_all(
    run_one: Callable[[AnyOptions], Found], every: Sequence[AnyOptions], processes: int, *, until_found: bool
) -> list[Found]:
    """Run all of *every* in several processes, or up to the first that fails; show progress on a terminal."""
    done: list[Found] = []
    started = shown = time.monotonic()
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        min(processes, len(every)), mp_context=context, initializer=_end_with_the_command
    ) as executor:
        running = [executor.submit(run_one, options) for options in every]
        for number, future in enumerate(as_completed(running), 1):
            done.append(future.result())
            if until_found and done[-1].violation is not None:
                executor.shutdown(cancel_futures=True)
                break
            now = time.monotonic()
            if sys.stderr.isatty() and now - shown > _PROGRESS_EVERY_S:
                shown = now
                found, left_s = sum(one.violation is not None for one in done), (now - started) / number
                left_s *= len(every) - number
                click.echo(
                    f"\r{number} of {len(every)} seeds, {found} failed, {left_s:,.0f} s to go ", nl=False, err=True
                )
    if sys.stderr.isatty():
        click.echo("\r" + " " * 70 + "\r", nl=False, err=True)
    return sorted(done, key=lambda outcome: outcome.options.seed)


def _end_with_the_command() -> None:
    """End this process of the pool when the command's is gone, however it ended: nobody would wait for what it does."""
    command = multiprocessing.parent_process()
    assert command is not None, "this is the command's own process"

    def watch() -> None:
        command.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def tell(done: Sequence[Outcome]) -> list[str]:
    """Sum up what befell runs."""
    tally: Counter[str] = Counter()
    for outcome in done:
        tally.update(outcome.tally)
    events, seconds = sum(outcome.events for outcome in done), sum(outcome.seconds for outcome in done)
    return [
        f"{events:,} events in {seconds:,.0f} s of virtual time: {tally['commands']:,} commands of guests",
        "faults: " + ", ".join(f"{tally[name]:,} {name}" for name in FAULTS if tally[name]),
    ]


def render(done: Sequence[Found], failed: Sequence[tuple[Found, Found]], told: Sequence[str]) -> str:
    """Format a report of runs; *failed*: each failure with its shortest form; *told*: what befell them."""
    lines: list[str] = []
    for outcome, short in failed:
        lines.append(f"seed {outcome.options.seed} fails {outcome.when}: {outcome.violation}")
        if short.violation != outcome.violation:
            lines.append(f"  shortened: {short.violation}")
        lines.append(f"  again: {short.options.command_line()}")
    if len(done) == 1 and not failed:
        lines.append(f"seed {done[0].options.seed}: trace {done[0].digest}")
    runs = "1 run" if len(done) == 1 else f"{len(done)} runs"
    return "\n".join([*lines, *told, f"{runs}, {len(failed)} failed" if failed else f"{runs}, all is well"])
