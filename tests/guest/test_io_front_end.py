"""The front end against a dom0 that the test plays, command by command."""

import numpy as np
import pytest

from xbd.abi import Frames, LoadResult, MapGrant, MemopResult, Receive, Send, Store, UnmapGrant, split_messages
from xbd.guest import GuestSettings, GuestStatistics, Tick
from xbd.guest.io.disk import DISK_SECTORS
from xbd.guest.io.front_end import CONNECT_AGAIN_S
from xbd.guest.io.messages import (
    Connect,
    Connected,
    Message,
    Request,
    Requests,
    Response,
    Responses,
    Status,
    decode,
    encode,
)
from xbd.guest.workload import Idle
from xbd.testing.virtual_host import VirtualHost
from xbd.units import SUPER_PAGES


class PlayedDom0:
    """A host with one guest that does I/O, and a domain 0 whose part the test plays."""

    def __init__(self, io_pages_s: float, *, blocks: int = 8) -> None:
        self.host = VirtualHost(64)
        self.host.machine.create("dom0", domid=0, max_pages=8 * SUPER_PAGES, target_pages=SUPER_PAGES)
        self.guest = self.host.create(
            "g",
            max_pages=blocks * SUPER_PAGES,
            target_pages=blocks * SUPER_PAGES,
            settings=GuestSettings(verify=True, kernel_pages=0),
            workload=Idle(used=0, cache=0, kernel=0, io_pages_s=io_pages_s),
        )
        self.next_slot = SUPER_PAGES

    @property
    def statistics(self) -> GuestStatistics:
        """The guest's."""
        return self.host.guest(self.guest).statistics()

    def hear(self) -> list[Message]:
        """Take what the guest said."""
        received = self.host.machine.execute(0, Receive())
        assert isinstance(received, LoadResult)
        messages = [decode(words) for _, words in split_messages(received.words)]
        return [message for message in messages if message is not None]

    def requests(self) -> list[Request]:
        """Take the requests that the guest made."""
        return [each for message in self.hear() if isinstance(message, Requests) for each in message.requests]

    def say(self, message: Message) -> None:
        """Tell the guest something, and let it act."""
        self.host.machine.execute(0, Send(self.guest, encode(message)))
        self.host.send(self.guest, Tick())

    def connect(self, connection: int = 1, *, persistent: bool = False) -> list[Request]:
        """Answer the guest's CONNECT; returns its first requests."""
        assert self.hear() == [Connect(DISK_SECTORS)]
        self.say(Connected(connection, persistent))
        return self.requests()

    def answer(self, requests: list[Request], status: Status = Status.OK, connection: int = 1) -> None:
        """Answer requests without having done anything for them."""
        self.say(Responses(connection, tuple(Response(request.number, status) for request in requests)))

    def map(self, request: Request) -> Frames:
        """Map a request's pages; returns the slots."""
        slots = np.arange(self.next_slot, self.next_slot + request.refs.size)
        self.next_slot += request.refs.size
        done = self.host.machine.execute(0, MapGrant(self.guest, request.refs, slots, readonly=request.write))
        assert done == MemopResult(request.refs.size)
        return slots


@pytest.mark.parametrize(
    ("pages_s", "sizes", "period_s"), [(64, [32], 0.5), (3, [3], 1), (0.5, [1], 2), (200, [32, 18], 0.25)]
)
def test_requests_go_out_in_batches_at_the_workloads_rate(pages_s: float, sizes: list[int], period_s: float) -> None:
    """Full requests where the rate allows, each quarter of a second to each second; a very slow one page by page."""
    dom0 = PlayedDom0(pages_s)
    requests = dom0.connect()
    for _ in range(3):
        assert [request.refs.size for request in requests] == sizes
        dom0.answer(requests)
        dom0.host.advance(dom0.host.now + period_s - 0.01)
        assert dom0.requests() == []
        dom0.host.advance(dom0.host.now + 0.01)
        requests = dom0.requests()


