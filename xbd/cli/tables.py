"""Tables, and that of `xbd list`: values to lines; pure."""

from collections.abc import Iterable, Sequence
from typing import Final

from xbd.domain import DomainInfo
from xbd.text import printable
from xbd.units import MIB_PAGES

# xl list: "%-40s %5s %5s", then what xbd has to say.
_LIST_WIDTHS: Final = (-40, 5, 5, 6, 6, -8, 10)
_LIST_HEADER: Final = ("Name", "ID", "Mem", "Target", "Limit", "State", "Superpages")


def table(header: Sequence[str], rows: Iterable[Sequence[str]], widths: Sequence[int]) -> list[str]:
    """Lay out a table; *widths* are minimal widths of columns, negative for left-aligned ones."""
    lines = [tuple(header), *map(tuple, rows)]
    columns = zip(*lines, strict=True)
    fitting = [max(abs(least), *map(len, column)) for least, column in zip(widths, columns, strict=True)]
    return [
        " ".join(
            cell.ljust(width) if least < 0 else cell.rjust(width)
            for cell, width, least in zip(line, fitting, widths, strict=True)
        ).rstrip()
        for line in lines
    ]


def domains_table(domains: Sequence[DomainInfo]) -> list[str]:
    """Draw `xbd list`: xl's columns Name, ID and Mem (MiB) where xl has them, then xbd's own."""
    rows = [
        (
            printable(domain.name),
            str(domain.domid),
            str(domain.tot_pages // MIB_PAGES),
            str(domain.target_pages // MIB_PAGES),
            str(domain.max_pages // MIB_PAGES),
            domain.state,
            percent(domain.superpage_coverage),
        )
        for domain in domains
    ]
    return table(_LIST_HEADER, rows, _LIST_WIDTHS)


def percent(share: float) -> str:
    """Write a share of 1 as a percentage."""
    return f"{100 * share:.1f}%"
