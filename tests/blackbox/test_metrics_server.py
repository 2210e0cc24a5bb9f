"""The metrics server among peers that are silent, slow, many or wrong, and beside sockets of others."""

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.blackbox.daemons import answers
from tests.blackbox.rpc import PATIENCE_S
from tests.processes import Xbd, running

pytestmark = pytest.mark.slow
SCRAPE = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"


@contextmanager
def serving(directory: Path) -> Iterator[tuple[Xbd, Path]]:
    """Run a metrics server in *directory*, without a hypervisor; yields it, and its socket."""
    path = directory / "metrics.sock"
    with running("--socket", str(directory), "metrics", "--listen", f"unix:{path}") as exporter:
        exporter.wait_until_it_says("serving")
        yield exporter, path


def connected(path: Path) -> socket.socket:
    """Connect, and wait for no answer longer than a test may."""
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(PATIENCE_S)
    connection.connect(os.fspath(path))
    return connection


def asked(path: Path, request: bytes) -> bytes:
    """Send *request* and return all that comes back; nothing when the server just closed."""
    with connected(path) as connection:
        try:
            connection.sendall(request)
            return b"".join(iter(lambda: connection.recv(65536), b""))
        except ConnectionError:
            return b""


def status_of(answer: bytes) -> int:
    """Read the status out of an answer."""
    return int(answer.split(b" ", 2)[1])


def test_silent_and_slow_peers_hold_up_nobody(tmp_path: Path) -> None:
    """Beside one that says nothing and one in the middle of its request, a scrape is answered and SIGTERM ends it with 0."""
    with serving(tmp_path) as (exporter, path), connected(path), connected(path) as slow:
        slow.sendall(b"GET /metr")
        assert b"\nxbd_up 0.0" in asked(path, SCRAPE)
        assert exporter.end(signal.SIGTERM) == 0
        assert not path.exists()


def test_a_silent_peer_is_dropped_in_time(tmp_path: Path) -> None:
    """A peer that asks for nothing, or never ends asking, is closed by the server."""
    with serving(tmp_path) as (_, path), connected(path) as silent, connected(path) as slow:
        slow.sendall(b"GET /metr")
        assert silent.recv(100) == b""
        assert slow.recv(100) == b""


def test_more_silent_peers_than_places_leave_room_for_a_scrape(tmp_path: Path) -> None:
    """Two hundred connections that say nothing take no scraper's place."""
    with ExitStack() as stack, serving(tmp_path) as (exporter, path):
        for _ in range(200):
            stack.enter_context(connected(path))
        assert status_of(asked(path, SCRAPE)) == 200
        assert exporter.end(signal.SIGTERM) == 0


def test_many_scrapers_at_once_are_all_answered(tmp_path: Path) -> None:
    """Forty requests that are sent before the first answer is read each get the page."""
    with ExitStack() as stack, serving(tmp_path) as (_, path):
        scrapers = [stack.enter_context(connected(path)) for _ in range(40)]
        for scraper in scrapers:
            scraper.sendall(SCRAPE)
        for scraper in scrapers:
            assert b"\nxbd_up 0.0" in b"".join(iter(lambda scraper=scraper: scraper.recv(65536), b""))  # type: ignore[misc]


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello", 405),
        (b"DELETE / HTTP/1.0\r\n\r\n", 405),
        (b"\x16\x03\x01\x02\x00\x01\r\n\r\n", 400),
        (b"GET /metrics\r\n\r\n", 400),
        (b"GET /" + b"x" * 100_000, 431),
        (b"GET /metrics HTTP/1.1\r\nHost: x\r\nAccept: text/plain;version=never\r\n\r\n", 400),
        (b"GET /metrics?name[]=%zz&&= HTTP/1.0\r\n\r\n", 200),
    ],
)
def test_wrong_requests_get_an_error_and_the_next_scrape_its_page(
    tmp_path: Path, request_bytes: bytes, status: int
) -> None:
    """Whatever is sent, the answer is an HTTP error, and the server is none the worse."""
    with serving(tmp_path) as (exporter, path):
        assert status_of(asked(path, request_bytes)) == status
        assert status_of(asked(path, SCRAPE)) == 200
        assert exporter.end(signal.SIGTERM) == 0


def test_head_gets_the_headers_alone(tmp_path: Path) -> None:
    """HEAD is answered as GET is, with its length and without its page."""
    with serving(tmp_path) as (_, path):
        headers, _, page = asked(path, b"HEAD /metrics HTTP/1.0\r\n\r\n").partition(b"\r\n\r\n")
        whole = asked(path, b"GET /metrics HTTP/1.0\r\n\r\n").partition(b"\r\n\r\n")[2]

    assert page == b""
    assert f"Content-Length: {len(whole)}".encode() in headers


def refused(arguments: list[str]) -> tuple[int, str]:
    """Run a metrics command that is to end by itself; returns its exit code and what it said."""
    with running(*arguments) as exporter:
        code = exporter.process.wait(PATIENCE_S)
        exporter.end()
    return code, "".join(exporter.said)


def test_a_living_socket_is_refused_and_a_dead_one_replaced(tmp_path: Path) -> None:
    """The hypervisor's own socket stays the hypervisor's (exit 78); what a killed server left is taken over."""
    command = ["--socket", str(tmp_path), "metrics", "--listen"]
    with running("hypervisor", "--memory", "16m", "--runtime-dir", str(tmp_path)) as hypervisor:
        hypervisor.wait_until_it_says("hypervisor_ready")
        code, said = refused([*command, f"unix:{tmp_path / 'hypervisor.sock'}"])
        assert (code, "somebody listens there already" in said) == (78, True)
        assert answers(tmp_path / "hypervisor.sock")
        with serving(tmp_path) as (exporter, path):
            assert refused([*command, f"unix:{path}"])[0] == 78
            assert b"\nxbd_up 1.0" in asked(path, SCRAPE)
            exporter.end(signal.SIGKILL)
        assert path.is_socket()
        with serving(tmp_path):
            assert path.stat().st_mode & 0o777 == 0o600


def test_a_file_that_is_no_socket_stays(tmp_path: Path) -> None:
    """A regular file where the socket is to be is refused with 78, and keeps its contents."""
    path = tmp_path / "notes"
    path.write_text("mine")
    code, said = refused(["--socket", str(tmp_path), "metrics", "--listen", f"unix:{path}"])

    assert (code, "is no socket" in said) == (78, True)
    assert path.read_text() == "mine"


def test_a_hypervisor_that_hangs_does_not_hold_up_sigterm(tmp_path: Path) -> None:
    """While a scrape waits for a hypervisor that does not answer, SIGTERM ends the server with 0."""
    with socket.socket(socket.AF_UNIX) as hypervisor:
        hypervisor.bind(os.fspath(tmp_path / "hypervisor.sock"))
        hypervisor.listen()
        with serving(tmp_path) as (exporter, path), connected(path) as scraper:
            scraper.sendall(SCRAPE)
            hypervisor.accept()[0].close()
            scraper.recv(10)
            with connected(path) as second:
                second.sendall(SCRAPE)
                asker = hypervisor.accept()[0]
                assert exporter.end(signal.SIGTERM) == 0
                asker.close()
