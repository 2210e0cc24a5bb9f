"""`xbd simulate`: the command around `xbd.lab.simulation`: runs many seeds in several processes."""

import json
import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from typing import Final, TextIO

import click

from xbd.cli.common import Failure
from xbd.errors import BadArgument, ConfigError
from xbd.lab.simulation.daemons.options import FAULTS as DAEMON_FAULTS
from xbd.lab.simulation.daemons.options import DaemonOptions
from xbd.lab.simulation.daemons.report import DaemonOutcome
from xbd.lab.simulation.daemons.report import render as render_daemons
from xbd.lab.simulation.options import EXCLUDABLE, FAULTS, LEAST_SUPERFRAMES, MOST_GUESTS, MOST_SUPERFRAMES, Options
from xbd.lab.simulation.outcome import Outcome, run, shrink
from xbd.lab.simulation.shell.daemon_switches import DAEMON_SWITCHES
from xbd.lab.simulation.switches import SWITCHES

_PROGRESS_EVERY_S = 0.5
_DAEMON_SECONDS: Final = 60.0
# Of cores and of daemons; each run refuses the other's.
_EXCLUDABLE: Final = (*EXCLUDABLE, *DAEMON_FAULTS)
_SWITCHES: Final = (*SWITCHES, *(name for name in DAEMON_SWITCHES if name not in SWITCHES))
_OF_CORES: Final = ("events", "superframes", "guests", "compare_every")
_OF_DAEMONS: Final = ("seconds",)


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
    "--guests", type=click.IntRange(1, MOST_GUESTS), help="Guests at a time, at most. Default: drawn from the seed."
)
@click.option(
    "--without", multiple=True, type=click.Choice(_EXCLUDABLE), help="Leave out this kind of fault; may be repeated."
)
@click.option(
    "--switch-off",
    "off",
    multiple=True,
    type=click.Choice(_SWITCHES),
    help="Turn this safety mechanism off; may be repeated.",
)
@click.option(
    "--compare-every",
    default=100,
    show_default=True,
    type=click.IntRange(min=1),
    help="Events between two full comparisons.",
)
@click.option("--daemons", is_flag=True, help="Run the daemons themselves instead, with their sockets and files.")
@click.option(
    "--seconds",
    type=click.FloatRange(0, min_open=True),
    help="With --daemons: virtual seconds with faults, before they stop. [default: 60]",
)
@click.option("--trace", type=click.File("w"), help="Write a line for each event; - is stdout.")
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
    daemons: bool,
    seconds: float | None,
    trace: TextIO | None,
    processes: int | None,
    as_json: bool,
) -> None:
    """Run guests, daemon, toolstack and policy on virtual time, with faults injected at random.

    While faults happen, nothing may be lost, leaked or done twice. Then they stop, and every domain must reach its
    target. A failing run is shortened and printed as a command that repeats it.

    With --daemons the hypervisor, agents, autoballoon, xenstored and metrics run as they ship, in one process, and every
    call by which they reach the outside may fail.
    """
    if trace is not None and seeds > 1:
        raise click.UsageError("--trace is for one seed")
    _refuse_options_of_the_other(click.get_current_context(), daemons=daemons)
    if daemons:
        simulate_daemons(
            [seed + number for number in range(seeds)],
            seconds=seconds,
            without=without,
            off=off,
            trace=trace,
            processes=processes,
            as_json=as_json,
        )
        return
    try:
        first = Options(seed, events, superframes, guests, tuple(dict.fromkeys(without)), off, compare_every)
    except BadArgument as error:
        raise Failure(str(error)) from None
    if seeds == 1:
        done = [run(first, None if trace is None else lambda line: click.echo(line, file=trace))]
    else:
        every = [replace(first, seed=seed + number) for number in range(seeds)]
        done = list(_in_parallel(every, processes or os.cpu_count() or 1))
    failed = [(outcome, shrink(outcome)) for outcome in sorted(done, key=_by_seed) if outcome.violation is not None]
    if as_json:
        shortest = {outcome.options.seed: short.as_map() for outcome, short in failed}
        outcomes = [
            outcome.as_map() | {"shortest": shortest.get(outcome.options.seed)}
            for outcome in sorted(done, key=_by_seed)
        ]
        click.echo(json.dumps(outcomes[0] if seeds == 1 else outcomes, indent=2))
    else:
        click.echo(render(done, failed))
    if failed:
        raise SystemExit(1)


