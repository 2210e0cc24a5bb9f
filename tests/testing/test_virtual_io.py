"""Block I/O on a virtual host: real guests, a real machine, and every word that dom0 reads is the one that was written."""

from dataclasses import replace

import numpy as np
import pytest

from xbd.abi import (
    BATCH_EXTENTS,
    DomainType,
    Frames,
    Grant,
    GrantResult,
    LoadResult,
    MapGrant,
    MemopResult,
    Receive,
    Send,
    Words,
    split_messages,
)
from xbd.guest import Guest, GuestSettings, GuestStatistics, ShutdownAsked, Tick
from xbd.guest.io.messages import (
    MAX_DISK_SECTORS,
    RING_REQUESTS,
    Connect,
    Connected,
    Request,
    Requests,
    Response,
    Responses,
    Status,
    decode,
    digest_words,
    encode,
)
from xbd.guest.settings import BlockBackEnd
from xbd.guest.workload import Idle, Steady, Workload
from xbd.testing.virtual_host import VirtualHost
from xbd.units import SUPER_PAGES


def blocks(count: int) -> int:
    """Count the pages of whole blocks."""
    return count * SUPER_PAGES


def add_dom0(host: VirtualHost, *, size: int = 32, persistent: bool = False, slots_most: int | None = None) -> None:
    """Boot a dom0 that serves disks, fully populated."""
    settings = GuestSettings(verify=True, block_back_end=BlockBackEnd(persistent))
    settings = replace(settings, driver=replace(settings.driver, slots_max_pages=slots_most))
    host.create("dom0", domid=0, max_pages=blocks(size), target_pages=blocks(size), settings=settings)


def add_guest(host: VirtualHost, name: str, workload: Workload, *, size: int = 8) -> int:
    """Boot a guest."""
    return host.create(
        name,
        max_pages=blocks(size),
        target_pages=blocks(size),
        settings=GuestSettings(verify=True, kernel_pages=64),
        workload=workload,
    )


def report(host: VirtualHost, domid: int) -> GuestStatistics:
    """Take a guest's statistics."""
    return host.guest(domid).statistics()


def assert_every_word_was_right(host: VirtualHost) -> None:
    """The host adds up, and neither end of any I/O has seen a wrong word."""
    assert host.check() == []
    for domid in host.domids():
        statistics = report(host, domid)
        assert (statistics.io_mismatches, statistics.content_errors) == (0, 0), f"d{domid}"


def assert_nothing_is_left(host: VirtualHost) -> None:
    """When all guests but dom0 are gone and some time has passed, dom0 is as it was."""
    for domid in host.domids():
        if domid:
            host.destroy(domid)
    host.advance(host.now + 15)
    assert host.check() == []
    assert host.machine.domains() == [0]
    statistics, info = report(host, 0), host.machine.domain_info(0)
    assert (statistics.slots, statistics.io_mapped_pages, info.mapped_grants) == (0, 0, 0)
    assert statistics.current_pages == statistics.aim_pages


@pytest.mark.parametrize("persistent", [False, True])
def test_every_word_is_right_while_all_targets_change(persistent: bool) -> None:  # noqa: FBT001 - a parameter
    """Six guests do I/O while their memory and dom0's shrink and grow; then nothing of it is left over."""
    host = VirtualHost(200, seed=3)
    add_dom0(host, persistent=persistent)
    guests = [add_guest(host, f"g{i}", Steady(churn=0.05, io_pages_s=200 + 100 * i)) for i in range(6)]
    rng = np.random.default_rng(5)
    for _ in range(20):
        host.advance(host.now + 0.7)
        for domid in (0, *guests):
            low, high = (12, 33) if domid == 0 else (4, 9)
            host.set_target(domid, blocks(int(rng.integers(low, high))))
        assert_every_word_was_right(host)
    for domid in guests:
        statistics = report(host, domid)
        assert statistics.io_pages_written > 500
        assert statistics.io_pages_read > 500
        assert statistics.io_errors == 0
    assert report(host, 0).io_pages_written == sum(report(host, domid).io_pages_written for domid in guests)
    assert (report(host, 0).io_mapped_pages > 0) is persistent
    assert_nothing_is_left(host)


