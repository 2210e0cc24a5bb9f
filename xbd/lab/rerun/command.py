"""`xbd rerun`: executes a recording of a host again on another machine, and compares the answers."""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import click

from xbd.abi import MAX_DOMAINS, DomainType
from xbd.cli.common import EXIT_FAILED, Failure
from xbd.cli.series_file import SeriesFile, series_file, series_option
from xbd.config.strategies import STRATEGIES
from xbd.domain import NAME, NODE, NODES, PAGES_OR_NONE, DomainInfo
from xbd.errors import BadArgument, BadSetting, HypercallError
from xbd.machine import HostSettings, Machine
from xbd.machine.domain import told_of
from xbd.machine.nodes import Nodes
from xbd.protocol.fields import check_params
from xbd.protocol.methods import CLAIMS
from xbd.protocol.recording import (
    HOST_OPERATIONS,
    BadRecording,
    Header,
    Line,
    answer_to_line,
    command_from_line,
    read_header,
    read_line,
)
from xbd.settings import read, read_given
from xbd.shapes import FLAG, Part, member, optional
from xbd.text import quote
from xbd.units import SUPER_PAGES, parse_superpages

# How many lines lie between two moments of a series.
LOOK_EVERY_LINES: Final = 100
# Further differences are only counted.
SHOWN_DIFFERENCES: Final = 10
# An exchange of as many extents as a call can have, no two of them in a run, has some 2 MB.
_LINE_CHARS: Final = 1 << 24
_ONE: Final = Part(PAGES_OR_NONE, "in pages")
# What is recorded of operations that are no hypercalls, in the order in which the machine takes it.
_PARAMS: Final[Mapping[str, Mapping[str, Part]]] = {
    "create": {
        "name": Part(NAME, "of the domain"),
        "max_pages": _ONE,
        "target_pages": _ONE,
        "gfn_count": Part(optional(PAGES_OR_NONE), "in pages", default=None),
        "min_pages": Part(PAGES_OR_NONE, "in pages", default=0),
        "domain_type": Part(member(DomainType), "its type", default=DomainType.PVH),
        "nodes": Part(NODES, "where its memory should lie", default=()),
        "is_hard": Part(FLAG, "whether it must", default=False),
    },
    "destroy": {},
    "reboot": {},
    "rename": {"name": Part(NAME, "the domain's new name")},
    "set_max_pages": {"max_pages": _ONE},
    "set_target": {"target_pages": _ONE},
    "claim": {"pages": _ONE},
    "claim_set": {"claims": Part(CLAIMS, "what is claimed, and where")},
    "go_offline": {"node": Part(NODE, "the node"), "pages": _ONE},
    "come_online": {"node": Part(NODE, "the node"), "pages": _ONE},
}

# Settings that earlier recordings lack; left out they mean what was done then.
_LATER_SETTINGS: Final = frozenset({"high_first"})


@dataclass(slots=True)
class Outcome:
    """The outcome of a rerun.

    *done*, *different*: counts by operation; *first*: the first differences, (line number, operation, recorded, now);
    *recorded_end*, *end*: the state of the host at the end of the recording and of the rerun.
    """

    done: Counter[str] = field(default_factory=Counter)
    different: Counter[str] = field(default_factory=Counter)
    first: list[tuple[int, str, object, object]] = field(default_factory=list)
    recorded_end: Mapping[str, Any] | None = None
    end: dict[str, Any] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)
    truncated_line: int | None = None

    def compare(self, number: int, what: str, recorded: object, now: object) -> None:
        """Count an operation, and a difference of its answers."""
        self.done[what] += 1
        if recorded != now:
            self.different[what] += 1
            if len(self.first) < SHOWN_DIFFERENCES:
                self.first.append((number, what, recorded, now))

    @property
    def is_same(self) -> bool:
        """Whether every answer equals the recorded one, and the end, too, if it was recorded."""
        return not self.different and self.recorded_end in (None, self.end)


