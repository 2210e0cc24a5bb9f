"""`xbd check`: what is wrong with host files, and those of autoballoon, without starting anything."""

import grp
import os
import tomllib
from dataclasses import dataclass
from pathlib import Path

import click

from xbd.abi import MAX_DOMAINS
from xbd.cli.common import EXIT_CONFIG
from xbd.client.runtime_dir import absolute_path, check_socket_path, default_runtime_dir, domain_socket
from xbd.config.autoballoon import AutoballoonConfig, parse_autoballoon_config
from xbd.config.host import HostConfig, parse_host_config
from xbd.daemons.config_files import read_text
from xbd.errors import ConfigError
from xbd.units import counted, format_pages


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

    def as_line(self) -> str:
        """Write it as a line."""
        if self.good:
            return f"{self.path}: all right: {self.summary}"
        return f"{self.path}: {self.key}: {self.reason}" if self.key else f"{self.path}: {self.reason}"


def check_file(path: Path) -> Verdict:
    """Check a file as the daemon that reads it would: by itself, then what it names on this machine."""
    try:
        text = read_text(path, may_wait=True)
        if _is_for_autoballoon(text):
            return Verdict(path, summary=summarise_autoballoon(parse_autoballoon_config(text, path)))
        config = parse_host_config(text, path)
        _check_here(path, config)
    except ConfigError as error:
        return Verdict(path, key=error.key, reason=error.reason)
    return Verdict(path, summary=summarise(config), remarks=config.remarks)


def _is_for_autoballoon(text: str) -> bool:
    """Tell a file for `xbd autoballoon` from a host file; the host file's reader reports what is no TOML."""
    try:
        sections = tomllib.loads(text)
    except (ValueError, RecursionError):
        return False
    return "autoballoon" in sections and "host" not in sections


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
    return f"autoballoon of {', '.join(config.domains)}, balance {settings.balance.value}, headroom {headroom}"


@click.command("check")
@click.argument("paths", metavar="FILE...", nargs=-1, required=True, type=click.Path(dir_okay=False, path_type=Path))
@click.pass_context
def check_command(ctx: click.Context, paths: tuple[Path, ...]) -> None:
    """Say what is wrong with host files and files of autoballoon, without starting anything.

    For each the first mistake, as file, key and reason, on standard error; or that it is all right, with a
    summary, and what should be changed in it before the next release. Exit code 78 if any of them cannot be used. Files to begin with come with xbd, in the directory that
    `python3 -c 'from xbd.shipped import shipped; print(shipped("configs"))'` prints.
    """
    verdicts = [check_file(path) for path in paths]
    for verdict in verdicts:
        click.echo(verdict.as_line(), err=not verdict.good)
        for remark in verdict.remarks:
            click.echo(f"{verdict.path}: {remark}", err=True)
    ctx.exit(0 if all(verdict.good for verdict in verdicts) else EXIT_CONFIG)
