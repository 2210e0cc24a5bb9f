"""The file that `xbd arena` reads: TOML text to cells, with errors that name file, key and reason.

It names policies (`[[policy]]`; none: all of xbd's own) and sets of guests (`[[guests]]`, each with its `[[guests.member]]`);
every policy meets every set, at every overcommit, with every seed, and the known failures (`scenarios`) once. What shows
every key is `configs/experiments/arena.toml`.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Final

from xbd.abi import MAX_DOMAIN_PAGES
from xbd.config.policies import BUILT_IN, is_policy_name, make_policy
from xbd.config.toml import load_toml, read_file
from xbd.errors import BadArgument, BadSetting, ConfigError, TraceError
from xbd.guest import parse_mode
from xbd.guest.workload import Trace
from xbd.lab.arena.cell import SILENT, ArenaCell, Entry, GuestSet, Member
from xbd.lab.arena.guests import KINDS
from xbd.lab.arena.scenarios import SCENARIOS
from xbd.lab.experiments.grid import digest_trace
from xbd.settings import ListOf, Section, Setting, choice, flag, number, size, text, whole

# Reads a trace by its path. Raises TraceError.
ReadTrace = Callable[[Path], Trace]
# Tells a stranger's policy from what it was, by its name; empty for xbd's own.
SourceOf = Callable[[str], str]
_MAX_SEED: Final = (1 << 31) - 1
_DAY_S: Final = 86_400
_MOST_OVERCOMMIT: Final = 8.0
_MOST_MEMBERS: Final = 1000


@dataclass(frozen=True, kw_only=True)
class ArenaTable:
    """The section [arena]."""

    name: Annotated[str | None, text("left out: the file's name")] = None
    about: Annotated[str, text("what it is about", lines=True)] = ""
    duration_s: Annotated[int, whole("how long each run is", 60, 366 * _DAY_S, "seconds")] = 3600
    overcommit: Annotated[
        tuple[float, ...],
        ListOf(item=number("", 1, _MOST_OVERCOMMIT), or_one=True, distinct=True, doc="guests' memory over the host's"),
    ] = (1.2, 1.6, 2.0, 2.5)
    seeds: Annotated[tuple[int, ...], ListOf(item=whole("", 0, _MAX_SEED), distinct=True, doc="a run for each")] = (0,)
    scenarios: Annotated[bool, flag("whether every policy meets the known failures, too, with the first seed")] = True


@dataclass(frozen=True, kw_only=True)
class PolicyTable:
    """A section [[policy]]. Raises BadSetting: there is no such policy, or one of xbd's own refuses its settings."""

    name: Annotated[str, text("what it is called here", missing="is missing")]
    policy: Annotated[
        str | None,
        Setting(
            expected=f'one of {", ".join(BUILT_IN)}, the name of an installed policy, or "module:object"',
            accept=lambda raw: raw if isinstance(raw, str) and is_policy_name(raw) else None,
            doc="as in autoballoon.toml; left out: its name",
        ),
    ] = None
    settings: Annotated[
        Mapping[str, Any],
        Setting(
            expected="a table of the policy's own settings",
            accept=lambda raw: raw if isinstance(raw, dict) else None,
            doc="the policy's own",
        ),
    ] = field(default_factory=dict)
    bare: Annotated[bool, flag("its targets are sent as they are, without the safety layer")] = False

    def __post_init__(self) -> None:
        policy = self.policy or self.name
        if not is_policy_name(policy):
            raise BadSetting("name", f"{policy!r} is no policy; say which it is by policy = ...")
        if policy in BUILT_IN:
            make_policy(policy, self.settings, "settings")

    def entry(self, source_of: SourceOf) -> Entry:
        """Make the policy that competes."""
        policy = self.policy or self.name
        return Entry(self.name, policy, tuple(sorted(self.settings.items())), self.bare, source_of(policy))