def rerun(
    lines: Iterator[tuple[int, Line]], machine: Machine, audit_every: int, look: Callable[[int], None] | None = None
) -> Outcome:
    """Execute the lines after the header on *machine*. Raises BadRecording, naming the line.

    *look* is told now and then, and in the end, how many lines were read.
    """
    outcome, number = Outcome(), 1
    for number, line in lines:
        if look is not None and number % LOOK_EVERY_LINES == 0:
            look(number)
        try:
            if "end" in line:
                outcome.recorded_end = _end(line["end"])
                continue
            _do(number, line, machine, outcome)
        except BadArgument as error:
            raise BadRecording(f"line {number}: {error.message}", error.expected) from error
        if audit_every and number % audit_every == 0:
            outcome.violations += [f"after line {number}: {violation}" for violation in machine.audit()]
    if look is not None:
        look(number + 1)
    counts = machine.statistics()
    outcome.end = {
        "free_frames": counts.free_frames,
        "free_superframes": counts.free_superframes,
        "leaves": {str(domid): machine.domain(domid).leaves for domid in machine.domains()},
    }
    outcome.violations += machine.audit()
    return outcome


def _end(raw: Any) -> Mapping[str, Any]:  # noqa: ANN401 - whatever the line says
    """Check what a recording says of its end. Raises BadRecording."""
    match raw:
        case {"free_frames": int(), "free_superframes": int(), "leaves": dict(leaves), **others} if not others:
            if all(type(count) is int for count in leaves.values()):
                return dict(raw)
    raise BadRecording(f"an end of {quote(raw)}", "free_frames, free_superframes, and leaves by domain")


def _do(number: int, line: Line, machine: Machine, outcome: Outcome) -> None:
    if line.get("do") in HOST_OPERATIONS:
        _control(number, line, machine, outcome)
        return
    domid = line.get("domain")
    if type(domid) is not int or not 0 <= domid < MAX_DOMAINS:
        raise BadRecording(f"domain {quote(domid)}", f"a number from 0 to {MAX_DOMAINS - 1}")
    if "do" not in line:
        answer = answer_to_line(machine.execute(domid, command_from_line(line)))
        outcome.compare(number, str(line["operation"]), line.get("answer"), answer)
        return
    _control(number, line, machine, outcome, domid)


def _control(number: int, line: Line, machine: Machine, outcome: Outcome, domid: int | None = None) -> None:
    """Do an operation that is no hypercall."""
    what = line["do"]
    if not isinstance(what, str) or what not in _PARAMS:
        raise BadRecording(f"do {quote(what)}", f"one of {', '.join(_PARAMS)}")
    raw = {key: value for key, value in line.items() if key not in ("n", "do", "domain")}
    params = check_params(what, _PARAMS[what], raw)
    try:
        if what == "create":
            machine.create(**params, domid=domid)
        else:
            getattr(machine, what)(*([] if domid is None else [domid]), *params.values())
    except HypercallError as error:
        # Only operations that were done are recorded.
        outcome.compare(number, what, "done", str(error))
    else:
        outcome.compare(number, what, "done", "done")


def read_lines(path: Path, truncated: list[int]) -> Iterator[tuple[int, Line]]:
    """Read a recording's lines, numbered from 1; a truncated last line ends it, and its number is put into *truncated*.

    Raises BadRecording, naming the line.
    """
    with path.open(encoding="utf-8", errors="replace") as file:
        for number, text in enumerate(iter(lambda: file.readline(_LINE_CHARS), ""), 1):
            if len(text) == _LINE_CHARS:
                raise BadRecording(f"line {number}: longer than any operation", f"at most {_LINE_CHARS} characters")
            try:
                yield number, read_line(text)
            except BadRecording as error:
                if not text.endswith("\n"):
                    truncated.append(number)
                    return
                raise BadRecording(f"line {number}: {error.message}", error.expected) from error


