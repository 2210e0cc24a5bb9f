"""What another tool recorded, as samples, and the trace that they make. What is not known is left out, never made up."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from xbd.errors import TraceError
from xbd.guest.workload.trace import ORDERS
from xbd.lab.trace.columns import COUNTERS, NUMBERS, PRESSURE, REQUIRED, SWAPPED, TIME, UTC
from xbd.lab.trace.table import row_text
from xbd.units import counted

# A number that is seconds since the epoch, not since a start: from 2001 on.
EPOCH_FROM_S: Final = 1e9
# Some thousand years: a number beyond is no time.
_LATEST_S: Final = 1e11
# A column that fewer samples have is left out; else the samples are that lack it.
_SHARE_LEAST: Final = 0.5
# So many lines are named of those that something is said of.
NAMED_MOST: Final = 5
_MEASURED_INSIDE: Final = "what a guest was given is not what it needed: record inside the guest, with `xbd trace record`, sysstat or node_exporter"
# What tells files apart in which a hypervisor says what it gave: words that are all there, and whose file it is.
_GIVEN: Final = (
    (("MEM(k)", "MAXMEM(k)"), "xentop's output: MEM(k) is what Xen gave each guest"),
    (("Name", "VCPUs", "State", "Time(s)"), "the output of `xl list`: Mem is what Xen gave each guest"),
    (("<xport>", "memory"), "an export of RRDs: `memory` is what the host gave each guest"),
    (("<rrd>",), "a dump of an RRD: hosts keep in it what they gave each guest"),
    (('"legend"', "memory"), "an export of RRDs: `memory` is what the host gave each guest"),
    (("AVERAGE:vm:", ":memory"), "an export of RRDs: `memory` is what the host gave each guest"),
    (("memory_target", "memory"), "an export of RRDs: `memory` and `memory_target` are what the host gave each guest"),
    (("xen_domain_",), "metrics of a Xen host: they are what Xen gave each guest"),
    (("libvirt_domain_",), "metrics of libvirt: they are what the host gave each guest"),
)
# What is raised by reading a JSON that is not made as expected.
MALFORMED: Final = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError)
_LOOKED_AT_CHARS: Final = 64 << 10


@dataclass(frozen=True, slots=True)
class Sample:
    """What a source says of one moment; *at*: where in the source, *seconds*: since the epoch, or some start."""

    at: str
    seconds: float
    numbers: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Imported:
    """A trace's *text*, and *remarks*: what was left out of the source, and what is strange in it."""

    text: str
    remarks: tuple[str, ...]


def refuse_given(text: str, name: str) -> None:
    """Refuse a source that knows what guests were given, not what they needed. Raises TraceError, in words."""
    head = text[:_LOOKED_AT_CHARS]
    for words, whose in _GIVEN:
        if all(word in head for word in words):
            raise TraceError(f"{name}: is {whose}; {_MEASURED_INSIDE}")


def where(places: Sequence[str]) -> str:
    """Name some places in a source."""
    more = len(places) - NAMED_MOST
    return ", ".join(places[:NAMED_MOST]) + (f" and {more} more" if more > 0 else "")


def not_said(samples: Sequence[Sample], what_does: str) -> list[str]:
    """Remark on it if no sample says anything of swap or of pressure, with *what_does*."""
    lacking = [column for column in (SWAPPED, *PRESSURE) if not any(column in sample.numbers for sample in samples)]
    return [f"it does not say {', '.join(lacking)}, which are left out: {what_does}"] if lacking else []


def make_trace(samples: Sequence[Sample], name: str, remarks: Iterable[str] = ()) -> Imported:
    """Make a trace of samples; *name* is what errors call the source.

    Raises:
        TraceError: naming the place: time runs backwards, a number is none that memory can have, or what a trace needs is not there.
    """
    said = list(remarks)
    columns = _columns(samples, name, said)
    whole = [sample for sample in samples if all(column in sample.numbers for column in columns)]
    if left_out := [sample for sample in samples if not all(column in sample.numbers for column in columns)]:
        lacking = sorted({column for sample in left_out for column in columns if column not in sample.numbers})
        places = where([sample.at for sample in left_out])
        said.append(f"{counted(len(left_out), 'sample')} without {', '.join(lacking)} left out: {places}")
    if not whole:
        raise TraceError(f"{name}: no sample has all of {', '.join(REQUIRED)}")
    first = whole[0]
    tells_utc = first.seconds >= EPOCH_FROM_S
    lines = [",".join((TIME, *columns, *((UTC,) if tells_utc else ())))]
    before = first
    for sample in whole:
        if not abs(sample.seconds) < _LATEST_S:
            raise TraceError(f"{name}: {sample.at}: its time, {sample.seconds:g}, is none")
        if sample.seconds < before.seconds:
            raise TraceError(f"{name}: {sample.at}: time runs backwards, by {before.seconds - sample.seconds:g} s")
        resets = [
            column for column in columns if column in COUNTERS and sample.numbers[column] < before.numbers[column]
        ]
        if resets:
            said.append(f"{sample.at}: {', '.join(resets)} begin anew: the machine was booted, or it is another one")
        numbers = [_whole_number(sample, column, name) for column in columns]
        lines.append(row_text(sample.seconds - first.seconds, numbers, sample.seconds if tells_utc else None))
        before = sample
    return Imported("\n".join(lines) + "\n", tuple(said))


def _columns(samples: Sequence[Sample], name: str, said: list[str]) -> list[str]:
    """Choose the columns: those that a trace needs, and what else is known of most samples."""
    known = {column: sum(column in sample.numbers for sample in samples) for column in NUMBERS}
    if lacking := [column for column in REQUIRED if not known[column]]:
        raise TraceError(
            f"{name}: it does not say {', '.join(lacking)}, which a trace cannot be without; {_MEASURED_INSIDE}"
        )
    enough = {column for column, count in known.items() if count and count >= _SHARE_LEAST * len(samples)} | {*REQUIRED}
    if not enough.issuperset(ORDERS):
        enough -= {*ORDERS}
    if seldom := [column for column, count in known.items() if count and column not in enough]:
        said.append(f"left out, as few samples have it: {', '.join(seldom)}")
    return [column for column in NUMBERS if column in enough]


def _whole_number(sample: Sample, column: str, name: str) -> int:
    number = sample.numbers[column]
    if not (math.isfinite(number) and number >= 0):
        raise TraceError(f"{name}: {sample.at}: {column} is {number:g}, which no memory has")
    return round(number)
