"""Observes the host during a soak: audits, the guests' reports, the daemon's memory; shows a line of progress."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import click
import trio

from xbd.domain import read_domain
from xbd.lab.soak import population
from xbd.lab.soak.options import Options
from xbd.lab.soak.report import progress_line
from xbd.lab.soak.shell.injector import Injector
from xbd.lab.soak.shell.processes import SoakProcesses
from xbd.lab.soak.shell.traffic import TimedClient, Traffic
from xbd.lab.soak.tally import Sample

_POLL_EVERY_S: Final = 1.0
_AUDIT_EVERY_S: Final = 5.0
_PIPED_EVERY_S: Final = 10.0
_WRONG: Final = ("content_errors", "io_mismatches")
# Clears the terminal's line before it is written again.
_CLEAR: Final = "\r\x1b[K"


def frame_tables_kib(smaps: str) -> int:
    """Tell from the text of /proc/PID/smaps how much of a process's anonymous memory is frame tables, in KiB.

    These are mappings for which the kernel reserves no memory (`nr`, MAP_NORESERVE; see `xbd.frames.layout`): they fill
    as frames are used for the first time, up to a size that follows from the host's memory.
    """
    tables_kib = anonymous_kib = 0
    for line in smaps.splitlines():
        key, _, value = line.partition(":")
        if key == "Anonymous":
            anonymous_kib = int(value.split()[0])
        elif key == "VmFlags" and "nr" in value.split():
            tables_kib += anonymous_kib
    return tables_kib


class Watcher:
    """Observes the host and shows progress.

    Attributes: *phase*: what the soak does now, for the line of progress.
    """

    def __init__(self, processes: SoakProcesses, options: Options, traffic: Traffic, injector: Injector) -> None:
        self._processes = processes
        self._options = options
        self._traffic = traffic
        self._injector = injector
        # By domain and name of a counter, what it was when it was seen last.
        self._counts: dict[tuple[str, int, str], int] = {}
        self._domains = 0
        self.phase = "begins"

    async def poll(self) -> None:
        """Query the domains and sample the daemon every second, for ever."""

        async def polling(client: TimedClient) -> None:
            while True:
                domains = await client.domains()
                self._handle_domains(domains)
                self._sample()
                await trio.sleep(_POLL_EVERY_S)

        await self._traffic.retry(polling)

    def _handle_domains(self, domains: list[dict[str, Any]]) -> None:
        tally = self._processes.tally
        self._injector.seen = [read_domain(domain) for domain in domains]
        self._domains = len(domains) + sum(domain["agent"] for domain in domains)
        tally.guests = sum(domain["name"] not in population.NOT_GUESTS for domain in domains)
        for domain in domains:
            report = domain.get("report") or {}
            for wrong in _WRONG:
                if report.get(wrong):
                    self._processes.found(f"{domain['name']} reports {report[wrong]} {wrong}")
            calls = sum(domain["hypercalls"].values())
            tally.operations["guests' hypercalls"] += self._risen(domain, "hypercalls", calls)
            for name in ("ticks", "ticks_late"):
                tally.ticks[name] += self._risen(domain, name, report.get(name, 0))
            tally.tick_worst_ms = max(tally.tick_worst_ms, report.get("tick_worst_ms", 0))

    def _risen(self, domain: dict[str, Any], name: str, count: int) -> int:
        """Tell how much a counter of a domain has risen; it restarts with the daemon, the guest, or another domain of that number."""
        key = (domain["name"], domain["domid"], name)
        before, self._counts[key] = self._counts.get(key, 0), count
        return count - before if count >= before else count

    def _sample(self) -> None:
        process = self._processes.daemon.process
        if process is None:
            return
        try:
            status = dict(
                line.split(":", 1) for line in Path(f"/proc/{process.pid}/status").read_text("utf-8").splitlines()
            )
            descriptors = len(list(Path(f"/proc/{process.pid}/fd").iterdir()))
            tables_kib = frame_tables_kib(Path(f"/proc/{process.pid}/smaps").read_text("utf-8"))
        except OSError:
            return  # the daemon was killed just now
        if "VmRSS" not in status:
            return  # it was killed and not reaped yet: it has no memory any more
        rss, own = (int(status[name].split()[0]) / 1024 for name in ("VmRSS", "RssAnon"))
        # Each domain has a listening socket, and a connected one if it has an agent.
        descriptors -= self._domains
        self._processes.tally.samples.append(Sample(self._processes.now_s, rss, own - tables_kib / 1024, descriptors))

    async def audit(self) -> None:
        """Audit every few seconds, for ever."""

        async def auditing(client: TimedClient) -> None:
            while True:
                await trio.sleep(_AUDIT_EVERY_S)
                for violation in (await client.call("audit"))["violations"]:
                    self._processes.found(f"audit: {violation}")

        await self._traffic.retry(auditing)

    async def show_progress(self, write: Callable[[str], None] | None = None) -> None:
        """Show progress: on a terminal in one line that is updated, elsewhere a line every ten seconds."""
        terminal = sys.stderr.isatty()
        write = write or (lambda text: click.echo(text, err=True, nl=not terminal))
        try:
            while True:
                await trio.sleep(_POLL_EVERY_S if terminal else _PIPED_EVERY_S)
                line = progress_line(self._options, self._processes.tally, self._processes.now_s, self.phase)
                write(_CLEAR + line[: _columns() - 1] if terminal else line)
        finally:
            if terminal:
                write(_CLEAR)


def _columns() -> int:
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns
    except OSError:
        return 120