def test_a_burst_makes_dom0_balloon_out_for_slots_and_the_memory_comes_back() -> None:
    """Dom0's balloon is empty: what the slots take it inflates, within the bound, and gets back when they are idle."""
    host = VirtualHost(200)
    add_dom0(host)
    assert report(host, 0).current_pages == blocks(32)
    guests = [add_guest(host, f"g{i}", Idle(io_pages_s=4000)) for i in range(10)]
    host.advance(3)
    burst = report(host, 0)
    assert burst.slots > 500
    assert burst.current_pages <= blocks(32) - burst.slots
    assert burst.slots <= burst.slots_max_pages
    assert burst.aim_pages == blocks(32) - burst.slots
    assert_every_word_was_right(host)
    for domid in guests:
        host.destroy(domid)
    host.advance(host.now + 9)
    assert report(host, 0).slots > 0
    host.advance(host.now + 2)
    assert report(host, 0).slots == 0
    assert report(host, 0).current_pages == blocks(32)
    assert_nothing_is_left(host)


def test_slots_that_come_back_are_tidied_up() -> None:
    """A balloon that slots left partly in several blocks is whole 2 MiB blocks again when all is quiet."""
    host = VirtualHost(192)
    add_dom0(host, size=64)
    guests = [add_guest(host, f"web{n}", Idle(io_pages_s=256)) for n in range(8)]
    host.advance(10)
    host.set_target(0, blocks(32))
    host.advance(20)
    for domid in guests:
        host.destroy(domid)
    host.advance(60)

    assert (report(host, 0).slots, report(host, 0).partly_ballooned) == (0, 0)
    assert host.machine.domain_info(0).superpage_coverage == 1.0


@pytest.mark.parametrize("persistent", [False, True])
def test_few_slots_are_enough_for_many_guests(persistent: bool) -> None:  # noqa: FBT001 - a parameter
    """With room for 100 pages at a time all requests are still carried out, and persistent grants leave some of it."""
    host = VirtualHost(100)
    add_dom0(host, slots_most=100, persistent=persistent)
    guests = [add_guest(host, f"g{i}", Idle(io_pages_s=300)) for i in range(4)]
    host.advance(5)
    assert_every_word_was_right(host)
    assert report(host, 0).slots <= 100
    assert report(host, 0).io_mapped_pages == (50 if persistent else 0)
    for domid in guests:
        assert report(host, domid).io_pages_read + report(host, domid).io_pages_written >= 1200
        assert report(host, domid).io_errors == 0
    assert_nothing_is_left(host)


def test_without_any_slot_requests_fail_after_a_while_and_nobody_is_harmed() -> None:
    """A dom0 that may have no slots answers with errors; the guests get their pages back."""
    host = VirtualHost(100)
    add_dom0(host, slots_most=0)
    guest = add_guest(host, "g", Idle(io_pages_s=64))
    host.advance(20)
    statistics = report(host, guest)
    assert statistics.io_errors > 0
    assert statistics.io_pages_read + statistics.io_pages_written == 0
    assert report(host, 0).slot_requests_refused > 0
    assert_every_word_was_right(host)
    assert_nothing_is_left(host)


@pytest.mark.parametrize("persistent", [False, True])
def test_dom0_reboots_while_guests_do_io(persistent: bool) -> None:  # noqa: FBT001 - a parameter
    """Front ends end their grants, connect again, to an empty disk, and go on."""
    host = VirtualHost(100)
    add_dom0(host, persistent=persistent)
    guests = [add_guest(host, f"g{i}", Idle(io_pages_s=500)) for i in range(3)]
    for _ in range(3):
        host.advance(host.now + 2)
        before = [report(host, domid).io_pages_read for domid in guests]
        host.reboot(0)
        host.advance(host.now + 2)
        assert_every_word_was_right(host)
        assert all(report(host, domid).io_pages_read > had for domid, had in zip(guests, before, strict=True))
        assert all(report(host, domid).io_deferred_pages == 0 for domid in guests)
    assert_nothing_is_left(host)


@pytest.mark.parametrize("persistent", [False, True])
def test_a_guest_reboots_while_it_does_io(persistent: bool) -> None:  # noqa: FBT001 - a parameter
    """The mappings of the old guest are released, the new one has an empty disk; the other guest is undisturbed."""
    host = VirtualHost(100)
    add_dom0(host, persistent=persistent)
    first, other = (add_guest(host, name, Idle(io_pages_s=500)) for name in ("first", "other"))
    for _ in range(3):
        host.advance(host.now + 2)
        host.reboot(first)
        host.advance(host.now + 2)
        assert_every_word_was_right(host)
        assert report(host, first).io_pages_read > 0
    assert report(host, other).io_errors == 0
    assert report(host, 0).io_mapped_pages == sum(host.machine.domain_info(d).grants for d in (first, other))
    assert_nothing_is_left(host)


