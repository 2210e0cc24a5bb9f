"""Every program in `xbd/docs/examples` runs as it stands, and does what it says."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from click.testing import CliRunner
from PIL import Image

from tests.docs.pages import DOCS, ROOT
from tests.lab.experiments.tiny_grid import trace_text
from tests.processes import running
from xbd.cli.main import main
from xbd.client import connect
from xbd.config.policies import make_policy
from xbd.errors import BadSetting

EXAMPLES: Final = DOCS / "examples"
_HOST: Final = '[host]\nmemory = "256m"\n[[guest]]\nname = "web{n}"\ncount = 2\nmaximum = "64m"\ntarget = "48m"\n'
_TIMEOUT_S: Final = 60


def program(*arguments: str, socket: str = "") -> subprocess.CompletedProcess[str]:
    """Run Python with arguments."""
    return subprocess.run(  # noqa: S603 - our own documents
        [sys.executable, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), "XBD_SOCKET": socket},
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        check=False,
    )


@pytest.fixture(scope="module")
def socket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run a host with two guests."""
    directory = tmp_path_factory.mktemp("examples")
    (directory / "host.toml").write_text(_HOST)
    with running("up", str(directory / "host.toml"), "--runtime-dir", str(directory / "run")) as up:
        up.wait_until_it_says("2 guests are running")
        yield str(directory / "run")


def test_a_toolstack_in_a_few_lines(socket: str) -> None:
    """The domain shrinks to half, and is gone in the end; without a hypervisor it says so in a sentence."""
    done = program(str(EXAMPLES / "toolstack.py"), "batch", "64", socket=socket)
    alone = program(str(EXAMPLES / "toolstack.py"), "batch", "64", socket="/nowhere/x.sock")
    with connect(socket) as client:
        names = {domain.name for domain in client.list()}

    assert done.stdout.startswith("batch holds 32 MiB, 100% in superpages\nthat took "), done.stderr
    assert names == {"web1", "web2"}
    assert alone.returncode == 1
    assert "/nowhere/x.sock" in alone.stderr
    assert "Traceback" not in alone.stderr


def test_a_toolstack_in_tasks(socket: str) -> None:
    """Memory goes from one domain to the other."""
    done = program(str(EXAMPLES / "toolstack_trio.py"), "web1", "web2", "16", socket=socket)
    with connect(socket) as client:
        held = {domain.name: domain.tot_pages // 256 for domain in client.list()}

    assert done.returncode == 0, done.stderr
    assert held == {"web1": 32, "web2": 64}


def test_a_toolstack_is_short() -> None:
    """Both are 40 lines of code at most."""
    for name in ("toolstack.py", "toolstack_trio.py"):
        code = [line for line in (EXAMPLES / name).read_text(encoding="utf-8").splitlines() if line.strip()]
        assert len(code) <= 45, name


def test_a_fixture_of_pytest() -> None:
    """Its test passes by itself, without this project's settings."""
    options = ("-q", "-c", os.devnull, "-p", "no:cacheprovider", "-p", "no:xdist")
    done = program("-m", "pytest", *options, str(EXAMPLES / "host_fixture.py"))

    assert "1 passed" in done.stdout, done.stdout


def test_a_series_is_drawn(tmp_path: Path) -> None:
    """A replay's series becomes a picture with more than one colour."""
    trace, series, picture = tmp_path / "guest.csv", tmp_path / "series.csv", tmp_path / "series.png"
    trace.write_text(trace_text(3), encoding="utf-8")
    replayed = CliRunner().invoke(main, ["replay", str(trace), "--series", str(series), "--overcommit", "1.2"])
    done = program(str(EXAMPLES / "draw_series.py"), str(series), str(picture))

    assert replayed.exit_code == 0
    assert done.returncode == 0, done.stderr
    with Image.open(picture) as drawn:
        assert drawn.size == (900, 600)
        assert len(drawn.convert("RGB").getcolors(1 << 20) or []) > 10


def test_a_policy_governs_a_host() -> None:
    """Each guest keeps half as much again as it uses: an idle one gives up more than a busy one; another policy's settings are refused."""
    done = program(str(EXAMPLES / "spare_policy.py"))
    held = {name: float(size) for name, size in re.findall(r"(\w+): ([\d.]+) MiB of 512 MiB", done.stdout)}

    assert done.returncode == 0, done.stderr
    assert 0 < held["idle"] < held["steady"] < 512
    with pytest.raises(BadSetting, match="part"):
        make_policy("xbd.docs.examples.spare_policy:Spare", {"part": 2.0})


def test_every_example_is_tried() -> None:
    """No program lies there that no test runs, and the page about the lab names each."""
    here, page = Path(__file__).read_text(encoding="utf-8"), (DOCS / "lab.md").read_text(encoding="utf-8")
    for path in EXAMPLES.glob("[a-z]*.py"):
        assert f'"{path.name}"' in here
        assert f"`xbd/docs/examples/{path.name}`" in page
