"""Migration of ballooned pages: three ways, three outcomes."""

import numpy as np
import pytest

from tests.guest.naive_host import NaiveHost, blocks
from xbd.abi import Exchange, Features, Frames, MemopResult, Populate, PopulateDepopulate, Result, Stop
from xbd.guest.balloon.balloon import Balloon
from xbd.guest.balloon.migration import Migrated, Migration, Way
from xbd.guest.boot import lay_out
from xbd.guest.zone import PageState, Zone


class Scene:
    """Two blocks: the first 100 pages are ballooned, the rest are free; up to 100 pages are to be migrated."""

    def __init__(self, features: Features, *, headroom: int = 0, free_frames: int = 0) -> None:
        self.host = NaiveHost(blocks(2), blocks(2) - 100 + headroom, free_frames=free_frames, features=Features())
        self.host.words = dict.fromkeys(range(100, blocks(2)), 0)
        self.host.features = features
        self.zone = Zone(blocks(2))
        boot = lay_out(np.array([[100, blocks(2)]]), blocks(2))
        self.zone.adopt_free(boot.populated_blocks, boot.populated_pages)
        self.balloon = Balloon(self.zone, ("2m", "4k"), unmovable=False)
        self.balloon.adopt(boot)
        self.migration = Migration(self.balloon, features)

    def migrate(self, count: int, lies: dict[int, Result] | None = None) -> Migrated:
        """Migrate the first *count* ballooned pages to the top; *lies* replaces results by their number."""
        old = np.arange(count, dtype=np.int64)
        new: Frames = np.arange(blocks(2) - 1, blocks(2) - 1 - count, -1, dtype=np.int64)
        self.zone.isolate_free(new)
        procedure = self.migration.migrate(old, new)
        number = 0
        try:
            request = next(procedure)
            while True:
                assert isinstance(request, list)
                results = []
                for command in request:
                    lie = (lies or {}).get(number)
                    results.append(self.host.execute(command) if lie is None else lie)
                    number += 1
                request = procedure.send(results)
        except StopIteration as end:
            outcome = end.value
        assert isinstance(outcome, Migrated)
        assert self.zone.total(PageState.ISOLATED) == 0
        assert self.zone.check() == []
        assert self.balloon.check() == []
        return outcome

    def kinds(self) -> list[str]:
        """Name the operations that were carried out."""
        return [type(command).__name__ for command in self.host.executed]


def test_populate_depopulate_needs_neither_headroom_nor_frames() -> None:
    """One call does all pairs, on a full host and at the limit."""
    scene = Scene(Features())
    assert scene.migrate(50) == Migrated(done=50)
    assert scene.kinds() == ["PopulateDepopulate"]
    assert set(range(50)) <= scene.host.words.keys()
    assert scene.balloon.current_pages == len(scene.host.words) == blocks(2) - 100


def test_exchange_is_used_where_it_is_all_there_is() -> None:
    """One call, and the host needs frames for it."""
    scene = Scene(Features(populate_depopulate=False), free_frames=1)
    assert scene.migrate(50) == Migrated(done=50)
    assert scene.kinds() == ["Exchange"]


def test_an_exchange_on_a_full_host_changes_nothing() -> None:
    """Two calls are tried then, and they need frames too: everything is put back."""
    scene = Scene(Features(populate_depopulate=False))
    assert scene.migrate(50) == Migrated(unchanged=50)
    assert scene.kinds() == ["Exchange", "Populate"]
    assert scene.migration.way is Way.EXCHANGE
    assert scene.balloon.pages.extents == 100


@pytest.mark.parametrize("headroom", [1, 7, 50, 100])
def test_two_calls_make_do_with_one_page_of_headroom(headroom: int) -> None:
    """What the limit lets in is populated, as much is given back, and so on."""
    scene = Scene(Features(populate_depopulate=False, exchange=False), headroom=headroom, free_frames=500)
    assert scene.migrate(50) == Migrated(done=50)
    assert scene.kinds() == ["Populate", "Decrease"] * -(-50 // headroom)
    assert scene.balloon.current_pages == len(scene.host.words) == blocks(2) - 100


def test_two_calls_without_headroom_change_nothing() -> None:
    """At the limit nothing can be populated first."""
    scene = Scene(Features(populate_depopulate=False, exchange=False), free_frames=500)
    assert scene.migrate(50) == Migrated(unchanged=50)
    assert scene.kinds() == ["Populate"]


def test_half_done_pairs_leave_both_pages_backed_and_counted() -> None:
    """The host refuses to take 30 of the new pages: both sides are free, and the guest holds 30 more."""
    scene = Scene(Features(populate_depopulate=False, exchange=False), headroom=100, free_frames=500)
    refused = scene.migrate(50, {1: MemopResult(0, Stop.EBUSY)})
    assert refused == Migrated(half_done=50)
    assert scene.balloon.current_pages == len(scene.host.words) == blocks(2) - 50
    assert scene.migration.pages_half_done == 50


def test_a_pair_that_is_refused_stops_the_batch_and_nothing_is_lost() -> None:
    """Pairs before it are done, it and the rest are put back."""
    scene = Scene(Features())
    assert scene.migrate(50, {0: MemopResult(0, Stop.EBUSY)}) == Migrated(unchanged=50)
    assert scene.migrate(20) == Migrated(done=20)


def test_a_host_that_breaks_its_promise_is_asked_for_less() -> None:
    """EOPNOTSUPP moves on to the next way, for good."""
    scene = Scene(Features(), headroom=10, free_frames=100)
    scene.host.broken_promise = True
    assert scene.migrate(20) == Migrated(done=20)
    assert scene.kinds()[:4] == ["PopulateDepopulate", "Exchange", "Populate", "Decrease"]
    assert scene.migration.way is Way.TWO_CALLS
    scene.host.executed.clear()
    first = scene.balloon.pages.members()
    assert first.size == 100


def test_budget_goes_on_where_it_stopped_with_matching_pairs() -> None:
    """However a call is cut up, the i-th old page takes the place of the i-th new one."""
    for features in (Features(), Features(populate_depopulate=False)):
        scene = Scene(features, free_frames=1)
        scene.host.budget_chance = 1.0
        assert scene.migrate(90) == Migrated(done=90)
        pairs = []
        for command in scene.host.executed:
            if isinstance(command, PopulateDepopulate):
                pairs.append((int(command.populate[0]), int(command.depopulate[0])))
            elif isinstance(command, Exchange):
                pairs.append((int(command.gets[0]), int(command.gives[0])))
            else:
                assert not isinstance(command, Populate)
        assert all(old + new == blocks(2) - 1 for old, new in pairs)


def test_migrated_pages_that_fill_a_block_become_a_2_mib_page() -> None:
    """Coalescing is a change of queues, not a hypercall."""
    scene = Scene(Features())
    gone = np.arange(blocks(1), blocks(2) - 100, dtype=np.int64)
    scene.zone.isolate_free(gone)
    scene.balloon.settle_inflated(gone, 0)
    for gfn in gone.tolist():
        del scene.host.words[gfn]
    assert scene.migrate(100) == Migrated(done=100)
    assert scene.balloon.block_pages == 512
    assert scene.balloon.pages.extents == 0
    assert scene.kinds() == ["PopulateDepopulate"]
