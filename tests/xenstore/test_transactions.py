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
    """Then once of each node that was changed, in the order of first access; of what is given up, nobody."""
    one, other = pair()
    other.watch(b"/t")
    other.events()
    transaction = one.start()
    one.read(b"/t/old", transaction)
    one.write(b"/t/z", b"1", transaction)
    one.write(b"/t/old", b"2", transaction)
    one.write(b"/t/z", b"3", transaction)
    assert other.events() == []
    one.end(transaction)
    assert other.events() == [b"/t/old t", b"/t/z t"]
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


def test_nobody_hears_of_what_was_made_and_removed_in_it() -> None:
    """Of a node that was there and is gone, those hear that could read the node itself; a removed child is told as such."""
    store, dom0 = store_with(5)
    guest = StoreClient(store, 5)
    for path in (b"/t/a/b", b"/t/a/c", b"/t/d"):
        dom0.write(path)
    dom0.permit(b"/t", b"r0")
    guest.watch(b"/t")
    dom0.watch(b"/t")
    dom0.watch(b"/t/a/b", b"child")
    transaction = dom0.start()
    assert len(dom0.events()) == len(guest.events()) + 1 == 2
    dom0.write(b"/t/new", b"", transaction)
    dom0.rm(b"/t/new", transaction)
    dom0.rm(b"/t/a", transaction)
    dom0.end(transaction)
    assert (dom0.events(), guest.events()) == ([b"/t/a t", b"/t/a/b child"], [])
    dom0.rm(b"/t/d")
    assert (dom0.events(), guest.events()) == ([b"/t/d t"], [b"/t/d t"])


def test_a_refused_access_depends_on_what_is_above() -> None:
    """As in Xen: END is EAGAIN where the nearest node above was changed, for READ, WRITE and SET_PERMS alike."""
    store, dom0 = store_with(5)
    guest = StoreClient(store, 5)
    dom0.write(b"/t/secret")
    for entry, refused in (
        (b"n0", guest.read),
        (b"n0", guest.rm),
        (b"w0", lambda path, number: guest.permit(path, b"w0", transaction=number)),
    ):
        dom0.permit(b"/t/secret", entry)
        transaction = guest.start()
        assert refused(b"/t/secret", transaction) == "EACCES"
        dom0.write(b"/t", b"1")
        assert guest.end(transaction) == "EAGAIN"


def test_a_transaction_that_is_none() -> None:
    """ENOENT for every operation but WATCH and UNWATCH; a guest hears first what is not for it."""
    store, dom0 = store_with(5)
    guest = StoreClient(store, 5)
    for operation, payload in (
        (Operation.READ, b"/\0"),
        (Operation.CONTROL, b"check\0"),
        (Operation.INTRODUCE, b"7\0001\0002\0"),
        (Operation.GET_DOMAIN_PATH, b"7\0"),
        (Operation.RESET_WATCHES, b"\0"),
        (Operation.TRANSACTION_END, b"T\0"),
    ):
        assert dom0.ask(operation, payload, 99) == "ENOENT"
    assert guest.ask(Operation.CONTROL, b"check\0", 99) == "EACCES"
    assert guest.ask(77, b"", 99) == "ENOSYS"
    assert dom0.ask(Operation.UNWATCH, b"/\0t\0", 99) == "ENOENT"
    assert dom0.ask(Operation.WATCH, b"/\0t\0", 99) == OK
