"""A host over time as a tidy table: at each moment a row for the host and one for each of its domains; pure.

The same columns for a live host, a replay, an experiment and a simulation, so that what reads one reads all.
"""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from xbd.domain import DomainInfo

Cell = str | int | float | None
HOST: Final = "host"
DOMAIN: Final = "domain"
# The columns, in order, and what each means; what does not apply is empty.
COLUMNS: Final[Mapping[str, str]] = {
    "run": "which run: of a replay its strategy and variant, of an experiment or arena the cell, of a simulation the seed, else the host's name",
    "t_s": "when: seconds of virtual time since the run began; of a live host seconds since the epoch, of a recording a second for each line",
    "kind": "`host` or `domain`: what the row is about",
    "domid": "the domain's number",
    "name": "its name",
    "state": "where the domain stands, as `xbd list` says it; empty where there is no daemon",
    "held_pages": "pages that the domain holds; of the host, frames that are not free",
    "target_pages": "pages that the domain should hold; of the host, of all domains together",
    "limit_pages": "pages that it may hold; of the host, all frames",
    "demand_pages": "pages that its programs ask for, page cache included; empty without a trace, or an arena",
    "used_pages": "pages that its programs and kernel hold, page cache not included, by the guest's own word",
    "cache_pages": "pages of its page cache, by the guest's own word",
    "denied_pages": "pages that its programs asked for and did not get, since boot, by the guest's own word",
    "superpages": "2 MiB leaves of its p2m; of the host, of all domains together",
    "superpage_coverage": "share of the held pages that lies in superpages; empty where none is held",
    "free_pages": "free frames of the host; of a domain free pages inside of it, by the guest's own word",
    "free_superframes": "whole superframes among them",
    "shattered_superframes": "superframes of the host of which some frames are free, or several owners'",
    "claimed_pages": "free frames that are promised to the domain; of the host, to all",
    "queue_2m_pages": "pages in the balloon's queue of whole superframes, by the guest's own word",
    "queue_4k_pages": "pages in the balloon's queue of single pages, by the guest's own word",
    "moved_pages": "pages in use that compaction moved, since boot, by the guest's own word",
    "migrated_pages": "ballooned pages that were migrated, since boot, by the guest's own word",
    "hypercalls": "memory operations since the domain was made",
    "hypercalls_not_done": "those of them that were not done at once and as a whole",
    "extents": "extents that they did",
}
# Of what a guest reports, and may report wrongly: the column of each figure.
_REPORTED: Final = {
    "cache_pages": "cache_pages",
    "denied_pages": "pages_denied",
    "free_pages": "guest_free_pages",
    "free_superframes": "guest_free_superframes",
    "queue_2m_pages": "balloon_2m_pages",
    "queue_4k_pages": "balloon_4k_pages",
    "moved_pages": "pages_moved",
    "migrated_pages": "pages_migrated",
}
_DIGITS: Final = 6
_DONE: Final = ":done"


def header() -> str:
    """Return the first line."""
    return _lines([list(COLUMNS)])


def lines_of(
    run: str,
    t_s: float,
    host: Mapping[str, Any],
    domains: Sequence[DomainInfo],
    demand_pages: Mapping[int, int] | None = None,
) -> str:
    """Format a moment as lines of CSV: the host's first, then the domains' in the given order.

    *host*: as `host` tells it; *demand_pages*: what traces ask for, by domid.
    """
    demands = demand_pages or {}
    told = [host_cells(host, domains), *(_domain_cells(one, demands.get(one.domid)) for one in domains)]
    at: dict[str, Cell] = {"run": run, "t_s": round(t_s, _DIGITS)}
    return _lines([[at.get(name, cells.get(name)) for name in COLUMNS] for cells in told])


def _lines(rows: Sequence[Sequence[Cell]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def host_cells(host: Mapping[str, Any], domains: Sequence[DomainInfo]) -> dict[str, Cell]:
    """Tell what the host's row says, by column."""
    superpages, held = sum(one.leaves for one in domains), sum(one.tot_pages for one in domains)
    in_superpages = sum(one.superpage_coverage * one.tot_pages for one in domains)
    return {
        "kind": HOST,
        "held_pages": host["frames"] - host["free_frames"],
        "target_pages": sum(one.target_pages for one in domains),
        "limit_pages": host["frames"],
        "superpages": superpages,
        "superpage_coverage": round(in_superpages / held, _DIGITS) if held else None,
        "free_pages": host["free_frames"],
        "free_superframes": host["free_superframes"],
        "shattered_superframes": host["shattered_superframes"],
        "claimed_pages": host["claimed_frames"],
        **_calls(domains),
    }


def _domain_cells(domain: DomainInfo, demand_pages: int | None) -> dict[str, Cell]:
    return {
        "kind": DOMAIN,
        "domid": domain.domid,
        "name": domain.name,
        "state": domain.state,
        "held_pages": domain.tot_pages,
        "target_pages": domain.target_pages,
        "limit_pages": domain.max_pages,
        "demand_pages": demand_pages,
        "used_pages": domain.used_pages,
        "superpages": domain.leaves,
        "superpage_coverage": round(domain.superpage_coverage, _DIGITS) if domain.tot_pages else None,
        "claimed_pages": domain.claimed_pages,
        **dict(_reported(domain)),
        **_calls([domain]),
    }


def _reported(domain: DomainInfo) -> Iterator[tuple[str, Cell]]:
    """Take a guest's word for what it is: a figure that is none is left out."""
    for column, name in _REPORTED.items():
        figure = domain.reported.get(name)
        if type(figure) is int:
            yield column, figure


def _calls(domains: Sequence[DomainInfo]) -> dict[str, Cell]:
    counts = [(kind, count) for one in domains for kind, count in one.hypercalls.items()]
    return {
        "hypercalls": sum(count for _, count in counts),
        "hypercalls_not_done": sum(count for kind, count in counts if not kind.endswith(_DONE)),
        "extents": sum(sum(one.extents.values()) for one in domains),
    }
