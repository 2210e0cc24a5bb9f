"""Xen's own history: a test named after each security advisory of its XenStore, whose analogue fails safely here.

Each says what the fault was. The C daemon is xenstored, the OCaml one oxenstored.
"""

import pytest

from tests.xenstore.store_client import StoreClient, fill, introduce, store_with
from xbd.errors import RemoteProtocolError
from xbd.xenstore import quota
from xbd.xenstore.codec import PAYLOAD_MAX, Decoder, Message, Operation
from xbd.xenstore.permissions import parse
from xbd.xenstore.store import Store

OK = b"OK\0"


def test_xsa_115_watch_events_do_not_leak() -> None:
    """Guests could watch anything, and so learn of nodes that they may not read, and of domains that come and go."""
    store, dom0 = store_with(5)
    guest = StoreClient(store, 5)
    for path in (b"/", b"/secret", b"/local/domain/5", b"@introduceDomain", b"@releaseDomain"):
        guest.watch(path)
    guest.events()
    dom0.write(b"/secret", b"1")
    dom0.write(b"/secret/deep/er", b"1")
    transaction = dom0.start()
    dom0.write(b"/secret/in-transaction", b"", transaction)
    dom0.end(transaction)
    dom0.permit(b"/secret", b"n0", b"r7")
    dom0.rm(b"/secret")
    introduce(dom0, 7)
    dom0.ask(Operation.RELEASE, b"7\0")
    assert guest.events() == []
    dom0.write(b"/local/domain/5/open", b"1")
    dom0.permit(b"/local/domain/5/open", b"n0")
    events = guest.events()
    assert set(events) == {b"/local/domain/5/open t"}
    dom0.write(b"/local/domain/5/open/shut", b"1")
    assert guest.events() == []


def test_xsa_115_a_node_made_secret_in_its_transaction_is_never_heard_of() -> None:
    """What counts is who may read it in the end, not while it was being made."""
    store, dom0 = store_with(5)
    guest = StoreClient(store, 5)
    guest.watch(b"/local/domain")
    guest.events()
    transaction = dom0.start()
    dom0.write(b"/local/domain/5/data", b"", transaction)
    dom0.permit(b"/local/domain/5", b"n0", transaction=transaction)
    dom0.write(b"/local/domain/5/control/secret", b"", transaction)
    dom0.end(transaction)
    assert guest.events() == [b"/local/domain/5/data t", b"/local/domain/5 t"]


def test_xsa_322_a_new_domain_inherits_nothing() -> None:
    """A domain's number in the permissions of others' nodes outlived it, and was good for the next of that number."""
    store, dom0 = store_with(5)
    dom0.write(b"/shared", b"secret")
    dom0.permit(b"/shared", b"n0", b"r5", b"b6")
    dom0.permit(b"@releaseDomain", b"n0", b"r5")
    transaction = dom0.start()
    dom0.write(b"/late", b"secret", transaction)
    dom0.permit(b"/late", b"n0", b"r5", transaction=transaction)
    dom0.ask(Operation.RELEASE, b"5\0")
    introduce(dom0, 5)
    guest = StoreClient(store, 5)
    assert guest.read(b"/shared") == "EACCES"
    assert dom0.permissions(b"/shared") == b"n0 b6"
    guest.watch(b"@releaseDomain")
    guest.events()
    introduce(dom0, 7)
    dom0.ask(Operation.RELEASE, b"7\0")
    assert guest.events() == []
    # What was prepared for the old one is not for the new one.
    assert dom0.end(transaction) == "EAGAIN"
    assert guest.read(b"/late") == "EACCES"


def test_xsa_323_the_tools_reach_what_a_guest_can_name() -> None:
    """In oxenstored a guest's relative path could be as long as any: the tools had no absolute one for it."""
    store, dom0 = store_with(5)
    guest = StoreClient(store, 5)
    longest = b"data/" + b"/".join([b"a" * 1021] * 2)
    assert len(longest) == 2048
    assert guest.write(longest, b"x") == OK
    assert guest.write(longest + b"a") == "EINVAL"
    assert dom0.read(b"/local/domain/5/" + longest) == b"x"
    assert guest.watch(b"/" + b"a" * 3072) == guest.watch(b"@" + b"a" * 2048) == "EINVAL"
    assert dom0.rm(b"/local/domain/5/" + longest) == OK


def test_xsa_324_an_event_that_fits_no_message_is_not_sent() -> None:
    """A long token with a long path made an event longer than a message may be, and ended xenstored."""
    store, dom0 = store_with(5)
    guest = StoreClient(store, 5)
    assert guest.watch(b"data", b"t" * (PAYLOAD_MAX - 20)) == OK
    assert len(guest.events()) == 1
    assert dom0.write(b"/local/domain/5/data/" + b"a" * 200) == OK
    assert dom0.write(b"/local/domain/5/data/a") == OK
    assert [event.partition(b" ")[0] for event in guest.events()] == [b"data/a"]