def test_a_guest_that_dies_with_mapped_pages_is_a_zombie_until_dom0_lets_go() -> None:
    """Destroying it returns how many pages were still mapped, and a moment later nothing of it is left."""
    host = VirtualHost(100)
    add_dom0(host, persistent=True)
    guest = add_guest(host, "g", Idle(io_pages_s=500))
    host.advance(2)
    mapped = report(host, 0).io_mapped_pages
    assert host.destroy(guest) == mapped > 0
    assert host.machine.take_vanished() == [guest]
    assert host.machine.domains() == [0]
    assert report(host, 0).io_mapped_pages == 0
    assert_nothing_is_left(host)


def test_a_guest_without_a_back_end_waits_and_balloons_as_ever() -> None:
    """No dom0, then one that serves no disks: a try each five seconds, and no page held for it; then one that does."""
    host = VirtualHost(100)
    guest = add_guest(host, "g", Idle(io_pages_s=500))
    host.advance(60)
    assert sum(n for call, n in host.machine.domain_info(guest).hypercalls.items() if "send" in call) <= 13
    host.set_target(guest, blocks(5))
    host.advance(70)
    assert report(host, guest).current_pages == blocks(5)
    assert report(host, guest).io_requests == 0
    host.create("dom0", domid=0, max_pages=blocks(8), target_pages=blocks(8))
    host.advance(6000)
    assert report(host, guest).io_requests == 0
    assert host.check() == []
    host._agents[0].settings = GuestSettings(block_back_end=BlockBackEnd())
    host.reboot(0)
    host.advance(6005)
    assert report(host, guest).io_pages_read > 0
    assert_every_word_was_right(host)
    assert_nothing_is_left(host)


def test_a_guest_that_shuts_down_begins_nothing_new() -> None:
    """After the shutdown no request goes out and no message is answered, and its domain can be destroyed."""
    host = VirtualHost(100)
    add_dom0(host)
    guest = add_guest(host, "g", Idle(io_pages_s=500))
    host.advance(2)
    host.send(guest, ShutdownAsked())
    requests = report(host, guest).io_requests
    host.advance(10)
    assert host.guest(guest).shut_down
    assert report(host, guest).io_requests == requests
    assert_nothing_is_left(host)


def test_the_same_seed_gives_the_same_run() -> None:
    """Two runs agree in every count of every guest and of the hypervisor."""
    seen = []
    for _ in range(2):
        host = VirtualHost(100, seed=9)
        add_dom0(host)
        guests = [add_guest(host, f"g{i}", Steady(io_pages_s=700)) for i in range(3)]
        host.advance(5)
        host.reboot(guests[1])
        host.advance(8)
        seen.append([(host.guest(d).report(), host.machine.domain_info(d)) for d in host.domids()])
    assert seen[0] == seen[1]


def test_the_check_sees_grants_and_mappings_that_a_guest_does_not_know_of() -> None:
    """A grant made, and a mapping made, behind the guests' backs are named."""
    host = VirtualHost(100)
    add_dom0(host)
    guest = add_guest(host, "g", Idle())
    host.set_target(0, blocks(30))
    (free,) = np.setdiff1d(np.arange(blocks(32)), populated(host, 0))[:1]
    granted = host.machine.execute(guest, Grant(np.array([700]), 0))
    assert isinstance(granted, GrantResult)
    host.machine.execute(0, MapGrant(guest, granted.refs, np.array([free])))
    assert host.check() == [
        f"d0: gfn {free:#x} is mapped, and no slot of its guest",
        f"d{guest}: only one of guest and machine knows of grant {granted.refs[0]}",
    ]


def populated(host: VirtualHost, domid: int) -> Frames:
    """List a domain's populated gfns."""
    runs = host.machine.boot_info(domid).runs
    return np.concatenate([np.arange(first, end) for first, end in runs.tolist()])


# -- a hostile front end: a domain without a guest, whose commands the test issues


def writing(number: int, sector: int, refs: Frames, digest: int) -> Request:
    """Make a request to write."""
    return Request(number, write=True, sector=sector, refs=refs, digest=digest)


def reading(number: int, sector: int, refs: Frames) -> Request:
    """Make a request to read."""
    return Request(number, write=False, sector=sector, refs=refs)


