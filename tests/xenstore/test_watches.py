"""Watches: who hears of what, when, and how it is named."""

from tests.xenstore.store_client import StoreClient, store_with
from xbd.xenstore.codec import Operation
from xbd.xenstore.store import Store

OK = b"OK\0"


def watching(*paths: bytes) -> tuple[StoreClient, StoreClient]:
    """Make a client that has set watches, and one that changes things."""
    store = Store()
    watcher, other = StoreClient(store), StoreClient(store)
    other.write(b"/a/b/c", b"1")
    for number, path in enumerate(paths):
        assert watcher.watch(path, b"%d" % number) == OK
    watcher.events()
    return watcher, other


def test_a_watch_fires_at_once() -> None:
    """Once, whether there is such a node or not; the same again is EEXIST, another token is not."""
    one = StoreClient(Store())
    assert one.watch(b"/none") == OK
    assert one.events() == [b"/none t"]
    assert one.watch(b"/none") == "EEXIST"
    assert one.watch(b"/none", b"other") == OK
    assert one.watch(b"/none", b"") == OK
    assert one.events() == [b"/none other", b"/none "]


def test_any_special_name_can_be_watched() -> None:
    """Also one that means nothing."""
    one = StoreClient(Store())
    assert [one.watch(name) for name in (b"@foo", b"@", b"@a b", b"@introduceDomain")] == [OK] * 4
    assert one.read(b"@introduceDomain") == one.permissions(b"@releaseDomain") == "EINVAL"
    assert one.permit(b"@foo", b"n0") == "EINVAL"


def test_what_fires() -> None:
    """The same value again, a child's write (with its path), SET_PERMS; not MKDIR of what is there, nor a write above."""
    watcher, other = watching(b"/a/b")
    other.write(b"/a/b", b"")
    other.write(b"/a/b/c/d", b"1")
    assert watcher.events() == [b"/a/b 0", b"/a/b/c/d 0"]
    other.permit(b"/a/b/c", b"n0", b"r3")
    assert watcher.events() == [b"/a/b/c 0"]
    other.mkdir(b"/a/b/c")
    other.write(b"/a", b"x")
    other.write(b"/a/bb", b"x")
    other.read(b"/a/b")
    assert watcher.events() == []


def test_what_removing_fires() -> None:
    """One event with the removed path; who watches something below hears of its own path; of nothing, nobody."""
    watcher, other = watching(b"/a", b"/a/b", b"/a/b/c", b"/a/b/none")
    other.rm(b"/a/b/nothing")
    assert watcher.events() == []
    other.rm(b"/a/b")
    assert watcher.events() == [b"/a/b/c 2", b"/a/b 0", b"/a/b 1"]


def test_a_relative_watch_is_told_relative_paths() -> None:
    """It is the same watch as the absolute one."""
    store, dom0 = store_with(5)
    guest = StoreClient(store, 5)
    guest.watch(b"data")
    assert guest.watch(b"/local/domain/5/data") == "EEXIST"
    dom0.write(b"/local/domain/5/data/x/y")
    assert guest.events() == [b"data t", b"data/x/y t"]
    assert guest.unwatch(b"/local/domain/5/data") == OK


def test_unwatch() -> None:
    """What is not watched with this token: ENOENT; what is unwatched is told no more."""
    watcher, other = watching(b"/a")
    assert watcher.unwatch(b"/a", b"x") == watcher.unwatch(b"/b", b"0") == "ENOENT"
    assert watcher.unwatch(b"/a", b"0") == OK
    assert watcher.unwatch(b"/a", b"0") == "ENOENT"
    other.write(b"/a")
    assert watcher.events() == []


def test_reset_watches() -> None:
    """All watches and transactions of this connection are gone, and nobody else's."""
    watcher, other = watching(b"/a", b"/b")
    transaction = watcher.start()
    other.watch(b"/a")
    other.events()
    assert watcher.ask(Operation.RESET_WATCHES) == OK
    other.write(b"/a")
    assert (watcher.events(), other.events()) == ([], [b"/a t"])
    assert watcher.end(transaction) == "ENOENT"
    assert watcher.store.check() == []


def test_an_event_that_waits_is_not_queued_twice() -> None:
    """Who has not read it yet learns nothing from another of the same."""
    watcher, other = watching(b"/a")
    for value in (b"1", b"2", b"3"):
        other.write(b"/a", value)
    assert watcher.events() == [b"/a 0"]
    other.write(b"/a", b"4")
    assert watcher.events() == [b"/a 0"]


def test_one_that_is_disconnected_is_forgotten() -> None:
    """Nothing is queued for it any more."""
    watcher, other = watching(b"/a")
    watcher.store.disconnect(watcher.connection)
    other.write(b"/a")
    assert not watcher.connection.has_output
    assert (len(watcher.store.watches), watcher.store.check()) == (0, [])


def test_many_watches_cost_nobody_else() -> None:
    """Ten thousand, on as many paths: a write is told to the one that it concerns."""
    store = Store()
    watchers = [StoreClient(store) for _ in range(100)]
    for number, watcher in enumerate(watchers):
        for path in range(100):
            watcher.watch(b"/w/%d/%d" % (number, path))
        watcher.events()
    store.take_woken()
    StoreClient(store).write(b"/w/7/42/x")
    assert store.take_woken() == [watchers[7].connection]
    assert watchers[7].events() == [b"/w/7/42/x t"]
    assert (len(store.watches), store.check()) == (10_000, [])
