"""Messages between domains: order, shares, whole or not at all, and what is told of those that are gone."""

from collections import deque

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.machine.twin import gfns
from xbd import abi
from xbd.abi import MAX_MESSAGE_WORDS, MAX_WORDS, SENDER_WORDS, DomainType, Stop, Words
from xbd.machine import Machine
from xbd.units import SUPER_PAGES

Message = tuple[int, list[int]]


def create(machine: Machine, domid: int, domain_type: DomainType = DomainType.PVH) -> None:
    """Make a small domain."""
    machine.create(
        f"guest {domid}", max_pages=2 * SUPER_PAGES, target_pages=SUPER_PAGES, domid=domid, domain_type=domain_type
    )


@pytest.fixture
def machine() -> Machine:
    """Make a host with three domains."""
    made = Machine(6)
    for domid in (1, 2, 3):
        create(made, domid)
    return made


def send(machine: Machine, sender: int, to: int, *words: int, count: int = 1) -> tuple[int, Stop | None] | str:
    """Send *words*, *count* times over, as one message."""
    result = machine.execute(sender, abi.Send(to, np.array(words * count, dtype=np.uint64)))
    assert machine.audit() == []
    return result.errno if isinstance(result, abi.Refused) else (result.done, result.stop)


def receive(machine: Machine, domid: int, most: int = MAX_WORDS) -> tuple[list[Message], Stop | None]:
    """Receive messages, split."""
    result = machine.execute(domid, abi.Receive(most))
    assert isinstance(result, abi.LoadResult)
    assert result.done == result.words.size <= most
    assert machine.audit() == []
    return [(sender, words.tolist()) for sender, words in abi.split_messages(result.words)], result.stop


# -- order, wholeness


def test_messages_come_whole_and_oldest_first(machine: Machine) -> None:
    """Messages of two senders come in the order sent, each word as it was, and say who sent them."""
    assert send(machine, 1, 3, 5, 2**64 - 1, 0) == (3, None)
    assert send(machine, 2, 3, 7) == (1, None)
    assert send(machine, 1, 3, 6) == (1, None)
    assert receive(machine, 3) == ([(1, [5, 2**64 - 1, 0]), (2, [7]), (1, [6])], None)
    assert receive(machine, 3) == ([], None)
    assert receive(machine, 1) == ([], None)


def test_a_short_receive_takes_whole_messages(machine: Machine) -> None:
    """What does not fit whole waits, BUDGET says so, and nothing that came later overtakes it."""
    send(machine, 1, 3, 1, count=300)
    send(machine, 2, 3, 2, count=300)
    send(machine, 1, 3, 3)
    least = MAX_MESSAGE_WORDS + 1
    assert receive(machine, 3, least) == ([(1, [1] * 300)], Stop.BUDGET)
    assert receive(machine, 3, least) == ([(2, [2] * 300), (1, [3])], None)


def test_the_longest_message_fits_the_shortest_receive(machine: Machine) -> None:
    """MAX_MESSAGE_WORDS words come in a receive of one more; no room for that is EINVAL, and takes nothing."""
    send(machine, 1, 3, 9, count=MAX_MESSAGE_WORDS)
    for most in (MAX_MESSAGE_WORDS, 0, -1, MAX_WORDS + 1):
        refused = machine.execute(3, abi.Receive(most))
        assert isinstance(refused, abi.Refused)
        assert refused.errno == "EINVAL"
    assert receive(machine, 3, MAX_MESSAGE_WORDS + 1) == ([(1, [9] * MAX_MESSAGE_WORDS)], None)


