"""`xbd check`: what is wrong with files of any kind that xbd reads, without starting anything."""

import grp
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import click

from xbd.abi import MAX_DOMAINS
from xbd.cli.common import EXIT_CONFIG, emit, json_option
from xbd.client.runtime_dir import absolute_path, check_socket_path, default_runtime_dir, domain_socket
from xbd.config.autoballoon import AutoballoonConfig, parse_autoballoon_config
from xbd.config.host import HostConfig, parse_host_config
from xbd.config.toml import load_toml
from xbd.daemons.config_files import read_text
from xbd.domain import plays_trace
from xbd.errors import ConfigError, TraceError
from xbd.text import printable
from xbd.units import counted, format_pages

_HOST_FILE: Final = "a host file"
_EXPERIMENT: Final = "an experiment's file"
_AUTOBALLOON: Final = "a file of autoballoon"
_ARENA: Final = "an arena's file"
# Kinds of files, what checks them and what declares their keys: imported when there is one, as commands are.
KINDS: Final = {
    _HOST_FILE: ("xbd.cli.commands.check:check_host", "xbd.config.host:HostFile"),
    _AUTOBALLOON: ("xbd.cli.commands.check:check_autoballoon", "xbd.config.autoballoon:AutoballoonFile"),
    _ARENA: ("xbd.lab.arena.command:check_arena", "xbd.lab.arena.plan:ArenaFile"),
    _EXPERIMENT: ("xbd.lab.experiments.command:check_experiment", "xbd.lab.experiments.plan:ExperimentFile"),
}
_KIND_BY_SECTION: Final = {
    "autoballoon": _AUTOBALLOON,
    **dict.fromkeys(("arena", "policy"), _ARENA),
    **dict.fromkeys(("host", "dom0", "guest"), _HOST_FILE),
    **dict.fromkeys(("experiment", "workload", "budget", "grid"), _EXPERIMENT),
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result of checking one file: a summary and remarks, or a key (empty: the file as a whole) and a reason."""

    path: Path
    summary: str = ""
    key: str = ""
    reason: str = ""
    remarks: tuple[str, ...] = ()

    @property
    def good(self) -> bool:
        """Whether a daemon can be started with it."""
        return not self.reason

    def as_map(self) -> dict[str, object]:
        """Write it for JSON."""
        return {**asdict(self), "path": str(self.path), "good": self.good}

    def as_line(self) -> str:
        """Write it as a line."""
        said = f"all right: {self.summary}" if self.good else self.reason
        return printable(f"{self.path}: {self.key}: {said}" if self.key else f"{self.path}: {said}")


def check_file(path: Path) -> Verdict:
    """Check a file as the command that reads it would: by itself, then what it names on this machine."""
    kind = ""
    try:
        text = read_text(path, may_wait=True)
        kind = kind_of(load_toml(text, path))
        summary, remarks = _find(KINDS[kind][0])(text, path)
    except ConfigError as error:
        reason = f"{error.reason} (taken for {kind})" if kind else error.reason
        return Verdict(path, key=error.key, reason=reason)
    return Verdict(path, summary=summary, remarks=remarks)


def _find(name: str) -> Any:  # noqa: ANN401 - whatever is called so
    module, _, found = name.partition(":")
    return getattr(import_module(module), found)


def kind_of(sections: Iterable[str]) -> str:
    """Tell what a file of these sections is for, also where their names are slightly wrong; most likely a host file."""
    names = list(sections)
    for section in [name for name in names if name in _KIND_BY_SECTION] or names:
        for known in get_close_matches(section, _KIND_BY_SECTION, n=1):
            return _KIND_BY_SECTION[known]
    return _HOST_FILE


def check_host(text: str, path: Path) -> tuple[str, tuple[str, ...]]:
    """Check a host file; returns a summary and remarks. Raises ConfigError."""
    config = parse_host_config(text, path, absolute_path(path.parent))
    _check_here(path, config)
    return summarise(config), config.remarks


def check_autoballoon(text: str, path: Path) -> tuple[str, tuple[str, ...]]:
    """Check a file of autoballoon; returns a summary and no remarks. Raises ConfigError."""
    return summarise_autoballoon(parse_autoballoon_config(text, path)), ()


def _check_here(path: Path, config: HostConfig) -> None:
    """Refuse what cannot be used on this machine: a group that does not exist, a path that is too long. Raises ConfigError."""
    if config.group is not None:
        try:
            grp.getgrnam(config.group)
        except KeyError as error:
            raise ConfigError(path, "host.group", f"no group is called {config.group!r} on this machine") from error
    try:
        directory = absolute_path(config.runtime_dir or default_runtime_dir(os.environ))
        check_socket_path(domain_socket(directory, MAX_DOMAINS))
    except ConfigError as error:
        raise ConfigError(path, "host.runtime_dir", f"{error.path} is {error.reason}") from error
    _check_traces(path, config)


def _check_traces(path: Path, config: HostConfig) -> None:
    """Refuse traces that cannot be played by who is to play them; each file is read once. Raises ConfigError."""
    domains = (*([config.dom0] if config.dom0 else ()), *config.guests)
    played = [domain for domain in domains if plays_trace(domain.guest)]
    if not played:
        return
    from xbd.daemons.trace_files import TraceFiles  # noqa: PLC0415 - numpy, where there are traces

    traces, found = TraceFiles(), []
    for domain in played:
        try:
            # What was read is held, so that others find it.
            found.append(traces.finder(domain.guest, domain.max_pages))
        except TraceError as error:
            raise ConfigError(path, "guest.workload.trace", f"of {domain.name!r}: {error}") from error


def summarise(config: HostConfig) -> str:
    """Describe a host in a line: its memory, its domains, what they leave free."""
    domains = (*([config.dom0] if config.dom0 else ()), *config.guests)
    host = f"host {config.name!r} of {format_pages(config.memory_pages)}"
    if not domains:
        return f"{host}, no domains"
    used_pages = sum(domain.target_pages for domain in domains)
    named = [*(["dom0"] if config.dom0 else ()), *([counted(len(config.guests), "guest")] if config.guests else ())]
    left = format_pages(config.memory_pages - used_pages)
    return f"{host}, {' and '.join(named)} with {format_pages(used_pages)} at first, {left} left"


def summarise_autoballoon(config: AutoballoonConfig) -> str:
    """Describe in a line what the policy would do."""
    settings = config.settings
    headroom = format_pages(settings.headroom_pages)
    return f"autoballoon of {', '.join(config.domains)}, policy {config.policy}, headroom {headroom}"


@click.command("check")
@click.argument("paths", metavar="FILE...", nargs=-1, type=click.Path(dir_okay=False, path_type=Path))
@click.option("--keys", "show_keys", is_flag=True, help="Print what each key of all kinds of files takes, as Markdown.")
@json_option
@click.pass_context
def check_command(ctx: click.Context, paths: tuple[Path, ...], *, show_keys: bool, as_json: bool) -> None:
    """Say what is wrong with host files, files of autoballoon, of experiments and of arenas, without starting anything.

    What kind a file is of, its sections tell. For each the first mistake, as file, key and reason, on standard error; or
    that it is all right, with a summary, and what should be changed in it before the next release; in JSON all of this on
    standard output. Exit code 78 if any of them cannot be used. What every key takes, `xbd docs settings` shows. Files to begin with come with xbd, in the
    directory that `python3 -c 'from xbd.shipped import shipped; print(shipped("configs"))'` prints.
    """
    if bool(paths) == show_keys:
        raise click.UsageError("name one or more files, or give --keys")
    if show_keys:
        from xbd.cli.settings_view import settings_page  # noqa: PLC0415 - checking needs no page

        files = {kind: _find(declared) for kind, (_, declared) in KINDS.items()}
        click.echo(settings_page(files), nl=False)
        return
    verdicts = [check_file(path) for path in paths]
    emit(as_json, [verdict.as_map() for verdict in verdicts], ())
    for verdict in () if as_json else verdicts:
        click.echo(verdict.as_line(), err=not verdict.good)
        for remark in verdict.remarks:
            click.echo(f"{verdict.path}: {remark}", err=True)
    ctx.exit(0 if all(verdict.good for verdict in verdicts) else EXIT_CONFIG)
