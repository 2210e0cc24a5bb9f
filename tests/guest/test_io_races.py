"""Block I/O with everything in between: guests, dom0 and their commands interleaved by lot, and deaths at any moment."""

from collections import deque
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest

from tests.testing.stepwise import StepwiseHost
from xbd.abi import (
    Command,
    EndGrant,
    Grant,
    GrantResult,
    Load,
    LoadResult,
    MapGrant,
    Receive,
    Send,
    Store,
    UnmapGrant,
    split_messages,
)
from xbd.errors import OutOfFrames
from xbd.guest import GuestSettings, TargetSet
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
from xbd.guest.settings import BlockBackEnd
from xbd.guest.workload import Idle, Steady, Workload
from xbd.guest.zone import PageState
from xbd.machine import DomainState
from xbd.units import SUPER_PAGES


def blocks(count: int) -> int:
    """Count the pages of whole blocks."""
    return count * SUPER_PAGES


def add_dom0(host: StepwiseHost, *, persistent: bool, size: int = 12) -> None:
    """Begin to boot a dom0 that serves disks; its slots are few."""
    settings = GuestSettings(verify=True, block_back_end=BlockBackEnd(persistent))
    settings = replace(settings, driver=replace(settings.driver, slots_max_pages=400))
    host.create("dom0", domid=0, max_pages=blocks(size), target_pages=blocks(size), settings=settings)


def add_guest(host: StepwiseHost, name: str, workload: Workload, *, size: int = 4) -> int:
    """Begin to boot a guest."""
    settings = GuestSettings(verify=True, kernel_pages=64)
    return host.create(name, max_pages=blocks(size), target_pages=blocks(size), settings=settings, workload=workload)


def assert_sound(host: StepwiseHost) -> None:
    """The host adds up at a quiet moment, and no word was ever wrong."""
    assert host.check() == []
    for domid in host.domids():
        statistics = host.guest(domid).statistics()
        assert (statistics.io_mismatches, statistics.content_errors, statistics.failed_extents) == (0, 0, 0)


def end_of_all(host: StepwiseHost) -> None:
    """Destroy the guests in the middle of things; dom0 lets go of everything."""
    for domid in host.domids():
        if domid:
            host.destroy(domid)
    for _ in range(30):
        host.settle()
        host.pass_time(1)
    host.settle()
    assert_sound(host)
    assert host.machine.domains() == [0]
    assert host.machine.domain_info(0).mapped_grants == 0
    assert host.guest(0).statistics().slots == 0


def something_happens(host: StepwiseHost, number: int) -> None:
    """Let a guest, or dom0, die, reboot, or get another target, at whatever moment this is."""
    rng = host.rng
    domid = int(rng.choice(host.domids()))
    match int(rng.integers(8)):
        case 0 if domid:
            host.destroy(domid)
            # It takes the number of the one that died, as soon as that is free.
            with suppress(OutOfFrames):
                add_guest(host, f"later{number}", Idle(io_pages_s=float(rng.choice([100, 900]))))
        case 1 | 2:
            host.reboot(domid)
        case 3 | 4:
            pages = blocks(int(rng.integers(6, 13) if domid == 0 else rng.integers(2, 5)))
            host.machine.set_target(domid, pages)
            host.send(domid, TargetSet(pages))
        case _:
            host.pass_time(float(rng.choice([0.1, 0.3, 1.0, 6.0])))


