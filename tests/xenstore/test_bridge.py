"""The host in the store: what is shown of it, and what a write to a domain's target asks for."""

from dataclasses import replace

import pytest

from tests.cli.views import MIB, told
from tests.xenstore.store_client import StoreClient
from xbd.domain import DomainInfo, read_domain
from xbd.units import SUPER_PAGES
from xbd.xenstore.bridge import Bridge, Refusal, ShutdownRequest, TargetRequest, decide
from xbd.xenstore.saved import encode_whole, restore
from xbd.xenstore.store import Store

WEB = read_domain(
    told(
        domid=3, name="web", uuid="uuid-1", min_pages=64 * MIB, max_pages=1024 * MIB, gfn_count=1024 * MIB, report=None
    )
)
TARGET = b"/local/domain/3/memory/target"


def using(pages: int) -> DomainInfo:
    """Make WEB with a guest that reports that it uses so much."""
    return replace(WEB, report={"movable_pages": pages, "unmovable_pages": 0, "cache_pages": 0})


def bridged(*domains: DomainInfo) -> tuple[Bridge, StoreClient]:
    """Make a store with a bridge that has been told of these domains; and a privileged client."""
    store = Store()
    bridge = Bridge(store, lambda: None)
    client = StoreClient(store)
    bridge.update(domains, 1000.0)
    assert bridge.written() == []
    return bridge, client


def asked(bridge: Bridge, *domains: DomainInfo) -> list[TargetRequest | Refusal]:
    """Judge what was written, by the host's domains as they are now."""
    now = {one.domid: one for one in domains}
    return [decision for domid in bridge.written() if (decision := bridge.judge(now[domid]))]


def test_what_is_shown_of_a_domain() -> None:
    """As libxl shows it: a guest reads its own, and writes what is its."""
    _, client = bridged(using(1234))
    home = b"/local/domain/3"
    shown = {
        home + b"/name": b"web",
        home + b"/domid": b"3",
        home + b"/vm": b"/vm/uuid-1",
        home + b"/memory/target": b"524288",
        home + b"/memory/static-max": b"1048576",
        home + b"/memory/videoram": b"0",
        home + b"/memory/meminfo": b"4936",
        b"/vm/uuid-1/name": b"web",
        b"/vm/uuid-1/uuid": b"uuid-1",
        b"/vm/uuid-1/start_time": b"1000.00",
    }
    for path, value in shown.items():
        assert (client.read(path), client.permissions(path)) == (value, b"n0 r3")
    assert client.permissions(home) == b"n0 r3"
    assert client.permissions(home + b"/control/shutdown") == b"n3"
    assert client.names(b"/") == [b"tool", b"local", b"vm", b"libxl"]
    assert client.read(b"/libxl/3/type") == b"pvh"
    assert client.permissions(b"/libxl/3") == b"n0"
    assert client.read(home + b"/cpu/0/availability") == b"online"
    assert client.read(b"/local/pool/0/name") == b"Pool-0"
    assert client.read(b"/local/domain/0/name") == b"Domain-0"
    guest = StoreClient(client.store, 3)
    assert guest.read(b"memory/target") == b"524288"
    assert guest.write(b"memory/target", b"1") == guest.write(b"name", b"x") == "EACCES"
    assert guest.write(b"data/x", b"1") == guest.write(b"control/shutdown", b"poweroff") == b"OK\0"
    assert client.store.check() == []


def test_a_domain_s_start_and_its_vcpus() -> None:
    """Its processors are online; when it was started is the host's word, and follows a reboot."""
    domain = replace(WEB, vcpus=3, started_at_s=500.25)
    bridge, client = bridged(domain)
    start = b"/vm/uuid-1/start_time"
    assert client.read(start) == b"500.25"
    assert client.names(b"/local/domain/3/cpu") == [b"0", b"1", b"2"]
    assert client.read(b"/local/domain/3/cpu/2/availability") == b"online"
    bridge.show(replace(domain, started_at_s=600.0), 1000.0)
    assert client.read(start) == b"600.00"
    assert client.permissions(start) == b"n0 r3"


