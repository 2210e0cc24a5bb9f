"""`xbd top`: the host while it works; a terminal around `top_view`."""

import os
import shutil
import signal
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Final

import click
import trio

from xbd.cli.common import RenamedChoice, client_options, complete_domains, emit, group_socket
from xbd.cli.top_view import COLUMNS, Sample, ViewOptions, host_lines, row_map, rows_of, screen, sort_rows, table_lines
from xbd.client.calls import KnownDomains
from xbd.client.client import Client, open_client
from xbd.client.discovery import find_socket
from xbd.control.targets import choose, is_any
from xbd.daemons.runtime.signals import signals_heard

# The alternate screen without a cursor, and back.
_ENTER: Final = "\x1b[?1049h\x1b[?25l"
_LEAVE: Final = "\x1b[?25h\x1b[?1049l"
_HOME, _REST_OF_LINE, _REST_OF_SCREEN = "\x1b[H", "\x1b[K", "\x1b[J"
_UP, _DOWN = b"\x1b[A", b"\x1b[B"
_PIPED_WIDTH: Final = 160


@click.command("top")
@click.argument("names", nargs=-1, metavar="[DOMAIN]...", shell_complete=complete_domains)
@click.option(
    "--sort",
    "by",
    type=RenamedChoice(COLUMNS, {"max": "limit"}),
    default="mem",
    show_default=True,
    help="The column to sort by.",
)
@click.option(
    "--interval",
    type=click.FloatRange(min=0.1),
    default=0.5,
    show_default=True,
    metavar="SECONDS",
    help="Time between samples.",
)
@click.option("--once", is_flag=True, help="Print one table and leave, as when piped.")
@client_options
def top_command(
    names: tuple[str, ...], by: str, interval: float, socket_path: str | None, *, once: bool, as_json: bool
) -> None:
    """Show the domains live: state, memory, target, superpages, operations a second, the balloon's queues.

    Keys: q quits, s sorts by the next column, r reverses, p pauses, arrows scroll. What does not fit the width
    is left out from the right.
    """
    live = sys.stdout.isatty() and sys.stdin.isatty() and not (once or as_json)

    async def run(client: Client) -> tuple[Sample, Sample] | None:
        if live:
            await _watch(client, names, ViewOptions(by), interval)
            return None
        first = await _sample(client, KnownDomains(), names)
        await trio.sleep(interval)
        return first, await _sample(client, KnownDomains(), names)

    async def connected() -> tuple[Sample, Sample] | None:
        async with open_client(find_socket(socket_path or group_socket(), os.environ), resume=True) as client:
            return await run(client)

    samples = trio.run(connected)
    if samples is not None:
        previous, now = samples
        rows = sort_rows(rows_of(previous, now), by, reverse=False)
        width = shutil.get_terminal_size((_PIPED_WIDTH, 0)).columns
        emit(as_json, [row_map(row) for row in rows], [*host_lines(now), "", *table_lines(rows, width)])


async def _sample(client: Client, known: KnownDomains, names: tuple[str, ...]) -> Sample:
    known.take(await client.changes(known.since))
    domains = known.domains
    return Sample(trio.current_time(), await client.host(), choose(domains, names, is_any) if names else domains)


class _Screen:
    """The state of the display: the last two samples, and how to show them.

    Attributes: *changed* is set when the display has to be drawn again.
    """

    def __init__(self, options: ViewOptions) -> None:
        self.options = options
        self.previous: Sample | None = None
        self.now: Sample | None = None
        self.changed = trio.Event()

    def add(self, sample: Sample) -> None:
        """Show another sample, unless the display is paused."""
        if not self.options.paused:
            self.previous, self.now = self.now, sample
            self.changed.set()

    def pressed(self, keys: bytes) -> bool:
        """Handle typed keys; returns whether to go on."""
        names = list(COLUMNS)
        for key in _split(keys):
            match key:
                case b"q" | b"\x03":
                    return False
                case b"s":
                    self.options = replace(self.options, by=names[(names.index(self.options.by) + 1) % len(names)])
                case b"r":
                    self.options = replace(self.options, reverse=not self.options.reverse)
                case b"p" | b" ":
                    self.options = replace(self.options, paused=not self.options.paused)
                case key if key == _DOWN:
                    self.options = replace(self.options, offset=min(self.options.offset + 1, self._last()))
                case key if key == _UP:
                    self.options = replace(self.options, offset=max(self.options.offset - 1, 0))
                case _:
                    continue
            self.changed.set()
        return True

    def _last(self) -> int:
        return max(len(self.now.domains) - 1, 0) if self.now else 0

    def draw(self) -> None:
        """Draw the last sample on the terminal."""
        self.changed = trio.Event()
        if self.now is None:
            return
        # Asked of the terminal: $LINES and $COLUMNS do not change when it is resized.
        size = os.get_terminal_size(sys.stdout.fileno())
        lines = screen(self.previous, self.now, self.options, width=size.columns, height=size.lines)
        sys.stdout.write(_HOME + (_REST_OF_LINE + "\r\n").join(lines) + _REST_OF_LINE + _REST_OF_SCREEN)
        sys.stdout.flush()


def _split(keys: bytes) -> Iterator[bytes]:
    """Split typed bytes into keys: an arrow has three."""
    while keys:
        length = 3 if keys[:3] in (_UP, _DOWN) else 1
        yield keys[:length]
        keys = keys[length:]


async def _watch(client: Client, names: tuple[str, ...], options: ViewOptions, interval: float) -> None:
    shows, known = _Screen(options), KnownDomains()
    # Before the terminal is switched, so that the error for an unknown domain is shown.
    shows.add(await _sample(client, known, names))
    with _raw_terminal():
        async with trio.open_nursery() as nursery:

            def hear(number: int) -> None:
                if number == signal.SIGTERM:
                    nursery.cancel_scope.cancel()
                shows.changed.set()

            async with signals_heard(hear, signal.SIGWINCH, signal.SIGTERM):
                nursery.start_soon(_keep_sampling, client, known, names, shows, interval)
                nursery.start_soon(_keep_drawing, shows)
                await _read_keys(shows)
                nursery.cancel_scope.cancel()


async def _keep_sampling(
    client: Client, known: KnownDomains, names: tuple[str, ...], shows: _Screen, interval: float
) -> None:
    while True:
        await trio.sleep(interval)
        shows.add(await _sample(client, known, names))


async def _keep_drawing(shows: _Screen) -> None:
    while True:
        await shows.changed.wait()
        shows.draw()


async def _read_keys(shows: _Screen) -> None:
    while True:
        await trio.lowlevel.wait_readable(sys.stdin)
        keys = os.read(sys.stdin.fileno(), 64)
        if not keys or not shows.pressed(keys):
            return


@contextmanager
def _raw_terminal() -> Iterator[None]:
    """Switch the terminal to single keys and its alternate screen, and back in any case."""
    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)
    try:
        tty.setcbreak(terminal)
        sys.stdout.write(_ENTER)
        sys.stdout.flush()
        yield
    finally:
        sys.stdout.write(_LEAVE)
        sys.stdout.flush()
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)
