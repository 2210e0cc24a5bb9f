"""`xbd xenstored`: run a XenStore that shows the host."""

import os
from pathlib import Path

import click
import trio

from xbd.cli.common import group_socket, socket_option
from xbd.client.discovery import find_socket
from xbd.daemons.runtime import service


@click.command("xenstored")
@click.option(
    "--xenstore-socket",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="PATH",
    help="Listen there; default: xenstored/socket beside the hypervisor's socket. Domains' sockets are in domains/ beside it.",
)
@click.option(
    "--state-dir",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIRECTORY",
    help="Keep the store there, through restarts.",
)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
    help="Log from here on.",
)
@socket_option
@click.pass_context
def xenstored_command(
    ctx: click.Context, xenstore_socket: Path | None, state_dir: Path | None, log_level: str, socket_path: str | None
) -> None:
    """Run a XenStore that shows the host, for Xen's own tools and whatever else speaks its protocol.

    Tools find it by its socket's path in $XENSTORED_PATH. Writing a domain's memory/target there changes its
    target, in KiB and rounded down to 2 MiB; its limit stays, other than with `xbd mem-set`.
    """
    from xbd.daemons.xenstored import run_xenstored  # noqa: PLC0415 - `xbd --help` needs none of it

    service.begin(log_level)
    hypervisor = find_socket(socket_path or group_socket(), os.environ)
    path = xenstore_socket or hypervisor.parent / "xenstored" / "socket"
    ctx.exit(trio.run(run_xenstored, hypervisor, path, state_dir))
