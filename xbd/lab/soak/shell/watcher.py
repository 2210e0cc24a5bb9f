"""Looking at the host all the time: audits, what guests report, what the daemon holds, and a line of progress."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import click
import trio

from xbd.lab.soak import population
from xbd.lab.soak.options import Options
from xbd.lab.soak.report import progress_line
from xbd.lab.soak.shell.injector import Injector
from xbd.lab.soak.shell.processes import SoakProcesses
from xbd.lab.soak.shell.traffic import TimedClient, Traffic
from xbd.lab.soak.tally import Sample
from xbd.protocol.views import domain_view

_LOOK_EVERY_S: Final = 1.0
_AUDIT_EVERY_S: Final = 5.0
_PIPED_EVERY_S: Final = 10.0
_WRONG: Final = ("content_errors", "io_mismatches")
# A terminal's line, of which nothing is left when it is written anew.
_CLEAR: Final = "\r\x1b[K"


class Watcher:
    """Looks, and tells."""

    def __init__(self, processes: SoakProcesses, options: Options, traffic: Traffic, injector: Injector) -> None:
        self._stage = processes
        self._options = options
        self._traffic = traffic
        self._injector = injector
        self._hypercalls: dict[tuple[str, int], int] = {}
        self._domains = 0
        self.phase = "begins"

    async def look(self) -> None:
        """Look at the domains and the daemon every second, for ever."""

        async def looking(client: TimedClient) -> None:
            while True:
                domains = await client.domains()
                self._take(domains)
                self._sample()
                await trio.sleep(_LOOK_EVERY_S)

        await self._traffic.persist(looking)

    def _take(self, domains: list[dict[str, Any]]) -> None:
        tally = self._stage.tally
        self._injector.seen = [domain_view(domain) for domain in domains]
        self._domains = len(domains) + sum(domain["agent"] for domain in domains)
        tally.guests = sum(domain["name"] not in population.NO_GUESTS for domain in domains)
        for domain in domains:
            report = domain.get("report") or {}
            for wrong in _WRONG:
                if report.get(wrong):
                    self._stage.found(f"{domain['name']} reports {report[wrong]} {wrong}")
            # They begin anew with a new daemon, or with another domain of that number.
            key, count = (domain["name"], domain["domid"]), sum(domain["hypercalls"].values())
            before = self._hypercalls.get(key, 0)
            tally.operations["guests' hypercalls"] += count - before if count >= before else count
            self._hypercalls[key] = count

    def _sample(self) -> None:
        process = self._stage.daemon.process
        if process is None:
            return
        try:
            status = dict(
                line.split(":", 1) for line in Path(f"/proc/{process.pid}/status").read_text("utf-8").splitlines()
            )
            descriptors = len(list(Path(f"/proc/{process.pid}/fd").iterdir()))
        except OSError:
            return  # it was killed just now
        if "VmRSS" not in status:
            return  # it was, and waits to be reaped: it has no memory any more
        rss, own = (int(status[name].split()[0]) / 1024 for name in ("VmRSS", "RssAnon"))
        # Of each domain a socket that listens, and one that is connected if it has an agent.
        self._stage.tally.samples.append(Sample(self._stage.now_s, rss, own, descriptors - self._domains))

    async def audit(self) -> None:
        """Audit every few seconds, for ever."""

        async def auditing(client: TimedClient) -> None:
            while True:
                await trio.sleep(_AUDIT_EVERY_S)
                for violation in (await client.call("audit"))["violations"]:
                    self._stage.found(f"audit: {violation}")

        await self._traffic.persist(auditing)

    async def tell(self, write: Callable[[str], None] | None = None) -> None:
        """Tell how far it is: on a terminal one line, again and again; elsewhere a line every so often."""
        terminal = sys.stderr.isatty()
        write = write or (lambda text: click.echo(text, err=True, nl=not terminal))
        try:
            while True:
                await trio.sleep(_LOOK_EVERY_S if terminal else _PIPED_EVERY_S)
                line = progress_line(self._options, self._stage.tally, self._stage.now_s, self.phase)
                write(_CLEAR + line[: _columns() - 1] if terminal else line)
        finally:
            if terminal:
                write(_CLEAR)


def _columns() -> int:
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns
    except OSError:
        return 120
