"""Commands of automatic ballooning: autoballoon runs the daemon and tells it whom to leave out, reserve lets it free memory."""

import os
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import click

from xbd.cli.common import (
    EXIT_FAILED,
    Failure,
    client_options,
    complete_domains,
    emit,
    group_socket,
    with_client,
)
from xbd.cli.follow import listed
from xbd.client.blocking import BlockingClient, connect
from xbd.client.discovery import find_socket
from xbd.client.lease import ANSWER_WITHIN_S, LOOK_EVERY_S, why_lost
from xbd.client.runtime_dir import autoballoon_socket
from xbd.config.autoballoon import AutoballoonConfig
from xbd.control.explain import kept_words
from xbd.control.targets import Rounded, choose, parse_pages, round_pages
from xbd.domain import DomainInfo
from xbd.errors import PeerLost, RemoteProtocolError
from xbd.policy.model import Action, SetTarget, State
from xbd.text import printable
from xbd.units import format_pages

# How often the daemon is asked for the reservation's state; its policy runs once a second by default.
ASK_EVERY_S = 0.2
# How long a command may take to end that is interrupted.
_GRACE_S = 5.0


@click.group("autoballoon", invoke_without_command=True)
@click.option("--config", "config_path", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE.toml")
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
    help="Log from here on.",
)
@click.option("--dry-run", is_flag=True, help="Say what the policy would do now, and do nothing.")
@client_options
@click.pass_context
def autoballoon_command(
    ctx: click.Context,
    config_path: Path | None,
    log_level: str,
    socket_path: str | None,
    *,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Run the policy that moves memory between domains by itself; it also serves `xbd reserve`.

    Without --config every key has its default; configs/autoballoon.toml describes them. SIGHUP reads the
    file again. `exclude` and `include` tell a daemon that runs whom to leave out. With --dry-run, what a daemon that was
    just started with that file would do is printed (--json: as JSON), and nothing is changed.
    """
    if ctx.invoked_subcommand is not None:
        ctx.obj = socket_path or group_socket()
        return
    import trio  # noqa: PLC0415 - the other commands need none of these

    from xbd.daemons.autoballoon import dry_run as decide_once  # noqa: PLC0415
    from xbd.daemons.autoballoon import run_autoballoon  # noqa: PLC0415
    from xbd.daemons.config_files import load_autoballoon_config  # noqa: PLC0415
    from xbd.daemons.runtime import service  # noqa: PLC0415

    if not dry_run:
        service.begin(log_level)
    config = AutoballoonConfig() if config_path is None else load_autoballoon_config(config_path, may_wait=True)
    path = find_socket(socket_path or group_socket(), os.environ)
    if not dry_run:
        ctx.exit(trio.run(run_autoballoon, path, config, config_path))
    _say_decisions(config.policy, *trio.run(decide_once, path, config), as_json=as_json)


def _say_decisions(
    policy: str, state: State, actions: Sequence[Action], domains: Sequence[DomainInfo], *, as_json: bool
) -> None:
    """Print what would be done about each domain, and why."""
    output, rows = [], []
    for domain in domains:
        sent = [each.pages for each in actions if isinstance(each, SetTarget) and each.domid == domain.domid]
        decision = state.decisions[domain.domid]
        target = sent[-1] if sent else domain.target_pages
        why = decision.reason if sent else kept_words(decision.kept.value) or decision.reason
        output.append(
            {
                "domid": domain.domid,
                "name": domain.name,
                "target_pages": domain.target_pages,
                "would_be_pages": target,
                "goal_pages": decision.goal_pages,
                "kept": decision.kept.value,
                "reason": decision.reason or None,
            }
        )
        would = f"{format_pages(domain.target_pages)} -> {format_pages(target)}" if sent else format_pages(target)
        rows.append(printable(f"{domain.name}: {would}" + (f", {why}" if why else "")))
    if state.trouble:
        rows.append(printable(f"the policy {policy} would be left for static: {state.trouble}"))
    emit(as_json, {"policy": policy, "trouble": state.trouble or None, "domains": output}, rows)
    if state.trouble:
        click.get_current_context().exit(EXIT_FAILED)


@autoballoon_command.command("exclude")
@click.argument("names", nargs=-1, required=True, metavar="DOMAIN...", shell_complete=complete_domains)
@client_options
@click.pass_obj
def exclude_command(of_group: str | None, names: tuple[str, ...], socket_path: str | None, *, as_json: bool) -> None:
    """Leave DOMAINs out: autoballoon no longer sets their targets, which stay as they are, or are set by others.

    The daemon, which must run, remembers it for as long as the run-time directory is there, through its own restarts.
    """
    _tell("exclude", "left out", names, socket_path or of_group, as_json=as_json)


@autoballoon_command.command("include")
@click.argument("names", nargs=-1, required=True, metavar="DOMAIN...", shell_complete=complete_domains)
@client_options
@click.pass_obj
def include_command(of_group: str | None, names: tuple[str, ...], socket_path: str | None, *, as_json: bool) -> None:
    """Let autoballoon set the targets of DOMAINs again."""
    _tell("include", "governed again", names, socket_path or of_group, as_json=as_json)


def _tell(method: str, done: str, names: Sequence[str], socket_path: str | None, *, as_json: bool) -> None:
    """Exclude or include the domains that are named."""
    domains = with_client(socket_path, lambda client: choose(listed(client, names), names))
    with connect(autoballoon_socket(find_socket(socket_path or group_socket(), os.environ).parent)) as client:
        for domain in domains:
            client.call(method, {"life": domain.life})
    output = [{"domid": domain.domid, "name": domain.name} for domain in domains]
    emit(as_json, output, [printable(f"{domain.name}: {done}") for domain in domains])


@click.command("reserve", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.argument("size")
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="[COMMAND]...")
@client_options
@click.pass_context
def reserve_command(
    ctx: click.Context, size: str, command: tuple[str, ...], socket_path: str | None, *, as_json: bool
) -> None:
    """Free SIZE of the host's memory and hold it free: while COMMAND runs, or until Ctrl-C.

    Domains are shrunk as far as it takes, by the autoballoon daemon, which must run. What cannot be freed is
    said exactly: how much is possible, or which domains refuse. Exit 1 then, else COMMAND's exit code.

    If the memory is no longer held, because that daemon has ended or hangs, this is said, COMMAND is told to end
    (SIGTERM, and SIGKILL 5 s later), and the exit code is 1.

    That it is held is said on stderr; with --json, and no COMMAND whose output would be mixed with it, on stdout.
    """
    rounded = round_pages(parse_pages(size))
    hypervisor = find_socket(socket_path or group_socket(), os.environ)
    ctx.exit(_reserve(autoballoon_socket(hypervisor.parent), rounded, command, as_json=as_json))


def _reserve(path: Path, size: Rounded, command: Sequence[str], *, as_json: bool) -> int:
    with connect(path) as client:
        client.call("reserve", {"pages": size.pages})
        _until_held(client, size.pages)
        output = {"state": "held", "pages": size.pages, "asked_pages": size.asked_pages}
        emit(as_json, output, [f"{size} is free, and held"], err=bool(command) or not as_json)
        return _run(command, client, size.pages) if command else _hold(client, size.pages)


def _hold(client: BlockingClient, pages: int) -> NoReturn:
    """Hold what is reserved. Raises Failure: it is no longer held."""
    while True:
        _check_held(client, pages)
        time.sleep(LOOK_EVERY_S)  # noqa: TID251 - a command has nothing else to do


def _check_held(client: BlockingClient, pages: int, then: str = "") -> None:
    """Look whether what was reserved is still held. Raises Failure: it is not; *then* says what becomes of it."""
    try:
        why = why_lost(client.call("reservation", timeout_s=ANSWER_WITHIN_S))
    except (PeerLost, RemoteProtocolError) as error:
        why = why_lost(error)
    if why:
        raise Failure(f"{format_pages(pages)} is no longer held: {why}{then}")


def _run(command: Sequence[str], client: BlockingClient, pages: int) -> int:
    """Run a command to its end; returns its exit code. Raises Failure: it cannot be run, or no memory is held for it."""
    try:
        process = subprocess.Popen(command)  # noqa: S603 - what the user gave is what is to be run
    except OSError as error:
        raise Failure(f"cannot run {command[0]}: {error.strerror}") from error
    try:
        while True:
            with suppress(subprocess.TimeoutExpired):
                code = process.wait(LOOK_EVERY_S)
                _check_held(client, pages, f"; {command[0]} has ended with exit code {code}")
                return code
            _check_held(client, pages, f"; {command[0]} is told to end")
    finally:
        # It ends before what was reserved for it is given back (Ctrl-C), and where nothing is held for it any more.
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(_GRACE_S)
            except subprocess.TimeoutExpired:
                process.kill()


def _until_held(client: BlockingClient, pages: int) -> None:
    """Wait until the memory is held. Raises Failure: it cannot be."""
    while True:
        answer = client.call("reservation")
        if answer.get("state") == "held":
            return
        if answer.get("state") != "pending":
            raise Failure(_why(pages, answer))
        time.sleep(ASK_EVERY_S)  # noqa: TID251 - a command has nothing else to do


def _why(pages: int, answer: dict[str, Any]) -> str:
    """Say why a reservation failed, and what to do."""
    match answer:
        case {"cannot_free": {"possible_pages": int(possible)}}:
            return (
                f"cannot free {format_pages(pages)}: {format_pages(possible)} is the most that is possible; "
                "ask for less, or lower the minimum of some domains"
            )
        case {"uncooperative": list(domids)}:
            who = ", ".join(f"d{domid}" for domid in domids)
            return (
                f"cannot free {format_pages(pages)}: {who} refuse to give memory up; "
                "`xbd info` tells what their guests say, `xbd destroy` frees theirs"
            )
        case _:
            return f"the reservation of {format_pages(pages)} is gone; was the autoballoon daemon restarted?"
