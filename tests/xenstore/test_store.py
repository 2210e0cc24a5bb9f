"""What each operation does, case by case, as the real C xenstored 4.17 answers it."""

import pytest

from tests.xenstore.store_client import StoreClient, introduce, store_with
from xbd.xenstore.codec import PAYLOAD_MAX, Operation
from xbd.xenstore.store import Store

OK = b"OK\0"


def client() -> StoreClient:
    """Make a privileged client of an empty store."""
    return StoreClient(Store())


# -- nodes


def test_what_is_not_there() -> None:
    """READ, DIRECTORY, GET_PERMS and SET_PERMS of it: ENOENT; RM: OK where its parent is, else ENOENT."""
    one = client()
    assert one.read(b"/a") == one.names(b"/a") == one.permissions(b"/a") == one.permit(b"/a", b"n0") == "ENOENT"
    assert one.rm(b"/a") == OK
    assert one.rm(b"/a/b") == "ENOENT"
    assert one.rm(b"/") == "EINVAL"


def test_write_makes_what_is_missing() -> None:
    """Parents are made empty; a value keeps its NULs, and may be empty."""
    one = client()
    assert one.write(b"/a/b/c", b"x\0y\0") == OK
    assert [one.read(path) for path in (b"/a", b"/a/b", b"/a/b/c")] == [b"", b"", b"x\0y\0"]
    assert one.names(b"/") == [b"a"]
    assert one.write(b"/a/b/c") == OK
    assert one.read(b"/a/b/c") == b""
    assert one.write(b"/", b"root") == OK
    assert one.read(b"/") == b"root"


def test_mkdir_keeps_what_is_there() -> None:
    """Its value stays, and nobody is told."""
    one = client()
    one.write(b"/a", b"value")
    one.watch(b"/a")
    one.events()
    assert one.mkdir(b"/a") == one.mkdir(b"/") == OK
    assert (one.read(b"/a"), one.events()) == (b"value", [])
    assert one.mkdir(b"/a/b") == OK
    assert one.events() == [b"/a/b t"]


def test_children_are_listed_in_order_of_age() -> None:
    """One that goes and comes again is the youngest."""
    one = client()
    for name in (b"c", b"a", b"b"):
        one.write(b"/d/" + name)
    one.rm(b"/d/c")
    one.write(b"/d/c")
    assert one.names(b"/d") == [b"a", b"b", b"c"]


def test_a_subtree_goes_whole() -> None:
    """With all below it, however deep."""
    one = client()
    for path in (b"/a/b/c", b"/a/b/d/e", b"/a/f"):
        one.write(path)
    assert one.rm(b"/a/b") == OK
    assert (one.names(b"/a"), one.read(b"/a/b/c"), one.read(b"/a/b/d/e")) == ([b"f"], "ENOENT", "ENOENT")
    assert len(one.store.tree) == 3


@pytest.mark.parametrize("path", [b"", b"//", b"/a//b", b"/a/", b"a/", b"/a b", b"/\xc3\xa4", b"/a.b", b"@x", b"/a\n"])
@pytest.mark.parametrize("operation", [Operation.READ, Operation.MKDIR, Operation.RM, Operation.DIRECTORY])
def test_what_is_no_path(path: bytes, operation: Operation) -> None:
    """EINVAL, whatever is asked."""
    assert client().ask(operation, path + b"\0") == "EINVAL"


def test_how_long_paths_are() -> None:
    """3072 bytes absolute, 2048 relative, not counting the NUL."""
    one = client()
    assert one.write(b"/" + b"a" * 3071) == one.write(b"b" * 2048) == OK
    assert one.write(b"/" + b"a" * 3072) == one.write(b"b" * 2049) == "EINVAL"


def test_relative_paths_start_at_home() -> None:
    """Dom0's on the tools' socket, a domain's own on its."""
    store, dom0 = store_with(5)
    guest = StoreClient(store, 5)
    dom0.write(b"name", b"Domain-0")
    assert dom0.read(b"/local/domain/0/name") == b"Domain-0"
    assert guest.write(b"data/x", b"1") == OK
    assert dom0.read(b"/local/domain/5/data/x") == b"1"