def test_xsa_325_who_breaks_the_protocol_is_still_there() -> None:
    """A guest that broke the protocol was taken for one that is gone; when it went, nobody was told any more."""
    store, dom0 = store_with(5)
    guest = StoreClient(store, 5)
    guest.write(b"data/x", b"1")
    dom0.watch(b"@releaseDomain")
    dom0.events()
    with pytest.raises(RemoteProtocolError):
        feed_garbage()
    store.disconnect(guest.connection)
    assert dom0.events() == []
    assert dom0.ask(Operation.IS_DOMAIN_INTRODUCED, b"5\0") == b"T\0"
    assert StoreClient(store, 5).read(b"data/x") == b"1"
    assert dom0.ask(Operation.RELEASE, b"5\0") == OK
    assert dom0.events() == [b"@releaseDomain t"]


def feed_garbage() -> None:
    """Break the protocol."""
    decoder = Decoder()
    decoder.feed(b"\xff" * 16)
    decoder.next_message()


def test_xsa_325_nodes_go_with_their_domain() -> None:
    """Wherever they are; what others made below them goes along."""
    store, dom0 = store_with(5)
    guest = StoreClient(store, 5)
    dom0.write(b"/pool")
    dom0.permit(b"/pool", b"b0")
    guest.write(b"/pool/mine/deep", b"x")
    dom0.write(b"/pool/mine/dom0s", b"x")
    dom0.write(b"/given")
    dom0.permit(b"/given", b"n5")
    nodes = len(store.tree)
    dom0.ask(Operation.RELEASE, b"5\0")
    assert dom0.names(b"/pool") == []
    assert dom0.read(b"/given") == "ENOENT"
    assert dom0.names(b"/local/domain/5") == []
    assert len(store.tree) == nodes - 5
    assert 5 not in store.tree.accounts
    assert store.check() == []


def test_xsa_326_no_memory_without_bound() -> None:
    """Guests ended xenstored by requests, events and transactions that nobody read or ended."""
    store, dom0 = store_with(5)
    guests = [StoreClient(store, 5) for _ in range(4)]
    for guest in guests:
        for number in range(200):
            guest.watch(b"data", b"%d" % number + b"t" * 3000)
            answer = guest.ask(Operation.TRANSACTION_START, b"\0")
            if isinstance(answer, bytes):
                for node in range(300):
                    guest.write(b"data/%d" % node, bytes(2000), int(answer.removesuffix(b"\0")))
        guest.events()
    # Nobody reads from here on, and everything concerns everybody.
    for number in range(3000):
        dom0.write(b"/local/domain/5/data/%d" % (number % 700), bytes(100))
    account = store.tree.account(5)
    assert account.watches <= quota.WATCHES + 1
    assert account.transactions <= quota.TRANSACTIONS + 1
    assert account.memory_bytes < 2 * quota.MEMORY_HARD_BYTES
    dom0.ask(Operation.RELEASE, b"5\0")
    assert store.check() == []


def test_xsa_414_an_error_on_the_way_leaves_nothing_half_made() -> None:
    """In xenstored a wrong pointer was used when making a node failed half way."""
    store, dom0 = store_with(5)
    guest = StoreClient(store, 5)
    fill(guest, quota.NODES - 3)
    before = dict(store.tree.items())
    for _ in range(20):
        assert guest.write(b"data/a/b/c/d", b"x") == guest.mkdir(b"data/a/b/c/d") == "ENOSPC"
        assert guest.write(b"data/a/b", bytes(3000)) == "ENOSPC"
    assert dict(store.tree.items()) == before
    assert store.check() == []
    assert dom0.ask(Operation.CONTROL, b"check\0") == OK


def test_xsa_415_no_orphans_from_a_transaction() -> None:
    """A transaction in which making nodes failed left nodes whose parent had never come to be."""
    store, _ = store_with(5)
    guest = StoreClient(store, 5)
    fill(guest, quota.NODES - 1)
    before = dict(store.tree.items())
    transaction = guest.start()
    assert guest.write(b"data/a/b/c/d", b"x", transaction) == "ENOSPC"
    assert guest.write(b"data/0", bytes(3000), transaction) == "ENOSPC"
    assert guest.end(transaction) == "ENOMEM"
    assert dict(store.tree.items()) == before
    assert store.check() == []


def test_xsa_416_an_answer_that_is_not_read_holds_little() -> None:
    """What a request took was kept until its answer was read; a guest that did not read kept all of it."""
    store, _ = store_with(5)
    guest = StoreClient(store, 5)
    before = guest.connection.account.memory_bytes
    for number in range(quota.REQUESTS_OUTSTANDING):
        store.handle(guest.connection, Message(Operation.WRITE, number, 0, b"/none\0" + bytes(4000)))
    assert not guest.connection.may_ask
    # Twenty headers, each with the name of an error.
    assert guest.connection.account.memory_bytes - before == 20 * (16 + len(b"EACCES\0"))
    guest.connection.take_output()
    assert guest.connection.account.memory_bytes == before
    transaction = guest.start()
    held = guest.connection.account.memory_bytes
    for _ in range(2000):
        assert guest.write(b"/none", bytes(4000), transaction) == "EACCES"
        assert guest.watch(b"", b"t" * 1000) == guest.permit(b"data", b"x") == "EINVAL"
    assert guest.connection.account.memory_bytes - held < 200
    guest.end(transaction)
    assert store.check() == []