@click.command("rerun")
@click.argument("recording", metavar="FILE", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--strategy", type=click.Choice(list(STRATEGIES)), help="Another strategy for the host.")
@click.option("--memory", metavar="SIZE", help="Another amount of memory.")
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Another setting, such as home_fill=never."
)
@click.option("--audit", "audit_every", type=click.IntRange(min=0), default=0, metavar="N", help="Audit every N lines.")
@series_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def command(
    ctx: click.Context,
    *,
    recording: Path,
    strategy: str | None,
    memory: str | None,
    overrides: tuple[str, ...],
    audit_every: int,
    series_path: Path | None,
    as_json: bool,
) -> None:
    """Do again what `xbd hypervisor --record FILE` recorded, and compare every answer.

    With other settings answers may differ, and later calls then meet another state: differences are counted. Without
    such options any difference is a failure (exit 1), and so is what the audit finds. A recording has no times: in a
    series of it a second passes for each line.
    """
    changed = bool(strategy or memory or overrides)
    cut: list[int] = []
    try:
        lines = read_lines(recording, cut)
        first = next(lines, None)
        if first is None:
            raise Failure(f"{recording}: is empty; expected a recording")
        header = read_header(first[1])
        machine = _machine(header, strategy, memory, overrides)
        with series_file(series_path, (recording,)) as series:
            look = None if series is None else _look_into(series, recording.name, machine)
            outcome = rerun(lines, machine, audit_every, look)
    except OSError as error:
        raise Failure(f"{recording}: {error.strerror}") from error
    except MemoryError as error:
        raise Failure(f"{recording}: this machine has not the memory for a host of its size; give --memory") from error
    except BadArgument as error:
        expected = f" (expected {error.expected})" if error.expected else ""
        raise Failure(f"{recording}: {error.message}{expected}") from error
    outcome.truncated_line = cut[0] if cut else None
    click.echo(json.dumps(_as_map(outcome), indent=1) if as_json else render(outcome, machine))
    if outcome.violations or not (changed or outcome.is_same):
        ctx.exit(EXIT_FAILED)


def _look_into(series: SeriesFile, run: str, machine: Machine) -> Callable[[int], None]:
    """Make what adds the host as it is to a series."""

    def look(lines: int) -> None:
        domains = [DomainInfo(**told_of(machine.domain(domid))) for domid in machine.domains()]
        series.add(run, float(lines), asdict(machine.statistics()), domains)

    return look


def _machine(header: Header, strategy: str | None, memory: str | None, overrides: tuple[str, ...]) -> Machine:
    """Make the machine for the rerun. Raises BadArgument."""
    recorded = read(HostSettings, header.settings, "settings")
    missing = asdict(recorded).keys() - header.settings.keys() - _LATER_SETTINGS
    if missing:
        raise BadSetting(f"settings.{min(missing)}", "is missing; a recording has all of them")
    settings = STRATEGIES[strategy].host if strategy else recorded
    for override in overrides:
        settings = replace(settings, **_setting(override))
    superframes = parse_superpages(memory) // SUPER_PAGES if memory else header.superframes
    # Of another size it is a host of one node.
    nodes = None if header.nodes is None or memory else Nodes(**header.nodes)
    return Machine(superframes, settings=settings, nodes=nodes)


def _setting(override: str) -> dict[str, Any]:
    """Parse KEY=VALUE. Raises BadSetting."""
    key, _, value = override.partition("=")
    return read_given(HostSettings, {key: {"true": True, "false": False}.get(value, value)}, "--set")


def _as_map(outcome: Outcome) -> dict[str, Any]:
    keys = ("number", "operation", "recorded", "now")
    return {
        "done": dict(sorted(outcome.done.items())),
        "different": dict(sorted(outcome.different.items())),
        "first_differences": [dict(zip(keys, difference, strict=True)) for difference in outcome.first],
        "recorded_end": outcome.recorded_end,
        "end": outcome.end,
        "violations": outcome.violations,
        "truncated_line": outcome.truncated_line,
    }


def render(outcome: Outcome, machine: Machine) -> str:
    """Format an outcome as text."""
    rows = [f"{'operation':24} {'done again':>12} {'answered otherwise':>20}"]
    rows += [f"{what:24} {count:12,} {outcome.different[what]:20,}" for what, count in sorted(outcome.done.items())]
    for number, what, recorded, now in outcome.first:
        rows.append(f"line {number}: {what}: {_short(recorded)} recorded, {_short(now)} now")
    total = sum(machine.domain(domid).tot_pages for domid in machine.domains())
    for name, end in (("recorded", outcome.recorded_end), ("now", outcome.end)):
        if end is None:
            rows.append("recorded: it ends without a word of how things stood")
            continue
        leaves = sum(end["leaves"].values())
        share = f", {100 * SUPER_PAGES * leaves / total:.1f}% of what domains hold" if total and name == "now" else ""
        rows.append(
            f"{name}: {end['free_superframes']:,} whole superframes free of {end['free_frames']:,} free frames,"
            f" {leaves:,} superpages{share}"
        )
    if outcome.truncated_line:
        rows.append(f"line {outcome.truncated_line} was cut short; what is before it was done")
    rows += outcome.violations or ["all holds: no violations"]
    return "\n".join(rows)


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 100 else text[:97] + "..."
