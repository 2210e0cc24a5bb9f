"""The documents as tests read them: their fenced blocks, and the sessions in these.

The word after a fence says what becomes of the block:

    console                    a session; it is run, all sessions of a page on one host
    python                     a program; it is run
    text output                what the program before it prints
    console measured DATE      a session of that day, too long or too special to be run each time
    text measured DATE         figures of that day
    text picture               a drawing
    toml                       a file, or a part of one; it is parsed, and a whole host file is checked
    sh                         commands for the reader's own machine, such as those that install

In a session a line that begins with `$ ` is a command, one with `> ` goes on with it. What follows is what it prints, on
standard output and error; `...` stands for any text, and a line of its own for any lines. A command that ends with `&` goes
on in the background: what follows is what it says until the next command is typed. A command that is meant to fail
says so: `# exit code 1`.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parent.parent.parent
DOCS: Final = ROOT / "xbd" / "docs"
README: Final = ROOT / "README.md"
PAGES: Final = [README, *sorted(DOCS.rglob("*.md"))]

_FENCE: Final = re.compile(r"^```(.*)$")
_EXIT_CODE: Final = re.compile(r"#.*\bexit code (\d+)\s*$")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block: where it is, its *kind* (all words after the fence) and its lines."""

    path: Path
    line: int
    kind: str
    lines: tuple[str, ...]

    @property
    def where(self) -> str:
        """Name it for a message."""
        return f"{self.path.relative_to(ROOT)}:{self.line}"

    @property
    def text(self) -> str:
        """Return its lines as one text."""
        return "\n".join(self.lines) + "\n"


@dataclass(slots=True)
class Command:
    """A command of a session and what it is to print; *in_background*: it goes on."""

    where: str
    typed: str
    expected: list[str] = field(default_factory=list)

    @property
    def in_background(self) -> bool:
        """Whether the next command is typed while this one runs."""
        return self.typed.rstrip().endswith("&")

    @property
    def exit_code(self) -> int:
        """Return the exit code that it is to have."""
        told = _EXIT_CODE.search(self.typed.splitlines()[0])
        return int(told[1]) if told else 0


def names(paths: list[Path]) -> list[str]:
    """Name test cases by page."""
    return [path.relative_to(ROOT).as_posix() for path in paths]


def blocks_of(path: Path) -> list[Block]:
    """List a page's fenced blocks. A block without an end is a mistake."""
    found, opened = [], None
    inside: list[str] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        fence = _FENCE.match(line)
        if opened is None and fence:
            opened, inside = (number, fence[1].strip()), []
        elif opened is not None and fence:
            assert not fence[1], f"{path}:{number}: a block begins in a block"
            found.append(Block(path, opened[0], opened[1], tuple(inside)))
            opened = None
        elif opened is not None:
            inside.append(line)
    assert opened is None, f"{path}: the block that begins in line {opened} has no end"
    return found


def prose_of(path: Path) -> str:
    """Return a page without its blocks."""
    lines, inside = [], False
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("```"):
            inside = not inside
        elif not inside:
            lines.append(line)
    return "\n".join(lines) + "\n"


def commands_of(block: Block) -> list[Command]:
    """Split a session into its commands."""
    commands: list[Command] = []
    for number, line in enumerate(block.lines, start=block.line + 1):
        if line.startswith("$ "):
            commands.append(Command(f"{block.path.relative_to(ROOT)}:{number}", line[2:]))
            continue
        assert commands, f"{block.where}: a session begins with a command"
        if (line == ">" or line.startswith("> ")) and not commands[-1].expected:
            commands[-1].typed += "\n" + line[2:]
        else:
            commands[-1].expected.append(line.rstrip())
    return commands


def pattern_of(expected: list[str]) -> re.Pattern[str]:
    """Compile what a command is to print: `...` is any text, as a line any lines."""
    parts = [
        r"(?:[^\n]*\n)*" if line == "..." else ".*".join(map(re.escape, line.split("..."))) + r"[ ]*\n"
        for line in expected
    ]
    return re.compile("".join(parts))


def rows_of(path: Path, heading: str) -> list[list[str]]:
    """Read the rows of the first table below a heading."""
    below = path.read_text(encoding="utf-8").partition(f"\n## {heading}\n")[2]
    table = re.search(r"(?:^\|.*\n)+", below, flags=re.MULTILINE)
    assert table is not None, f"{path}: there is no table below {heading!r}"
    return [re.split(r"\s*\|\s*", line)[1:-1] for line in table[0].splitlines()[2:]]
