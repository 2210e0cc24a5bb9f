"""A host of several nodes through the toolstack's methods and a guest's commands on the wire."""

from typing import Any

import numpy as np
import pytest

from tests.peer import clock, do, listed
from xbd.abi import Deflate, Exchange, Populate
from xbd.control.controller import Controller
from xbd.errors import BadArgument, NoSuchDomain, OutOfFrames
from xbd.machine import Machine
from xbd.machine.nodes import Nodes
from xbd.protocol.commands import command_from_params, command_to_wire
from xbd.units import SUPER_PAGES

S = SUPER_PAGES


def two_nodes() -> Controller:
    """Make a host of two nodes of 4 superframes, with a domain on the second."""
    host = Controller(Machine(8, nodes=Nodes((4, 4))), clock=clock)
    spec = {"name": "web", "max_pages": 6 * S, "target_pages": S, "nodes": [1], "affinity": "hard"}
    with host.step():
        host.call("create", spec)
    return host


def test_what_is_told_of_nodes_and_domains() -> None:
    """The host has its nodes, a domain where it should lie, where it lies, and what it claims there."""
    host = two_nodes()
    assert do(host, "claim_set", domid="web", claims=[{"pages": S, "node": 1}, {"pages": 9}]) == {
        "claimed_pages": S + 9,
        "node_claims": [0, S],
    }
    nodes: Any = host.call("host", {})["nodes"]
    assert [(node["frames"], node["free_frames"], node["claimed_frames"]) for node in nodes] == [
        (4 * S, 4 * S, 0),
        (4 * S, 3 * S, S),
    ]
    assert [list(node["distances"]) for node in nodes] == [[10, 20], [20, 10]]
    told = host.call("info", {"domain": "web"})
    assert told == listed(host)[0]
    names = ("nodes", "affinity", "node_pages", "locality", "claimed_pages", "node_claims")
    assert [told[name] for name in names] == [[1], "hard", [0, S], 1.0, S + 9, [0, S]]


def test_offlining_tells_who_lost_a_claim() -> None:
    """The answer and an event say it, and the list tells the domain anew."""
    host = two_nodes()
    do(host, "claim_set", domid="web", claims=[{"pages": 3 * S, "node": 1}])
    before = host.call("info", {"domain": "web"})
    assert do(host, "offline", node=1, pages=S) == {"recalled": {"1": S}}
    last = host.events.since(0)[-1]
    assert (last["event"], last["name"], last["claimed_pages"], last["node_claims"]) == (
        "claim",
        "web",
        2 * S,
        [0, 2 * S],
    )
    assert listed(host)[0] == {**before, "claimed_pages": 2 * S, "node_claims": [0, 2 * S]}
    assert do(host, "offline", node=0, pages=S) == {"recalled": {}}
    assert do(host, "online", node=1, pages=S) == {}
    assert host.call("host", {})["offline_frames"] == S
    with pytest.raises(OutOfFrames):
        do(host, "online", node=1, pages=S)


@pytest.mark.parametrize(
    ("method", "params", "error"),
    [
        ("claim_set", {"domid": 9, "claims": []}, NoSuchDomain),
        ("claim_set", {"domid": "web", "claims": [{"pages": 1, "node": 7}]}, BadArgument),
        ("claim_set", {"domid": "web", "claims": [{"pages": 1, "node": 1, "reserved": 1}]}, BadArgument),
        ("claim_set", {"domid": "web", "claims": [{"node": 1}]}, BadArgument),
        ("claim_set", {"domid": "web", "claims": [{"pages": 0}]}, BadArgument),
        ("claim_set", {"domid": "web", "claims": [[512, 1]]}, BadArgument),
        ("claim_set", {"domid": "web", "claims": [{"pages": 1}] * 10}, BadArgument),
        ("claim_set", {"domid": "web", "claims": {"pages": 1}}, BadArgument),
        ("claim_set", {"domid": "web"}, BadArgument),
        ("offline", {"node": 8, "pages": S}, BadArgument),
        ("offline", {"node": 0, "pages": S + 1}, BadArgument),
        ("create", {"name": "x", "max_pages": S, "target_pages": S, "nodes": [0, 0]}, BadArgument),
        ("create", {"name": "x", "max_pages": S, "target_pages": S, "nodes": [3]}, BadArgument),
        ("create", {"name": "x", "max_pages": S, "target_pages": S, "affinity": "hard"}, BadArgument),
        ("create", {"name": "x", "max_pages": S, "target_pages": S, "nodes": "0"}, BadArgument),
    ],
)
def test_what_makes_no_sense_is_refused(method: str, params: dict[str, object], error: type[Exception]) -> None:
    """Nothing has changed."""
    host = two_nodes()
    before = host.call("host", {})
    with pytest.raises(error):
        do(host, method, **params)
    assert host.call("host", {}) == before


@pytest.mark.parametrize("node", [None, 1])
def test_a_node_is_on_the_wire_where_one_is_asked_for(node: int | None) -> None:
    """A command that names a node is read again the same; one that names none is as earlier daemons know it."""
    bases = np.arange(2, dtype=np.int64)
    commands = (
        Populate(bases, 0, node, exact=node is not None),
        Deflate(bases, 0, node),
        Exchange(bases, bases + 9, 0, 0, node),
    )
    for command in commands:
        method, params = command_to_wire(command)
        assert ("node" in params, "exact" in params) == (node is not None, node is not None)
        again = command_from_params(method, [params])
        assert isinstance(again, type(command))
        assert (again.node, again.exact) == (node, command.exact)


@pytest.mark.parametrize("wrong", [{"node": "0"}, {"node": -1}, {"node": 8}, {"exact": 1}])
def test_a_node_that_is_none_is_refused_on_the_wire(wrong: dict[str, object]) -> None:
    """By type and range; which nodes there are the machine says."""
    with pytest.raises(BadArgument):
        command_from_params("populate", [{"gfns": b"", **wrong}])