def test_a_domain_is_shown_by_its_new_name() -> None:
    """In its home and in its /vm, readable as before."""
    bridge, client = bridged(WEB)
    bridge.show(replace(WEB, name="www"), 0.0)
    for path in (b"/local/domain/3/name", b"/vm/uuid-1/name"):
        assert (client.read(path), client.permissions(path)) == (b"www", b"n0 r3")


def test_a_name_that_is_written_is_asked_for_once() -> None:
    """What the host itself calls a domain is no wish; a refused name makes place for the true one, and dom0 keeps its own."""
    dom0 = replace(WEB, domid=0, name="dom0", uuid="uuid-0")
    bridge, client = bridged(dom0, WEB)
    name = b"/local/domain/3/name"
    client.write(name, b"www")
    client.write(b"/local/domain/0/name", b"zero")
    assert (bridge.renames(), bridge.renames()) == ([(3, "www")], [])
    bridge.show(replace(WEB, name="www"), 0.0)
    assert bridge.renames() == []
    client.write(name, b"\xff")
    assert bridge.renames() == [(3, "\ufffd")]
    bridge.keeps_name(3)
    assert (client.read(name), bridge.renames()) == (b"www", [])
    client.write(name, b"late")
    bridge.remove(3)
    assert bridge.renames() == []


def test_what_is_written_to_control_shutdown_asks_a_guest_to_stop() -> None:
    """As Linux takes it; the key is emptied when that is begun, not while the guest is paused, nor what was written since."""
    key = b"/local/domain/3/control/shutdown"
    bridge, client = bridged(WEB)
    for written, reason in ((b"poweroff", "poweroff"), (b"halt", "poweroff"), (b"reboot", "reboot")):
        client.write(key, written)
        bridge.show(replace(WEB, state="paused"), 0.0)
        assert bridge.shutdowns() == []
        bridge.show(WEB, 0.0)
        (request,) = bridge.shutdowns()
        assert isinstance(request, ShutdownRequest)
        assert request == ShutdownRequest(3, reason)
        assert (client.read(key), bridge.shutdowns()) == (written, [request])
        bridge.begun(request)
        assert (client.read(key), client.permissions(key), bridge.shutdowns()) == (b"", b"n3", [])
    client.write(key, b"poweroff")
    assert bridge.shutdowns() == [ShutdownRequest(3, "poweroff")]
    client.write(key, b"reboot")
    bridge.begun(ShutdownRequest(3, "poweroff"))
    assert bridge.shutdowns() == [ShutdownRequest(3, "reboot")]
    bridge.not_begun(ShutdownRequest(3, "reboot"))
    assert (client.read(key), bridge.shutdowns()) == (b"reboot", [])


@pytest.mark.parametrize("written", [b"suspend", b"crash", b"Poweroff", b"poweroff\0", b"x" * 1000])
def test_what_no_guest_does_stays_in_control_shutdown(written: bytes) -> None:
    """It is refused once, and asks nobody."""
    bridge, client = bridged(WEB)
    client.write(b"/local/domain/3/control/shutdown", written)
    (refusal,) = bridge.shutdowns()
    assert isinstance(refusal, Refusal)
    assert (refusal.domid, refusal.written) == (3, written)
    assert bridge.shutdowns() == []
    assert client.read(b"/local/domain/3/control/shutdown") == written


@pytest.mark.parametrize("host_mib", [512, 256, 384])
def test_a_target_that_was_written_and_not_asked_for_is_not_forgotten(host_mib: int) -> None:
    """The store was saved, and its daemon killed, before the host was asked; a target that the host got meanwhile counts more."""
    bridge, client = bridged(WEB)
    assert client.write(TARGET, b"%d" % (256 * 1024)) == b"OK\0"
    store = restore(encode_whole(client.store))
    bridge, now = Bridge(store, lambda: None), replace(WEB, target_pages=host_mib * MIB)
    bridge.update([now], 0.0)
    if host_mib == 512:
        assert asked(bridge, now) == [TargetRequest(3, 256 * MIB)]
        bridge.agreed(TargetRequest(3, 256 * MIB))
        # Killed again, with another target written: the one that was agreed to is the last that counts.
        StoreClient(store).write(TARGET, b"%d" % (512 * 1024))
        bridge, now = Bridge(restore(encode_whole(store)), lambda: None), replace(WEB, target_pages=256 * MIB)
        bridge.update([now], 0.0)
        assert asked(bridge, now) == [TargetRequest(3, 512 * MIB)]
    else:
        assert asked(bridge, now) == []
        assert StoreClient(store).read(TARGET) == b"%d" % (host_mib * 1024)


