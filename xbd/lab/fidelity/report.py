"""The page of `xbd fidelity --report`: curves, tables, and what each mechanism of the model is worth. It needs no network; pure."""

from collections.abc import Iterator, Sequence
from html import escape

from xbd.lab.experiments.page import figures_of, page_of, table_of
from xbd.lab.experiments.tables import TextTable
from xbd.lab.fidelity.curve import Fidelity


def ablation_table(with_all: Fidelity, without: Sequence[tuple[str, str, Fidelity]]) -> TextTable:
    """Format the errors without each mechanism: its name, what happens without it, and the distance then."""
    rows = [("none", "the model as it is", with_all), *without]
    return TextTable(
        f"{with_all.trace}, the model without a mechanism",
        "error in whole blocks, of all memory; share: how much larger it is than that of the model as it is",
        ("without", "so that", "error", "bias", "share"),
        tuple(
            (name, missing, f"{one.error_share:.1%}", f"{one.bias / one.superframes:+.1%}",
             f"{one.error_share - with_all.error_share:+.1%}")
            for name, missing, one in rows
        ),
    )  # fmt: skip


def section(name: str, tables: Sequence[TextTable], drawn: Sequence[tuple[str, str]] | None) -> Iterator[str]:
    """Format what is said of one trace: plots, titles and SVG texts (None: there is no matplotlib), and tables."""
    yield f"<h2>{escape(name)}</h2>"
    yield from figures_of(drawn)
    yield from map(table_of, tables)


def render_page(summary: str, sections: Sequence[str]) -> str:
    """Format the page: the *summary* as text, then the sections."""
    title = "The guest model against real guests"
    return page_of(title, [f"<h1>{title}</h1>", f"<pre>{escape(summary)}</pre>", *sections])
