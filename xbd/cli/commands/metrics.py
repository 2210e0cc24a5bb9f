"""`xbd metrics`: serve a host's figures for Prometheus, at a port or a Unix socket."""

import os
from pathlib import Path

import click
import trio

from xbd import log
from xbd.cli.common import Failure, group_socket, socket_option
from xbd.client.discovery import find_socket
from xbd.daemons.runtime import service
from xbd.daemons.runtime.sockets import bind_unix
from xbd.errors import ConfigError

_UNIX = "unix:"
_MAX_PORT = 65535


@click.command("metrics")
@click.option(
    "--listen",
    required=True,
    metavar="ADDRESS:PORT|unix:PATH",
    help="Where to serve them, such as 127.0.0.1:9110 or unix:/run/xbd/metrics.sock.",
)
@click.option("--group", help="Whose members may read them at unix:PATH, beside this user and root.")
@socket_option
@click.pass_context
def metrics_command(ctx: click.Context, listen: str, group: str | None, socket_path: str | None) -> None:
    """Serve the host's and its domains' figures for Prometheus, until SIGTERM or Ctrl-C.

    While the hypervisor cannot be reached, the page says `xbd_up 0`. Whoever can connect can read: an address
    other than this machine's own is for a network that you trust.
    """
    service.begin()
    try:
        import xbd.daemons.metrics  # noqa: F401, PLC0415 - needs an extra
    except ImportError as error:
        raise Failure(
            "metrics need prometheus-client and h11, and one is not installed; pip install 'xbd[metrics]' brings them"
        ) from error

    path = find_socket(socket_path or group_socket(), os.environ)
    if listen.startswith(_UNIX):
        ctx.exit(trio.run(_serve_unix, path, listen, group))
    if group is not None:
        raise click.UsageError("--group is for unix:PATH; at a port everybody who can connect may read")
    host, _, port = listen.rpartition(":")
    if not host or not (port.isascii() and port.isdecimal()) or int(port) > _MAX_PORT:
        raise Failure(f"--listen {listen}: expected ADDRESS:PORT, such as 127.0.0.1:9110, or unix:PATH")
    ctx.exit(trio.run(_serve_tcp, path, listen, host.strip("[]"), int(port)))


async def _serve_unix(path: Path, listen: str, group: str | None) -> int:
    """Serve at a Unix socket. Raises ConfigError: another process has it; Failure: it cannot listen there."""
    from xbd.daemons.metrics import run_metrics  # noqa: PLC0415 - needs an extra

    try:
        bound = bind_unix(Path(listen.removeprefix(_UNIX)), group=group)
    except ConfigError as error:
        if isinstance(error.__cause__, OSError):
            raise _cannot_listen(listen, error.__cause__) from error
        raise
    return await run_metrics(path, [bound], listen, _say)


async def _serve_tcp(path: Path, listen: str, host: str, port: int) -> int:
    """Serve at a port. Raises Failure: it cannot listen there."""
    from xbd.daemons.metrics import address_of, bind_tcp, run_metrics  # noqa: PLC0415 - needs an extra

    try:
        bound = await bind_tcp(host, port)
    except (OSError, ValueError) as error:
        # A ValueError is of a name that no host can have.
        raise _cannot_listen(listen, error) from error
    return await run_metrics(path, bound, address_of(bound[0]), _say)


def _say(line: str) -> None:
    click.echo(f"{log.mark_for('info')}{line}", err=True)


def _cannot_listen(listen: str, error: Exception) -> Failure:
    return Failure(f"cannot listen on {listen}: {getattr(error, 'strerror', None) or error}")
