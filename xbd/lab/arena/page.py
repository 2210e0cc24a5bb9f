"""The page of an arena: standings, Pareto plots, known failures, each guest's curves, and the command for each cell; pure."""

from collections.abc import Iterator, Sequence
from html import escape
from shlex import quote
from typing import Final

from xbd.guest.state import REFAULT_S
from xbd.lab.arena.cell import PATIENCE_S, ArenaCell, ArenaOutcome
from xbd.lab.arena.equal import equal_memory
from xbd.lab.arena.guests import KINDS
from xbd.lab.arena.plan import Arena
from xbd.lab.arena.standings import failures, standings, tables
from xbd.lab.experiments.page import Provenance, figures_of, page_of, table_of
from xbd.lab.experiments.tables import TextTable

# Titles and SVG texts: the Pareto plots, and the curves; None: matplotlib is not installed.
Drawn = tuple[Sequence[tuple[str, str]], Sequence[tuple[str, str]]] | None
_METHOD: Final = (
    f"Every run is a host with its guests in one process, on virtual time: the real hypervisor and driver code, a model of a"
    f" guest's kernel and programs, and the policy inside the safety layer that autoballoon has. Hypercalls take no virtual time: waits"
    f" are for the policy, for what drivers wait, and for files' pages that were dropped, at a stated {REFAULT_S * 1e6:.0f} us each; so"
    f" figures of waits for files scale with that price. Programs that do not get memory ask again for {PATIENCE_S:.0f} s, then they give"
    f" up, and their pages are denied. A run depends on its settings and its seed alone."
)


def command_of(cell: ArenaCell, repeat: str) -> str:
    """Return the command that runs one cell again."""
    return (
        f"{repeat} --policy {quote(cell.entry.name)} --guests {quote(cell.guests.name)}"
        f" --overcommit {cell.overcommit:g} --seed {cell.seed}"
    )


def report(asked: Sequence[ArenaOutcome], outcomes: Sequence[ArenaOutcome]) -> list[TextTable]:
    """List all tables, for the terminal and the page: of the runs that were *asked* for, and of all *outcomes*."""
    found = standings(asked)
    all_tables = [*tables(found), equal_memory(found, standings(outcomes)), failures(asked)]
    return [table for table in all_tables if table.rows]


def render_page(
    arena: Arena, asked: Sequence[ArenaOutcome], outcomes: Sequence[ArenaOutcome], provenance: Provenance, drawn: Drawn
) -> str:
    """Format the page; the runs as for `report`."""
    parts = [
        f"<h1>{escape(arena.name)}</h1>",
        f"<p>{escape(arena.about)}</p>" if arena.about else "",
        "<h2>Memory held and waits</h2>",
        *figures_of(None if drawn is None else drawn[0]),
        *(table_of(table) for table in report(asked, outcomes)),
        "<h2>How it was measured</h2>",
        f"<p>{escape(_METHOD)}</p>",
        f"<p>All of it again: <code>{escape(provenance.command)}</code> (model {escape(provenance.model)}).</p>",
        *_kinds(outcomes),
        "<h2>Each guest under each policy</h2>" if drawn is not None else "",
        *(figures_of(drawn[1]) if drawn is not None else ()),
        "<h2>Each run</h2>",
        table_of(_runs(outcomes, provenance)),
    ]
    return page_of(arena.name, parts)


def _kinds(outcomes: Sequence[ArenaOutcome]) -> Iterator[str]:
    """Say what the made-up guests do."""
    used = {member.kind for outcome in outcomes for member in outcome.cell.guests.members}
    yield "<h3>Guests</h3><ul>"
    yield from (f"<li><b>{kind}</b>: {escape(rule.__doc__ or '')}</li>" for kind, rule in KINDS.items() if kind in used)
    yield "</ul>"


def _runs(outcomes: Sequence[ArenaOutcome], provenance: Provenance) -> TextTable:
    """List each run with its command."""
    rows = [
        (
            outcome.cell.label(),
            f"{outcome.summary['held_gib_h']:,.2f}",
            f"{outcome.summary['wait_p99_s']:.2f}",
            f"{outcome.summary['denied_pages']:,.0f}",
            command_of(outcome.cell, provenance.command),
        )
        for outcome in outcomes
    ]
    return TextTable("Runs", "", ("run", "held GiB h", "p99 s", "denied", "command"), tuple(rows))
