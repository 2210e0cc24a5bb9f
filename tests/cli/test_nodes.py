"""The commands on a host of two nodes, through a daemon."""

import json
from collections.abc import Callable, Iterator

import pytest
from click.testing import CliRunner, Result

from tests.processes import running
from xbd.cli.main import main

HOST = """
[host]
memory = "64m"
[[node]]
memory = "32m"
[[node]]
memory = "32m"
[[guest]]
name = "web"
maximum = "24m"
target = "8m"
nodes = [1]
autostart = false
"""
Run = Callable[..., Result]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """Run a hypervisor of two nodes, and commands on it."""
    path = tmp_path_factory.mktemp("nodes")
    (path / "host.toml").write_text(HOST)
    at = str(path / "run")
    with running("hypervisor", "--config", str(path / "host.toml"), "--runtime-dir", at) as daemon:
        daemon.wait_until_it_says("hypervisor_ready")
        yield lambda *arguments: CliRunner().invoke(main, arguments, env={"XBD_SOCKET": at})


def test_where_memory_lies_is_shown(run: Run) -> None:
    """Nodes and locality stand beside superpages; `info --numa` has the nodes as xl has them."""
    assert run("list").stdout.splitlines() == [
        "Name                                        ID   Mem Target  Limit State    Superpages Nodes  Local",
        "web                                          1     8      8     24 waiting      100.0% 1     100.0%",
    ]
    assert run("info", "-n").stdout.splitlines()[-4:] == [
        "numa_info              :",
        "node:    memsize    memfree    claimed    offline whole 2 MiB distances",
        "   0:         32         32          0          0          16 10,20",
        "   1:         32         24          0          0          12 20,10",
    ]
    assert "memory_by_node         : 0: 0 KiB, 1: 8 MiB" in run("info", "web").stdout.splitlines()
    top = run("top", "--once").stdout
    assert "LOCAL%" in top
    assert "by node 0: 32, 1: 24" in top


def test_a_claim_set_is_made_shown_and_taken_back(run: Run) -> None:
    """On nodes and of the host; what cannot be is refused in a sentence."""
    assert run("claim", "web", "4m@0", "6m@1", "2m").stdout == (
        "web: claims 4 MiB on node 0, 6 MiB on node 1, 2 MiB of the host\n"
    )
    assert run("claims").stdout.splitlines()[1].split() == ["web", "1", "8", "12", "4", "6"]
    assert "claims                 : 4 MiB@0, 6 MiB@1, 2 MiB" in run("info", "web").stdout.splitlines()
    assert "two claims on node 0" in run("claim", "web", "4m@0", "4m@0").stderr
    assert "together at most its limit, 24 MiB" in run("claim", "web", "2m@0", "20m@1").stderr
    assert "write a size and the number of a node" in run("claim", "web", "4m@x").stderr
    assert run("claim", "web", "none").stdout == "web: claims nothing\n"


def test_memory_goes_offline_and_comes_back(run: Run) -> None:
    """What the claims of domains lose by it is said; the map shows what is out of use."""
    run("claim", "web", "12m@1", "4m")
    assert run("offline", "16m", "--node", "1").stdout.splitlines() == [
        "node 1: 16 MiB offline",
        "d1 lost a claim of 4 MiB",
    ]
    assert "8 offline" in run("map").stdout
    assert "node 0 has 32 MiB in superframes that are free as a whole, 64 MiB are" in run("offline", "64m").stderr
    told = json.loads(run("online", "16m", "--node", "1", "--json").stdout)
    assert told == {"node": 1, "pages": 4096, "recalled": {}}
    assert run("audit").exit_code == 0


def test_a_domain_is_created_on_nodes(run: Run) -> None:
    """With a soft affinity it spills over, with a hard one it is refused where they are full."""
    assert "needs 30 MiB" in run("create", "big", "--target", "30m", "--node", "1", "--hard").stderr
    assert run("create", "big", "--target", "30m", "--node", "1", "--no-start").exit_code == 0
    told = json.loads(run("info", "big", "--json").stdout)
    assert sum(told["node_pages"]) == 30 * 256
    assert 0 < told["locality"] < 1
    assert run("destroy", "big").exit_code == 0