def test_a_turn_is_512_messages(machine: Machine) -> None:
    """One receive takes at most 512 messages, however short they are, and says that more wait."""
    for number in range(SENDER_WORDS // 2):
        assert send_unaudited(machine, 1, 3, number) == (1, None)
    assert send(machine, 2, 3, 1) == (1, None)
    messages, stop = receive(machine, 3)
    assert ([words for _, words in messages], stop) == ([[number] for number in range(512)], Stop.BUDGET)
    assert receive(machine, 3) == ([(2, [1])], None)


def send_unaudited(machine: Machine, sender: int, to: int, word: int) -> tuple[int, Stop | None]:
    """Send one word, when there are many to send."""
    result = machine.execute(sender, abi.Send(to, np.array([word], dtype=np.uint64)))
    assert not isinstance(result, abi.Refused)
    return result.done, result.stop


def test_bad_messages_are_refused(machine: Machine) -> None:
    """Empty, too long, to oneself, to nobody, to a virtio domain: refused, and nobody has anything to receive."""
    create(machine, 4, DomainType.VIRTIO)
    assert send(machine, 1, 3) == "EINVAL"
    assert send(machine, 1, 3, 1, count=MAX_MESSAGE_WORDS + 1) == "EINVAL"
    assert send(machine, 1, 1, 1) == "EINVAL"
    for to in (9, 4, -1, 1 << 40):
        assert send(machine, 1, to, 1) == "ESRCH"
    assert not machine.has_news
    assert [receive(machine, domid) for domid in (1, 2, 3)] == [([], None)] * 3


# -- shares


def test_a_sender_fills_its_own_share_only(machine: Machine) -> None:
    """A share counts the headers; where it is used up a message is refused whole, and others still get through."""
    assert send(machine, 1, 3, 1, count=511) == (511, None)
    assert send(machine, 1, 3, 2, count=512) == (0, Stop.EAGAIN)
    assert send(machine, 1, 3, 3, count=511) == (511, None)
    assert send(machine, 1, 3, 4) == (0, Stop.EAGAIN)
    assert send(machine, 2, 3, 5, count=512) == (512, None)
    assert send(machine, 1, 2, 6, count=512) == (512, None)
    messages, stop = receive(machine, 3, 1100)
    assert ([(sender, words[0]) for sender, words in messages], stop) == ([(1, 1), (1, 3)], Stop.BUDGET)
    assert send(machine, 1, 3, 7, count=512) == (512, None)
    assert [sender for sender, _ in receive(machine, 3)[0]] == [2, 1]


def test_an_inbox_that_many_have_filled_is_full_for_all() -> None:
    """Half of the ring is for messages: then even a first one is EAGAIN, and all the same each end is told of."""
    senders = abi.INBOX_WORDS // 2 // SENDER_WORDS
    machine = Machine(senders + 3)
    for domid in range(senders + 2):
        machine.create(f"d{domid}", max_pages=SUPER_PAGES, target_pages=SUPER_PAGES, domid=domid)
    half = np.ones(SENDER_WORDS // 2 - 1, dtype=np.uint64)
    for domid in range(1, senders + 1):
        for _ in range(2):
            assert machine.execute(domid, abi.Send(0, half)) == abi.MemopResult(half.size)
    assert send(machine, senders + 1, 0, 1) == (0, Stop.EAGAIN)
    for domid in range(1, senders + 1):
        machine.destroy(domid)
    assert machine.audit() == []
    received: list[Message] = []
    for _ in range(20):
        messages, stop = receive(machine, 0)
        received += messages
        if stop is None:
            break
    assert [sender for sender, words in received if words] == [domid for domid in range(1, senders + 1) for _ in "ab"]
    assert [sender for sender, words in received if not words] == list(range(1, senders + 1))
    assert send(machine, senders + 1, 0, 1) == (1, None)


def test_the_ring_wraps_around(machine: Machine) -> None:
    """More words than an inbox holds pass through it, none lost and none changed, whatever wraps around its end."""
    words = np.arange(1000, dtype=np.uint64)
    for turn in range(abi.INBOX_WORDS // 500 + 5):
        length = 490 + turn % 20
        machine.execute(1, abi.Send(3, words[:length] + np.uint64(turn)))
        result = machine.execute(3, abi.Receive())
        assert isinstance(result, abi.LoadResult)
        ((sender, got),) = abi.split_messages(result.words)
        assert sender == 1
        assert (got == words[:length] + np.uint64(turn)).all()
    assert machine.audit() == []


# -- who is woken, who is gone


def test_who_has_got_something_is_told_once(machine: Machine) -> None:
    """Receivers are woken in the order of their first message since that was last asked."""
    send(machine, 1, 3, 1)
    send(machine, 1, 2, 1)
    send(machine, 2, 3, 1)
    news = [machine.has_news]
    assert (machine.take_woken(), machine.take_woken()) == ([3, 2], [])
    receive(machine, 3)
    news.append(machine.has_news)
    assert news == [True, False]
    send(machine, 1, 3, 1)
    machine.destroy(3)
    assert machine.take_woken() == [1, 2]


@pytest.mark.parametrize("end", ["destroy", "reboot"])
def test_an_empty_message_tells_of_an_end(machine: Machine, end: str) -> None:
    """Whoever sent a domain a message or had one from it is told, after what it still said; others are not."""
    create(machine, 4)
    send(machine, 1, 3, 5)
    send(machine, 2, 1, 6)
    machine.take_woken()
    (machine.destroy if end == "destroy" else machine.reboot)(1)
    assert machine.take_woken() == [2, 3]
    assert receive(machine, 3) == ([(1, [5]), (1, [])], None)
    assert receive(machine, 2) == ([(1, [])], None)
    assert receive(machine, 4) == ([], None)
    if end == "reboot":
        assert receive(machine, 1) == ([], None)


@pytest.mark.parametrize("end", ["destroy", "reboot"])
def test_who_maps_pages_of_a_domain_is_told_of_its_end(machine: Machine, end: str) -> None:
    """A mapper hears of its owner's end although no word was ever sent; one that was only granted something does not."""
    granted = machine.execute(1, abi.Grant(gfns(5, 6), 2))
    machine.execute(1, abi.Grant(gfns(5), 3))
    assert isinstance(granted, abi.GrantResult)
    machine.execute(2, abi.MapGrant(1, granted.refs, gfns(600, 601)))
    (machine.destroy if end == "destroy" else machine.reboot)(1)
    assert receive(machine, 2) == ([(1, [])], None)
    assert receive(machine, 3) == ([], None)


def test_no_two_empty_messages_in_a_row(machine: Machine) -> None:
    """A domain that boots again and again is told of once, until it has said something or was read."""
    for _ in range(3):
        send(machine, 3, 1, 1)
        machine.reboot(1)
    assert receive(machine, 3) == ([(1, [])], None)
    send(machine, 3, 1, 1)
    machine.reboot(1)
    assert receive(machine, 3) == ([(1, [])], None)
    for _ in range(2):
        send(machine, 1, 3, 8)
        machine.reboot(1)
        send(machine, 3, 1, 1)
        machine.reboot(1)
    assert receive(machine, 3) == ([(1, [8]), (1, []), (1, [8]), (1, [])], None)


def test_an_empty_message_has_room_in_a_full_inbox(machine: Machine) -> None:
    """A sender whose share is used up is still told of when it goes; its successor's share is what is left of it."""
    send(machine, 1, 3, 1, count=511)
    send(machine, 1, 3, 1, count=511)
    machine.destroy(1)
    create(machine, 1)
    assert send(machine, 1, 3, 2) == (0, Stop.EAGAIN)
    assert [(sender, len(words)) for sender, words in receive(machine, 3)[0]] == [(1, 511), (1, 511), (1, 0)]
    assert send(machine, 1, 3, 2) == (1, None)


def test_a_successor_of_a_number_is_told_nothing_of_its_predecessor(machine: Machine) -> None:
    """Whom a gone domain talked to says nothing to the next one of its number when it goes."""
    send(machine, 1, 3, 1)
    machine.destroy(3)
    create(machine, 3)
    machine.destroy(1)
    assert receive(machine, 3) == ([], None)


# -- the abi's helpers


@given(st.lists(st.tuples(st.integers(0, abi.MAX_DOMAINS - 1), st.lists(st.integers(0, 2**64 - 1), max_size=5))))
def test_messages_are_split_as_they_were_joined(messages: list[Message]) -> None:
    """Headers say who sent how much, for every domid and any words, empty messages too."""
    joined: list[int] = []
    for sender, words in messages:
        header = abi.message_header(sender, len(words))
        assert abi.split_header(header) == (sender, len(words))
        joined += [header, *words]
    received: Words = np.array(joined, dtype=np.uint64)
    assert [(sender, words.tolist()) for sender, words in abi.split_messages(received)] == messages


class Inboxes:
    """What each domain's inbox must hold, said with queues."""

    def __init__(self) -> None:
        self.machine = Machine(4)
        self.inboxes: dict[int, deque[Message]] = {}
        self.peers: dict[int, set[int]] = {}
        for domid in (1, 2, 3):
            self.create(domid)

    def create(self, domid: int) -> None:
        """Make a domain, with an empty inbox."""
        create(self.machine, domid)
        self.inboxes[domid], self.peers[domid] = deque(), set()

    def send(self, sender: int, to: int, length: int) -> None:
        """Send, where the share allows it."""
        inbox = self.inboxes[to]
        used = sum(len(words) + 1 for who, words in inbox if who == sender)
        words = [used + number for number in range(length)]
        if to == sender:
            assert send(self.machine, sender, to, *words) == "EINVAL"
        elif used + length + 1 > SENDER_WORDS:
            assert send(self.machine, sender, to, *words) == (0, Stop.EAGAIN)
        else:
            assert send(self.machine, sender, to, *words) == (length, None)
            inbox.append((sender, words))
            self.peers[sender].add(to)
            self.peers[to].add(sender)

    def receive(self, domid: int, most: int) -> None:
        """Receive as many whole messages as have room."""
        inbox, expected = self.inboxes[domid], list[Message]()
        room = most
        while inbox and len(inbox[0][1]) + 1 <= room:
            room -= len(inbox[0][1]) + 1
            expected.append(inbox.popleft())
        assert receive(self.machine, domid, most) == (expected, Stop.BUDGET if inbox else None)

    def end(self, domid: int, *, reboot: bool) -> None:
        """End a domain's life; it begins another at once."""
        if reboot:
            self.machine.reboot(domid)
        else:
            self.machine.destroy(domid)
        for other in self.peers[domid]:
            newest = [words for who, words in self.inboxes[other] if who == domid][-1:]
            if newest != [[]]:
                self.inboxes[other].append((domid, []))
        self.inboxes[domid].clear()
        self.peers[domid].clear()
        if not reboot:
            for peers in self.peers.values():
                peers.discard(domid)
            self.create(domid)


@settings(max_examples=40)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(("send", "send", "send", "receive", "reboot", "destroy")),
            st.integers(1, 3),
            st.integers(1, 3),
            st.sampled_from((1, 3, 200, 511, 512)),
        ),
        max_size=40,
    )
)
def test_inboxes_at_random(steps: list[tuple[str, int, int, int]]) -> None:
    """Whatever is sent, received and ended in whatever order, inboxes hold what queues would."""
    inboxes = Inboxes()
    for kind, domid, other, length in steps:
        if kind == "send":
            inboxes.send(domid, other, length)
        elif kind == "receive":
            inboxes.receive(domid, MAX_MESSAGE_WORDS + length)
        else:
            inboxes.end(domid, reboot=kind == "reboot")
    for domid in (1, 2, 3):
        inboxes.receive(domid, MAX_WORDS)
