"""Nodes in host files."""

import pytest

from xbd.config.host import HostConfig, parse_host_config
from xbd.control.reload import plan_reload
from xbd.errors import ConfigError
from xbd.machine.nodes import Nodes

HOST = '[host]\nmemory = "16m"\n[[node]]\nmemory = "8m"\ndistances = [10, 21]\n[[node]]\nmemory = "8m"\ndistances = [21, 10]\n'
GUEST = '[[guest]]\nname = "web"\nmaximum = "4m"\n'


def parse(text: str) -> HostConfig:
    """Read a host file."""
    return parse_host_config(text, "host.toml")


def test_nodes_and_affinities_are_read() -> None:
    """Without distances all other nodes are as far; without nodes the host is one; one node may be named alone."""
    config = parse(HOST + GUEST + 'nodes = 1\naffinity = "hard"\n')
    assert config.nodes == Nodes((4, 4), ((10, 21), (21, 10)))
    assert (config.guests[0].nodes, config.guests[0].affinity) == ((1,), "hard")
    assert parse('[host]\nmemory = "6m"\n[[node]]\nmemory = "2m"\n[[node]]\nmemory = "4m"\n').nodes == Nodes((1, 2))
    plain = parse('[host]\nmemory = "16m"\n' + GUEST)
    assert (plain.nodes, plain.guests[0].nodes, plain.guests[0].affinity) == (None, (), "soft")


@pytest.mark.parametrize(
    ("text", "key", "said"),
    [
        (HOST.replace("16m", "14m"), "node.memory", "16 MiB together, host.memory is 14 MiB"),
        (HOST.replace("[10, 21]", "[10, 22]"), "node", "the same in both directions"),
        (HOST.replace("[10, 21]", "[10]"), "node", "one to each node"),
        (HOST.replace("[10, 21]", "[10, 9]"), "node[1].distances[2]", "9 is not a whole number from 10 to 254"),
        (HOST + GUEST + "nodes = [2]\n", "guest.nodes", "'web' is to lie on node 2; the host has 2 nodes, from 0 on"),
        (HOST + GUEST + "nodes = [8]\n", "guest[1].nodes[1]", "8 is not a whole number from 0 to 7"),
        (HOST + GUEST + 'affinity = "hard"\n', "guest.nodes", "'web' has a hard affinity to none"),
        ('[host]\nmemory = "16m"\n' + GUEST + "nodes = 1\n", "guest.nodes", "the host has 1 node"),
        (HOST + '[dom0]\nmaximum = "4m"\nnodes = [3]\n', "dom0.nodes", "'dom0' is to lie on node 3"),
    ],
)
def test_nodes_that_cannot_be_are_refused(text: str, key: str, said: str) -> None:
    """By key and reason."""
    with pytest.raises(ConfigError) as refused:
        parse(text)
    assert refused.value.key == key
    assert said in refused.value.reason


def test_other_nodes_are_not_reloaded() -> None:
    """A host's nodes stay; that is said, and what to do."""
    (difference,) = plan_reload(parse(HOST), parse(HOST.replace("21", "31")), []).left
    assert difference.key == "node"
    assert "stay as they are" in difference.reason
