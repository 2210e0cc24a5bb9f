"""The daemon's core with dom0, grants, messages and zombies."""

import numpy as np
import pytest

from tests.peer import DirectPeer, agent, create, listed, small_host, toolstack
from xbd.abi import split_messages
from xbd.control.controller import Controller
from xbd.errors import NoSuchDomain, NotPermitted
from xbd.protocol.codec import Notification

DOM0 = {"name": "dom0", "max_pages": 8 * 512, "target_pages": 4 * 512, "min_pages": 2 * 512}


def host_with_dom0() -> Controller:
    """Make a host with dom0, and no other domain."""
    host = small_host()
    host.create_dom0(DOM0)
    return host


def gfns(*numbers: int) -> bytes:
    """Write a list of gfns, or of references, as it travels."""
    return np.array(numbers, dtype="<u8").tobytes()


def map_one_page(host: Controller, web: DirectPeer, dom0: DirectPeer, domid: int) -> None:
    """Let dom0 map page 3 of a guest at its own gfn 0x800, which nothing backs."""
    done, stop, refs = web.call("grant", gfns=gfns(3), to=0)
    assert (done, stop) == (1, None)
    assert dom0.call("map_grant", owner=domid, refs=refs, gfns=gfns(0x800)) == [1, None]
    assert host.audit() == []


def test_dom0_is_a_domain_like_any_other() -> None:
    """It is listed first, has its own balloon's bounds, and its target can be set, but not below its minimum."""
    host = host_with_dom0()
    create(host)

    assert [domain["name"] for domain in listed(host)] == ["dom0", "web"]
    assert host.call("set_target", {"domid": "dom0", "pages": 1024}) == {"pages": 1024}
    assert host.call("info", {"domain": "Domain-0"}) == host.call("info", {"domain": 0})
    refused = toolstack(host).call("set_target", domid=0, pages=512)
    assert (refused["errno"], "minimum" in refused["message"]) == ("EINVAL", True)


@pytest.mark.parametrize("method", ["destroy", "shutdown"])
def test_dom0_is_not_ended_by_the_toolstack(method: str) -> None:
    """It ends with its daemon; whoever asks for less is refused, and it goes on."""
    host = host_with_dom0()

    with pytest.raises(NotPermitted, match="control domain"):
        host.call(method, {"domid": "dom0"})
    assert host.call("info", {"domain": 0})["state"] == "waiting"


def test_a_page_is_granted_mapped_and_read_over_the_wire() -> None:
    """What the guest wrote is what dom0 reads in its slot, and both domains show it."""
    host = host_with_dom0()
    domid = create(host)
    web, dom0 = agent(host, domid), agent(host, 0)
    web.call("store", gfns=gfns(3), words=gfns(77))
    map_one_page(host, web, dom0, domid)

    assert dom0.call("load", gfns=gfns(0x800)) == [1, None, gfns(77)]
    assert web.call("decrease", gfns=gfns(3)) == [0, "EBUSY"]
    assert host.call("info", {"domain": 0})["mapped_grants"] == 1
    assert host.call("info", {"domain": domid})["referenced_pages"] == 1
    assert dom0.call("unmap_grant", gfns=gfns(0x800)) == [1, None]
    assert web.call("end_grant", refs=gfns(0)) == [1, None]
    assert host.audit() == []


def test_a_message_wakes_its_receiver_once() -> None:
    """The agent is told that there are messages, and receives them with their true sender."""
    host = host_with_dom0()
    domid = create(host)
    web, dom0 = agent(host, domid), agent(host, 0)
    for word in (5, 6):
        assert web.call("send", to=0, words=gfns(word)) == [1, None]

    (notice,) = dom0.pending()
    assert isinstance(notice, Notification)
    assert notice.method == "messages"
    done, stop, words = dom0.call("receive")
    received = [(sender, message.tolist()) for sender, message in split_messages(np.frombuffer(words, dtype="<u8"))]
    assert (done, stop, received) == (4, None, [(domid, [5]), (domid, [6])])
    assert dom0.pending() == []


def test_notices_are_told_in_the_order_of_their_numbers() -> None:
    """A kind that is told anew goes behind the others: an agent takes an older number for a repeat."""
    host = host_with_dom0()
    web = agent(host, create(host))
    host.call("set_max", {"domid": "web", "pages": 2048})
    host.call("set_target", {"domid": "web", "pages": 1024})
    host.call("set_max", {"domid": "web", "pages": 1024})
    told = [notice for notice in web.pending() if isinstance(notice, Notification)]

    assert [notice.method for notice in told] == ["target", "limit"]
    numbers = [notice.untrusted_params[0]["number"] for notice in told]  # type: ignore[index]
    assert numbers == sorted(numbers)


def test_a_zombie_stays_listed_until_the_last_unmap() -> None:
    """It has no agent, cannot be asked for anything, gives its name free, and is announced gone when dom0 lets go."""
    host = host_with_dom0()
    domid = create(host)
    web, dom0 = agent(host, domid), agent(host, 0)
    map_one_page(host, web, dom0, domid)

    assert host.call("destroy", {"domid": domid}) == {"zombie_pages": 1}
    told = host.call("info", {"domain": domid})
    assert (told["state"], told["tot_pages"], told["agent"], told["report"]) == ("zombie", 1, False, None)
    assert [notice.method for notice in dom0.pending() if isinstance(notice, Notification)] == ["messages"]
    for method, params in (("set_target", {"pages": 512}), ("destroy", {}), ("guest_mode", {"mode": "stuck"})):
        with pytest.raises(NoSuchDomain, match="still mapped"):
            host.call(method, {"domid": domid, **params})
    assert create(host) != domid
    assert host.audit() == []

    assert dom0.call("unmap_grant", gfns=gfns(0x800)) == [1, None]
    with pytest.raises(NoSuchDomain):
        host.call("info", {"domain": domid})
    *_, last = host.events.since(0)
    assert (last["event"], last["domid"], last["name"]) == ("vanished", domid, "web")
    assert host.audit() == []


def test_a_reboot_tells_those_who_had_to_do_with_the_guest() -> None:
    """A new session of a guest cuts dom0's mapping off; dom0 is woken, and lets go."""
    host = host_with_dom0()
    domid = create(host)
    web, dom0 = agent(host, domid), agent(host, 0)
    map_one_page(host, web, dom0, domid)
    web.endpoint.closed()
    agent(host, domid, session="b")

    assert [notice.method for notice in dom0.pending() if isinstance(notice, Notification)] == ["messages"]
    assert dom0.call("receive") == [1, None, gfns(domid << 32)]
    assert dom0.call("load", gfns=gfns(0x800)) == [0, "EFAULT", b""]
    assert host.audit() == []


def test_a_virtio_domain_has_its_own_calls() -> None:
    """It inflates and deflates, and is told that there is nothing else."""
    host = host_with_dom0()
    params = {"name": "kvm", "max_pages": 1024, "target_pages": 1024, "type": "virtio"}
    domid = host.call("create", params)["domid"]
    assert isinstance(domid, int)
    kvm = agent(host, domid)

    assert kvm.call("inflate", gfns=gfns(512), order=9) == [1, None]
    assert kvm.call("deflate", gfns=gfns(512, 513)) == [2, None]
    for method, more in (("populate", {"gfns": gfns(600)}), ("grant", {"gfns": gfns(0), "to": 0})):
        assert kvm.call(method, **more)["errno"] == "EOPNOTSUPP"
    assert host.audit() == []
