"""`xbd metrics`: serve a host's figures for Prometheus, at a port or a Unix socket."""

import os

import click

from xbd.cli.common import Failure, group_socket, socket_option
from xbd.cli.listen import address, serve_at
from xbd.client.discovery import find_socket
from xbd.daemons.runtime import service


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
        from xbd.daemons.metrics import run_metrics  # noqa: PLC0415 - needs an extra
    except ImportError as error:
        raise Failure(
            "metrics need prometheus-client and h11, and one is not installed; pip install 'xbd[metrics]' brings them"
        ) from error

    path = find_socket(socket_path or group_socket(), os.environ)
    at = address(listen, group)
    ctx.exit(serve_at(at, group, "/metrics", lambda bind, say: run_metrics(path, bind, say)))