def test_xsa_417_a_recycled_domid_reaches_nothing() -> None:
    """Between one domain's end and the repair of its nodes the next of its number could use them."""
    store, dom0 = store_with(5, 6)
    old, friend = StoreClient(store, 5), StoreClient(store, 6)
    old.write(b"data/secret", b"x")
    friend.permit(b"/local/domain/6/data", b"n6", b"b5")
    transaction = friend.start()
    friend.write(b"data/box", b"", transaction)
    friend.permit(b"/local/domain/6/data/box", b"n6", b"b5", transaction=transaction)
    dom0.ask(Operation.RELEASE, b"5\0")
    introduce(dom0, 5)
    new = StoreClient(store, 5)
    assert new.read(b"/local/domain/6/data") == "EACCES"
    assert new.read(b"data/secret") == "ENOENT"
    assert friend.end(transaction) == "EAGAIN"
    assert new.write(b"/local/domain/6/data/box", b"x") == "EACCES"
    assert old.connection.reason is not None
    assert all(
        entry.domid != 5 or path.startswith(b"/local/domain/5")
        for path, n in store.tree.items()
        for entry in n.permissions
    )


def test_xsa_418_depth_is_no_danger() -> None:
    """Removing, or walking, nodes nested deeply enough used up xenstored's stack."""
    store, dom0 = store_with(5)
    guest = StoreClient(store, 5)
    assert guest.write(b"data" + b"/a" * 990) == OK
    assert dom0.ask(Operation.CONTROL, b"check\0") == OK
    transaction = guest.start()
    assert guest.rm(b"data/a", transaction) == OK
    assert guest.end(transaction, commit=False) == OK
    dom0.ask(Operation.RELEASE, b"5\0")
    assert dom0.write(b"/a" * 1024) == dom0.rm(b"/a") == OK
    assert (len(store.tree), store.check()) == (4, [])


def test_xsa_419_nobody_owns_for_another() -> None:
    """Guests that gave nodes to each other, and made more, had as many as they wanted between them."""
    store, dom0 = store_with(5, 6)
    one, other = StoreClient(store, 5), StoreClient(store, 6)
    one.permit(b"data", b"b5")
    one.write(b"data/x")
    assert one.permit(b"data/x", b"n6") == one.permit(b"data/x", b"n0", b"b5") == "EPERM"
    assert other.write(b"/local/domain/5/data/y") == OK
    assert dom0.permissions(b"/local/domain/5/data/y") == b"b6"
    places = [b"/local/domain/5/data/%d/%d" % (number % 9, number) for number in range(2 * quota.NODES)]
    assert sum(other.write(place) == OK for place in places) < quota.NODES
    assert store.tree.account(6).nodes == quota.NODES
    one.rm(b"data")
    assert (store.tree.account(6).nodes, store.check()) == (1, [])


def test_xsa_421_transactions_are_counted_together() -> None:
    """Each of many transactions stayed within the quota of nodes, and all were committed."""
    store, _ = store_with(5)
    guest = StoreClient(store, 5)
    for box in range(quota.TRANSACTIONS):
        guest.write(b"data/%d" % box)
    answers = []
    transactions = [guest.start() for _ in range(quota.TRANSACTIONS)]
    for box, transaction in enumerate(transactions):
        for number in range(200):
            assert guest.write(b"data/%d/%d" % (box, number), b"", transaction) == OK
    answers = [guest.end(transaction) for transaction in transactions]
    assert answers == [OK] * 4 + ["ENOSPC"] * 6
    assert guest.connection.account.nodes == 11 + 4 * 200
    assert (guest.connection.account.transactions, store.check()) == (0, [])


def test_an_owner_that_goes_leaves_the_root_and_the_special_names() -> None:
    """They become dom0's again; nothing else could be above everything."""
    store = Store()
    dom0 = StoreClient(store)
    introduce(dom0, 5)
    dom0.permit(b"/", b"r5", b"b6")
    dom0.permit(b"@releaseDomain", b"b5")
    dom0.ask(Operation.RELEASE, b"5\0")
    assert dom0.permissions(b"/") == b"n0"
    released = store.tree.find(b"@releaseDomain")
    assert released is not None
    assert released.permissions == parse([b"n0"], {0})
    assert store.check() == []


def test_reset_watches_in_a_transaction_ends_nothing_else() -> None:
    """An assertion of xenstored's failed on it (CVE-2026-23557)."""
    store, _ = store_with(5)
    guest = StoreClient(store, 5)
    transaction = guest.start()
    assert guest.ask(Operation.RESET_WATCHES, b"\0", transaction) == OK
    assert guest.end(transaction) == "ENOENT"
    assert store.check() == []
