"""The record of benchmarks: the figures of each release, with date and machine.

One line of JSON for each run: `{"release", "date", "machine", "figures"}`, figures as
`xbd bench --json` prints them. The project's own record is `record.jsonl` beside this module;
`xbd bench --record FILE` adds a line, `--history` compares the lines. Only ratios of one run
compare across machines.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from xbd.errors import BadArgument
from xbd.lab.bench.figures import Figure

OWN_RECORD: Final = Path(__file__).with_name("record.jsonl")


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a record: *figures* by name."""

    release: str
    date: str
    machine: str
    figures: dict[str, Figure]

    def as_line(self) -> str:
        """Format it as a line of JSON."""
        figures = {name: figure.as_map() for name, figure in self.figures.items()}
        return json.dumps({"release": self.release, "date": self.date, "machine": self.machine, "figures": figures})


def parse_record(text: str, name: str) -> list[Entry]:
    """Parse a record; *name* names it in errors. Raises BadArgument naming the line."""
    entries = []
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            fields = json.loads(line)
            figures = {name: Figure(**figure) for name, figure in fields["figures"].items()}
            entries.append(Entry(str(fields["release"]), str(fields["date"]), str(fields["machine"]), figures))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise BadArgument(f"{name}: line {number}: {error!r}", "a line that `xbd bench --record` wrote") from error
    return entries


def render_history(entries: Sequence[Entry]) -> str:
    """Format entries as a table with a column for each entry and a row for each figure."""
    if not entries:
        return "nothing is recorded"
    names = list(dict.fromkeys(name for entry in entries for name in entry.figures))
    heads = [f"[{number}]" for number in range(1, len(entries) + 1)]
    rows = [f"[{number}] {e.release} on {e.date}: {e.machine}" for number, e in enumerate(entries, start=1)]
    rows.append(f"{'figure':34}" + "".join(f"{head:>14}" for head in heads) + "  unit")
    for name in names:
        figures = [entry.figures.get(name) for entry in entries]
        unit = next(figure.unit for figure in figures if figure is not None)
        cells = ["-" if figure is None else f"{figure.value:,.2f}" for figure in figures]
        rows.append(f"{name:34}" + "".join(f"{cell:>14}" for cell in cells) + f"  {unit}")
    return "\n".join(rows)