def test_what_a_restored_store_asks_of_a_guest_is_not_forgotten() -> None:
    """It was written when nobody could hear it."""
    bridge, client = bridged(WEB)
    client.write(b"/local/domain/3/control/shutdown", b"reboot")
    bridge = Bridge(restore(encode_whole(client.store)), lambda: None)
    bridge.update([WEB], 0.0)
    assert bridge.shutdowns() == [ShutdownRequest(3, "reboot")]
    bridge.remove(3)
    assert bridge.shutdowns() == []


@pytest.mark.parametrize(
    ("written", "pages"),
    [
        (b"262144", 256 * MIB),
        (b"262145", 256 * MIB),
        (b"264191", 256 * MIB),
        (b"1048576", 1024 * MIB),
        (b"65536", 64 * MIB),
        (b"000262144", 256 * MIB),
    ],
)
def test_what_a_target_asks_for(written: bytes, pages: int) -> None:
    """KiB, rounded down to 2 MiB."""
    assert pages % SUPER_PAGES == 0
    assert decide(written, WEB) == TargetRequest(3, pages)


@pytest.mark.parametrize(
    "written",
    [
        b"",
        b"x",
        b"0x60000",
        b"-1",
        b"1e6",
        b"262144 ",
        b"262144\0",
        b"262144.0",
        b"\xd9\xa3",
        b"9" * 17,
        b"1048577",
        b"1050624",
        b"65535",
        b"0",
        b"9" * 4000,
    ],
)
def test_what_is_no_target(written: bytes) -> None:
    """What is no decimal number, too large, or below the minimum."""
    assert isinstance(decide(written, WEB), Refusal)


def test_rounding_makes_nothing_of_no_target() -> None:
    """Where a domain has no minimum, a target has a superpage at least, as on the command line; less than a page is none."""
    free = replace(WEB, min_pages=0)
    assert isinstance(decide(b"3", free), Refusal)
    assert decide(b"4", free) == decide(b"2047", free) == decide(b"2048", free) == TargetRequest(3, SUPER_PAGES)


def test_the_key_keeps_what_was_written() -> None:
    """Until the host has another target than the key asks for; a target that the key asks for is not written again."""
    bridge, client = bridged(WEB)
    client.watch(TARGET)
    client.events()
    client.write(TARGET, b"300001")
    (request,) = asked(bridge, WEB)
    assert request == TargetRequest(3, 292 * MIB)
    bridge.agreed(request)
    bridge.update([replace(WEB, target_pages=292 * MIB)], 0.0)
    assert client.read(TARGET) == b"300001"
    assert client.events() == [TARGET + b" t"]
    bridge.update([replace(WEB, target_pages=128 * MIB)], 0.0)
    assert client.read(TARGET) == b"131072"
    assert client.events() == [TARGET + b" t"]
    assert bridge.written() == []


def test_garbage_stays_and_is_told() -> None:
    """It changes nothing; the next target that the host has replaces it."""
    bridge, client = bridged(WEB)
    client.write(TARGET, b"garbage")
    (refusal,) = asked(bridge, WEB)
    assert refusal == Refusal(3, b"garbage", "not a decimal number of KiB")
    bridge.update([WEB], 0.0)
    assert client.read(TARGET) == b"garbage"
    bridge.update([replace(WEB, target_pages=256 * MIB)], 0.0)
    assert client.read(TARGET) == b"262144"
    client.rm(TARGET)
    assert bridge.written() == []