def test_a_burst_fills_the_ring_and_no_more() -> None:
    """32 requests of 32 pages are under way; each answer makes room for another; what was not done in time is dropped."""
    dom0 = PlayedDom0(8000)
    requests = dom0.connect()
    assert [request.refs.size for request in requests] == [32] * 32
    dom0.host.advance(3)
    assert dom0.requests() == []
    dom0.answer(requests[:5])
    assert len(dom0.requests()) == 5
    assert dom0.statistics.io_requests == 37
    assert dom0.statistics.unmovable_pages == 1024
    assert dom0.host.check() == []


def test_only_memory_above_the_min_watermark_is_used() -> None:
    """A guest with little memory makes smaller bursts, and its reserve stays."""
    dom0 = PlayedDom0(8000, blocks=2)
    dom0.host.set_target(dom0.guest, SUPER_PAGES)
    requests = dom0.connect()
    reserve = dom0.host.guest(dom0.guest)._zone.watermarks.min_pages
    assert dom0.statistics.guest_free_pages == reserve
    assert sum(request.refs.size for request in requests) == SUPER_PAGES - reserve
    dom0.answer(requests)
    assert dom0.host.check() == []


def test_a_grant_that_is_still_mapped_is_put_aside_and_ended_later() -> None:
    """The page stays the kernel's until dom0 lets go; the other requests' pages are free at once."""
    dom0 = PlayedDom0(64)
    (request,) = dom0.connect()
    slots = dom0.map(request)
    dom0.answer([request])
    assert dom0.statistics.io_deferred_pages == 32
    assert dom0.statistics.unmovable_pages == 32
    assert dom0.host.check() == []
    dom0.host.advance(0.5)
    dom0.answer(dom0.requests())
    assert dom0.statistics.unmovable_pages == 32
    dom0.host.machine.execute(0, UnmapGrant(slots))
    dom0.host.advance(1.4)
    assert dom0.statistics.io_deferred_pages == 0
    dom0.answer(dom0.requests())
    assert dom0.host.check() == []


def test_a_back_end_that_never_unmaps_holds_a_bounded_part_of_the_guest() -> None:
    """When a ring's worth of pages was put aside nothing new is begun."""
    dom0 = PlayedDom0(6000, blocks=32)
    requests = dom0.connect()
    for _ in range(10):
        for request in requests:
            if dom0.next_slot + 32 <= 8 * SUPER_PAGES:
                dom0.map(request)
        dom0.answer(requests)
        dom0.host.advance(dom0.host.now + 0.25)
        requests = dom0.requests()
    assert requests == []
    assert 1024 <= dom0.statistics.io_deferred_pages <= 2048
    assert dom0.host.check() == []


def test_persistent_pages_are_granted_once() -> None:
    """The same references come again, and nothing is granted or ended for them."""
    dom0 = PlayedDom0(64)
    requests = dom0.connect(persistent=True)
    first = requests[0].refs.tolist()
    for _ in range(5):
        (request,) = requests
        assert sorted(request.refs.tolist()) == sorted(first)
        dom0.answer(requests)
        dom0.host.advance(dom0.host.now + 0.5)
        requests = dom0.requests()
    assert dom0.host.machine.domain_info(dom0.guest).extents["grant"] == 32
    assert "end_grant" not in dom0.host.machine.domain_info(dom0.guest).extents
    # A new connection: what was kept for the old one goes.
    dom0.answer(requests)
    dom0.say(Connected(2, persistent=False))
    assert dom0.host.machine.domain_info(dom0.guest).extents["end_grant"] == 32
    assert dom0.host.check() == []


def test_the_lost_word_of_a_read_is_seen() -> None:
    """Writes are answered as done; a read whose pages dom0 never wrote says 0 where something was written."""
    dom0 = PlayedDom0(32 * 128)
    requests = dom0.connect()
    for _ in range(10):
        dom0.answer(requests)
        dom0.host.advance(dom0.host.now + 0.25)
        requests = dom0.requests()
    statistics = dom0.statistics
    assert statistics.io_pages_written > 1000
    assert statistics.io_mismatches > 1000
    assert statistics.io_mismatches % 32 == 0


