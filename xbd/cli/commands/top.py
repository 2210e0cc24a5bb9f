"""`xbd top`: the host while it works; a terminal around `top_view`."""

import os
import shutil
import signal
import sys
import termios
import tty
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Final

import click
import trio

from xbd.cli.common import RenamedChoice, client_options, complete_domains, emit, with_client
from xbd.cli.top_view import COLUMNS, Look, Wish, host_lines, row_map, rows_of, screen, sort_rows, table_lines
from xbd.client.client import Client
from xbd.control.targets import choose, is_any

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
    help="Time between looks.",
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

    async def run(client: Client) -> tuple[Look, Look] | None:
        if live:
            await _watch(client, names, Wish(by), interval)
            return None
        first = await _look(client, names)
        await trio.sleep(interval)
        return first, await _look(client, names)

    looks = with_client(socket_path, run)
    if looks is not None:
        previous, now = looks
        rows = sort_rows(rows_of(previous, now), by, reverse=False)
        width = shutil.get_terminal_size((_PIPED_WIDTH, 0)).columns
        emit(as_json, [row_map(row) for row in rows], [*host_lines(now), "", *table_lines(rows, width)])


async def _look(client: Client, names: tuple[str, ...]) -> Look:
    domains = await client.list()
    return Look(trio.current_time(), await client.host(), choose(domains, names, is_any) if names else domains)


class _Screen:
    """What is on the terminal, and what it should show.

    Attributes: *changed* is set when it is to be drawn anew.
    """

    def __init__(self, wish: Wish) -> None:
        self.wish = wish
        self.previous: Look | None = None
        self.now: Look | None = None
        self.changed = trio.Event()

    def looked(self, look: Look) -> None:
        """Show another look, unless it is to stand still."""
        if not self.wish.paused:
            self.previous, self.now = self.now, look
            self.changed.set()

    def pressed(self, keys: bytes) -> bool:
        """Heed what was typed; says whether to go on."""
        names = list(COLUMNS)
        for key in _split(keys):
            match key:
                case b"q" | b"\x03":
                    return False
                case b"s":
                    self.wish = replace(self.wish, by=names[(names.index(self.wish.by) + 1) % len(names)])
                case b"r":
                    self.wish = replace(self.wish, reverse=not self.wish.reverse)
                case b"p" | b" ":
                    self.wish = replace(self.wish, paused=not self.wish.paused)
                case key if key == _DOWN:
                    self.wish = replace(self.wish, offset=min(self.wish.offset + 1, self._last()))
                case key if key == _UP:
                    self.wish = replace(self.wish, offset=max(self.wish.offset - 1, 0))
                case _:
                    continue
            self.changed.set()
        return True

    def _last(self) -> int:
        return max(len(self.now.domains) - 1, 0) if self.now else 0

    def draw(self) -> None:
        """Write what there is to see."""
        self.changed = trio.Event()
        if self.now is None:
            return
        # The terminal's own word, not $LINES and $COLUMNS: those do not change with it.
        size = os.get_terminal_size(sys.stdout.fileno())
        lines = screen(self.previous, self.now, self.wish, width=size.columns, height=size.lines)
        sys.stdout.write(_HOME + (_REST_OF_LINE + "\r\n").join(lines) + _REST_OF_LINE + _REST_OF_SCREEN)
        sys.stdout.flush()


def _split(keys: bytes) -> Iterator[bytes]:
    """Take typed bytes apart: arrows are three of them."""
    while keys:
        length = 3 if keys[:3] in (_UP, _DOWN) else 1
        yield keys[:length]
        keys = keys[length:]


async def _watch(client: Client, names: tuple[str, ...], wish: Wish, interval: float) -> None:
    shows = _Screen(wish)
    # Before the terminal changes: a domain that there is not is said in a sentence.
    shows.looked(await _look(client, names))
    with _raw_terminal(), trio.open_signal_receiver(signal.SIGWINCH, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_keep_looking, client, names, shows, interval)
            nursery.start_soon(_keep_drawing, shows)
            nursery.start_soon(_hear, signals, shows, nursery.cancel_scope)
            await _read_keys(shows)
            nursery.cancel_scope.cancel()


async def _keep_looking(client: Client, names: tuple[str, ...], shows: _Screen, interval: float) -> None:
    while True:
        await trio.sleep(interval)
        shows.looked(await _look(client, names))


async def _keep_drawing(shows: _Screen) -> None:
    while True:
        await shows.changed.wait()
        shows.draw()


async def _hear(signals: AsyncIterator[int], shows: _Screen, everything: trio.CancelScope) -> None:
    async for signum in signals:
        if signum == signal.SIGTERM:
            everything.cancel()
        shows.changed.set()


async def _read_keys(shows: _Screen) -> None:
    while True:
        await trio.lowlevel.wait_readable(sys.stdin)
        keys = os.read(sys.stdin.fileno(), 64)
        if not keys or not shows.pressed(keys):
            return


@contextmanager
def _raw_terminal() -> Iterator[None]:
    """Take the terminal over, key by key and on its alternate screen; give it back whatever happens."""
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