@pytest.mark.parametrize(
    ("operation", "payload"),
    [
        (Operation.READ, b"/a"),
        (Operation.READ, b""),
        (Operation.READ, b"/a\0/b\0"),
        (Operation.WRITE, b"/a"),
        (Operation.WRITE, b""),
        (Operation.DIRECTORY_PART, b"/\0"),
        (Operation.DIRECTORY_PART, b"/\0x\0"),
        (Operation.WATCH, b"/a\0"),
        (Operation.WATCH, b"/a\0t"),
        (Operation.WATCH, b"/a\0t\0more\0"),
        (Operation.UNWATCH, b"/a\0"),
        (Operation.SET_PERMS, b"/\0"),
        (Operation.SET_PERMS, b"/\0x0\0"),
        (Operation.SET_PERMS, b"/\0n\0"),
        (Operation.SET_PERMS, b"/\0n0x\0"),
        (Operation.SET_PERMS, b"/\0n0\0\0"),
        (Operation.SET_PERMS, b"/\0n99999\0"),
        (Operation.TRANSACTION_END, b"X\0"),
        (Operation.TRANSACTION_END, b""),
        (Operation.INTRODUCE, b"3\0"),
        (Operation.INTRODUCE, b"3\0x\0002\0"),
        (Operation.RELEASE, b"0\0"),
        (Operation.RELEASE, b"x\0"),
        (Operation.SET_TARGET, b"3\0"),
        (Operation.CONTROL, b""),
        (Operation.CONTROL, b"nosuch\0"),
    ],
)
def test_what_makes_no_sense(operation: Operation, payload: bytes) -> None:
    """EINVAL, and nothing has changed."""
    one = client()
    assert one.ask(operation, payload) == "EINVAL"
    assert len(one.store.tree) == 1
    assert one.store.check() == []


@pytest.mark.parametrize("operation", [15, 16, 20, 23, 128, 0xFFFFFFFF])
def test_what_is_no_operation(operation: int) -> None:
    """ENOSYS."""
    assert client().ask(operation, b"/\0") == "ENOSYS"


# -- long lists


def test_a_long_list_comes_in_parts() -> None:
    """DIRECTORY says E2BIG; the parts are of one generation, end with an empty name, and are the whole list."""
    one = client()
    names = [b"child-%04d" % number for number in range(700)]
    for name in names:
        one.write(b"/many/" + name)
    assert one.names(b"/many") == "E2BIG"
    found, generations = b"", set()
    while not found.endswith(b"\0\0"):
        part = one.ask(Operation.DIRECTORY_PART, b"/many\0%d\0" % len(found))
        assert isinstance(part, bytes)
        assert len(part) <= PAYLOAD_MAX
        generation, _, listed = part.partition(b"\0")
        generations.add(generation)
        found += listed
    assert found[:-2].split(b"\0") == names
    assert len(generations) == 1
    one.write(b"/many/new")
    part = one.ask(Operation.DIRECTORY_PART, b"/many\0000\0")
    assert isinstance(part, bytes)
    assert part.partition(b"\0")[0] not in generations


def test_a_short_list_is_one_part() -> None:
    """Also an empty one, and what lies behind its end."""
    one = client()
    one.write(b"/a/b")
    part = one.ask(Operation.DIRECTORY_PART, b"/a\0000\0")
    assert isinstance(part, bytes)
    assert part.partition(b"\0")[2] == b"b\0\0"
    for path in (b"/a/b\0000\0", b"/a\00099\0"):
        part = one.ask(Operation.DIRECTORY_PART, path)
        assert isinstance(part, bytes)
        assert part.partition(b"\0")[2] == b"\0"


# -- permissions


def test_a_new_node_has_its_parents_permissions() -> None:
    """The whole list; what a guest makes is its own."""
    store, dom0 = store_with(5)
    dom0.write(b"/p")
    dom0.permit(b"/p", b"n0", b"r6", b"b5")
    dom0.write(b"/p/q/r")
    assert dom0.permissions(b"/p/q/r") == b"n0 r6 b5"
    assert StoreClient(store, 5).write(b"/p/mine") == OK
    assert dom0.permissions(b"/p/mine") == b"n5 r6 b5"


