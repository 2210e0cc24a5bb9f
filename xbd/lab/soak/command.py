"""`xbd soak`: runs a host of real processes under load and faults, and reports what was found."""

import json
import secrets
import shutil
import signal
import tempfile
from pathlib import Path
from typing import Final

import click
import numpy as np
import trio

from xbd.abi import MAX_DOMAINS
from xbd.cli.common import EXIT_FAILED, Failure, check_writable
from xbd.client.client import open_client
from xbd.client.runtime_dir import check_socket_path, domain_socket
from xbd.daemons.runtime.signals import signals_heard
from xbd.daemons.trace_files import read_trace
from xbd.errors import BadArgument, TraceError, XbdError
from xbd.lab.soak.options import KINDS, MOST_GUESTS, Options, parse_duration_s
from xbd.lab.soak.population import CHECKER, CHECKER_PAGES, SIZES_MIB, fit, trace_file
from xbd.lab.soak.report import Report
from xbd.lab.soak.schedule import plan_faults
from xbd.lab.soak.shell.checker import Checker
from xbd.lab.soak.shell.injector import Injector
from xbd.lab.soak.shell.processes import SoakProcesses
from xbd.lab.soak.shell.teardown import Teardown
from xbd.lab.soak.shell.traffic import MOVERS, Traffic
from xbd.lab.soak.shell.watcher import Watcher
from xbd.lab.soak.tally import Tally, is_flat
from xbd.units import MIB_PAGES

# All guests boot at once.
_BOOT_TIMEOUT_S: Final = 180.0
# Faults that have begun when the time is up end by themselves within this.
_LAST_FAULTS_S: Final = 30.0
_WITHOUT_HELP: Final = "Leave out a kind of fault; may be repeated. " + "; ".join(
    f"{kind}: {what}" for kind, what in KINDS.items()
)


@click.command("soak")
@click.option("--guests", default=20, show_default=True, type=click.IntRange(1, MOST_GUESTS), help="Guests at a time.")
@click.option("--duration", default="1m", show_default=True, help="How long: 30s, 10m, 1h.")
@click.option("--seed", type=click.IntRange(min=0), help="Same seed, same guests and same faults. Default: a new one.")
@click.option("--without", multiple=True, type=click.Choice(list(KINDS)), metavar="KIND", help=_WITHOUT_HELP)
@click.option("--autoballoon", is_flag=True, help="Let the autoballoon daemon move memory, too.")
@click.option(
    "--trace",
    "traces",
    multiple=True,
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Let every third guest play this trace, brought to its size, in a loop. Repeated: one of them.",
)
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="Write the report there.")
@click.pass_context
def command(
    ctx: click.Context,
    *,
    guests: int,
    duration: str,
    seed: int | None,
    without: tuple[str, ...],
    autoballoon: bool,
    traces: tuple[Path, ...],
    json_file: Path | None,
) -> None:
    """Run a host of real processes under load and faults, and find out whether anything is lost, leaked or wrong.

    Guests of all kinds, with block I/O, come and go, and their targets change all the time. Processes are killed and
    stopped, connections are cut, the disk fills up. A checker guest knows what its memory must hold. In the last third
    the daemon is not killed, and its memory must not grow. Then all faults stop, all guests must reach their targets,
    and after they are removed nothing of them may be left.

    Ctrl-C ends it early, with a report. Exit code 1: something was found; the evidence is kept, and its path printed.
    """
    try:
        options = Options(guests, parse_duration_s(duration), secrets.randbelow(1 << 31) if seed is None else seed,
                          tuple(dict.fromkeys(without)), autoballoon, tuple(map(str, traces)))  # fmt: skip
        read = [read_trace(path) for path in traces]
    except (BadArgument, TraceError) as error:
        raise Failure(str(error)) from None
    check_writable(json_file)
    directory = Path(tempfile.mkdtemp(prefix="xbd-soak-"))
    try:
        # The longest that there will be.
        check_socket_path(domain_socket(directory / "relay", MAX_DOMAINS))
    except XbdError as error:
        directory.rmdir()
        raise Failure(str(error)) from None
    for number, trace in enumerate(read):
        for size_mib in SIZES_MIB:
            pages = size_mib * MIB_PAGES
            trace_file(directory / f"trace{number}.csv", pages).write_text(fit(trace, pages), encoding="utf-8")
    click.echo(f"{options.command_line()}\nin {directory}", err=True)
    report = trio.run(soak, options, directory)
    if report.is_well:
        shutil.rmtree(directory)
    else:
        report.evidence = str(directory)
        (directory / "report.txt").write_text(report.render() + "\n", encoding="utf-8")
        (directory / "report.json").write_text(json.dumps(report.as_map(), indent=2), encoding="utf-8")
    if json_file is not None:
        json_file.write_text(json.dumps(report.as_map(), indent=2) + "\n", encoding="utf-8")
    click.echo(report.render())
    ctx.exit(0 if report.is_well else EXIT_FAILED)


