"""Commands that run daemons, or a whole host: up, hypervisor, guests, guest."""

import os
from functools import partial
from pathlib import Path

import click
import trio

from xbd import log
from xbd.abi import MAX_DOMAINS
from xbd.cli.common import Failure, complete_domains, group_socket, socket_option
from xbd.client.discovery import find_socket
from xbd.client.runtime_dir import absolute_path, check_socket_path, default_runtime_dir, domain_socket
from xbd.config.host import LOG_LEVELS, MAX_HOST_PAGES, HostConfig
from xbd.config.strategies import DEFAULT_STRATEGY, STRATEGIES
from xbd.control.agent_share import AgentShare
from xbd.daemons.agent_processes import MOST_PROCESSES, run_agent_processes, usable_cores
from xbd.daemons.config_files import load_host_config
from xbd.daemons.runtime import service
from xbd.daemons.runtime.owned_path import refuse_shared_path
from xbd.errors import ConfigError
from xbd.units import format_pages, parse_superpages

_HOST_FILE = click.Path(dir_okay=False, path_type=Path)
_log_option = click.option(
    "--log-level", type=click.Choice(LOG_LEVELS), default="info", show_default=True, help="Log from here on."
)
_supervised_option = click.option("--supervised", is_flag=True, hidden=True, help="End when standard input does.")
_runtime_dir_option = click.option(
    "--runtime-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where the sockets lie. [default: as the host file says, else $RUNTIME_DIRECTORY, $XDG_RUNTIME_DIR/xbd or /run/xbd]",
)


_processes_option = click.option(
    "--processes",
    type=click.IntRange(1, MOST_PROCESSES),
    help="Share the guests out over so many agent processes. [default: as many as there are cores]",
)


_state_dir_option = click.option(
    "--state-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where the host's state is saved, to outlive the daemon. [default: as the host file says, else nowhere]",
)


@click.command("up")
@click.argument("host_file", metavar="HOST.toml", type=_HOST_FILE)
@_runtime_dir_option
@_processes_option
@click.pass_context
def up_command(ctx: click.Context, host_file: Path, runtime_dir: Path | None, processes: int | None) -> None:
    """Run the host that HOST.toml describes, in the foreground: hypervisor, domains, agents.

    Each service has processes of its own. Ctrl-C stops them cleanly; a second one at once. With a state_dir in
    HOST.toml the host is there again the next time, and a hypervisor that is killed is started again.
    """
    from xbd.daemons.supervisor import Supervisor  # noqa: PLC0415 - the other commands here need none of it

    service.begin("warning")
    config = load_host_config(host_file)
    directory = _runtime_dir(runtime_dir, config)
    wanted = sum(guest.autostart for guest in (*config.guests, *([config.dom0] if config.dom0 else [])))
    saved = config.state_dir is not None
    supervisor = Supervisor(host_file, directory, wanted, _say, saved=saved, processes=processes or usable_cores())
    ctx.exit(trio.run(supervisor.run))


@click.command("hypervisor")
@click.option("--config", "host_file", type=_HOST_FILE, metavar="HOST.toml", help="The host and its domains.")
@click.option("--memory", metavar="SIZE", help="How much memory the host has (without --config).")
@click.option(
    "--strategy",
    type=click.Choice(list(STRATEGIES)),
    default=None,
    help=f"How it goes about memory (without --config). [default: {DEFAULT_STRATEGY}]",
)
@click.option("--group", help="Whose members may use the toolstack's socket, beside this user and root.")
@_runtime_dir_option
@_state_dir_option
@click.option(
    "--record",
    "recording",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write all that is done to the host into this new file; `xbd rerun` does it again.",
)
@click.option(
    "--log-level", type=click.Choice(LOG_LEVELS), help="Log from here on. [default: as the host file says, else info]"
)
@_supervised_option
@click.pass_context
def hypervisor_command(
    ctx: click.Context,
    *,
    host_file: Path | None,
    memory: str | None,
    strategy: str | None,
    group: str | None,
    runtime_dir: Path | None,
    state_dir: Path | None,
    recording: Path | None,
    log_level: str | None,
    supervised: bool,
) -> None:
    """Run the hypervisor daemon: one host's memory behind Unix sockets.

    SIGTERM and Ctrl-C let nobody new in, answer what peers have sent (for 2 s at most), audit the
    machine, and end the host with all its domains.

    With a state directory the host outlives the daemon, however that ends (SIGKILL, not loss of power): the
    next one goes on with the same domains, and agents and clients resume their sessions. Memory and settings
    are then those of the saved host; guests that the host file describes newly are created.

    SIGHUP reads HOST.toml again. Applied are [[guest]]s that are described newly (they are created), and
    the host's name, group and log_level. All else that is described differently is left as it is, and
    the log says why and what to do: memory and settings want a restart, targets `xbd mem-set`; guests that
    are not described any more run on. A file that cannot be used changes nothing.

    A service manager may pass the socket (LISTEN_FDS); it must be hypervisor.sock in the run-time
    directory. It is told how things stand (NOTIFY_SOCKET, WATCHDOG_USEC). Units for systemd are in systemd/.
    """
    from xbd.daemons.host_file import DEFAULT_LOG_LEVEL, HostFile  # noqa: PLC0415
    from xbd.daemons.hypervisor import run  # noqa: PLC0415 - numpy-heavy
    from xbd.daemons.recorder import Recorder  # noqa: PLC0415
    from xbd.daemons.runtime.state_dir import StateDir, make_machine  # noqa: PLC0415

    service.begin()
    if (host_file is None) == (memory is None):
        raise click.UsageError("either --config HOST.toml or --memory SIZE is needed, such as: --memory 16g")
    if host_file is not None and strategy is not None:
        raise click.UsageError("--strategy goes with --memory; with --config the host file says it")
    config = (
        load_host_config(host_file, may_wait=True)
        if host_file
        else _plain_host(str(memory), strategy or DEFAULT_STRATEGY)
    )
    directory = _runtime_dir(runtime_dir, config)
    log.configure(log_level or config.log_level or DEFAULT_LOG_LEVEL)
    decided = [key for key, given in (("group", group), ("log_level", log_level)) if given]
    file = None if host_file is None else HostFile(host_file, config, decided)
    state_path = state_dir or config.state_dir
    state = None if state_path is None else StateDir(_from_here(state_path))
    recorder = None if recording is None else Recorder(recording)
    machine = make_machine(state, config.superframes, config.settings, recorder, nodes=config.nodes)
    dom0 = None if config.dom0 is None else config.dom0.as_params()
    domains = [guest.as_params() for guest in config.guests]

    async def serve() -> int:
        return await run(
            machine,
            directory,
            name=config.name,
            group=group or config.group,
            dom0=dom0,
            domains=domains,
            host_file=file,
            state=state,
            supervised=supervised,
        )

    ctx.exit(trio.run(serve))


