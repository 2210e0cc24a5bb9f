"""Migration of ballooned pages: three ways, three outcomes."""

import numpy as np
import pytest

from tests.guest.naive_host import NaiveHost, blocks, extents_of
from xbd.abi import (
    BATCH_EXTENTS,
    DomainType,
    Exchange,
    Features,
    Frames,
    MemopResult,
    Populate,
    PopulateDepopulate,
    Refused,
    Result,
    Stop,
)
from xbd.guest.balloon.backends import back_end_of
from xbd.guest.balloon.balloon import Balloon
from xbd.guest.balloon.migration import Migrated, Migration
from xbd.guest.boot import lay_out
from xbd.guest.zone import PageState, Zone

NO_WAY = Features(populate_depopulate=False, exchange=False)


class Scene:
    """Two blocks: the first 100 pages are ballooned, the rest are free; up to 100 pages are to be migrated."""

    def __init__(
        self,
        features: Features,
        *,
        headroom: int = 0,
        free_frames: int = 0,
        domain_type: DomainType = DomainType.PVH,
        list_extents: int = BATCH_EXTENTS,
    ) -> None:
        self.host = NaiveHost(blocks(2), blocks(2) - 100 + headroom, free_frames=free_frames, features=features)
        self.host.domain_type = domain_type
        self.host.words = dict.fromkeys(range(100, blocks(2)), 0)
        self.zone = Zone(blocks(2))
        boot = lay_out(np.array([[100, blocks(2)]]), blocks(2))
        self.zone.adopt_free(boot.populated_blocks, boot.populated_pages)
        self.balloon = Balloon(self.zone, ("2m", "4k"), unmovable=False)
        self.balloon.adopt(boot)
        self.migration = Migration(self.balloon, back_end_of(self.host.boot_again(0)), list_extents)

    def migrate(self, count: int, lies: dict[int, Result] | None = None) -> Migrated:
        """Migrate the first *count* ballooned pages to the top; *lies* replaces results by their number."""
        return self.migrate_from(0, count, lies)

    def migrate_from(self, first: int, count: int, lies: dict[int, Result] | None = None) -> Migrated:
        """Migrate pages *first* and on to the top less *first*."""
        old = np.arange(first, first + count, dtype=np.int64)
        new: Frames = np.arange(blocks(2) - 1 - first, blocks(2) - 1 - first - count, -1, dtype=np.int64)
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
    assert scene.migration.way == "exchange"
    assert scene.balloon.pages.extents == 100


@pytest.mark.parametrize(
    ("domain_type", "kinds"),
    [(DomainType.PVH, ["Populate", "Decrease"]), (DomainType.VIRTIO, ["Deflate", "Inflate"])],
)
@pytest.mark.parametrize("headroom", [1, 7, 50, 100])
def test_two_calls_make_do_with_one_page_of_headroom(headroom: int, domain_type: DomainType, kinds: list[str]) -> None:
    """What the limit lets in is populated, as much is given back, and so on."""
    scene = Scene(NO_WAY, headroom=headroom, free_frames=500, domain_type=domain_type)
    assert scene.migrate(50) == Migrated(done=50)
    assert scene.kinds() == kinds * -(-50 // headroom)
    assert scene.balloon.current_pages == len(scene.host.words) == blocks(2) - 100
    assert (scene.migration.way, scene.migration.lacks_headroom) == ("two_calls", False)


@pytest.mark.parametrize(("domain_type", "kind"), [(DomainType.PVH, "Populate"), (DomainType.VIRTIO, "Deflate")])
def test_two_calls_without_headroom_change_nothing_and_say_so(domain_type: DomainType, kind: str) -> None:
    """At the limit nothing can be populated first: it is counted, until there is headroom again."""
    scene = Scene(NO_WAY, free_frames=500, domain_type=domain_type)
    for number in (1, 2):
        assert scene.migrate(50) == Migrated(unchanged=50)
        assert (scene.migration.refused_without_headroom, scene.migration.lacks_headroom) == (number, True)
    assert scene.kinds() == [kind, kind]
    scene.host.max_pages += 1
    assert scene.migrate(50) == Migrated(done=50)
    assert (scene.migration.refused_without_headroom, scene.migration.lacks_headroom) == (2, False)


def test_a_full_host_is_no_lack_of_headroom() -> None:
    """Two calls that find no frame change nothing either, but not for want of a higher limit."""
    scene = Scene(NO_WAY, headroom=50)
    assert scene.migrate(50) == Migrated(unchanged=50)
    assert (scene.migration.refused_without_headroom, scene.migration.lacks_headroom) == (0, False)


@pytest.mark.parametrize("features", [Features(), Features(populate_depopulate=False), NO_WAY])
@pytest.mark.parametrize("list_extents", [1, 7, 49, 50, 512])
def test_pairs_go_by_lists_and_stop_at_the_first_that_is_refused(features: Features, list_extents: int) -> None:
    """Whatever fits a list, all 50 pairs are done; and with the second list refused just the first is."""
    scene = Scene(features, headroom=1, free_frames=500, list_extents=list_extents)
    assert scene.migrate(50) == Migrated(done=50)
    assert max(extents_of(command) for command in scene.host.executed) <= list_extents
    if features == NO_WAY or list_extents >= 50:
        return
    scene = Scene(features, headroom=1, free_frames=500, list_extents=list_extents)
    done = scene.migrate(50, {1: MemopResult(0, Stop.EBUSY)})
    assert done == Migrated(done=list_extents, unchanged=50 - list_extents)


def test_a_way_that_goes_missing_between_two_lists_is_made_up_for() -> None:
    """The second list's EOPNOTSUPP moves the rest to the next way; no pair is done twice."""
    scene = Scene(Features(), free_frames=500, list_extents=20)
    assert scene.migrate(50, {1: Refused("EPERM", "not any more")}) == Migrated(done=50)
    assert scene.kinds() == ["PopulateDepopulate", "Exchange", "Exchange"]
    assert scene.migration.way == "exchange"


@pytest.mark.parametrize("next_way", ["exchange", "two_calls"])
def test_a_way_that_goes_missing_in_the_middle_of_a_list_is_made_up_for(next_way: str) -> None:
    """The pairs that are done stay done, and the others still match."""
    scene = Scene(Features(exchange=next_way == "exchange"), headroom=50, free_frames=500)
    scene.host.budget_chance = 1.0
    assert scene.migrate(50, {1: Refused("ENOSYS", "not any more")}) == Migrated(done=50)
    assert scene.kinds()[0] == "PopulateDepopulate"
    assert scene.kinds().count("PopulateDepopulate") == 1
    assert scene.migration.way == next_way
    assert scene.host.words.keys() == set(range(50)) | set(range(100, blocks(2) - 50))


def test_virtio_has_no_way_whatever_its_host_offers_to_others() -> None:
    """The features that a boot map names are Xen's."""
    assert Scene(Features(), domain_type=DomainType.VIRTIO).migration.way == "two_calls"


def test_half_done_pairs_leave_both_pages_backed_and_counted() -> None:
    """The host refuses to take 30 of the new pages: both sides are free, and the guest holds 30 more."""
    scene = Scene(NO_WAY, headroom=100, free_frames=500)
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
    assert scene.migration.way == "two_calls"
    scene.host.executed.clear()
    assert scene.balloon.pages.extents == 100
    assert scene.migrate_from(20, 20) == Migrated(done=20)
    assert scene.kinds() == ["Populate", "Decrease"] * 2, "what is not there is not asked for again"


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
