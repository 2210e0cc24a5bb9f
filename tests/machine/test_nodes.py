"""Hosts of several nodes: where memory comes from, where it stays, and what a node's end means."""

import numpy as np
import pytest

from tests.machine.twin import gfns
from xbd.abi import Decrease, Exchange, MemopResult, Populate, PopulateDepopulate, Refused, Stop
from xbd.arrays import from_cells
from xbd.errors import BadArgument, DamagedState, OutOfFrames
from xbd.machine import HostSettings, Machine
from xbd.machine.nodes import Nodes
from xbd.machine.recovery import recover
from xbd.storage.image import Image, Kind
from xbd.storage.memory import MemoryStore
from xbd.units import SUPER_PAGES

S = SUPER_PAGES
# Node 2 is nearer to node 0 than node 1 is.
THREE = Nodes((4, 4, 4), ((10, 30, 20), (30, 10, 40), (20, 40, 10)))


def three_nodes(settings: HostSettings | None = None) -> Machine:
    """Make a host of three nodes of 4 superframes each."""
    return Machine(12, settings=settings, nodes=THREE)


def held(machine: Machine, domid: int) -> list[int]:
    """Tell what a domain holds on each node; the audit holds this against its p2m."""
    assert machine.audit() == []
    return list(machine.domain_info(domid).node_pages)


