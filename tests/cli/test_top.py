"""`xbd top` in a real terminal: what is on the screen, at two sizes, and that the terminal is as before in the end."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pexpect  # type: ignore[import-untyped]  # it ships no types
import pyte
import pytest
from click.testing import CliRunner

from tests.processes import running
from xbd.cli.main import main

HOST = """
[host]
memory = "256m"
name = "shown"
[[guest]]
name = "web{n}"
count = 12
maximum = "16m"
target = "8m"
autostart = false
"""
_PATIENCE_S = 60


class Terminal:
    """A terminal of a size, with a command running in it."""

    def __init__(self, runtime_dir: Path, columns: int, lines: int, *arguments: str) -> None:
        self.screen = pyte.Screen(columns, lines)
        self._stream = pyte.ByteStream(self.screen)
        self.command = pexpect.spawn(
            sys.executable,
            ["-m", "xbd", "--socket", str(runtime_dir), "top", *arguments],
            dimensions=(lines, columns),
            timeout=_PATIENCE_S,
        )

    def until(self, seen: Callable[[list[str]], bool]) -> list[str]:
        """Feed the screen until what is on it satisfies *seen*; returns its lines."""
        while not seen(self.lines()):
            self._stream.feed(self.command.read_nonblocking(65536, timeout=_PATIENCE_S))
        return self.lines()

    def lines(self) -> list[str]:
        """Read the screen."""
        return [line.rstrip() for line in self.screen.display]

    def resize(self, columns: int, lines: int) -> None:
        """Make the terminal another size."""
        self.screen.resize(lines, columns)
        self.screen.reset()
        self.command.setwinsize(lines, columns)

    def leave(self) -> int:
        """Press q; returns the exit code."""
        self.command.send("q")
        self.command.expect(pexpect.EOF)
        self.rest = self.command.before
        self.command.close()
        return int(self.command.exitstatus)


@pytest.fixture(scope="module")
def runtime_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Run a hypervisor with twelve domains."""
    directory = tmp_path_factory.mktemp("top")
    host_file = directory / "host.toml"
    host_file.write_text(HOST)
    with running("hypervisor", "--config", str(host_file), "--runtime-dir", str(directory / "run")) as daemon:
        daemon.wait_until_it_says("hypervisor_ready")
        yield directory / "run"


def test_it_shows_sorts_scrolls_and_leaves(runtime_dir: Path) -> None:
    """At 80 by 12 it shows the first rows; keys change what is shown; a resize is followed; q gives the terminal back."""
    terminal = Terminal(runtime_dir, 80, 12, "--sort", "name")
    lines = terminal.until(lambda lines: lines[4].startswith("web1 "))
    assert lines[0] == "xbd shown: 12 domains (12 waiting), 0 not at target"
    assert lines[3].split() == ["NAME", "ID", "STATE", "MEM(M)", "TARGET", "SUPER%", "CALLS/S", "2M-QUEUE"]
    assert "5 below" in lines[11]

    terminal.command.send("r")
    terminal.until(lambda lines: lines[4].startswith("web9 "))
    terminal.command.send("\x1b[B")
    terminal.until(lambda lines: lines[4].startswith("web8 ") and "1 above" in lines[11])
    terminal.command.send("s")
    terminal.until(lambda lines: "by id" in lines[11])
    terminal.resize(40, 20)
    lines = terminal.until(lambda lines: any(line.startswith("q quit") for line in lines))
    assert lines[3].split() == ["NAME", "ID", "STATE", "MEM(M)"]
    assert terminal.leave() == 0
    assert terminal.rest.endswith(b"\x1b[?25h\x1b[?1049l")


def test_a_domain_that_there_is_not_is_said_before_the_screen_changes(runtime_dir: Path) -> None:
    """One sentence, exit 1, and no escape codes."""
    terminal = Terminal(runtime_dir, 80, 24, "nosuch")
    terminal.command.expect(pexpect.EOF)
    terminal.command.close()

    assert b"nosuch is an invalid domain identifier" in terminal.command.before
    assert b"\x1b" not in terminal.command.before
    assert terminal.command.exitstatus == 1


def test_piped_it_prints_one_table(runtime_dir: Path) -> None:
    """Plain text, and JSON for scripts."""
    environment = {"XBD_SOCKET": str(runtime_dir)}
    piped = CliRunner().invoke(main, ["top", "--interval", "0.1", "web1", "web2"], env=environment)
    told = CliRunner().invoke(main, ["top", "--interval", "0.1", "--json"], env=environment)

    assert piped.exit_code == 0
    assert "\x1b" not in piped.stdout
    assert [line.split()[0] for line in piped.stdout.splitlines()[3:]] == ["NAME", "web1", "web2"]
    assert len(json.loads(told.stdout)) == 12


def test_the_limit_is_sorted_by_its_old_name_too(runtime_dir: Path) -> None:
    """`--sort max` is `--sort limit`, with a line on stderr that says so."""
    environment = {"XBD_SOCKET": str(runtime_dir)}
    old, new = (
        CliRunner().invoke(main, ["top", "--once", "--interval", "0.1", "--sort", by, "web*"], env=environment)
        for by in ("max", "limit")
    )

    assert (old.exit_code, old.stderr) == (0, "max is called limit now; the old name is taken until the next release\n")
    assert (new.exit_code, new.stderr) == (0, "")
    assert old.stdout == new.stdout