def _refuse_options_of_the_other(context: click.Context, *, daemons: bool) -> None:
    """Refuse options that mean nothing to what is simulated. Raises click.UsageError."""
    for name in _OF_CORES if daemons else _OF_DAEMONS:
        if context.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT:
            option = f"--{name.replace('_', '-')}"
            raise click.UsageError(f"{option} goes {'without' if daemons else 'with'} --daemons")


def simulate_daemons(
    seeds: Sequence[int],
    *,
    seconds: float | None,
    without: tuple[str, ...],
    off: tuple[str, ...],
    trace: TextIO | None,
    processes: int | None,
    as_json: bool,
) -> None:
    """Run the daemons on each seed and print what came of it; exit code 1 if anything was found."""
    from xbd.lab.simulation.shell.runs import run as run_daemons  # noqa: PLC0415 - it needs the extra metrics

    try:
        every = [DaemonOptions(seed, seconds or _DAEMON_SECONDS, tuple(dict.fromkeys(without)), off) for seed in seeds]
        if len(every) == 1:
            done = [run_daemons(every[0], None if trace is None else lambda line: click.echo(line, file=trace))]
        else:
            done = sorted(
                _daemons_in_parallel(every, processes or os.cpu_count() or 1), key=lambda one: one.options.seed
            )
    except (BadArgument, ConfigError) as error:
        raise Failure(str(error)) from None
    if as_json:
        outcomes = [outcome.as_map() for outcome in done]
        click.echo(json.dumps(outcomes[0] if len(outcomes) == 1 else outcomes, indent=2))
    else:
        click.echo(render_daemons(done))
    if any(outcome.violation is not None for outcome in done):
        raise SystemExit(1)


def _daemons_in_parallel(every: Sequence[DaemonOptions], processes: int) -> list[DaemonOutcome]:
    """Run all of *every* in several processes: the order of tasks is one process's."""
    from xbd.lab.simulation.shell.runs import run as run_daemons  # noqa: PLC0415

    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(processes, len(every)), mp_context=context) as executor:
        return list(executor.map(run_daemons, every))


def _by_seed(outcome: Outcome) -> int:
    return outcome.options.seed


def _in_parallel(every: Sequence[Options], processes: int) -> Iterator[Outcome]:
    """Run all of *every* in several processes, in the order in which they end; show progress on a terminal."""
    context = multiprocessing.get_context("spawn")
    started = shown = time.monotonic()
    found = 0
    with ProcessPoolExecutor(min(processes, len(every)), mp_context=context) as executor:
        for number, future in enumerate(as_completed([executor.submit(run, options) for options in every]), 1):
            outcome = future.result()
            found += outcome.violation is not None
            now = time.monotonic()
            if sys.stderr.isatty() and now - shown > _PROGRESS_EVERY_S:
                shown = now
                left_s = (now - started) / number * (len(every) - number)
                click.echo(
                    f"\r{number} of {len(every)} seeds, {found} failed, {left_s:,.0f} s to go ", nl=False, err=True
                )
            yield outcome
    if sys.stderr.isatty():
        click.echo("\r" + " " * 70 + "\r", nl=False, err=True)


def render(done: Sequence[Outcome], failed: Sequence[tuple[Outcome, Outcome]]) -> str:
    """Format a report of the outcomes; *failed*: each failure with its shortest form."""
    lines: list[str] = []
    for outcome, short in failed:
        when = "when it was healed" if outcome.while_healing else f"at event {outcome.events:,}"
        lines.append(f"seed {outcome.options.seed} fails {when}: {outcome.violation}")
        if short.violation != outcome.violation:
            lines.append(f"  shortened: {short.violation}")
        lines.append(f"  again: {short.options.command_line()}")
    tally: Counter[str] = Counter()
    for outcome in done:
        tally.update(outcome.tally)
    events, seconds = sum(outcome.events for outcome in done), sum(outcome.seconds for outcome in done)
    if len(done) == 1 and not failed:
        lines.append(f"seed {done[0].options.seed}: trace {done[0].digest}")
    lines.append(f"{events:,} events in {seconds:,.0f} s of virtual time: {tally['commands']:,} commands of guests")
    lines.append("faults: " + ", ".join(f"{tally[name]:,} {name}" for name in FAULTS if tally[name]))
    runs = "1 run" if len(done) == 1 else f"{len(done)} runs"
    lines.append(f"{runs}, {len(failed)} failed" if failed else f"{runs}, all is well")
    return "\n".join(lines)