def test_a_size_that_is_refused_makes_place_for_the_hosts() -> None:
    """Whoever refuses it: the bridge for a bound, or the host for more than the domain can ever hold; not one written since."""
    bridge, client = bridged(WEB)
    client.write(TARGET, b"0")
    assert isinstance(asked(bridge, WEB)[0], Refusal)
    assert client.read(TARGET) == b"524288"
    assert bridge.written() == []
    client.write(TARGET, b"2097152")
    (request,) = asked(bridge, replace(WEB, max_pages=2048 * MIB))
    assert isinstance(request, TargetRequest)
    bridge.refused(request)
    assert client.read(TARGET) == b"524288"
    assert bridge.written() == []
    client.write(TARGET, b"1050624")
    bridge.written()
    client.write(TARGET, b"131072")
    bridge.refused(request)
    assert client.read(TARGET) == b"131072"
    assert asked(bridge, WEB) == [TargetRequest(3, 128 * MIB)]


def test_what_was_written_is_asked_for_though_the_host_has_another_target() -> None:
    """Whoever wrote it may have known that one; and what the bridge shows of the host is no request."""
    bridge, client = bridged(WEB)
    client.write(TARGET, b"131072")
    bridge.show(replace(WEB, target_pages=256 * MIB), 0.0)
    assert asked(bridge, replace(WEB, target_pages=256 * MIB)) == [TargetRequest(3, 128 * MIB)]
    bridge.agreed(TargetRequest(3, 128 * MIB))
    bridge.show(replace(WEB, target_pages=128 * MIB), 0.0)
    assert client.read(TARGET) == b"131072"
    for target_mib in (256, 384):
        bridge.show(replace(WEB, target_pages=target_mib * MIB), 0.0)
    assert (client.read(TARGET), bridge.written()) == (b"393216", [])


def test_a_request_is_made_until_the_host_has_answered() -> None:
    """Agreed or refused; meanwhile the key may be written again, or another target come from the host."""
    bridge, client = bridged(WEB)
    client.write(TARGET, b"262144")
    request = TargetRequest(3, 256 * MIB)
    assert asked(bridge, WEB) == asked(bridge, WEB) == [request]
    client.write(TARGET, b"131072")
    later = TargetRequest(3, 128 * MIB)
    assert asked(bridge, WEB) == [later]
    bridge.refused(later)
    assert bridge.written() == []
    client.write(TARGET, b"131072")
    assert asked(bridge, WEB) == [later]
    bridge.update([replace(WEB, target_pages=256 * MIB)], 0.0)
    assert bridge.written() == []
    client.write(TARGET, b"131072")
    bridge.update([], 0.0)
    assert bridge.written() == []


def test_what_is_written_while_the_host_is_asked_is_asked_next() -> None:
    """The host's answer to the first is none to the second; each write rings."""
    store = Store()
    rung: list[None] = []
    bridge, client = Bridge(store, lambda: rung.append(None)), StoreClient(store)
    bridge.update([WEB], 0.0)
    client.write(TARGET, b"262144")
    (first,) = asked(bridge, WEB)
    assert isinstance(first, TargetRequest)
    rung.clear()
    client.write(TARGET, b"131072")
    bridge.agreed(first)
    assert (len(rung), asked(bridge, WEB)) == (1, [TargetRequest(3, 128 * MIB)])


def test_what_is_written_is_judged_by_the_domain_as_it_is_now() -> None:
    """Who writes a target may have been told of a limit, or a target, that is not shown yet; an older one is no reason."""
    bridge, client = bridged(replace(WEB, max_pages=128 * MIB))
    client.write(TARGET, b"262144")
    assert asked(bridge, WEB) == [TargetRequest(3, 256 * MIB)]
    assert asked(bridge, replace(WEB, target_pages=256 * MIB)) == []
    assert bridge.written() == []
    client.write(TARGET, b"131072")
    assert asked(bridge, replace(WEB, uuid="uuid-2")) == []
    client.write(TARGET, b"131072")
    assert bridge.written() == [3]
    client.write(TARGET, b"2097152")
    assert bridge.judge(WEB) is None
    assert asked(bridge, replace(WEB, max_pages=2048 * MIB)) == [TargetRequest(3, 2048 * MIB)]