def nodes_of(machine: Machine, domid: int, pages: np.ndarray) -> list[int]:
    """Name the node behind each gfn, from the frames' numbers alone."""
    return [int(frame) // (4 * S) for frame in from_cells(machine.domain(domid).p2m.lookup(pages))]


@pytest.mark.parametrize(
    ("nodes", "is_hard", "expected"),
    [
        ([], False, [4 * S, 2 * S, 0]),
        ([1], False, [2 * S, 4 * S, 0]),
        ([0], False, [4 * S, 0, 2 * S]),
        ([2, 0], False, [4 * S, 0, 2 * S]),
        ([0, 2], True, [4 * S, 0, 2 * S]),
    ],
)
def test_a_domain_is_built_on_its_nodes(nodes: list[int], is_hard: bool, expected: list[int]) -> None:  # noqa: FBT001 -- a case
    """Its own nodes serve first, then those nearest to the first of them; without any, from the first node on."""
    machine = three_nodes()
    domid = machine.create("guest", max_pages=8 * S, target_pages=6 * S, nodes=nodes, is_hard=is_hard)
    assert held(machine, domid) == expected
    local = sum(expected[node] for node in nodes) if nodes else max(expected)
    assert machine.domain_info(domid).locality == local / (6 * S)


def test_a_hard_affinity_is_a_wall() -> None:
    """A domain that its nodes cannot hold is not made, and one that is there stops with ENOMEM beside free nodes."""
    machine = three_nodes()
    with pytest.raises(OutOfFrames, match="hard affinity, 1, have 8 MiB free"):
        machine.create("large", max_pages=5 * S, target_pages=5 * S, nodes=[1], is_hard=True)
    domid = machine.create("guest", max_pages=6 * S, target_pages=3 * S, nodes=[1], is_hard=True)
    assert machine.execute(domid, Populate(np.arange(3, 6) * S, 9)) == MemopResult(1, Stop.ENOMEM)
    assert machine.execute(domid, Populate(gfns(4 * S))) == MemopResult(0, Stop.ENOMEM)
    refused = machine.execute(domid, Populate(gfns(4 * S), node=0, exact=True))
    assert isinstance(refused, Refused)
    assert (refused.errno, refused.expected) == ("EINVAL", "one of its hard affinity: 1")
    assert machine.execute(domid, Populate(gfns(4 * S), node=0)) == MemopResult(0, Stop.ENOMEM)
    assert held(machine, domid) == [0, 4 * S, 0]


@pytest.mark.parametrize("order", [0, 9])
def test_a_preferred_node_falls_back_and_an_exact_one_stops(order: int) -> None:
    """What a node has comes from it; then the nearest one serves, or nobody does."""
    machine = three_nodes()
    domid = machine.create("guest", max_pages=9 * S, target_pages=2 * S, nodes=[1])
    machine.create("neighbour", max_pages=3 * S, target_pages=3 * S, nodes=[0])
    extents = np.arange(2, 5) * S if order else np.arange(2 * S, 2 * S + 512)
    machine.execute(domid, Decrease(gfns(0)))
    if not order:
        machine.create("filler", max_pages=S, target_pages=S, nodes=[0])
        machine.execute(3, Decrease(gfns(range(100))))
    have = 1 if order else 100
    assert machine.execute(domid, Populate(extents, order, node=0, exact=True)) == MemopResult(have, Stop.ENOMEM)
    assert machine.execute(domid, Populate(extents[have:], order, node=0)) == MemopResult(extents.size - have)
    assert held(machine, domid) == [have << order, 2 * S - 1, (extents.size - have) << order]


def test_a_home_on_another_node_is_not_taken_where_a_node_is_asked_for() -> None:
    """Who asks for a node gets its frames; who asks for none gets the one that makes the superpage whole again."""
    machine = three_nodes()
    domid = machine.create("guest", max_pages=4 * S, target_pages=2 * S, nodes=[1])
    machine.execute(domid, Decrease(gfns(5, 6)))
    machine.execute(domid, Populate(gfns(5), node=2))
    assert nodes_of(machine, domid, gfns(5)) == [2]
    machine.execute(domid, Decrease(gfns(5)))
    assert machine.execute(domid, Populate(gfns(5, 6))) == MemopResult(2)
    assert held(machine, domid) == [0, 2 * S, 0]
    assert machine.domain_info(domid).leaves == 2


def test_an_exchange_keeps_each_page_on_its_node() -> None:
    """Pages of several nodes are exchanged pair by pair for others of the same node; where that is full it stops."""
    machine = three_nodes()
    domid = machine.create("guest", max_pages=8 * S, target_pages=2 * S, nodes=[1])
    machine.execute(domid, Populate(gfns(range(2 * S, 2 * S + 4)), node=0))
    gives = gfns(3, 2 * S, 4, 2 * S + 1)
    assert machine.execute(domid, Exchange(gives, gfns(range(5 * S, 5 * S + 4)))) == MemopResult(4)
    assert nodes_of(machine, domid, gfns(range(5 * S, 5 * S + 4))) == [1, 0, 1, 0]
    for block in (3, 4):
        machine.execute(domid, Populate(gfns(range(block * S, block * S + S)), node=1, exact=True))
    assert machine.host.free_on(1) == 0
    assert machine.execute(domid, Exchange(gfns(2 * S + 2, 7), gfns(6 * S, 6 * S + 1))) == MemopResult(1, Stop.ENOMEM)
    assert nodes_of(machine, domid, gfns(6 * S)) == [0]
    assert held(machine, domid) == [4, 4 * S, 0]


def test_an_exchange_that_names_a_node_moves_pages_there() -> None:
    """Blocks and single pages come from that node, exactly or not, and not from what is claimed there."""
    machine = three_nodes()
    domid = machine.create("guest", max_pages=8 * S, target_pages=3 * S, nodes=[0])
    other = machine.create("other", max_pages=4 * S, target_pages=S, nodes=[1])
    machine.claim_set(other, [(2 * S, 1)])
    assert machine.execute(domid, Exchange(gfns(0, S), gfns(4 * S, 5 * S), 9, 9, node=1, exact=True)) == MemopResult(
        1, Stop.ENOMEM
    )
    assert held(machine, domid) == [2 * S, S, 0]
    pages = gfns(range(S, S + 100))
    assert machine.execute(domid, Exchange(pages, pages + 5 * S, node=1, exact=True)) == MemopResult(0, Stop.ENOMEM)
    assert machine.execute(domid, Exchange(pages, pages + 5 * S, node=1)) == MemopResult(100)
    assert held(machine, domid) == [2 * S, S, 0]
    assert machine.execute(domid, Exchange(pages + 5 * S, pages, node=2)) == MemopResult(100)
    assert held(machine, domid) == [2 * S - 100, S, 100]


def test_populate_depopulate_keeps_each_page_on_its_node() -> None:
    """A home on another node than the frame that a pair gives up is left alone; one on the same node is taken."""
    machine = three_nodes()
    domid = machine.create("guest", max_pages=6 * S, target_pages=2 * S, nodes=[0])
    machine.execute(domid, Populate(gfns(4 * S), node=1))
    machine.execute(domid, Decrease(gfns(7, 8)))
    assert machine.execute(domid, PopulateDepopulate(gfns(7), gfns(4 * S))) == MemopResult(1)
    assert nodes_of(machine, domid, gfns(7)) == [1]
    machine.execute(domid, Populate(gfns(5 * S), node=0))
    assert machine.execute(domid, PopulateDepopulate(gfns(8), gfns(5 * S))) == MemopResult(1)
    assert machine.domain(domid).p2m.home_frames(gfns(8)) == from_cells(machine.domain(domid).p2m.lookup(gfns(8)))
    assert held(machine, domid) == [2 * S - 1, 1, 0]


def test_a_block_of_several_nodes_goes_to_that_which_has_most_of_it() -> None:
    """That node takes it whole unless what is claimed there would not stay free; then nothing moves between nodes."""
    machine = three_nodes()
    domid = machine.create("guest", max_pages=8 * S, target_pages=S, nodes=[0])
    machine.execute(domid, Decrease(gfns(range(200))))
    machine.execute(domid, Populate(gfns(range(200)), node=1, exact=True))
    other = machine.create("other", max_pages=5 * S, target_pages=S, nodes=[2])
    machine.claim_set(other, [(3 * S + 1, 0)])
    assert machine.execute(domid, Exchange(gfns(0), gfns(2 * S), 9, 9)) == MemopResult(0, Stop.ENOMEM)
    assert machine.execute(domid, Exchange(gfns(range(S)), gfns(2 * S), 0, 9)) == MemopResult(0, Stop.ENOMEM)
    assert machine.execute(domid, PopulateDepopulate(gfns(2 * S), gfns(0), 9)) == MemopResult(1)
    assert held(machine, domid) == [S - 200, 200, 0]
    machine.claim_set(other, [])
    assert machine.execute(domid, PopulateDepopulate(gfns(0), gfns(2 * S), 9)) == MemopResult(1)
    assert held(machine, domid) == [S, 0, 0]


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (Populate(gfns(S), node=3), "0 to 2"),
        (Populate(gfns(S), node=-1), "0 to 2"),
        (Populate(gfns(S), exact=True), "a node, or not exactly"),
        (Exchange(gfns(0), gfns(S), node=3), "0 to 2"),
    ],
)
def test_a_node_that_there_is_not_is_refused(command: Populate | Exchange, expected: str) -> None:
    """Nothing is tried."""
    machine = three_nodes()
    domid = machine.create("guest", max_pages=2 * S, target_pages=S)
    refused = machine.execute(domid, command)
    assert isinstance(refused, Refused)
    assert (refused.errno, refused.expected) == ("EINVAL", expected)


