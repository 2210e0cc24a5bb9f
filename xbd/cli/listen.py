"""Where a daemon that serves HTTP is to listen, as `--listen` says it: a port, or a Unix socket."""

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from socket import socket
from typing import TYPE_CHECKING, NamedTuple

import click
import trio

from xbd import log
from xbd.cli.common import Failure
from xbd.errors import ConfigError, XbdError

if TYPE_CHECKING:
    # It needs an extra.
    from xbd.daemons.http_server import Bind

_UNIX = "unix:"
_MAX_PORT = 65535

# Serves where that binds which it is given, told how to say something; returns the exit code.
Run = Callable[["Bind", Callable[[str], None]], Awaitable[int]]


class CannotListen(XbdError):
    """An address at which nobody can listen, for the reason that the system gives."""


class Address(NamedTuple):
    """Where to listen, as it was written: a port of *host*, or a Unix *path*."""

    written: str
    host: str = ""
    port: int = 0
    path: Path | None = None


def address(listen: str, group: str | None) -> Address:
    """Read `--listen`. Raises Failure, UsageError: it is none, or a port that is to have a *group*."""
    if listen.startswith(_UNIX):
        return Address(listen, path=Path(listen.removeprefix(_UNIX)))
    if group is not None:
        raise click.UsageError("--group is for unix:PATH; at a port everybody who can connect may read")
    host, _, port = listen.rpartition(":")
    if not host or not (port.isascii() and port.isdecimal()) or int(port) > _MAX_PORT:
        raise Failure(f"--listen {listen}: expected ADDRESS:PORT, such as 127.0.0.1:9110, or unix:PATH")
    return Address(listen, host.strip("[]"), int(port))


def serve_at(address: Address, group: str | None, page: str, run: Run) -> int:
    """Let *run* bind and serve; *page*: what of it people are to open. Raises ConfigError: another process has it; CannotListen."""
    return trio.run(run, lambda: _bind(address, group, page), _say)


async def _bind(address: Address, group: str | None, page: str) -> tuple[Sequence[socket], str]:
    from xbd.daemons.http_server import address_of, bind_tcp  # noqa: PLC0415 - needs an extra
    from xbd.daemons.runtime.sockets import bind_unix  # noqa: PLC0415 - beside it

    try:
        if address.path is not None:
            return [bind_unix(address.path, group=group)], address.written
        bound = await bind_tcp(address.host, address.port)
        return bound, address_of(bound[0], page)
    except (OSError, ValueError) as error:
        # A ValueError is of a name that no host can have.
        raise _cannot_listen(address, error) from error
    except ConfigError as error:
        # Another daemon that is just binding there has the lock: that is no fault of the address.
        if isinstance(error.__cause__, OSError) and not isinstance(error.__cause__, BlockingIOError):
            raise _cannot_listen(address, error.__cause__) from error
        raise


def _say(line: str) -> None:
    click.echo(f"{log.mark_for('info')}{line}", err=True)


def _cannot_listen(address: Address, error: Exception) -> CannotListen:
    return CannotListen(f"cannot listen on {address.written}: {getattr(error, 'strerror', None) or error}")