class Hostile:
    """A hostile domain that sends dom0 any messages."""

    def __init__(self, host: VirtualHost, name: str = "hostile") -> None:
        self.host = host
        self.domid = host.machine.create(name, max_pages=blocks(2), target_pages=blocks(2))

    def send(self, words: Words) -> bool:
        """Send words and let dom0 handle them; returns whether they fit into its inbox."""
        sent = self.host.machine.execute(self.domid, Send(0, words))
        self.host.send(0, Tick())
        return isinstance(sent, MemopResult) and sent.done > 0

    def receive(self) -> list[object]:
        """Receive and decode the messages sent to it."""
        received = self.host.machine.execute(self.domid, Receive())
        assert isinstance(received, LoadResult)
        return [decode(words) for _, words in split_messages(received.words)]

    def connect(self, sectors: int = 64) -> int:
        """Connect; returns the connection's number."""
        self.send(encode(Connect(sectors)))
        (answer,) = self.receive()
        assert isinstance(answer, Connected)
        return answer.connection

    def grant(self, gfns: Frames, *, readonly: bool = False) -> Frames:
        """Grant pages to dom0."""
        refs = []
        for first in range(0, gfns.size, BATCH_EXTENTS):
            granted = self.host.machine.execute(self.domid, Grant(gfns[first : first + BATCH_EXTENTS], 0, readonly))
            assert isinstance(granted, GrantResult)
            refs.append(granted.refs)
        return np.concatenate(refs)


def with_hostile(*, persistent: bool = False) -> tuple[VirtualHost, Hostile, int]:
    """Boot dom0, a hostile domain and a peaceful guest that does I/O."""
    host = VirtualHost(100)
    add_dom0(host, persistent=persistent)
    peaceful = add_guest(host, "peaceful", Idle(io_pages_s=500))
    host.advance(1)
    return host, Hostile(host), peaceful


def assert_peace(host: VirtualHost, hostile: Hostile, peaceful: int) -> None:
    """The peaceful guest has had no error, and when the hostile one dies nothing is left of it."""
    read = report(host, peaceful).io_pages_read
    host.advance(host.now + 2)
    assert report(host, peaceful).io_pages_read > read
    assert report(host, peaceful).io_errors == 0
    assert_every_word_was_right_but_dom0(host)
    host.machine.destroy(hostile.domid)
    host.send(0, Tick())
    assert hostile.domid not in host.machine.domains()
    assert_nothing_is_left(host)


def assert_every_word_was_right_but_dom0(host: VirtualHost) -> None:
    """As for all guests, where a hostile one made dom0 see wrong words."""
    assert host.check() == []
    assert all(report(host, domid).io_mismatches == 0 for domid in host.domids() if domid)


@pytest.mark.parametrize("persistent", [False, True])
def test_each_bad_request_fails_alone(persistent: bool) -> None:  # noqa: FBT001 - a parameter
    """References never granted, read-only ones to be written, a wrong digest, a sector too far: errors; the good one is done."""
    host, hostile, peaceful = with_hostile(persistent=persistent)
    connection = hostile.connect()
    good = hostile.grant(np.arange(4, dtype=np.int64))
    readonly = hostile.grant(np.arange(8, 12, dtype=np.int64), readonly=True)
    foreign = good + 1000
    digest = int(digest_words(np.zeros(4, dtype=np.uint64), np.array([4]))[0])
    requests = (
        writing(1, 0, good, digest),
        writing(2, 4, foreign, digest),
        reading(3, 8, readonly),
        writing(4, 12, good, digest + 1),
        writing(5, 61, good, digest),
        writing(6, (1 << 64) - 1, good, digest),
        reading(7, 0, np.concatenate((good, foreign))),
        reading(8, 0, np.concatenate((good, good))),
        writing(9, 0, good, digest),
    )
    for request in requests:
        hostile.send(encode(Requests(connection, (request,))))
    together = requests[:5] + requests[8:]
    hostile.send(encode(Requests(connection, together)))
    statuses: dict[int, list[Status]] = {}
    for message in hostile.receive():
        assert isinstance(message, Responses)
        for response in message.responses:
            statuses.setdefault(response.number, []).append(response.status)
    assert statuses[1] == statuses[9] == [Status.OK] * 2
    assert statuses[2] == statuses[3] == statuses[5] == [Status.ERROR] * 2
    assert statuses[4] == [Status.MISMATCH] * 2
    assert statuses[6] == statuses[7] == [Status.ERROR]
    assert len(statuses[8]) == 1
    assert report(host, 0).io_mismatches == 2
    assert_peace(host, hostile, peaceful)


