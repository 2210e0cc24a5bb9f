"""`xbd web`: a page that shows a host while it works, or a series that was written; at a port or a Unix socket."""

import ipaddress
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from xbd.cli.common import Failure, group_socket, socket_option
from xbd.cli.listen import Address, address, serve_at
from xbd.client.discovery import find_socket
from xbd.daemons.config_files import read_text
from xbd.daemons.runtime import service
from xbd.errors import ConfigError

if TYPE_CHECKING:
    from xbd.control.moments import Moment

# A series is held in memory, compressed.
MAX_SERIES_BYTES: Final = 256 << 20
_OPTION: Final = "--let-other-machines-in"


@click.command("web")
@click.option(
    "--listen",
    default="127.0.0.1:9120",
    show_default=True,
    metavar="ADDRESS:PORT|unix:PATH",
    help="Where to serve the page, such as 127.0.0.1:9120 or unix:/run/xbd/web.sock.",
)
@click.option("--group", help="Whose members may open it at unix:PATH, beside this user and root.")
@click.option(
    "--open",
    "series",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Show a series that was written (--series of watch, replay and others), not a live host.",
)
@click.option(
    _OPTION, is_flag=True, help="Listen at an address that other machines reach: everybody there can read the page."
)
@click.option(
    "--host-name",
    "host_names",
    multiple=True,
    metavar="NAME",
    help="A name by which browsers may call it, beside localhost. May be given several times.",
)
@socket_option
@click.pass_context
def web_command(
    ctx: click.Context,
    listen: str,
    group: str | None,
    socket_path: str | None,
    *,
    series: Path | None,
    host_names: tuple[str, ...],
    let_other_machines_in: bool,
) -> None:
    """Serve a page that shows the host while it works, until SIGTERM or Ctrl-C; it can change nothing.

    The map of the host's memory, the domains and why they hold what they hold, one domain, and the last hour. While the
    hypervisor cannot be reached the page says so, and goes on when it is there again.
    """
    service.begin()
    try:
        from xbd.daemons.web.server import run_web  # noqa: PLC0415 - needs an extra
    except ImportError as error:
        raise Failure("the page needs h11, which is not installed; pip install 'xbd[web]' brings it") from error

    at = address(listen, group)
    if not let_other_machines_in:
        _refuse_other_machines(at)
    source = find_socket(socket_path or group_socket(), os.environ) if series is None else _runs_of(series)
    name = "" if series is None else series.name
    ctx.exit(
        serve_at(
            at,
            group,
            "/",
            lambda bind, say: run_web(
                source,
                bind,
                say,
                name=name,
                host_names=host_names,
                from_other_machines=let_other_machines_in,
            ),
        )
    )


def _refuse_other_machines(at: Address) -> None:
    """Refuse an address that other machines reach. Raises Failure."""
    if at.path is not None or at.host == "localhost":
        return
    try:
        is_own = ipaddress.ip_address(at.host).is_loopback
    except ValueError:
        is_own = False
    if not is_own:
        raise Failure(
            f"--listen {at.written}: other machines may reach that, and whoever does can read the page;"
            f" use 127.0.0.1:{at.port}, or say {_OPTION}"
        )


def _runs_of(path: Path) -> "dict[str, list[Moment]]":
    """Read a series. Raises ConfigError: it is none, or cannot be read."""
    from xbd.control.series_read import runs_of  # noqa: PLC0415 - just for this

    text = read_text(path, most_bytes=MAX_SERIES_BYTES)
    try:
        return runs_of(text.splitlines(keepends=True))
    except ValueError as error:
        raise ConfigError(
            path, "", f"{error}; expected a series, such as `xbd watch --series` or `xbd replay --series` writes"
        ) from error
