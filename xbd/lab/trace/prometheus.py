"""Prometheus: answers of `query_range` with metrics of node_exporter, as samples."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from xbd.errors import TraceError
from xbd.guest.workload.trace import ORDERS
from xbd.lab.trace.columns import COUNTS, FREE, MEMORY, SUPERFRAMES, SWAPPED, TOTAL
from xbd.lab.trace.samples import MALFORMED, Imported, Sample, make_trace, not_said, refuse_given, where
from xbd.units import PAGE_BYTES, SUPER_ORDER

_HOW: Final = (
    'query_range with query={__name__=~"node_memory_.*|node_vmstat_.*|node_pressure_memory_.*|node_buddyinfo_.*"}'
)
# Swap is told as two amounts, of which the trace has the difference.
_SWAP: Final = ("SwapTotal", "SwapFree")
_BLOCKS: Final = "node_buddyinfo_blocks"
# Metrics, with the column of each and what its numbers are multiplied by.
_METRICS: Final[Mapping[str, tuple[str, float]]] = {
    **{
        f"node_memory_{line}_bytes": (column, 1 / PAGE_BYTES)
        for column, line in {TOTAL: "MemTotal", FREE: "MemFree", **MEMORY, **{name: name for name in _SWAP}}.items()
    },
    **{f"node_vmstat_{line}": (column, 1.0) for column, lines in COUNTS.items() for line in lines},
    "node_pressure_memory_waiting_seconds_total": ("psi_some_us", 1e6),
    "node_pressure_memory_stalled_seconds_total": ("psi_full_us", 1e6),
}


def import_prometheus(answers: Mapping[str, str], name: str) -> Imported:
    """Make a trace of the JSON texts of answers, by what errors call each.

    Metrics that are not known are left out. Raises TraceError.
    """
    numbers: defaultdict[float, dict[str, float]] = defaultdict(dict)
    machines: set[str] = set()
    bad: list[str] = []
    for file, text in answers.items():
        try:
            for series in _series(text, file):
                metric = series["metric"]
                if (found := _column(metric)) is None:
                    continue
                machines.add(str(metric.get("instance", "")))
                _take(series["values"], *found, numbers, bad)
        except MALFORMED as error:
            raise TraceError(f"{file}: is no answer of Prometheus ({error!r:.80}); {_HOW}") from error
    if not numbers:
        for file, text in answers.items():
            refuse_given(text, file)
    if len(machines) > 1:
        raise TraceError(f'{name}: is of {where(sorted(machines))}; a trace is of one: ask for it, with instance="..."')
    for found_at in numbers.values():
        _derive(found_at)
    samples = [Sample(_place(now), now, numbers[now]) for now in sorted(numbers)]
    remarks = [f"values that are no numbers left out: {where(bad)}"] if bad else []
    remarks += not_said(samples, "node_exporter tells pressure where the kernel does (collector `pressure`)")
    return make_trace(samples, name, remarks)


def _derive(found_at: dict[str, float]) -> None:
    """Add what follows from what is known of a moment."""
    if all(name in found_at for name in _SWAP):
        found_at[SWAPPED] = found_at[_SWAP[0]] - found_at[_SWAP[1]]
    if all(order in found_at for order in ORDERS):
        found_at[SUPERFRAMES] = sum(
            found_at[order] * (1 << at - SUPER_ORDER) for at, order in enumerate(ORDERS) if at >= SUPER_ORDER
        )


def _place(now: float) -> str:
    return f"{np.datetime64(round(now * 1000), 'ms')}Z"


def _series(text: str, file: str) -> Sequence[Any]:
    """Read the series of one answer."""
    answer = json.loads(text)
    if answer["status"] != "success":
        raise TraceError(f"{file}: Prometheus refused it: {answer.get('error', answer['status'])}")
    kind = answer["data"]["resultType"]
    if kind != "matrix":
        raise TraceError(f"{file}: is a {kind}, an answer of one moment; {_HOW} gives one of a stretch of time")
    series: Sequence[Any] = answer["data"]["result"]
    return series


def _column(metric: Mapping[str, str]) -> tuple[str, float] | None:
    """Name the column that a series is for, and what its numbers are multiplied by."""
    name = metric.get("__name__", "")
    if name == _BLOCKS and f"order{metric.get('size')}" in ORDERS:
        return f"order{metric['size']}", 1.0
    return _METRICS.get(name)


def _take(
    values: Sequence[Sequence[Any]], column: str, scale: float, numbers: dict[float, dict[str, float]], bad: list[str]
) -> None:
    """Add the values of a series to what is known of their times: the zones' free blocks are added up."""
    for now, written in values:
        try:
            number = float(written) * scale
        except ValueError:
            number = float("nan")
        if not np.isfinite(number):
            bad.append(f"{column} at {_place(now)}")
            continue
        known = numbers[float(now)]
        known[column] = known.get(column, 0.0) + number if column in ORDERS else number