def test_garbage_and_strangers_are_ignored() -> None:
    """Words that are no message, requests without a connection or with another's number, answers: all are ignored."""
    host, hostile, peaceful = with_hostile()
    rng = np.random.default_rng(1)
    for size in (1, 2, 40, 512):
        hostile.send(rng.integers(0, 1 << 64, size=size, dtype=np.uint64))
    refs = hostile.grant(np.arange(2, dtype=np.int64))
    hostile.send(encode(Requests(1, (reading(1, 0, refs),))))
    hostile.send(encode(Connect(MAX_DISK_SECTORS)) + np.array([0, 1], dtype=np.uint64))
    assert hostile.receive() == []
    connection = hostile.connect()
    hostile.send(encode(Requests(connection + 1, (reading(1, 0, refs),))))
    hostile.send(encode(Responses(connection, (Response(1, Status.OK),))))
    hostile.send(encode(Connected(connection, persistent=True)))
    assert hostile.receive() == []
    assert_peace(host, hostile, peaceful)


@pytest.mark.parametrize("persistent", [False, True])
def test_thousands_of_requests_cost_bounded_memory(persistent: bool) -> None:  # noqa: FBT001 - a parameter
    """Who floods dom0 and never reads the answers is answered until its inbox is full, and then waited for."""
    host, hostile, peaceful = with_hostile(persistent=persistent)
    connection = hostile.connect()
    refs = hostile.grant(np.arange(1000, dtype=np.int64))
    flood = tuple(reading(n, 0, refs[n : n + 1]) for n in range(100))
    for number in range(100):
        hostile.send(encode(Requests(connection, flood)))
        hostile.send(encode(Requests(connection, (writing(number, 0, refs[number : number + 32] + 20_000, 0),))))
    back = host.guest(0)._io._back
    assert back is not None
    (client,) = [client for client in back._clients.values() if client.owner == hostile.domid]
    assert len(client.waiting) + len(client.answers) <= RING_REQUESTS
    assert client.kept <= 1056
    assert report(host, 0).io_errors > 5000
    assert report(host, 0).io_mapped_pages <= 1056 + host.machine.domain_info(peaceful).grants
    for _ in range(2000):
        hostile.send(encode(Connect(64)))
    assert len(back._turns) == 0
    assert len(back._waiting) <= 1
    assert len(back._clients) == 2
    assert_peace(host, hostile, peaceful)


def test_an_inbox_that_takes_several_turns_is_emptied() -> None:
    """More messages than a turn of receive hands out: the rest is received too, without another notice."""
    host = VirtualHost(100)
    add_dom0(host)
    senders = [Hostile(host, f"h{number}") for number in range(4)]
    for sender in senders:
        for _ in range(300):
            assert host.machine.execute(sender.domid, Send(0, np.zeros(1, dtype=np.uint64))) == MemopResult(1)
        host.machine.execute(sender.domid, Send(0, encode(Connect(64))))
    host.send(0, Tick())
    assert [[type(message) for message in sender.receive()] for sender in senders] == [[Connected]] * 4


def test_a_guest_with_a_part_in_io_looks_into_its_inbox_when_it_boots() -> None:
    """It gets no notice of messages that came before; a guest without block I/O receives nothing."""
    host = VirtualHost(100)
    boot = host.machine.boot_info(host.machine.create("g", max_pages=blocks(4), target_pages=blocks(4)))
    virtio = replace(boot, features=replace(boot.features, grants=False), domain_type=DomainType.VIRTIO)
    serving, busy = GuestSettings(block_back_end=BlockBackEnd()), Idle(io_pages_s=1)
    for info, settings, workload, asks in (
        (boot, GuestSettings(), Idle(), False),
        (boot, serving, Idle(), True),
        (boot, GuestSettings(), busy, True),
        (virtio, GuestSettings(), busy, False),
    ):
        guest = Guest(info, settings, 1, workload)
        assert any(isinstance(command, Receive) for command in guest.step(Tick(), 0.0).commands) is asks


def test_a_flood_that_is_read_does_not_hold_up_the_others() -> None:
    """The flood's requests and the peaceful guest's take turns: both are carried out."""
    host, hostile, peaceful = with_hostile()
    connection = hostile.connect()
    refs = hostile.grant(np.arange(1000, dtype=np.int64))
    answered = 0
    for _ in range(50):
        full = tuple(reading(n, 0, refs[n * 32 : n * 32 + 32]) for n in range(26))
        hostile.send(encode(Requests(connection, full)))
        answered += sum(len(message.responses) for message in hostile.receive() if isinstance(message, Responses))
        host.advance(host.now + 0.1)
    assert answered == 50 * 26
    assert_peace(host, hostile, peaceful)
