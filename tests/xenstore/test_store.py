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
    """2048 bytes, without the NUL and a domain's home before them, whoever's that is."""
    one = client()
    for home in (b"", b"/local/domain/7/", b"/local/domain/12345/", b"/local/domain/-123/"):
        path = home + (b"b" * 2048 if home else b"/" + b"b" * 2047)
        assert one.write(path) == OK
        assert one.write(path + b"b") == "EINVAL"
    assert one.write(b"b" * 2048) == OK
    assert one.write(b"b" * 2049) == one.write(b"/local/domain/123456/" + b"b" * 2040) == "EINVAL"


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
        (Operation.WRITE, b"/a"),
        (Operation.WRITE, b""),
        (Operation.DIRECTORY_PART, b"/\0"),
        (Operation.WATCH, b"/a\0"),
        (Operation.WATCH, b"/a\0t"),
        (Operation.WATCH, b"/a\0t\0more\0"),
        (Operation.UNWATCH, b"/a\0"),
        (Operation.SET_PERMS, b"/\0"),
        (Operation.SET_PERMS, b"/\0x0\0"),
        (Operation.SET_PERMS, b"/\0n\0"),
        (Operation.SET_PERMS, b"/\0n0x\0"),
        (Operation.SET_PERMS, b"/\0n0\0\0"),
        (Operation.SET_PERMS, b"/\0n0 \0"),
        (Operation.SET_PERMS, b"/\0n09\0"),
        (Operation.TRANSACTION_END, b"X\0"),
        (Operation.TRANSACTION_END, b""),
        (Operation.INTRODUCE, b"3\0"),
        (Operation.INTRODUCE, b"3\0001\0000\0"),
        (Operation.INTRODUCE, b"3\0001\0x\0"),
        (Operation.RESUME, b"0\0"),
        (Operation.RESUME, b"7"),
        (Operation.RELEASE, b"0\0"),
        (Operation.RELEASE, b"x\0"),
        (Operation.SET_TARGET, b"3\0"),
        (Operation.CONTROL, b""),
        (Operation.CONTROL, b"nosuch\0"),
        (Operation.CONTROL, b"check"),
        (Operation.CONTROL, b"check\0x\0"),
        (Operation.CONTROL, b"help\0x\0"),
        (Operation.CONTROL, b"log\0"),
        (Operation.CONTROL, b"log\0x\0"),
        (Operation.CONTROL, b"logfile\0"),
        (Operation.CONTROL, b"print\0"),
        (Operation.CONTROL, b"quota\0set\0"),
        (Operation.CONTROL, b"quota\0set\0nodes\0x\0"),
        (Operation.CONTROL, b"quota\0set\0nodes\0-1\0"),
        (Operation.CONTROL, b"quota\0set\0nosuch\0009\0"),
        (Operation.CONTROL, b"quota-soft\0005\0"),
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
        (Operation.IS_DOMAIN_INTRODUCED, b"5\0"),
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
    answer = one.ask(Operation.CONTROL, b"help\0")
    assert isinstance(answer, bytes)
    assert [line.partition(b"\t")[0] for line in answer.splitlines()[:-1]] == (
        [b"check", b"log", b"logfile", b"print", b"quota", b"quota-soft", b"help"]
    )


def test_control_sets_and_shows_quotas() -> None:
    """What is set holds at once for every guest; what a domain has is shown; an unknown one is ENOENT."""
    store, dom0 = store_with(5)
    guest = StoreClient(store, 5)
    for name, value in ((b"nodes", 2), (b"node-size", 100), (b"path-max", 30), (b"watches", 1)):
        assert dom0.ask(Operation.CONTROL, b"quota\0set\0%s\0%d\0" % (name, value)) == OK
    assert dom0.ask(Operation.CONTROL, b"quota-soft\0set\0memory\0007\0") == OK
    assert guest.write(b"data/a") == OK
    assert guest.write(b"data/b") == guest.write(b"data/a", bytes(70)) == "ENOSPC"
    assert guest.read(b"data/" + b"b" * 26) == "EINVAL"
    assert guest.watch(b"data") == guest.watch(b"data", b"u") == OK
    assert guest.watch(b"data", b"v") == "E2BIG"
    shown = dom0.ask(Operation.CONTROL, b"quota\0005\0")
    assert isinstance(shown, bytes)
    assert [line.split() for line in shown.splitlines()[:4]] == (
        [[b"Domain", b"5:"], [b"nodes", b":", b"2"], [b"watches", b":", b"2"], [b"transactions", b":", b"0"]]
    )
    for name, line in ((b"quota", b"node-size        :      100 Max. size of a node"), (b"quota-soft", b"memory    ")):
        listed = dom0.ask(Operation.CONTROL, name + b"\0")
        assert isinstance(listed, bytes)
        assert line in listed
    assert dom0.ask(Operation.CONTROL, b"quota\0009\0") == "ENOENT"


def test_control_traces_and_prints() -> None:
    """Without a file there is nothing to write; with one each request and answer is, until it is turned off."""
    store, dom0 = store_with(5)
    assert dom0.ask(Operation.CONTROL, b"log\0on\0") == dom0.ask(Operation.CONTROL, b"print\0hello\0") == OK
    assert list(store.notes) == [("xenstore_control_print", {"text": "hello"})]
    assert dom0.ask(Operation.CONTROL, b"logfile\0/a/file\0") == OK
    StoreClient(store, 5).read(b"/x")
    assert dom0.ask(Operation.CONTROL, b"log\0off\0") == OK
    dom0.read(b"/x")
    assert (store.trace.path, list(store.trace.lines)) == (
        "/a/file",
        [
            "IN d5 READ b'/x\\x00'",
            "OUT d5 ERROR b'EACCES\\x00'",
            "IN d0 CONTROL b'log\\x00off\\x00'",
            "OUT d0 CONTROL b'OK\\x00'",
        ],
    )


