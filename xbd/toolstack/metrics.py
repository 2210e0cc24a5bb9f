"""`xbd metrics`: serves a host's figures to Prometheus, asked for anew at every scrape."""

import os
import signal
import socket
import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

import click
import trio

from xbd import log
from xbd.errors import PeerLost, ProtocolError
from xbd.services.sd_notify import ServiceManager
from xbd.toolstack.cli import Failure, group_socket, socket_option
from xbd.toolstack.client import open_client
from xbd.toolstack.sockets import NoHypervisor, find_socket
from xbd.toolstack.views import DomainView

# Prometheus gives up a scrape after 10 s; a hypervisor that hangs for longer is not up.
ANSWER_WITHIN_S = 8.0
# How often the server looks whether it is to stop.
STOP_WITHIN_S = 0.2
_UNIX = "unix:"


@click.command("metrics")
@click.option(
    "--listen",
    required=True,
    metavar="ADDRESS:PORT|unix:PATH",
    help="Where to serve them, such as 127.0.0.1:9110 or unix:/run/xbd/metrics.sock.",
)
@socket_option
def metrics_command(listen: str, socket_path: str | None) -> None:
    """Serve the host's and its domains' figures for Prometheus, until SIGTERM or Ctrl-C.

    While the hypervisor cannot be reached, the page says `xbd_up 0`. Whoever can connect can read: an address
    other than this machine's own is for a network that you trust.
    """
    try:
        from prometheus_client import CollectorRegistry, make_wsgi_app  # noqa: PLC0415 - an extra

        from xbd.toolstack.metric_families import families  # noqa: PLC0415
    except ImportError as error:
        raise Failure(
            "metrics need prometheus-client, which is not installed; pip install 'xbd[metrics]' brings it"
        ) from error

    path = find_socket(socket_path or group_socket(), os.environ)

    class Collector:
        """What the registry asks at each scrape."""

        def collect(self) -> Iterable[Any]:
            """Look at the host."""
            return families(*trio.run(_look, path))

        def describe(self) -> Iterable[Any]:
            """Name nothing beforehand: the host need not be there yet."""
            return []

    registry = CollectorRegistry()
    registry.register(Collector())
    log.configure("info")
    _serve(listen, make_wsgi_app(registry))


async def _look(path: Path) -> tuple[Mapping[str, Any] | None, Sequence[DomainView]]:
    """Ask the hypervisor for everything; (None, ()) where it does not answer."""
    try:
        with trio.fail_after(ANSWER_WITHIN_S):
            async with open_client(path) as client:
                return await client.host(), await client.list()
    except (NoHypervisor, PeerLost, ProtocolError, trio.TooSlowError):
        return None, ()


class _Handler(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002, ANN401 - wsgiref's signature
        """Say nothing of a scrape: there are thousands."""

    def address_string(self) -> str:
        """Name the peer, which on a Unix socket has no address."""
        return str(self.client_address)


class _UnixServer(WSGIServer):
    """A WSGI server on a Unix socket, whose path it owns."""

    address_family = socket.AF_UNIX

    def server_bind(self) -> None:
        """Bind; a stale socket is replaced."""
        path = Path(str(self.server_address))
        if path.is_socket():
            path.unlink()
        self.socket.bind(os.fspath(path))
        path.chmod(0o660)
        self.server_name, self.server_port = "localhost", 0
        self.setup_environ()

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept; wsgiref wants an address with a name."""
        connection, _ = self.socket.accept()
        return connection, ("local", 0)

    def server_close(self) -> None:
        """Close, and remove the socket."""
        super().server_close()
        Path(str(self.server_address)).unlink(missing_ok=True)


def _serve(listen: str, app: Any) -> None:  # noqa: ANN401 - a WSGI application
    """Serve until SIGTERM or SIGINT. Raises Failure: it cannot listen there."""
    try:
        if listen.startswith(_UNIX):
            server: WSGIServer = _UnixServer(listen.removeprefix(_UNIX), _Handler)  # type: ignore[arg-type]  # a path
        else:
            host, _, port = listen.rpartition(":")
            if not host or not port.isdecimal():
                raise Failure(f"--listen {listen}: expected ADDRESS:PORT, such as 127.0.0.1:9110, or unix:PATH")
            server = WSGIServer((host.strip("[]"), int(port)), _Handler)
    except (OSError, OverflowError) as error:
        raise Failure(f"cannot listen on {listen}: {getattr(error, 'strerror', None) or error}") from error
    server.set_app(app)
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda *_: threading.Thread(target=server.shutdown).start())
    manager = ServiceManager.from_environment(os.environ, os.getpid())
    bound = listen if listen.startswith(_UNIX) else f"http://{server.server_address[0]!s}:{server.server_port}/metrics"
    click.echo(f"serving {bound}", err=True)
    manager.ready(f"serving {bound}")
    try:
        # By a request to its loop, not by an exception: one in the middle of an answer would be taken for the answer's.
        server.serve_forever(poll_interval=STOP_WITHIN_S)
        manager.stopping("stopping")
    finally:
        server.server_close()
