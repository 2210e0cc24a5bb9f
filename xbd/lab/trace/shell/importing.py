"""`xbd trace import`: a trace of what other tools recorded."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import click

from xbd.cli.common import Failure
from xbd.errors import BadArgument
from xbd.guest.workload import parse_trace
from xbd.lab.trace.mapping import Clock, import_csv, parse_mapping
from xbd.lab.trace.prometheus import import_prometheus
from xbd.lab.trace.sadf import import_sadf
from xbd.lab.trace.samples import Imported
from xbd.lab.trace.shell.files import read_source, write_whole

SADF, PROMETHEUS, CSV = FORMATS = ("sadf", "prometheus", "csv")


@click.command("import")
@click.argument("kind", metavar="FORMAT", type=click.Choice(FORMATS))
@click.argument("source", metavar="SOURCE", type=click.Path(path_type=Path))
@click.argument("path", metavar="FILE", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--column",
    "columns",
    metavar="NAME=COLUMN[*SCALE]",
    multiple=True,
    help="Of csv: which column is what, and its unit: kB, MiB, GiB, B, % (of total_pages), a number or a fraction."
    " t_s, total_pages, free_pages and page_cache_pages are needed. Repeated.",
)
@click.option("--delimiter", default=",", show_default=True, help="Of csv: what stands between columns; tab: a tab.")
@click.option("--zone", help="Of csv: the zone of times that tell none, such as Europe/Berlin or UTC.")
def command(kind: str, source: Path, path: Path, *, columns: tuple[str, ...], delimiter: str, zone: str | None) -> None:
    """Make a trace of what another tool recorded inside a guest: its demand, not what it was given.

    FORMAT sadf: the output of `sadf -j FILE -- -r ALL -B -S -q MEM`. prometheus: an answer of query_range with metrics of
    node_exporter, or a directory of such answers (*.json). csv: any table, with --column. What the source does not say is
    left out; samples that lack something are left out, and told; what cannot be is refused by its line. What a hypervisor
    says that it gave a guest (xentop, RRDs) is refused.
    """
    if kind != CSV and (columns or zone):
        raise click.UsageError("--column and --zone are for csv")
    imported = _import(kind, source, columns, delimiter, zone)
    for remark in imported.remarks:
        click.echo(f"{source}: {remark}", err=True)
    trace = parse_trace(imported.text, f"{path}, as it would be")
    write_whole(path, imported.text)
    click.echo(f"{path}: {trace.samples} samples of a machine of {trace.total_pages} pages")


def _import(kind: str, source: Path, columns: tuple[str, ...], delimiter: str, zone: str | None) -> Imported:
    if kind == PROMETHEUS:
        files = sorted(source.glob("*.json")) if source.is_dir() else [source]
        if not files:
            raise Failure(f"{source}: has no *.json in it, answers of query_range were expected")
        return import_prometheus({str(file): read_source(file) for file in files}, str(source))
    if kind == SADF:
        return import_sadf(read_source(source), str(source))
    delimiter = "\t" if delimiter == "tab" else delimiter
    if len(delimiter) != 1 or (not delimiter.isprintable() and delimiter != "\t") or delimiter == '"':
        raise BadArgument(f"--delimiter {delimiter!r}", "one character, or tab")
    mapping = parse_mapping(columns)
    clock = Clock() if zone is None else Clock(zone, _offset_s(zone))
    return import_csv(read_source(source), str(source), mapping, delimiter, clock)


def _offset_s(name: str) -> Callable[[float], float]:
    """Make what tells how far a zone is ahead of UTC at a time. Raises Failure: there is none of this name here."""
    try:
        zone = UTC if name == "UTC" else ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise Failure(f"--zone {name}: no zone is called so on this machine; such as Europe/Berlin or UTC") from error

    def offset_s(utc_s: float) -> float:
        offset = datetime.fromtimestamp(utc_s, zone).utcoffset()
        return offset.total_seconds() if offset is not None else 0.0

    return offset_s
