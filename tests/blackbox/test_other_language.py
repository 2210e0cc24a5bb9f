"""A client in another language, written from `xbd protocol --json` alone, speaks to a real hypervisor."""

import json
import shutil
import subprocess
import time
from pathlib import Path
from typing import Final

import pytest

from tests.blackbox.host_directory import run_xbd
from tests.processes import running

_CLIENT: Final = Path(__file__).with_name("client.js")
_LIBRARY: Final = "@msgpack/msgpack"


def node() -> str:
    """Find Node with its MessagePack library, which is looked for as Node does (NODE_PATH); skip the test without."""
    found = shutil.which("node")
    if found is None:
        pytest.skip("there is no node here")
    asked = subprocess.run([found, "-e", f"require.resolve('{_LIBRARY}')"], capture_output=True, check=False)  # noqa: S603
    if asked.returncode:
        pytest.skip(f"node has no {_LIBRARY} here: `npm install --prefix DIR {_LIBRARY}`, NODE_PATH=DIR/node_modules")
    return found


@pytest.mark.slow
def test_node_calls_follows_and_is_refused(tmp_path: Path) -> None:
    """Hello, list, events, create, a target, errors: each answer and event is as the description says."""
    found, began = node(), time.time()
    described = run_xbd("protocol", "--json")
    (tmp_path / "protocol.json").write_text(described.stdout, encoding="utf-8")
    with running("hypervisor", "--memory", "32m", "--runtime-dir", str(tmp_path)) as daemon:
        daemon.wait_until_it_says("hypervisor_ready")
        done = subprocess.run(  # noqa: S603
            [found, str(_CLIENT), str(tmp_path / "protocol.json"), str(tmp_path / "hypervisor.sock")],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    assert (done.returncode, done.stderr) == (0, "")
    seen = json.loads(done.stdout)
    at = seen["event"].pop("time")
    assert began <= at <= time.time()
    assert seen == {
        "hello": {"version": 1, "host": "host", "resumed": False},
        "before": 0,
        "next": 1,
        "created": {"domid": 1},
        "again": "EEXIST",
        "nobody": "ESRCH",
        "beyond": "EINVAL",
        "wrong": "EINVAL",
        "target": {"pages": 512},
        "listed": [["made-by-node", 512, "waiting"]],
        "event": {"number": 2, "event": "target", "domid": 1, "name": "made-by-node", "pages": 512},
        "frames": 16,
        "host": 16,
        "audit": [],
        "destroyed": {"zombie_pages": 0},
    }
