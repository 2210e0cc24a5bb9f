"""Tables, and that of `xbd list`: values to lines; pure."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from xbd.domain import HARD, DomainInfo
from xbd.text import printable
from xbd.units import MIB_PAGES

# xl list: "%-40s %5s %5s", then what xbd has to say.
_LIST_WIDTHS: Final = (-40, 5, 5, 6, 6, -8, 10)
_NODES_HEADER: Final = ("node:", "memsize", "memfree", "claimed", "offline", "whole 2 MiB", "distances")
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
    """Draw `xbd list`: xl's columns Name, ID and Mem (MiB) where xl has them, then xbd's own; nodes where there are several."""
    has_nodes = any(len(domain.node_pages) > 1 for domain in domains)
    rows = [
        (
            printable(domain.name),
            str(domain.domid),
            str(domain.tot_pages // MIB_PAGES),
            str(domain.target_pages // MIB_PAGES),
            str(domain.max_pages // MIB_PAGES),
            domain.state,
            percent(domain.superpage_coverage),
            *((affinity(domain), percent(domain.locality)) if has_nodes else ()),
        )
        for domain in domains
    ]
    more, widths = (("Nodes", "Local"), (-5, 6)) if has_nodes else ((), ())
    return table((*_LIST_HEADER, *more), rows, (*_LIST_WIDTHS, *widths))


def affinity(domain: DomainInfo) -> str:
    """Write the nodes that a domain's memory should lie on, as xl does; `!`: and nowhere else."""
    return (",".join(map(str, domain.nodes)) or "any") + ("!" if domain.affinity == HARD else "")


def nodes_table(nodes: Sequence[Mapping[str, Any]]) -> list[str]:
    """Draw the nodes of a host as `xl info -n` does, sizes in MiB."""
    rows = [
        (
            f"{number}:",
            *(
                str(int(node[key]) // MIB_PAGES)
                for key in ("frames", "free_frames", "claimed_frames", "offline_frames")
            ),
            str(node["free_superframes"]),
            ",".join(map(str, node["distances"])),
        )
        for number, node in enumerate(nodes)
    ]
    return ["numa_info              :", *table(_NODES_HEADER, rows, (5, 10, 10, 10, 10, 11, -9))]


def percent(share: float) -> str:
    """Write a share of 1 as a percentage."""
    return f"{100 * share:.1f}%"
