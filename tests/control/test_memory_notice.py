"""The daemon tells agents whose guests were refused memory that there is some again."""

from collections.abc import Callable

import numpy as np

from tests.control.link import Link, new_agent
from tests.peer import HOST_SUPERFRAMES, DirectPeer, agent, create, small_host
from xbd.control.controller import Controller
from xbd.control.notices import OFFER_S
from xbd.protocol.codec import Notification
from xbd.units import SUPER_PAGES


def gfns(first: int, count: int = 1) -> bytes:
    """List gfns as they travel."""
    return np.arange(first, first + count, dtype="<u8").tobytes()


def full_host(*names: str) -> tuple[Controller, list[DirectPeer]]:
    """Make a host without a free frame; the named domains hold 1 superpage each and lack another. Returns their agents."""
    host = small_host()
    rest = HOST_SUPERFRAMES - len(names)
    create(host, "hog", superpages=rest, target=rest)
    agents = [agent(host, create(host, name, target=1)) for name in names]
    for name in names:
        host.call("set_target", {"domid": name, "pages": 2 * SUPER_PAGES})
    for peer in agents:
        peer.pending()
    return host, agents


def refuse(peer: DirectPeer) -> None:
    """Let a guest ask for what the host has not got."""
    assert peer.call("populate", gfns=gfns(3 * SUPER_PAGES)) == [0, "ENOMEM"]


def told(peer: DirectPeer) -> list[str]:
    """Take the notices that an agent is sent now."""
    return [notice.method for notice in peer.pending() if isinstance(notice, Notification)]


def ringing() -> tuple[list[int], Callable[[], None]]:
    """Make a bell and the list of its rings."""
    rings: list[int] = []
    return rings, lambda: rings.append(1)


def test_an_agent_that_was_refused_is_told_once_when_memory_is_free() -> None:
    """After its refusal, and not again while it does nothing with it."""
    host, (web,) = full_host("web")
    hog = agent(host, host.machine.find("hog"))
    assert told(web) == []
    refuse(web)
    assert hog.call("decrease", gfns=gfns(0, SUPER_PAGES - 1)) == [SUPER_PAGES - 1, None]
    assert told(web) == []
    assert hog.call("decrease", gfns=gfns(SUPER_PAGES - 1)) == [1, None]
    assert told(web) == ["memory"]
    hog.call("decrease", gfns=gfns(SUPER_PAGES), order=9)
    assert told(web) == []
    assert host.audit() == []


def test_whatever_the_toolstack_frees_is_told_of() -> None:
    """A domain that is destroyed, and a claim that is taken back."""
    host, (web,) = full_host("web")
    refuse(web)
    host.call("destroy", {"domid": "hog"})
    assert told(web) == ["memory"]
    claimed = create(host, "claimer", superpages=HOST_SUPERFRAMES - 1, target=1)
    host.call("claim", {"domid": claimed, "pages": (HOST_SUPERFRAMES - 1) * SUPER_PAGES})
    refuse(web)
    host.call("claim", {"domid": claimed, "pages": 0})
    assert told(web) == ["memory"]


def test_who_lets_it_lie_loses_its_turn() -> None:
    """The host asks to be woken in a second, and then tells the next; when all were told there is nothing to wake for."""
    host, (one, two) = full_host("one", "two")
    rings, ring = ringing()
    refuse(one)
    refuse(two)
    host.subscribers.add(ring)
    assert host.tick(10.0) is None
    hog = agent(host, host.machine.find("hog"))
    rings.clear()
    hog.call("decrease", gfns=gfns(0, SUPER_PAGES))
    assert rings
    assert host.tick(20.0) == 20.0 + OFFER_S
    assert (told(one), told(two)) == (["memory"], [])
    assert host.tick(20.5) == 20.0 + OFFER_S
    assert told(two) == []
    assert host.tick(21.0) == 21.0 + OFFER_S
    assert (told(one), told(two)) == ([], ["memory"])
    assert host.tick(22.0) is None
    assert (told(one), told(two)) == ([], [])


def test_who_takes_it_ends_the_wait() -> None:
    """An offer that was taken up needs no second look."""
    host, (web,) = full_host("web")
    refuse(web)
    host.call("destroy", {"domid": "hog"})
    assert host.tick(0.0) == OFFER_S
    assert web.call("populate", gfns=gfns(3 * SUPER_PAGES)) == [1, None]
    assert host.tick(0.5) is None


def test_a_refused_domain_without_an_agent_keeps_nobody_waiting() -> None:
    """Its notice goes nowhere, and the next one is told a second later."""
    host, (one, two) = full_host("one", "two")
    refuse(one)
    refuse(two)
    one.endpoint.closed()
    host.call("destroy", {"domid": "hog"})
    host.tick(0.0)
    host.tick(OFFER_S)
    assert told(two) == ["memory"]


def test_an_agent_grows_when_another_guest_gives_up() -> None:
    """The real agent of a cancelled guest hears of free memory and grows; over a lost connection, too, where none is heard."""
    host, _ = full_host()
    hog = agent(host, host.machine.find("hog"))
    hog.call("decrease", gfns=gfns(0), order=9)
    for cut, first in ((False, SUPER_PAGES), (True, 3 * SUPER_PAGES)):
        link = Link(host, create(host, f"web{cut:d}", target=1), new_agent())
        link.settle()
        host.call("set_target", {"domid": f"web{cut:d}", "pages": 3 * SUPER_PAGES})
        link.settle()
        link.advance(60)
        assert link.agent.guest is not None
        assert link.agent.guest.statistics().worker_state == "cancelled"
        hog.call("decrease", gfns=gfns(first), order=9)
        if cut:
            link.cut()
        hog.call("decrease", gfns=gfns(first + SUPER_PAGES), order=9)
        link.settle()
        assert host.machine.domain(link.domid).tot_pages == 3 * SUPER_PAGES
        hog.call("decrease", gfns=gfns(7 * SUPER_PAGES), order=9)
    assert host.audit() == []


def test_an_agent_passes_over_what_it_does_not_know() -> None:
    """As one of before this notice did: a kind of notification that is new to it does nothing and ends nothing."""
    host, _ = full_host()
    host.call("destroy", {"domid": "hog"})
    link = Link(host, create(host, "web", target=1), new_agent())
    link.settle()
    host.record(link.domid).notify("a_later_kind", pages=3)
    link.settle()
    host.call("set_target", {"domid": link.domid, "pages": 2 * SUPER_PAGES})
    link.settle()
    assert host.machine.domain(link.domid).tot_pages == 2 * SUPER_PAGES
