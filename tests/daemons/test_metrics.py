"""The metrics page, read by the client library's own parser, over TCP and a Unix socket, with and without a hypervisor."""

import http.client
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from prometheus_client.parser import text_string_to_metric_families

from tests.cli.views import told
from tests.processes import running
from xbd.cli.main import main
from xbd.daemons.metric_families import families
from xbd.domain import read_domain

HOST = {
    "frames": 4096,
    "free_frames": 1024,
    "claimed_frames": 512,
    "superframes": 8,
    "free_superframes": 2,
    "shattered_superframes": 0,
    "domains": 1,
}


def samples(text: str) -> dict[tuple[str, ...], float]:
    """Parse a page: name and label values to value."""
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_every_figure_of_a_domain_has_its_labels() -> None:
    """Gauges by domid and name, counters also by operation and outcome."""
    domain = read_domain(told(claimed_pages=7, uuid="a-uuid", hypercalls={"decrease:done": 3, "populate:ENOMEM": 1}))
    read = {
        (sample.name, *sample.labels.values()): sample.value for f in families(HOST, [domain]) for sample in f.samples
    }

    assert read["xbd_free_frames",] == 1024
    assert read["xbd_domain_claimed_pages", "1", "web1"] == 7
    assert read["xbd_domain_info", "1", "web1", "a-uuid"] == 1
    assert read["xbd_domain_state", "1", "web1", "running"] == 1
    assert read["xbd_domain_hypercalls_total", "1", "web1", "populate", "ENOMEM"] == 1
    assert read["xbd_domain_extents_total", "1", "web1", "decrease", ""] == 1024


@pytest.fixture(scope="module")
def runtime_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Run a hypervisor with a domain."""
    directory = tmp_path_factory.mktemp("metrics")
    host_file = directory / "host.toml"
    host_file.write_text('[host]\nmemory = "64m"\n[[guest]]\nname = "web1"\nmaximum = "32m"\nautostart = false\n')
    with running("hypervisor", "--config", str(host_file), "--runtime-dir", str(directory / "run")) as daemon:
        daemon.wait_until_it_says("hypervisor_ready")
        yield directory / "run"


def test_prometheus_reads_it_over_tcp(runtime_dir: Path) -> None:
    """The page parses, and says what the hypervisor says; SIGTERM ends the exporter with 0."""
    with running("--socket", str(runtime_dir), "metrics", "--listen", "127.0.0.1:0") as exporter:
        exporter.wait_until_it_says("serving")
        address = exporter.said[-1].split()[1].removeprefix("http://").removesuffix("/metrics")
        connection = http.client.HTTPConnection(address)
        connection.request("GET", "/metrics")
        read = samples(connection.getresponse().read().decode())
        connection.close()
        assert exporter.end(signal.SIGTERM) == 0

    assert read["xbd_up",] == 1
    assert read["xbd_domain_tot_pages", "1", "web1"] == 8192


def test_prometheus_reads_it_over_a_unix_socket_without_a_hypervisor(tmp_path: Path) -> None:
    """A hypervisor that is not there is a figure, not an error; the socket is gone in the end."""
    path = tmp_path / "metrics.sock"
    with running("--socket", str(tmp_path), "metrics", "--listen", f"unix:{path}") as exporter:
        exporter.wait_until_it_says("serving")
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(os.fspath(path))
            connection.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
            page = b"".join(iter(lambda: connection.recv(65536), b"")).decode()
        exporter.end(signal.SIGTERM)

    assert page.startswith("HTTP/1.0 200 OK")
    assert samples(page.partition("\r\n\r\n")[2]) == {("xbd_up",): 0}
    assert not path.exists()


@pytest.mark.parametrize("listen", ["9110", "localhost:http", "127.0.0.1:99999", "unix:/no/such/directory/x.sock"])
def test_where_it_cannot_listen_is_said(listen: str) -> None:
    """One sentence, exit 1."""
    refused = CliRunner().invoke(main, ["metrics", "--listen", listen])

    assert refused.exit_code == 1
    assert listen in refused.stderr