def test_what_a_guest_may_do() -> None:
    """What it is named for, else what everybody may; it may not know what is where it may not look."""
    store, dom0 = store_with(5, 6)
    guest = StoreClient(store, 5)
    for name, entries in (
        (b"r", (b"n0", b"r5")),
        (b"w", (b"n0", b"w5")),
        (b"all", (b"b0",)),
        (b"no", (b"b0", b"n5")),
        (b"own", (b"n5",)),
    ):
        dom0.write(b"/" + name)
        dom0.permit(b"/" + name, *entries)
    may_read = {name for name in (b"r", b"w", b"all", b"no", b"own") if guest.read(b"/" + name) == b""}
    may_write = {name for name in (b"r", b"w", b"all", b"no", b"own") if guest.write(b"/" + name, b"x") == OK}
    assert may_read == {b"r", b"all", b"own"}
    assert may_write == {b"w", b"all", b"own"}
    assert guest.read(b"/no/thing") == guest.read(b"/nothing") == "EACCES"
    assert guest.read(b"/r/nothing") == "ENOENT"
    assert guest.rm(b"/r") == guest.mkdir(b"/r") == guest.write(b"/r/new") == "EACCES"
    assert guest.permit(b"/all", b"b5") == "EACCES"
    assert guest.permit(b"/own", b"n5", b"r6") == OK
    assert StoreClient(store, 6).read(b"/own") == b"x"


def test_a_guest_has_no_privileged_operations() -> None:
    """EACCES."""
    guest = StoreClient(store_with(5)[0], 5)
    for operation, payload in (
        (Operation.INTRODUCE, b"7\0001\0002\0"),
        (Operation.RELEASE, b"5\0"),
        (Operation.RESUME, b"5\0"),
        (Operation.SET_TARGET, b"5\0000\0"),
        (Operation.CONTROL, b"check\0"),
    ):
        assert guest.ask(operation, payload) == "EACCES"


def test_a_stub_domain_stands_in_for_another() -> None:
    """SET_TARGET lets it do what its target may, until either goes."""
    store, dom0 = store_with(5, 6)
    stub = StoreClient(store, 6)
    assert stub.read(b"/local/domain/5/data") == "EACCES"
    assert dom0.ask(Operation.SET_TARGET, b"6\0005\0") == OK
    assert stub.write(b"/local/domain/5/data", b"x") == OK
    assert dom0.ask(Operation.SET_TARGET, b"6\0009\0") == "ENOENT"
    dom0.ask(Operation.RELEASE, b"5\0")
    introduce(dom0, 5)
    assert stub.read(b"/local/domain/5/data") == "EACCES"


# -- domains


def test_domains_come_and_go() -> None:
    """Both are told to who may hear it; what is released twice, or was never there, is ENOENT."""
    store, dom0 = store_with(5)
    guest = StoreClient(store, 5)
    for one in (dom0, guest):
        assert one.watch(b"@introduceDomain", b"i") == one.watch(b"@releaseDomain", b"r") == OK
        assert one.events() == [b"@introduceDomain i", b"@releaseDomain r"]
    assert dom0.ask(Operation.IS_DOMAIN_INTRODUCED, b"7\0") == b"F\0"
    introduce(dom0, 7)
    assert dom0.events() == [b"@introduceDomain i"]
    assert dom0.ask(Operation.INTRODUCE, b"7\0001\0002\0") == OK
    assert (
        dom0.ask(Operation.IS_DOMAIN_INTRODUCED, b"7\0") == dom0.ask(Operation.IS_DOMAIN_INTRODUCED, b"0\0") == b"T\0"
    )
    assert dom0.ask(Operation.RESUME, b"7\0") == OK
    assert dom0.permit(b"@releaseDomain", b"n0", b"r5") == OK
    assert dom0.ask(Operation.RELEASE, b"7\0") == OK
    assert dom0.events() == [b"@releaseDomain r"]
    assert guest.events() == [b"@releaseDomain r"]
    assert dom0.ask(Operation.RELEASE, b"7\0") == dom0.ask(Operation.RESUME, b"7\0") == "ENOENT"
    assert dom0.ask(Operation.GET_DOMAIN_PATH, b"7\0") == b"/local/domain/7\0"


def test_a_domain_that_goes_takes_its_connections_along() -> None:
    """With their watches and transactions; they are woken, to be closed."""
    store, dom0 = store_with(5)
    guest = StoreClient(store, 5)
    guest.watch(b"/local/domain/5")
    guest.write(b"data/x", b"1", guest.start())
    store.take_woken()
    dom0.ask(Operation.RELEASE, b"5\0")
    assert store.take_woken() == [guest.connection]
    assert guest.connection.reason is not None
    assert (len(store.watches), store.check()) == (0, [])


def test_it_looks_after_itself() -> None:
    """CONTROL check says OK, and help what there is."""
    one = client()
    assert one.ask(Operation.CONTROL, b"check\0") == OK
    assert one.ask(Operation.CONTROL, b"help\0") == b"check\nhelp\n\0"