@dataclass(frozen=True, kw_only=True)
class MemberTable:
    """A section [[guests.member]]. Raises BadSetting: it is neither of a kind nor of a trace, or of both; or has no memory."""

    kind: Annotated[str | None, choice("what it does; or trace", KINDS)] = None
    trace: Annotated[str | None, text("a file, relative to this one, in place of kind and memory")] = None
    count: Annotated[int, whole("how many; of a trace each begins a quarter of an hour after the last", 1, 100)] = 1
    memory_pages: Annotated[
        int | None, size("the most that it can hold; not with a trace", MAX_DOMAIN_PAGES, key="memory")
    ] = None
    offset_s: Annotated[float, number("where a trace begins", 0, 366 * _DAY_S, "seconds")] = 0.0
    cache_reads: Annotated[float, number("of a trace's cache, the share that is read in a second", 0, 1)] = 0.0
    mode: Annotated[str, text('how it behaves, as for xbd guest-mode; or "silent": it reports nothing')] = "normal"

    def __post_init__(self) -> None:
        if (self.kind is None) == (self.trace is None):
            raise BadSetting("kind", "or trace must be given, one of both")
        if (self.memory_pages is None) != (self.kind is None):
            raise BadSetting("memory", "is missing" if self.kind else "is what a trace says itself; leave it out")
        if self.mode != SILENT:
            try:
                parse_mode(self.mode)
            except BadArgument as error:
                raise BadSetting("mode", f"{error.message}; expected {error.expected}") from error

    def trace_path(self, directory: Path) -> Path:
        """Say where its trace is, if it has one."""
        return directory / Path(self.trace or "").expanduser()

    def members(self, directory: Path, traces: dict[str, Trace], read_trace: ReadTrace) -> Iterator[Member]:
        """Make the guests, and put their trace among *traces*. Raises BadSetting: it cannot be read."""
        if self.kind is not None:
            assert self.memory_pages is not None, "a made-up guest without memory was let through"
            yield from [Member(self.kind, self.memory_pages, self.kind, mode=self.mode)] * self.count
            return
        try:
            trace = read_trace(self.trace_path(directory))
        except TraceError as error:
            raise BadSetting("trace", str(error)) from error
        name = digest_trace(trace)
        traces[name] = trace
        member = Member(trace.name, trace.total_pages, "", name, self.mode, self.offset_s, self.cache_reads)
        for number_ in range(self.count):
            yield replace(member, offset_s=self.offset_s + 900.0 * number_)


@dataclass(frozen=True, kw_only=True)
class GuestsTable:
    """A section [[guests]]: those who live together."""

    name: Annotated[str, text("what they are called", missing="is missing")]
    member: Annotated[tuple[MemberTable, ...], Section(of=MemberTable, many=True, missing="is missing")]


@dataclass(frozen=True, kw_only=True)
class ArenaFile:
    """A whole file."""

    arena: Annotated[ArenaTable, Section(of=ArenaTable)] = field(default_factory=ArenaTable)
    policy: Annotated[tuple[PolicyTable, ...], Section(of=PolicyTable, many=True)] = ()
    guests: Annotated[tuple[GuestsTable, ...], Section(of=GuestsTable, many=True)] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Arena:
    """What is to be run: *cells* in the order of the page; *traces* by digest; *trace_paths*: where they were read."""

    name: str
    about: str
    cells: tuple[ArenaCell, ...]
    traces: Mapping[str, Trace]
    trace_paths: tuple[Path, ...] = ()

    def traces_of(self, cell: ArenaCell) -> tuple[Trace, ...]:
        """List the traces that a cell plays."""
        played = dict.fromkeys(member.digest for member in cell.guests.members if member.digest)
        return tuple(self.traces[name] for name in played)


def parse_arena(text: str, path: Path, read_trace: ReadTrace, source_of: SourceOf) -> Arena:
    """Parse the text of an arena's file; *path* names it in errors, and its traces are relative to it. Raises ConfigError."""
    file = read_file(ArenaFile, load_toml(text, path), path)
    tables = file.policy or tuple(PolicyTable(name=name) for name in BUILT_IN)
    entries = [table.entry(source_of) for table in tables]
    traces: dict[str, Trace] = {}
    sets = []
    for nth, table in enumerate(file.guests, start=1):
        members: list[Member] = []
        for of_set, member in enumerate(table.member, start=1):
            try:
                members += member.members(path.parent, traces, read_trace)
            except BadSetting as error:
                raise ConfigError(path, f"guests[{nth}].member[{of_set}].{error.key}", error.reason) from error
        if len(members) > _MOST_MEMBERS:
            raise ConfigError(path, f"guests[{nth}].member", f"are {len(members)} guests; at most {_MOST_MEMBERS}")
        sets.append(GuestSet(table.name, tuple(members)))
    for key, names in (("policy", [each.name for each in entries]), ("guests", [each.name for each in sets])):
        if len(set(names)) < len(names):
            raise ConfigError(path, f"{key}.name", "two are called the same")
    arena = file.arena
    cells = [
        ArenaCell(entry, guests, overcommit, seed, arena.duration_s)
        for guests, overcommit, entry, seed in product(sets, arena.overcommit, entries, arena.seeds)
    ]
    if arena.scenarios:
        cells += [scenario.cell(entry, arena.seeds[0]) for scenario in SCENARIOS.values() for entry in entries]
    if not cells:
        raise ConfigError(path, "guests", "is missing, and scenarios is false: there is nothing to run")
    read = [member.trace_path(path.parent) for table in file.guests for member in table.member if member.trace]
    return Arena(arena.name or path.stem, arena.about, tuple(cells), traces, tuple(read))