def _say(line: str) -> None:
    click.echo(f"{log.mark_for('info')}{line}", err=True)


def _plain_host(memory: str, strategy: str) -> HostConfig:
    """Make a host without guests."""
    pages = parse_superpages(memory)
    if pages > MAX_HOST_PAGES:
        raise Failure(f"--memory {memory}: a host has at most {format_pages(MAX_HOST_PAGES)}")
    return HostConfig(pages, settings=STRATEGIES[strategy].host)


def _from_here(path: Path) -> Path:
    """Make a path absolute, and follow no links: whose they are is looked at. Raises ConfigError, as `absolute_path` does."""
    return path if path.is_absolute() else absolute_path(Path()) / path


def _runtime_dir(given: Path | None, config: HostConfig) -> Path:
    named = given or config.runtime_dir or default_runtime_dir(os.environ)
    directory = absolute_path(named)
    try:
        # By the links that lead there: clients follow them, too.
        refuse_shared_path(named, "the run-time directory")
    except OSError as error:
        raise ConfigError(named, "", f"cannot be the run-time directory: {error.strerror}") from error
    # The longest name in it decides, before anything is started.
    check_socket_path(domain_socket(directory, MAX_DOMAINS))
    return directory


@click.command("guests")
@click.option(
    "--only", default="*", metavar="PATTERN", help="Of domains with such names only, as a shell matches them."
)
@_processes_option
@click.option("--share", type=click.IntRange(0), hidden=True, help="Be that one of the processes, from 0 on.")
@socket_option
@_log_option
@_supervised_option
@click.pass_context
def guests_command(
    ctx: click.Context,
    socket_path: str | None,
    log_level: str,
    *,
    only: str,
    processes: int | None,
    share: int | None,
    supervised: bool,
) -> None:
    """Run the agents of all domains that want one, and of those that will be created; each plays its guest.

    The guests are shared out over several processes, so that they use all cores; a process that dies takes only its
    own guests along, and is started again. With --processes 1 all is in this one.
    """
    service.begin(log_level)
    path = find_socket(socket_path or group_socket(), os.environ)
    processes = processes or usable_cores()
    if share is not None and share >= processes:
        raise click.UsageError(f"--share {share} of --processes {processes}: they are counted from 0")
    if share is None and processes > 1:
        parent = partial(run_agent_processes, path, only, processes=processes, log_level=log_level)
        ctx.exit(trio.run(partial(parent, supervised=supervised)))
    from xbd.daemons.guests import run_guests  # noqa: PLC0415 - numpy-heavy

    ours = AgentShare(share or 0, processes)
    ctx.exit(trio.run(partial(run_guests, path, only, ours, supervised=supervised)))


@click.command("guest")
@click.argument("name", metavar="DOMAIN", shell_complete=complete_domains)
@click.option("--wait", is_flag=True, help="Where no hypervisor can be reached, wait for one instead of failing.")
@socket_option
@_log_option
@_supervised_option
@click.pass_context
def guest_command(
    ctx: click.Context, name: str, socket_path: str | None, log_level: str, *, wait: bool, supervised: bool
) -> None:
    """Run the agent of one domain, in a process of its own, until its guest has shut down."""
    from xbd.daemons.guests import run_guest  # noqa: PLC0415 - numpy-heavy

    service.begin(log_level)
    path = find_socket(socket_path or group_socket(), os.environ)
    ctx.exit(trio.run(partial(run_guest, path, name, wait=wait, supervised=supervised)))
