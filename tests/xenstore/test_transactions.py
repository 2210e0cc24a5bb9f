"""Transactions: what they see, what makes them fail, and when others hear of them."""

from collections.abc import Callable

import pytest

from tests.xenstore.store_client import StoreClient, store_with
from xbd.xenstore.codec import Operation
from xbd.xenstore.store import Store

OK = b"OK\0"


def pair() -> tuple[StoreClient, StoreClient]:
    """Make two clients of a store with a few nodes."""
    store = Store()
    one, other = StoreClient(store), StoreClient(store)
    for path in (b"/t/old", b"/t/more/deep", b"/u"):
        one.write(path, b"1")
    return one, other


Inside = Callable[[StoreClient, int], object]
Outside = Callable[[StoreClient], object]


@pytest.mark.parametrize(
    ("inside", "outside"),
    [
        (lambda a, t: a.read(b"/t/old", t), lambda b: b.write(b"/t/old", b"2")),
        (lambda a, t: a.read(b"/t/old", t), lambda b: b.write(b"/t/old", b"1")),
        (lambda a, t: a.read(b"/t/old", t), lambda b: b.permit(b"/t/old", b"n0", b"r3")),
        (lambda a, t: a.read(b"/t/old", t), lambda b: b.rm(b"/t")),
        (lambda a, t: a.read(b"/t/old", t), lambda b: (b.rm(b"/t/old"), b.write(b"/t/old", b"1"))),
        (lambda a, t: a.read(b"/t", t), lambda b: b.write(b"/t/new")),
        (lambda a, t: a.permissions(b"/t/old", t), lambda b: b.write(b"/t/old")),
        (lambda a, t: a.read(b"/t/none", t), lambda b: b.write(b"/t/none")),
        (lambda a, t: a.rm(b"/t/none", t), lambda b: b.write(b"/t/none")),
        (lambda a, t: a.names(b"/t", t), lambda b: b.write(b"/t/new")),
        (lambda a, t: a.names(b"/t", t), lambda b: b.rm(b"/t/old")),
        (lambda a, t: a.write(b"/t/old", b"x", t), lambda b: b.write(b"/t/old", b"y")),
        (lambda a, t: a.mkdir(b"/t/old", t), lambda b: b.write(b"/t/old")),
        (lambda a, t: a.write(b"/t/a", b"x", t), lambda b: b.write(b"/t/b")),
        (lambda a, t: a.write(b"/t/a", b"x", t), lambda b: b.write(b"/t", b"2")),
        (lambda a, t: a.rm(b"/t", t), lambda b: b.write(b"/t/more/deep")),
    ],
)
def test_what_conflicts(inside: Inside, outside: Outside) -> None:
    """EAGAIN, and nothing of it is done."""
    one, other = pair()
    transaction = one.start()
    inside(one, transaction)
    one.write(b"/mark", b"", transaction)
    outside(other)
    assert one.end(transaction) == "EAGAIN"
    assert other.read(b"/mark") == "ENOENT"
    assert one.store.check() == []
    assert one.end(transaction) == "ENOENT"


@pytest.mark.parametrize(
    ("inside", "outside"),
    [
        (lambda a, t: a.read(b"/t/old", t), lambda b: b.write(b"/t/new")),
        (lambda a, t: a.read(b"/t/old", t), lambda b: b.write(b"/zz/q/w")),
        (lambda a, t: a.read(b"/t/old", t), lambda b: b.read(b"/t/old")),
        (lambda a, t: a.read(b"/t/old", t), lambda b: b.mkdir(b"/t/old")),
        (lambda a, t: a.names(b"/t", t), lambda b: b.write(b"/t/old")),
        (lambda a, t: a.write(b"/t/a", b"x", t), lambda b: b.write(b"/t/old")),
        (lambda a, t: a.write(b"/t/old", b"x", t), lambda b: b.write(b"/t/more/deep")),
        (lambda a, t: a.rm(b"/t/old", t), lambda b: b.write(b"/u")),
    ],
)
def test_what_does_not_conflict(inside: Inside, outside: Outside) -> None:
    """Both have happened in the end."""
    one, other = pair()
    transaction = one.start()
    inside(one, transaction)
    outside(other)
    assert one.end(transaction) == OK
    assert one.store.check() == []


