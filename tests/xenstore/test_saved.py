"""Saving and restoring: everything, each change, and nothing of what is cut off."""

from itertools import product

import pytest

from tests.xenstore.store_client import StoreClient, introduce, store_with
from xbd.errors import DamagedState
from xbd.xenstore.codec import Operation
from xbd.xenstore.saved import MAGIC, encode_changes, encode_domains, encode_whole, restore
from xbd.xenstore.store import Store


def told(store: Store) -> dict[bytes, tuple[bytes, object, object]]:
    """Describe all nodes, without their generations."""
    return {path: (node.value, node.permissions, node.children) for path, node in store.tree.items()}


def filled() -> tuple[Store, StoreClient]:
    """Make a store with a bit of everything."""
    store, dom0 = store_with(5, 7)
    StoreClient(store, 5).write(b"data/x/y", b"\0binary\xff")
    dom0.write(b"/z/b")
    dom0.write(b"/z/a", bytes(4000))
    dom0.permit(b"@releaseDomain", b"n0", b"r5")
    return store, dom0


def test_everything_comes_back() -> None:
    """Nodes, permissions, the order of children, accounts, domains; without watches."""
    store, dom0 = filled()
    dom0.watch(b"/z")
    again = restore(encode_whole(store))
    assert told(again) == told(store)
    assert again.domains.keys() == {0, 5, 7}
    assert again.tree.account(5).nodes == store.tree.account(5).nodes
    assert (len(again.watches), again.check()) == (0, [])


def test_changes_come_back() -> None:
    """Each of them, in order, with what was begun by."""
    store, dom0 = filled()
    save = encode_whole(store)
    store.tree.journal = []
    transaction = dom0.start()
    dom0.write(b"/new/deep", b"1", transaction)
    dom0.rm(b"/z/b", transaction)
    dom0.end(transaction)
    introduce(dom0, 9)
    dom0.ask(Operation.RELEASE, b"5\0")
    assert store.tree.journal is not None
    save += encode_changes(store.tree.journal) + encode_domains(store.domains)
    again = restore(save)
    assert told(again) == told(store)
    assert again.domains.keys() == {0, 7, 9}
    assert again.check() == []


def test_what_is_cut_off_was_never_said() -> None:
    """Cut anywhere, or spoilt, it is as it was before that change."""
    store, dom0 = filled()
    whole, before = encode_whole(store), told(store)
    store.tree.journal = []
    dom0.write(b"/new/deep", b"1")
    assert store.tree.journal is not None
    record = encode_changes(store.tree.journal)
    for length in range(len(record)):
        assert told(restore(whole + record[:length])) == before
    assert told(restore(whole + record[:-1] + b"?")) == before
    assert told(restore(whole + bytes(999))) == before
    assert told(restore(whole + record)) == told(store)


def test_what_is_spoilt_before_the_end_is_refused() -> None:
    """A byte of the record of everything, or of one that others follow: what came after it is not given up in silence."""
    store, dom0 = filled()
    whole = encode_whole(store)
    store.tree.journal = []
    dom0.write(b"/new/deep", b"1")
    assert store.tree.journal is not None
    record = encode_changes(store.tree.journal)
    for at, bit in product((*range(len(MAGIC), len(MAGIC) + 13), len(whole) - 1), range(8)):
        for save in (whole, whole + record):
            with pytest.raises(DamagedState, match="not what was written"):
                restore(save[:at] + bytes([save[at] ^ 1 << bit]) + save[at + 1 :])
    with pytest.raises(DamagedState, match="and others follow"):
        restore(whole + record[:-1] + b"?" + record)
    for at, bit in product(range(len(record)), range(8)):
        spoilt = record[:at] + bytes([record[at] ^ 1 << bit]) + record[at + 1 :]
        with pytest.raises(DamagedState, match="not what was written"):
            restore(whole + spoilt + record)
    for length in range(len(MAGIC), len(whole)):
        with pytest.raises(DamagedState, match="cut off"):
            restore(whole[:length])


@pytest.mark.parametrize("save", [b"", b"xbd xenstore 3\n", b"garbage", MAGIC[:-1]])
def test_what_is_no_save(save: bytes) -> None:
    """It is refused, and says so."""
    with pytest.raises(DamagedState, match="begins with"):
        restore(save)


def test_what_does_not_add_up_is_refused() -> None:
    """A change before everything, and a node whose parent is not there."""
    store, dom0 = filled()
    store.tree.journal = []
    dom0.write(b"/a/b")
    assert store.tree.journal is not None
    record = encode_changes(store.tree.journal)
    orphan = encode_changes([(b"/none/child", store.tree.journal[-1][1])])
    with pytest.raises(DamagedState):
        restore(MAGIC + record)
    with pytest.raises(DamagedState, match="nobody's child"):
        restore(encode_whole(store) + orphan)
