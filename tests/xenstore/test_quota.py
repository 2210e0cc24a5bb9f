"""What an unprivileged domain may take, to the last of each; and that dom0 may take more."""

from tests.xenstore.store_client import StoreClient, fill, store_with
from xbd.xenstore import quota
from xbd.xenstore.codec import Message, Operation

OK = b"OK\0"


def guest() -> tuple[StoreClient, StoreClient]:
    """Make a domain's client, and dom0's."""
    store, dom0 = store_with(5)
    return StoreClient(store, 5), dom0


def test_nodes() -> None:
    """1000 that it owns, `data` among them; those that dom0 makes below it count, and are not refused."""
    one, dom0 = guest()
    fill(one, quota.NODES - 1)
    assert one.write(b"data/more") == one.mkdir(b"data/more") == "ENOSPC"
    assert one.write(b"data/1", b"another value") == OK
    assert dom0.write(b"/local/domain/5/data/more") == OK
    assert one.rm(b"data/1/11") == one.rm(b"data/2/12") == OK
    assert one.write(b"data/1/11") == OK
    assert one.store.check() == []


def test_watches() -> None:
    """129, of all its connections together: one that has 128 is let in, as in Xen."""
    one, _ = guest()
    another = StoreClient(one.store, 5)
    for number in range(quota.WATCHES + 1):
        assert (one, another)[number % 2].watch(b"data", b"%d" % number) == OK
    assert one.watch(b"data", b"x") == another.watch(b"data", b"x") == "E2BIG"
    one.unwatch(b"data", b"0")
    assert another.watch(b"data", b"x") == OK


def test_transactions() -> None:
    """Eleven at a time: one that has ten is let in, as in Xen."""
    one, _ = guest()
    numbers = [one.start() for _ in range(quota.TRANSACTIONS + 1)]
    assert one.ask(Operation.TRANSACTION_START, b"\0") == "ENOSPC"
    one.end(numbers[0])
    assert one.start() not in numbers


def test_nodes_of_a_transaction() -> None:
    """1024 that it looks at, there or not; one look more is refused, and then it can only fail."""
    one, _ = guest()
    transaction = one.start()
    one.write(b"data/x", b"1", transaction)
    answers = [one.read(b"data/%d" % number, transaction) for number in range(quota.TRANSACTION_NODES)]
    assert answers.count("ENOSPC") == 2
    assert set(answers) == {"ENOENT", "ENOSPC"}
    assert one.end(transaction) == "ENOMEM"
    assert one.read(b"data/x") == "ENOENT"


def test_bytes_of_a_node() -> None:
    """Less than 2048 of header, permissions, value and names of children: of a new node, of one above it, of both."""
    one, dom0 = guest()
    room = quota.NODE_BYTES - 1 - quota.NODE_HEADER_BYTES - quota.PERMISSION_BYTES
    assert one.write(b"data/x", bytes(room)) == OK
    assert one.write(b"data/x", bytes(room + 1)) == one.write(b"data/x/child") == "ENOSPC"
    assert one.permit(b"data/x", b"n5", b"r0") == "ENOSPC"
    assert one.write(b"data/x", bytes(room - len(b"child\0"))) == one.write(b"data/x/child") == OK
    assert one.write(b"data/x", bytes(room - len(b"child\0") + 1)) == "ENOSPC"
    assert dom0.write(b"/local/domain/5/data/x", bytes(4000)) == OK
    assert one.rm(b"data/x/child") == OK
    transaction = one.start()
    assert one.write(b"data/x/child", b"", transaction) == "ENOSPC"
    assert one.end(transaction) == "ENOMEM"
    assert dom0.store.check() == []


def test_permissions_of_a_node() -> None:
    """Five."""
    one, dom0 = guest()
    entries = [b"n5", b"r0", b"r1", b"r2", b"r3", b"r4"]
    assert one.permit(b"data", *entries) == "ENOSPC"
    assert one.permit(b"data", *entries[:5]) == OK
    assert dom0.permit(b"/local/domain/5/data", *entries) == OK


def test_requests_outstanding() -> None:
    """Twenty; then it is asked for no more until it has read its answers."""
    one, dom0 = guest()
    for client, may in ((one, False), (dom0, True)):
        for _ in range(quota.REQUESTS_OUTSTANDING):
            assert client.connection.may_ask
            client.store.handle(client.connection, Message(Operation.READ, 0, 0, b"/local/domain/5\0"))
        assert client.connection.may_ask is may
        client.connection.take_output()
        assert client.connection.may_ask


def test_memory() -> None:
    """At 2 MB it is said, at 2.5 MB nothing more is taken, whatever it is for."""
    one, dom0 = guest()
    deep = b"data/" + b"/".join([b"p" * 150] * 12)
    assert one.write(deep) == OK
    number = 0
    while (answer := one.write(deep + b"/%d/%d" % (number % 100, number), bytes(quota.NODE_BYTES - 200))) == OK:
        number += 1
    assert answer == "ENOMEM"
    assert 0 < quota.MEMORY_HARD_BYTES - one.connection.account.memory_bytes < 5000
    assert [event for event, _ in one.store.notes] == ["xenstore_memory_high"]
    assert one.write(deep + b"/0/0", b"") == OK
    assert one.rm(b"data/" + b"p" * 150) == OK
    assert one.connection.account.memory_bytes < 1000
    assert dom0.store.check() == []


def test_a_refused_request_changes_nothing() -> None:
    """Of a write for which parents are missing too many, none is made; nor in a transaction, which goes on."""
    one, _ = guest()
    fill(one, quota.NODES - 3)
    nodes, account = len(one.store.tree), one.connection.account.nodes
    assert one.write(b"data/a/b/c") == "ENOSPC"
    assert (len(one.store.tree), one.connection.account.nodes) == (nodes, account)
    assert one.write(b"data/a/b") == OK
    transaction = one.start()
    assert one.write(b"data/d", b"", transaction) == "ENOSPC"
    assert one.rm(b"data/0/10", transaction) == OK
    assert one.end(transaction) == OK
    assert one.connection.account.nodes == quota.NODES - 1
    assert one.store.check() == []


def test_nodes_made_in_a_transaction() -> None:
    """They are counted in the end, and then reaching the quota is too many: also where it has to begin again."""
    one, dom0 = guest()
    fill(one, quota.NODES - 3)
    for more, answer in ((b"data/a/b", "ENOSPC"), (b"data/a", OK)):
        transaction = one.start()
        assert one.write(more, b"", transaction) == OK
        dom0.write(b"/local/domain/5/data/0", b"1")
        assert one.end(transaction) == answer
    assert (one.connection.account.nodes, one.store.check()) == (quota.NODES - 1, [])


def test_what_is_not_read_ends_the_connection() -> None:
    """A privileged one that leaves megabytes, and one whose domain's memory is used up by its events."""
    one, dom0 = guest()
    reader = StoreClient(one.store)
    reader.watch(b"/", b"t" * 1000)
    one.watch(b"data", b"t" * 1000)
    for number in range(6000):
        dom0.write(b"/local/domain/5/data/x", b"")
        dom0.write(b"/local/domain/5/data/y%d" % number, b"")
        dom0.rm(b"/local/domain/5/data/y%d" % number)
    assert reader.connection.reason is not None
    assert one.connection.reason is not None
    assert not reader.connection.has_output
    assert one.connection in one.store.take_woken()