def test_what_a_guest_may_say_itself_is_left_to_it() -> None:
    """Once the toolstack has let it write memory/meminfo, as Qubes' does; until then, and after, the host says it."""
    bridge, dom0 = bridged(using(1000))
    guest, used = StoreClient(dom0.store, 3), b"/local/domain/3/memory/meminfo"
    dom0.permit(used, b"n0", b"b3")
    assert guest.write(b"memory/meminfo", b"123") == b"OK\0"
    bridge.show(using(2000), 1000.0)
    assert dom0.read(used) == b"123"
    dom0.permit(used, b"n0", b"r3")
    bridge.show(using(3000), 1000.0)
    assert dom0.read(used) == b"12000"


def test_one_domain_changes_alone() -> None:
    """What is said of one leaves the others as they are shown; one that is gone goes alone, and only once."""
    bridge, client = bridged(WEB, replace(WEB, domid=4, name="db", uuid="uuid-4"))
    client.watch(b"/local/domain")
    client.events()
    bridge.show(replace(WEB, target_pages=256 * MIB), 0.0)
    assert client.events() == [TARGET + b" t"]
    for _ in range(2):
        bridge.remove(4)
        bridge.remove(0)
    assert client.names(b"/local/domain") == [b"0", b"3"]
    bridge.show(replace(WEB, name="other", uuid="uuid-2"), 0.0)
    assert client.read(b"/local/domain/3/name") == b"other"


def test_only_what_changes_is_written() -> None:
    """Looking again tells nobody; a guest that uses more is told of, and one that says nothing is not."""
    bridge, client = bridged(WEB)
    client.watch(b"/local/domain")
    client.events()
    bridge.update([WEB], 0.0)
    assert client.events() == []
    bridge.update([using(20)], 0.0)
    bridge.update([using(20)], 0.0)
    assert client.events() == [b"/local/domain/3/memory/meminfo t"]


def test_domains_come_and_go() -> None:
    """With the special events, after all of it is there, and after all of it is gone; also one that stops tells."""
    bridge, client = bridged()
    for name in (b"@introduceDomain", b"@releaseDomain"):
        client.watch(name)
    client.events()
    bridge.update([WEB], 0.0)
    assert client.events() == [b"@introduceDomain t"]
    bridge.update([replace(WEB, state="shutdown")], 0.0)
    assert client.events() == [b"@releaseDomain t"]
    bridge.update([replace(WEB, name="other", uuid="uuid-2")], 0.0)
    assert set(client.events()) == {b"@releaseDomain t", b"@introduceDomain t"}
    assert client.read(b"/local/domain/3/name") == b"other"
    assert client.names(b"/vm") == [b"uuid-2"]
    bridge.update([], 0.0)
    assert client.events() == [b"@releaseDomain t"]
    assert (client.names(b"/local/domain"), client.names(b"/vm")) == ([b"0"], [])
    assert client.store.check() == []
    assert len(client.store.watches) == 2


def test_nothing_of_a_domain_stays_when_it_is_gone() -> None:
    """A store is as large as before, whether this bridge or one of an earlier life showed the domain."""
    bridge, client = bridged()
    empty = len(client.store.tree)
    for domid in range(1, 5):
        bridge.update([replace(WEB, domid=domid, uuid=f"uuid-{domid}")], 1000.0)
    restored = restore(encode_whole(client.store))
    Bridge(restored, lambda: None).update([], 1000.0)
    bridge.update([], 1000.0)

    assert len(client.store.tree) == len(restored.tree) == empty