@pytest.mark.parametrize("persistent", [False, True])
@pytest.mark.parametrize("seed", range(8))
def test_no_word_is_wrong_and_nothing_is_left_whatever_happens_when(seed: int, persistent: bool) -> None:  # noqa: FBT001 - a parameter
    """Random steps with deaths, reboots and targets between any two commands; then everybody dies."""
    host = StepwiseHost(40, seed=seed)
    add_dom0(host, persistent=persistent)
    for index in range(4):
        add_guest(host, f"g{index}", Steady(churn=0.1, io_pages_s=100 + 400 * index))
    done = 0
    for number in range(60):
        for _ in range(int(host.rng.integers(1, 60))):
            host.turn()
        something_happens(host, number)
        assert host.machine.audit() == []
        assert host.guest(int(host.rng.choice(host.domids()))).check() == []
        if number % 10 == 9:
            host.settle()
            assert_sound(host)
            done += sum(host.guest(domid).statistics().io_pages_read for domid in host.domids())
    assert done > 1000
    end_of_all(host)


# -- one moment of one request


def until(host: StepwiseHost, domid: int, kind: type[Command]) -> Command:
    """Go on until the next command of a guest is of that kind; returns it."""
    for _ in range(20):
        for _ in range(2000):
            command = host.next_command(domid)
            if isinstance(command, kind):
                return command
            if not host.turn():
                break
        host.pass_time(0.25)
    raise AssertionError(f"d{domid} never came to a {kind.__name__}")


def one_guest(*, persistent: bool = False) -> tuple[StepwiseHost, int]:
    """Boot dom0 and a guest that writes and reads."""
    host = StepwiseHost(40, seed=1)
    add_dom0(host, persistent=persistent)
    guest = add_guest(host, "g", Idle(used=0, cache=0, kernel=0, io_pages_s=128))
    host.settle()
    return host, guest


@pytest.mark.parametrize("persistent", [False, True])
def test_a_word_changed_behind_the_guests_back_is_seen_by_dom0(persistent: bool) -> None:  # noqa: FBT001 - a parameter
    """The page of a write says something else when dom0 comes to load it: dom0 counts it, and the request fails."""
    host, guest = one_guest(persistent=persistent)
    load = until(host, 0, Load)
    assert isinstance(load, Load)
    store = next(command for domid, command in reversed(host.executed) if domid == guest and isinstance(command, Store))
    changed = np.array([store.words[0] ^ np.uint64(1)])
    host.machine.execute(guest, Store(store.gfns[:1], changed))
    host.settle()
    assert host.guest(0).statistics().io_mismatches == 1
    assert host.notes.count((0, "io_mismatches")) == 1
    assert host.guest(guest).statistics().io_errors == 1
    assert host.check() == []
    end_of_all_but_mismatches(host)


def end_of_all_but_mismatches(host: StepwiseHost) -> None:
    """As `end_of_all`, where a test made a word wrong."""
    for domid in host.domids():
        if domid:
            host.destroy(domid)
    for _ in range(15):
        host.settle()
        host.pass_time(1)
    host.settle()
    assert host.check() == []
    assert host.machine.domains() == [0]


def test_a_word_changed_behind_dom0s_back_is_seen_by_the_guest() -> None:
    """The page of a read says something else when the guest comes to load it: the guest counts one word."""
    host, guest = one_guest()
    load = until(host, guest, Load)
    assert isinstance(load, Load)
    host.machine.execute(guest, Store(load.gfns[:1], np.array([12345], dtype=np.uint64)))
    host.settle()
    assert host.guest(guest).statistics().io_mismatches == 1
    assert host.notes.count((guest, "io_mismatches")) == 1
    assert host.guest(0).statistics().io_mismatches == 0
    end_of_all_but_mismatches(host)


def test_io_pages_are_isolated_while_named_and_unmovable_while_under_way() -> None:
    """At each moment of a request its pages are in the state that keeps others off them."""
    host, guest = one_guest()
    zone = host.guest(guest)._zone
    store = until(host, guest, Store)
    assert isinstance(store, Store)
    assert (zone.state[store.gfns] == PageState.ISOLATED).all()
    grant = until(host, guest, Grant)
    assert isinstance(grant, Grant)
    assert (zone.state[grant.gfns] == PageState.ISOLATED).all()
    mapping = until(host, 0, MapGrant)
    assert isinstance(mapping, MapGrant)
    assert (host.guest(0)._zone.state[mapping.gfns] == PageState.SLOT).all()
    assert (zone.state[store.gfns] == PageState.UNMOVABLE).all()
    assert host.guest(guest).check() == []
    until(host, guest, EndGrant)
    assert (zone.state[store.gfns] == PageState.ISOLATED).all()
    host.settle()
    assert (zone.state[store.gfns] == PageState.FREE).all()
    assert_sound(host)