# -- as C reads a request


@pytest.mark.parametrize(
    "operation", [Operation.READ, Operation.DIRECTORY, Operation.GET_PERMS, Operation.MKDIR, Operation.RM]
)
@pytest.mark.parametrize("payload", [b"/", b"", b"/\0/\0", b"/\0x"])
def test_what_is_not_one_string(operation: Operation, payload: bytes) -> None:
    """ENOENT, where its NUL is missing and where there is more."""
    assert client().ask(operation, payload) == "ENOENT"


@pytest.mark.parametrize(
    ("operation", "payload", "answer"),
    [
        (Operation.GET_DOMAIN_PATH, b" 7x\0", b"/local/domain/7\0"),
        (Operation.GET_DOMAIN_PATH, b"x\0", b"/local/domain/0\0"),
        (Operation.GET_DOMAIN_PATH, b"-1\0", b"/local/domain/4294967295\0"),
        (Operation.GET_DOMAIN_PATH, b"4294967301\0", b"/local/domain/5\0"),
        (Operation.GET_DOMAIN_PATH, b"99999999999999999999\0", b"/local/domain/4294967295\0"),
        (Operation.IS_DOMAIN_INTRODUCED, b"+5 \0", b"T\0"),
        (Operation.IS_DOMAIN_INTRODUCED, b"0x5\0", b"T\0"),  # as 0
        (Operation.IS_DOMAIN_INTRODUCED, b"32752\0", b"T\0"),  # DOMID_SELF
        (Operation.IS_DOMAIN_INTRODUCED, b"7\0", b"F\0"),
        (Operation.RESUME, b"05\0", OK),
        (Operation.SET_TARGET, b"5\0000\0more\0", OK),
        (Operation.INTRODUCE, b"40000\0-1\0001\0", OK),
        (Operation.INTRODUCE, b"7\0x\0-1\0more\0tail", OK),
        (Operation.WATCH, b"/\0t\0tail", OK),
        (Operation.UNWATCH, b"//\0t\0", "ENOENT"),
        (Operation.UNWATCH, b"/" * 4000 + b"\0t\0", "ENOENT"),
        (Operation.DIRECTORY_PART, b"/\0x\0", b"1\0local\0\0"),
        (Operation.DIRECTORY_PART, b"/\0-1\0tail", b"1\0\0"),
        (Operation.SET_PERMS, b"/\0n0\0r5\0tail", OK),
    ],
)
def test_numbers_and_strings_are_read_as_c_reads_them(
    operation: Operation, payload: bytes, answer: bytes | str
) -> None:
    """As atoi reads a number, whatever is behind it; strings that nobody asks for are passed over where C does so."""
    assert store_with(5)[1].ask(operation, payload) == answer


@pytest.mark.parametrize(
    ("entries", "answer"),
    [
        ([b"n7"], "ENOENT"),
        ([b"n32751"], "ENOENT"),
        ([b"n32752"], b"n32752"),
        ([b"n40000", b"r-1"], b"n40000 r-1"),
        ([b"b0x5", b"r010", b"w +6"], b"b5 r8 w6"),
        ([b"n5", b"r7"], b"n5 r7"),
    ],
)
def test_whom_permissions_may_name(entries: list[bytes], answer: bytes | str) -> None:
    """The owner has to exist, or be no domain at all; numbers are read as strtol does."""
    dom0 = store_with(5)[1]
    done = dom0.permit(b"/local", *entries)
    assert (dom0.permissions(b"/local") if done == OK else done) == answer


def test_a_domain_that_comes_later_gets_nothing() -> None:
    """An entry for one that did not exist is shown, and ignored, until it is set again."""
    store, dom0 = store_with(5)
    dom0.write(b"/x")
    dom0.permit(b"/x", b"n0", b"b7")
    introduce(dom0, 7)
    guest = StoreClient(store, 7)
    assert (guest.read(b"/x"), dom0.permissions(b"/x")) == ("EACCES", b"n0 b7")
    dom0.permit(b"/x", b"n0", b"b7")
    assert guest.read(b"/x") == b""


def test_introducing_a_known_domain_resets_its_connections() -> None:
    """Their watches, transactions and unread output are gone, nobody is told, and they go on; dom0's do not change."""
    store, dom0 = store_with(5)
    guest, other = StoreClient(store, 5), StoreClient(store, 5)
    for one in (dom0, guest, other):
        one.watch(b"@introduceDomain")
        one.watch(b"/local/domain/5")
    transaction = guest.start()
    assert len(dom0.events()) == len(guest.events()) == len(other.events()) == 2
    dom0.write(b"/local/domain/5")
    for domid in (0, 5):
        assert dom0.ask(Operation.INTRODUCE, b"%d\0001\0002\0" % domid) == OK
    dom0.write(b"/local/domain/5", b"1")
    assert dom0.events() == [b"/local/domain/5 t", b"/local/domain/5 t"]
    assert guest.events() == other.events() == []
    assert guest.end(transaction) == "ENOENT"
    assert (guest.write(b"data/x"), store.check()) == (OK, [])


def test_what_may_be_said_of_the_root_and_of_special_names() -> None:
    """A guest's RM / is EACCES; who owns a special name may permit it, as in Xen, and nobody else."""
    store, dom0 = store_with(5)
    guest = StoreClient(store, 5)
    assert guest.rm(b"/") == guest.permit(b"@releaseDomain", b"b5") == "EACCES"
    dom0.permit(b"@releaseDomain", b"n5")
    assert guest.permit(b"@releaseDomain", b"n5", b"r0") == OK