def test_the_next_domain_of_a_number_and_a_name_has_nothing_of_the_last() -> None:
    """Not its data, sizes or UUID, nor its connection, which ends; who watches is told of both."""
    bridge, client = bridged(WEB)
    for name in (b"@introduceDomain", b"@releaseDomain"):
        client.watch(name)
    guest = StoreClient(client.store, 3)
    assert guest.write(b"data/x", b"1") == b"OK\0"
    client.events()
    again = replace(WEB, uuid="uuid-2", birth=2, gfn_count=2048 * MIB, max_pages=2048 * MIB)
    bridge.update([again], 0.0)
    assert guest.connection.reason == "it was closed"
    assert set(client.events()) == {b"@releaseDomain t", b"@introduceDomain t"}
    assert client.read(b"/local/domain/3/memory/static-max") == b"2097152"
    assert client.read(b"/local/domain/3/data/x") == "ENOENT"
    assert client.names(b"/vm") == [b"uuid-2"]
    assert client.read(b"/vm/uuid-2/birth") == b"2"
    assert client.store.check() == []


def test_another_host_s_dom0_takes_the_place_of_the_last() -> None:
    """Its sizes and its UUID are shown; what tools keep in dom0's home stays."""
    dom0 = replace(WEB, domid=0, name="Domain-0")
    bridge, client = bridged(dom0)
    client.write(b"/local/domain/0/backend/x", b"1")
    bridge.update([replace(dom0, uuid="uuid-2", gfn_count=2048 * MIB, max_pages=2048 * MIB)], 0.0)
    assert client.read(b"/local/domain/0/memory/static-max") == b"2097152"
    assert (client.read(b"/local/domain/0/vm"), client.names(b"/vm")) == (b"/vm/uuid-2", [b"uuid-2"])
    assert client.read(b"/local/domain/0/backend/x") == b"1"


def test_dom0_is_a_domain_too() -> None:
    """Its memory is shown where it has any, for nobody but the tools, which know it by Xen's name."""
    _, client = bridged(replace(WEB, domid=0, name="dom0"))
    assert client.read(b"/local/domain/0/name") == b"Domain-0"
    assert client.permissions(b"/local/domain/0/memory/target") == b"n0"
    assert client.read(b"/local/domain/0/memory/target") == b"524288"


def test_a_restored_store_goes_on() -> None:
    """Its domains keep their nodes and names; those that are no more, or are others now, go; clients' own stay."""
    bridge, client = bridged(
        WEB, replace(WEB, domid=4, name="db", uuid="uuid-4"), replace(WEB, domid=5, name="old", uuid="uuid-5")
    )
    client.write(b"/local/domain/3/data/x", b"1")
    client.write(TARGET, b"garbage")
    store = restore(encode_whole(bridge._store))
    again = Bridge(store, lambda: None)
    tool = StoreClient(store)
    tool.watch(b"@introduceDomain")
    tool.events()
    again.update([WEB, replace(WEB, domid=5, name="new", uuid="uuid-new")], 0.0)
    assert tool.read(b"/local/domain/3/data/x") == b"1"
    assert tool.read(b"/local/domain/3/vm") == b"/vm/uuid-1"
    assert tool.read(TARGET) == b"524288"
    assert tool.names(b"/local/domain") == [b"0", b"3", b"5"]
    assert tool.read(b"/local/domain/5/vm") == b"/vm/uuid-new"
    assert set(tool.names(b"/vm")) == {b"uuid-1", b"uuid-new"}
    assert tool.events() == [b"@introduceDomain t"]
    assert store.check() == []


def test_a_store_that_was_restored_is_another_host_s() -> None:
    """A domain of the same number and name is another one, unless an earlier version saved the store, which knew no UUIDs."""
    bridge, client = bridged(WEB)
    client.write(b"/local/domain/3/data/x", b"1")
    for save_of_before, kept in ((False, "ENOENT"), (True, b"1")):
        if save_of_before:
            client.rm(b"/vm/uuid-1/birth")
        store = restore(encode_whole(bridge._store))
        Bridge(store, lambda: None).update([replace(WEB, uuid="uuid-2", gfn_count=2048 * MIB)], 0.0)
        tool = StoreClient(store)
        assert tool.read(b"/local/domain/3/data/x") == kept
        assert tool.read(b"/local/domain/3/memory/static-max") == b"2097152"
        assert tool.names(b"/vm") == [b"uuid-2"]
        assert store.check() == []