class _Run:
    """One soak."""

    def __init__(self, options: Options, directory: Path, nursery: trio.Nursery) -> None:
        self._options = options
        self._nursery = nursery
        self._rngs = np.random.default_rng(options.seed).spawn(2 + MOVERS)
        self.tally = Tally()
        self.processes = SoakProcesses(directory, options, self.tally, nursery)
        self.report = Report(options, self.tally, 0.0)
        self.stop = trio.Event()
        if self.processes.no_disk not in (None, "--without"):
            self.report.left_out = {"full-disk": str(self.processes.no_disk)}

    async def run(self) -> None:
        """Start everything, soak, and tear down."""
        processes = self.processes
        await processes.open()
        async with open_client(processes.socket) as client:
            domid = await client.create(CHECKER, max_pages=CHECKER_PAGES, target_pages=CHECKER_PAGES, autostart=False)
        checker = Checker(processes, domain_socket(processes.runtime_dir, domid), self._rngs[0])
        traffic = Traffic(processes, self._options.guests, self._rngs[1])
        teardown = Teardown(processes, traffic, checker)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(checker.run)
            watcher = await self._soak(traffic, Injector(processes, traffic, checker))
            nursery.start_soon(watcher.show_progress)
            watcher.phase = "settles"
            await teardown.run()
            self.report.settled, self.report.leaks = teardown.settled, teardown.leaks
            nursery.cancel_scope.cancel()
        if checker.checks < 2:
            processes.found(f"the checker guest compared its memory only {checker.checks} times")
        self.tally.operations["checks by the witness"] = checker.checks
        self._check_slopes()

    async def _soak(self, traffic: Traffic, injector: Injector) -> Watcher:
        """Run traffic and faults until the time is up."""
        processes, options = self.processes, self._options
        watcher = Watcher(processes, options, traffic, injector)
        async with trio.open_nursery() as nursery:
            watcher.phase = "boots"
            for task in (traffic.populate, traffic.reap, watcher.poll, watcher.show_progress):
                nursery.start_soon(task)
            await self._all_booted(traffic, injector)
            processes.started_at = trio.current_time()
            nursery.start_soon(watcher.audit)
            for rng in self._rngs[2:]:
                nursery.start_soon(traffic.move, rng)
            watcher.phase = "soaks"
            with trio.move_on_after(options.duration_s + _LAST_FAULTS_S):
                async with trio.open_nursery() as faults:
                    faults.start_soon(self._until_stopped, faults.cancel_scope)
                    faults.start_soon(injector.inject, plan_faults(options))
                    await trio.sleep(options.duration_s)
                    faults.start_soon(self._until_idle, faults.cancel_scope)
            self.report.seconds = processes.now_s
            nursery.cancel_scope.cancel()
        return watcher

    async def _until_stopped(self, scope: trio.CancelScope) -> None:
        await self.stop.wait()
        self.report.ended = "it was ended early"
        scope.cancel()

    async def _until_idle(self, scope: trio.CancelScope) -> None:
        while self.processes.disturbed:  # noqa: ASYNC110 - faults end at their own pace
            await trio.sleep(0.1)
        scope.cancel()

    async def _all_booted(self, traffic: Traffic, injector: Injector) -> None:
        with trio.move_on_after(_BOOT_TIMEOUT_S) as patience:
            await traffic.full.wait()
            while not injector.seen or not all(d.agent or d.name == CHECKER for d in injector.seen):
                if self.stop.is_set():
                    return
                await trio.sleep(0.2)
        if patience.cancelled_caught:
            self.processes.found(f"the guests had not booted after {_BOOT_TIMEOUT_S:g} s")

    def _check_slopes(self) -> None:
        for name, slope in self.tally.slopes().items():
            if slope is not None and not is_flat(name, slope):
                self.processes.found(f"the daemon's {name} rise by {slope.per_hour:.1f} an hour")


async def soak(options: Options, directory: Path) -> Report:
    """Soak a host in *directory* and return the report."""
    async with trio.open_nursery() as nursery:
        run = _Run(options, directory, nursery)

        def hear(number: int) -> None:
            """End the soak early; a second signal aborts it."""
            if run.stop.is_set():
                raise KeyboardInterrupt(signal.Signals(number).name)
            run.stop.set()

        try:
            async with signals_heard(hear, signal.SIGINT, signal.SIGTERM):
                try:
                    await run.run()
                except* XbdError as group:
                    run.processes.found(f"the soak could not go on: {first_of(group)}")
                finally:
                    await run.processes.close()
        finally:
            if not run.report.is_well:
                run.processes.keep_state()
            run.processes.unmount()
        nursery.cancel_scope.cancel()
    return run.report


def first_of(error: BaseException) -> BaseException:
    """Return the first error in nested exception groups."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