def test_it_sees_what_it_saw() -> None:
    """A node that it read stays as it was, and its own changes are seen by nobody else."""
    one, other = pair()
    transaction = one.start()
    assert one.read(b"/t/old", transaction) == b"1"
    one.write(b"/t/own/x", b"2", transaction)
    one.rm(b"/t/more", transaction)
    other.write(b"/t/old", b"3")
    assert one.read(b"/t/old", transaction) == b"1"
    assert one.names(b"/t", transaction) == [b"old", b"own"]
    assert one.read(b"/t/more/deep", transaction) == "ENOENT"
    assert other.names(b"/t") == [b"old", b"more"]
    assert one.end(transaction, commit=False) == OK
    assert other.names(b"/t") == [b"old", b"more"]


def test_nobody_hears_before_the_end() -> None:
    """Then once of each node that was changed, in that order; of what is given up, nobody."""
    one, other = pair()
    other.watch(b"/t")
    other.events()
    transaction = one.start()
    one.write(b"/t/z", b"1", transaction)
    one.write(b"/t/old", b"2", transaction)
    one.write(b"/t/z", b"3", transaction)
    assert other.events() == []
    one.end(transaction)
    assert other.events() == [b"/t/z t", b"/t/old t"]
    transaction = one.start()
    one.write(b"/t/z", b"4", transaction)
    one.end(transaction, commit=False)
    assert (other.events(), other.read(b"/t/z")) == ([], b"3")


def test_how_they_are_named() -> None:
    """An unknown one is ENOENT, also END's of none; START in one EBUSY; END with neither T nor F EINVAL, and it goes on."""
    one, other = pair()
    assert one.read(b"/t", 99) == one.end(99) == one.end(0) == "ENOENT"
    assert one.ask(Operation.TRANSACTION_START, b"\0", 99) == "ENOENT"
    transaction = one.start()
    assert other.read(b"/t", transaction) == "ENOENT"
    assert one.ask(Operation.TRANSACTION_START, b"\0", transaction) == "EBUSY"
    assert one.ask(Operation.TRANSACTION_END, b"X\0", transaction) == "EINVAL"
    assert one.ask(Operation.WATCH, b"/t\0x\0", 99) == OK
    assert one.end(transaction) == OK
    assert one.end(transaction) == "ENOENT"


def test_a_removed_node_can_be_made_anew() -> None:
    """In the same transaction, and without the children that it had."""
    one, other = pair()
    transaction = one.start()
    one.rm(b"/t", transaction)
    one.write(b"/t/old", b"new", transaction)
    assert one.end(transaction) == OK
    assert (other.names(b"/t"), other.read(b"/t/old"), other.read(b"/t/more/deep")) == ([b"old"], b"new", "ENOENT")


@pytest.mark.parametrize(
    ("first", "outside", "then"),
    [
        (b"/t", lambda b: b.rm(b"/t/more"), lambda a, t: a.rm(b"/t", t)),
        (b"/t/old", lambda b: b.rm(b"/t"), lambda a, t: a.rm(b"/t/old", t)),
        (b"/t", lambda b: b.write(b"/t/new"), lambda a, t: a.rm(b"/t/new", t)),
    ],
)
def test_what_it_saw_need_not_fit(first: bytes, outside: Outside, then: Inside) -> None:
    """A node from before and a parent from after a change: it is told already that it must begin again."""
    one, other = pair()
    transaction = one.start()
    one.read(first, transaction)
    outside(other)
    assert then(one, transaction) == "EAGAIN"
    assert one.end(transaction) == "EAGAIN"
    assert one.store.check() == []


def test_a_guest_needs_its_permissions_in_it() -> None:
    """As outside of one."""
    store, dom0 = store_with(5)
    guest = StoreClient(store, 5)
    transaction = guest.start()
    assert guest.write(b"/local/domain/5/name", b"x", transaction) == "EACCES"
    assert guest.write(b"data/x", b"x", transaction) == OK
    assert guest.end(transaction) == OK
    assert dom0.permissions(b"/local/domain/5/data/x") == b"n5"