def test_a_host_of_one_node_has_node_0() -> None:
    """It may be named, exactly or not; there is no other."""
    machine = Machine(4)
    domid = machine.create("guest", max_pages=3 * S, target_pages=S, nodes=[0], is_hard=True)
    assert machine.execute(domid, Populate(gfns(S), 9, node=0, exact=True)) == MemopResult(1)
    assert machine.domain_info(domid).node_pages == [2 * S]
    refused = machine.execute(domid, Populate(gfns(2 * S), node=1))
    assert isinstance(refused, Refused)
    assert refused.expected == "0, the only one of this host"
    with pytest.raises(BadArgument, match="node 1"):
        machine.create("other", max_pages=S, target_pages=S, nodes=[1])


@pytest.mark.parametrize(
    ("superframes", "distances"),
    [
        ((), ()),
        ((1, 0), ()),
        ((1,) * 9, ()),
        ((1, 1), ((10, 20),)),
        ((1, 1), ((10, 20), (21, 10))),
        ((1, 1), ((11, 20), (20, 10))),
        ((1, 1), ((10, 10), (10, 10))),
        ((1, 1), ((10, 255), (255, 10))),
    ],
)
def test_nodes_that_make_no_sense_are_refused(
    superframes: tuple[int, ...], distances: tuple[tuple[int, ...], ...]
) -> None:
    """No node, an empty one, too many; distances that are missing, differ by direction, or lie out of range."""
    with pytest.raises(BadArgument):
        Nodes(superframes, distances)


def test_who_waits_for_a_node_hears_of_that_node_alone() -> None:
    """Memory that becomes free elsewhere notifies nobody who cannot have it; on the node it does."""
    machine = three_nodes()
    waiting = machine.create("waiting", max_pages=6 * S, target_pages=2 * S, nodes=[1], is_hard=True)
    machine.set_target(waiting, 4 * S)
    filler = machine.create("filler", max_pages=8 * S, target_pages=2 * S, nodes=[1])
    assert machine.execute(waiting, Populate(gfns(2 * S), 9)) == MemopResult(0, Stop.ENOMEM)
    elsewhere = machine.create("elsewhere", max_pages=S, target_pages=S, nodes=[0])
    machine.destroy(elsewhere)
    assert machine.take_relieved() == []
    machine.execute(filler, Decrease(gfns(0), 9))
    assert machine.has_news
    assert machine.take_relieved() == [waiting]
    assert machine.execute(waiting, Populate(gfns(2 * S), 9)) == MemopResult(1)
    assert machine.take_relieved() == []


def saved(nodes: Nodes = THREE) -> tuple[Machine, MemoryStore]:
    """Make a host that is saved."""
    store = MemoryStore()
    return Machine(sum(nodes.superframes), nodes=nodes, image=Image(store)), store


def test_nodes_are_recovered() -> None:
    """Sizes, distances, affinities, claims, what is offline and what lies where are as they were."""
    machine, store = saved()
    machine.create("guest", max_pages=6 * S, target_pages=2 * S, nodes=[1, 2], is_hard=True)
    machine.claim_set(1, [(100, 2), (50, None)])
    machine.go_offline(0, 2 * S)
    machine.commit()
    again = recover(store)
    assert again.host.nodes == THREE
    assert again.domain_info(1) == machine.domain_info(1)
    assert again.domain(1).sequence == (1, 2)
    assert again.node_statistics() == machine.node_statistics()
    assert again.statistics() == machine.statistics()
    assert (again.host.offline == machine.host.offline).all()


@pytest.mark.parametrize(("column", "word", "number"), [("settings", 8, 5), ("settings", 12, 3), ("settings", 9, -1)])
def test_saved_nodes_that_make_no_sense_are_damage(column: str, word: int, number: int) -> None:
    """Sizes that are not the host's together, and a distance that cannot be, are refused, not half loaded."""
    machine, store = saved()
    machine.commit()
    store.open(Kind.HOST, 0)
    machine.image.sections[Kind.HOST, 0].column(column).words[0, word] = number
    with pytest.raises(DamagedState):
        recover(store)
