"""What `xbd top` shows: two samples of a host become lines of text; pure.

Columns are dropped from the right of the table, least important first, until it fits the width; rows
beyond the height are counted in the last line. Rates are the difference between the two samples.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from xbd.cli.tables import percent
from xbd.control.explain import why_not
from xbd.domain import DomainInfo
from xbd.text import printable
from xbd.units import MIB_PAGES

Cell = str | float


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """A host at one moment: *host* and *domains* as the daemon described them, *at_s* on the client's clock."""

    at_s: float
    host: Mapping[str, Any]
    domains: Sequence[DomainInfo]


@dataclass(frozen=True, slots=True)
class Row:
    """A domain, how many operations it makes a second, and *why* it is not at its target."""

    domain: DomainInfo
    calls_s: float
    why: str = ""

    def queue_pages(self, name: str) -> int:
        """Read from the guest's untrusted report how many pages one of its queues holds."""
        pages = self.domain.reported.get(name)
        return pages if isinstance(pages, int) and not isinstance(pages, bool) else 0


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its *title*, its *width* (negative: begins at the left), what it sorts by, how that is drawn."""

    title: str
    width: int
    key: Callable[[Row], Cell]
    draw: Callable[[Row], str]


def _mib(pages: Callable[[Row], int]) -> Callable[[Row], str]:
    return lambda row: str(pages(row) // MIB_PAGES)


def _pages_column(title: str, width: int, pages: Callable[[Row], int]) -> Column:
    return Column(title, width, pages, _mib(pages))


_LOCAL: Final = "local"
# By name, as `--sort` takes them, in the order in which they are shown.
COLUMNS: Final[Mapping[str, Column]] = {
    "name": Column("NAME", -16, lambda row: row.domain.name, lambda row: printable(row.domain.name)),
    "id": Column("ID", 5, lambda row: row.domain.domid, lambda row: str(row.domain.domid)),
    "state": Column("STATE", -8, lambda row: row.domain.state, lambda row: row.domain.state),
    "mem": _pages_column("MEM(M)", 7, lambda row: row.domain.tot_pages),
    "target": _pages_column("TARGET", 7, lambda row: row.domain.target_pages),
    "superpages": Column(
        "SUPER%", 7, lambda row: row.domain.superpage_coverage, lambda row: percent(row.domain.superpage_coverage)
    ),
    _LOCAL: Column("LOCAL%", 7, lambda row: row.domain.locality, lambda row: percent(row.domain.locality)),
    "calls": Column("CALLS/S", 9, lambda row: row.calls_s, lambda row: f"{row.calls_s:,.0f}"),
    "2m": _pages_column("2M-QUEUE", 9, lambda row: row.queue_pages("balloon_2m_pages")),
    "4k": Column(
        "4K-PAGES",
        9,
        lambda row: row.queue_pages("balloon_4k_pages"),
        lambda row: str(row.queue_pages("balloon_4k_pages")),
    ),
    "foreign": Column("FOREIGN", 8, lambda row: row.queue_pages("slots"), lambda row: str(row.queue_pages("slots"))),
    "limit": _pages_column("LIMIT", 7, lambda row: row.domain.max_pages),
    "min": _pages_column("MIN(M)", 7, lambda row: row.domain.min_pages),
    "mode": Column(
        "MODE",
        -12,
        lambda row: row.domain.mode,
        lambda row: printable(row.domain.mode),
    ),
    # As `xbd explain` says it, as far as the line goes.
    "why": Column("WHY NOT AT TARGET", -60, lambda row: row.why, lambda row: printable(row.why)),
}
# Columns of numbers are sorted from the largest down, those of words from A up.
_WORDS: Final = frozenset({"name", "id", "state", "mode", "why"})
_KEYS_HELP: Final = "q quit  s sort  r reverse  p pause  arrows scroll"


def rows_of(previous: Sample | None, now: Sample) -> list[Row]:
    """Pair each domain with its rate of operations since the previous sample; 0 for one that is new."""
    elapsed_s = now.at_s - previous.at_s if previous else 0.0
    before = {domain.life: domain for domain in previous.domains} if previous else {}
    return [
        Row(domain, _rate(before.get(domain.life), domain, elapsed_s), why_not(domain, now.host))
        for domain in now.domains
    ]


def _rate(before: DomainInfo | None, now: DomainInfo, elapsed_s: float) -> float:
    if before is None or elapsed_s <= 0:
        return 0.0
    # A daemon of an earlier version does not tell a domain from the next one of its number and name: counts fall then.
    return max(_calls(now) - _calls(before), 0) / elapsed_s


def _calls(domain: DomainInfo) -> int:
    return sum(domain.hypercalls.values())


def sort_rows(rows: Sequence[Row], by: str, *, reverse: bool) -> list[Row]:
    """Sort by a column: words from A up, numbers from the largest down; *reverse* turns that round."""
    descending = (by not in _WORDS) != reverse
    ordered = sorted(rows, key=lambda row: row.domain.domid)
    return sorted(ordered, key=COLUMNS[by].key, reverse=descending)


@dataclass(frozen=True, slots=True)
class ViewOptions:
    """How the table is shown: sorted *by* a column, from row *offset* on, and whether it is *paused*."""

    by: str = "mem"
    reverse: bool = False
    offset: int = 0
    paused: bool = False


def screen(previous: Sample | None, now: Sample, options: ViewOptions, *, width: int, height: int) -> list[str]:
    """Draw everything in at most *height* lines of *width* characters: two of the host, the table, a line of keys."""
    rows = sort_rows(rows_of(previous, now), options.by, reverse=options.reverse)
    room = max(height - 5, 1)
    offset = min(options.offset, max(len(rows) - room, 0))
    visible = rows[offset : offset + room]
    below = len(rows) - offset - len(visible)
    order = f"by {options.by}{', reversed' if options.reverse else ''}"
    state = "  PAUSED" if options.paused else ""
    footer = (
        f"{_KEYS_HELP}  ({order}{f', {offset} above' if offset else ''}{f', {below} below' if below else ''}){state}"
    )
    lines = [*host_lines(now), "", *table_lines(visible, width), footer]
    return [line[:width] for line in lines[:height]]


def host_lines(now: Sample) -> list[str]:
    """Draw the host in two lines."""
    host, domains = now.host, now.domains
    total, free = int(host["frames"]), int(host["free_frames"])
    states: dict[str, int] = {}
    for domain in domains:
        states[domain.state] = states.get(domain.state, 0) + 1
    counted = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
    moving = sum(domain.tot_pages != domain.target_pages for domain in domains)
    memory = f"mem {total // MIB_PAGES:,} MiB, {free // MIB_PAGES:,} free"
    return [
        f"xbd {printable(str(host.get('name', '')))}: {len(domains)} domains ({counted or 'none'}), {moving} not at target",
        f"{memory}, {percent(float(host['free_in_whole_superframes']))} of that in whole superframes{_free_by_node(host)}",
    ]


def _free_by_node(host: Mapping[str, Any]) -> str:
    """Say what is free on each node, where there are several."""
    nodes = host.get("nodes") or ()
    free = ", ".join(f"{number}: {int(node['free_frames']) // MIB_PAGES:,}" for number, node in enumerate(nodes))
    return f"; by node {free}" if len(nodes) > 1 else ""


def table_lines(rows: Sequence[Row], width: int) -> list[str]:
    """Draw header and rows with the columns that fit."""
    columns = fitting(width, has_nodes=any(len(row.domain.node_pages) > 1 for row in rows))
    header = " ".join(_fit(column.title, column.width) for column in columns)
    return [header, *(" ".join(_fit(column.draw(row), column.width) for column in columns) for row in rows)]


def fitting(width: int, *, has_nodes: bool = False) -> list[Column]:
    """Choose columns from the left as long as they fit; the first is always there, that of locality where the host *has_nodes*."""
    chosen: list[Column] = []
    used = -1
    for name, column in COLUMNS.items():
        if name == _LOCAL and not has_nodes:
            continue
        used += abs(column.width) + 1
        if used > width and chosen:
            break
        chosen.append(column)
    return chosen


def _fit(text: str, width: int) -> str:
    return text[:-width].ljust(-width) if width < 0 else text[:width].rjust(width)


def row_map(row: Row) -> dict[str, object]:
    """Make a row's JSON object."""
    return {
        "domid": row.domain.domid,
        "name": row.domain.name,
        "state": row.domain.state,
        "tot_pages": row.domain.tot_pages,
        "target_pages": row.domain.target_pages,
        "superpage_coverage": row.domain.superpage_coverage,
        "locality": row.domain.locality,
        "calls_s": round(row.calls_s, 3),
        "balloon_2m_pages": row.queue_pages("balloon_2m_pages"),
        "balloon_4k_pages": row.queue_pages("balloon_4k_pages"),
        "slots": row.queue_pages("slots"),
        "report_age_s": row.domain.report_age_s,
    }