def test_a_full_inbox_is_tried_again() -> None:
    """Requests that dom0's inbox has no room for wait, with their pages, and go out when there is room."""
    dom0 = PlayedDom0(64)
    assert dom0.hear() == [Connect(DISK_SECTORS)]
    for _ in range(2):
        dom0.host.machine.execute(dom0.guest, Send(0, np.ones(500, dtype=np.uint64)))
    dom0.host.machine.execute(dom0.guest, Send(0, np.ones(20, dtype=np.uint64)))
    dom0.say(Connected(1, persistent=False))
    assert dom0.statistics.unmovable_pages == 32
    dom0.host.advance(0.3)
    assert dom0.requests() == []
    dom0.host.advance(0.6)
    (first, *_) = requests = dom0.requests()
    assert first.number == 1
    dom0.answer(requests)
    assert dom0.statistics.io_errors == 0
    assert dom0.host.check() == []


def test_answers_that_belong_to_nothing_are_ignored() -> None:
    """Another connection's, unknown and repeated numbers, garbage, requests: no page is freed for them."""
    dom0 = PlayedDom0(64)
    (request,) = dom0.connect()
    dom0.say(Responses(2, (Response(request.number, Status.OK),)))
    dom0.say(Responses(1, (Response(request.number + 1, Status.OK),)))
    dom0.say(Requests(1, (request,)))
    dom0.say(Connect(5))
    dom0.host.machine.execute(0, Send(dom0.guest, np.arange(50, dtype=np.uint64)))
    dom0.host.send(dom0.guest, Tick())
    assert dom0.statistics.unmovable_pages == 32
    assert dom0.host.check() == []
    dom0.answer([request, request])
    assert dom0.statistics.unmovable_pages == 0
    assert dom0.statistics.io_pages_read + dom0.statistics.io_pages_written == 32
    assert dom0.host.check() == []


def test_connecting_is_tried_each_few_seconds() -> None:
    """An unanswered CONNECT is said again; an answered one is not."""
    dom0 = PlayedDom0(64)
    for _ in range(4):
        assert dom0.hear() == [Connect(DISK_SECTORS)]
        dom0.host.advance(dom0.host.now + CONNECT_AGAIN_S)
    dom0.connect()
    dom0.host.advance(dom0.host.now + 3 * CONNECT_AGAIN_S)
    assert not any(isinstance(message, Connect) for message in dom0.hear())


def test_a_failed_request_counts_and_changes_nothing_on_the_disk() -> None:
    """Errors are counted; what a failed write was to say is not expected of the disk."""
    dom0 = PlayedDom0(32 * 128)
    requests = dom0.connect()
    for _ in range(10):
        dom0.answer([request for request in requests if request.write], Status.ERROR)
        reads = [request for request in requests if not request.write]
        for request in reads:
            slots = dom0.map(request)
            dom0.host.machine.execute(0, Store(slots, np.zeros(slots.size, dtype=np.uint64)))
            dom0.host.machine.execute(0, UnmapGrant(slots))
            dom0.next_slot = SUPER_PAGES
        dom0.answer(reads)
        dom0.host.advance(dom0.host.now + 0.25)
        requests = dom0.requests()
    statistics = dom0.statistics
    assert statistics.io_errors > 100
    assert statistics.io_pages_written == 0
    assert statistics.io_pages_read > 1000
    assert statistics.io_mismatches == 0


def test_writes_are_granted_to_be_read_only() -> None:
    """Dom0 cannot map the pages of a write to be written, and those of a read it can."""
    dom0 = PlayedDom0(8000)
    requests = dom0.connect()
    slots = np.arange(SUPER_PAGES, SUPER_PAGES + 32)
    for write, done in ((True, 0), (False, 32)):
        request = next(request for request in requests if request.write is write)
        result = dom0.host.machine.execute(0, MapGrant(dom0.guest, request.refs, slots))
        assert isinstance(result, MemopResult)
        assert result.done == done