@pytest.mark.parametrize("moment", [Load, UnmapGrant, Send])
def test_a_guest_that_dies_in_the_middle_of_io_is_a_zombie_until_dom0_unmaps(moment: type[Command]) -> None:
    """Its mapped pages outlive it, dom0 still reads the right words there, and then it vanishes."""
    host, guest = one_guest()
    until(host, 0, MapGrant)
    until(host, 0, moment)
    mapped = host.machine.domain_info(0).mapped_grants
    assert (mapped > 0) is (moment is not Send)
    assert host.destroy(guest) == mapped
    if mapped:
        assert host.machine.domain_info(guest).state == DomainState.ZOMBIE
        assert host.machine.audit() == []
    host.settle()
    assert host.machine.domains() == [0]
    assert_sound(host)
    end_of_all(host)


def test_a_guest_that_reboots_in_the_middle_of_io_is_not_reached_through_its_old_mappings() -> None:
    """Dom0 is at its load when the guest reboots: it reads nothing, the request fails, and nothing is seen as wrong."""
    host, guest = one_guest()
    until(host, 0, Load)
    host.reboot(guest)
    host.settle()
    assert host.guest(0).statistics().io_errors > 0
    assert_sound(host)
    for _ in range(8):
        host.pass_time(0.25)
        host.settle()
    assert host.guest(guest).statistics().io_pages_read > 0
    end_of_all(host)


def test_dom0_that_reboots_in_the_middle_of_io_leaves_no_page_mapped() -> None:
    """The guest's requests have failed, its grants are ended, and its next ones go to the new dom0."""
    host, guest = one_guest(persistent=True)
    until(host, 0, Load)
    host.reboot(0)
    host.settle()
    statistics = host.guest(guest).statistics()
    assert statistics.io_errors > 0
    assert statistics.io_deferred_pages == 0
    assert_sound(host)
    for _ in range(8):
        host.pass_time(0.25)
        host.settle()
    assert host.guest(guest).statistics().io_pages_written > 0
    assert_sound(host)
    end_of_all(host)


def test_an_answer_that_comes_while_others_are_being_sent_is_sent_too() -> None:
    """A request beyond the disk comes in between an answer and its sending: both are answered."""
    host = StepwiseHost(40, seed=1)
    add_dom0(host, persistent=False)
    owner = host.machine.create("played", max_pages=blocks(2), target_pages=blocks(2))

    def say(message: Message) -> None:
        host.machine.execute(owner, Send(0, encode(message)))
        host._run(deque())

    say(Connect(64))
    host.settle()
    granted = host.machine.execute(owner, Grant(np.arange(4, dtype=np.int64), 0))
    assert isinstance(granted, GrantResult)
    say(Requests(1, (Request(1, write=False, sector=0, refs=granted.refs),)))
    until(host, 0, UnmapGrant)
    say(Requests(1, (Request(2, write=False, sector=64, refs=granted.refs),)))
    host.wake()
    assert [type(command) for command in host.pending[0]] == [UnmapGrant, Receive]
    host.execute(0)
    assert [type(command) for command in host.pending[0]] == [Receive, Send]
    host.settle()
    received = host.machine.execute(owner, Receive())
    assert isinstance(received, LoadResult)
    answers = [decode(words) for _, words in split_messages(received.words)]
    assert answers == [
        Connected(1, persistent=False),
        Responses(1, (Response(1, Status.OK),)),
        Responses(1, (Response(2, Status.ERROR),)),
    ]
