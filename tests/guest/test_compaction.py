"""Compaction: what moves where, and when it is left alone."""

from dataclasses import replace

import numpy as np

from tests.guest.naive_host import Driver, NaiveHost, ballooned, blocks
from xbd.abi import Decrease, Features, Frames, Populate, PopulateDepopulate
from xbd.guest import DriverSettings, Guest, GuestSettings, TargetSet, Tick
from xbd.guest.workload import Driven
from xbd.guest.workload.holdings import Pool
from xbd.guest.zone import PageState
from xbd.units import SUPER_PAGES


class Scene:
    """A guest whose pages are put where a test wants them: a driver with a list of what each block holds."""

    def __init__(
        self,
        *layout: dict[str, int],
        features: Features | None = None,
        verify: bool = True,
        vacate_blocks: int = 64,
        driver: DriverSettings | None = None,
    ) -> None:
        size = blocks(len(layout))
        self._verify = verify
        self.host = NaiveHost(size, size, features=features or Features())
        settings = GuestSettings(
            replace(driver or DriverSettings(), floor_pages=0, vacate_blocks=vacate_blocks),
            verify=verify,
            kernel_pages=0,
        )
        self.guest = Guest(self.host.boot(size), settings, 1, Driven())
        self.driver = Driver(self.guest, self.host)
        for block, holds in enumerate(layout):
            self._fill(block, **holds)
        # At its target: only compaction has something to do.
        self.guest._directives.target_pages = self.guest._balloon.current_pages
        assert self.guest.check() == []

    def _fill(self, block: int, movable: int = 0, unmovable: int = 0, ballooned: int = 0, whole: int = 0) -> None:
        """Use the first pages of a block for this and that, in this order."""
        gfns = np.arange(block * SUPER_PAGES, (block + 1) * SUPER_PAGES, dtype=np.int64)
        zone, programs = self.guest._zone, self.guest._programs
        if whole:
            zone.free.take_superframes_exactly(np.array([block]))
            zone.adopt_blocks(np.array([block]), PageState.ISOLATED)
            self.guest._balloon.settle_inflated(gfns[:1], 9)
            self._unback(gfns)
            return
        edges = np.cumsum([0, movable, unmovable, ballooned])
        for index, (pool, state) in enumerate(
            ((Pool.ANON, PageState.MOVABLE), (Pool.KERNEL, PageState.UNMOVABLE), (None, PageState.ISOLATED))
        ):
            some = gfns[edges[index] : edges[index + 1]]
            if not some.size:
                continue
            zone.isolate_free(some)
            zone.change(some, PageState.ISOLATED, state)
            if pool is None:
                self.guest._balloon.settle_inflated(some, 0)
                self._unback(some)
            else:
                programs.holdings.place(pool, some)
                words = programs.holdings.words_of(some) if self._verify else np.zeros(some.size, dtype=np.uint64)
                self.host.words.update(zip(some.tolist(), words.tolist(), strict=True))

    def _unback(self, gfns: Frames) -> None:
        for gfn in gfns.tolist():
            del self.host.words[gfn]

    def count(self, state: PageState) -> list[int]:
        """Count the pages in one state, block by block."""
        zone = self.guest._zone
        counts = zone.free.free_count if state is PageState.FREE else zone.counts[state]
        return [int(count) for count in counts]

    def compact(self, seconds: float = 0.5) -> None:
        """Let time pass and expect everything to be sound."""
        self.driver.send(Tick())
        self.driver.settle()
        self.driver.run_for(seconds)
        self.driver.assert_sound()


def test_ballooned_pages_move_up_and_in_use_pages_down() -> None:
    """Two blocks half ballooned and half used become one whole 2 MiB page at the top."""
    scene = Scene({"movable": 256, "ballooned": 256}, {"movable": 256}, {"movable": 100, "ballooned": 256})
    scene.compact()
    assert scene.count(PageState.BALLOON_2M) == [0, 0, 512]
    assert scene.count(PageState.BALLOON_4K) == [0, 0, 0]
    assert scene.count(PageState.MOVABLE)[2] == 0
    statistics = scene.guest.statistics()
    assert statistics.partly_ballooned == 0
    assert statistics.pages_moved == 100
    assert statistics.pages_migrated == 256
    assert statistics.guest_free_superframes == 0


def test_blocks_with_unmovable_pages_are_never_targets_and_give_their_ballooned_pages_first() -> None:
    """The highest block is pinned: its ballooned pages go down to the highest block that is not."""
    scene = Scene({"ballooned": 100}, {}, {"movable": 5}, {"unmovable": 1, "ballooned": 412})
    scene.compact()
    assert scene.count(PageState.BALLOON_2M) == [0, 0, 512, 0]
    assert scene.count(PageState.BALLOON_4K) == [0, 0, 0, 0]
    (migrated,) = [c for c in scene.host.executed if isinstance(c, PopulateDepopulate)]
    assert (np.diff(migrated.depopulate) == -1).all(), "new pages descend"
    assert migrated.populate[:412].tolist() == list(range(3 * 512 + 1, 3 * 512 + 413)), "pinned blocks come first"


def test_blocks_on_the_2_mib_queue_are_left_alone() -> None:
    """The target is the highest block that is not in the balloon as a whole already."""
    scene = Scene({"ballooned": 300}, {"ballooned": 212}, {}, {"whole": 1})
    scene.compact()
    assert scene.count(PageState.BALLOON_2M) == [0, 0, 512, 512]


def test_in_use_pages_go_to_the_fullest_lower_blocks() -> None:
    """A wholly free block stays whole as long as there are other free pages."""
    scene = Scene({"ballooned": 10}, {}, {"movable": 500}, {"movable": 400}, {"movable": 10, "ballooned": 502})
    scene.compact()
    assert scene.count(PageState.MOVABLE) == [0, 0, 510, 400, 0]
    assert scene.count(PageState.BALLOON_2M) == [0, 0, 0, 0, 512]
    assert scene.count(PageState.FREE)[:2] == [512, 512]


def test_no_room_below_puts_everything_back_and_defers() -> None:
    """Without room for all of the target's pages nothing moves; the second failure in a row defers."""
    scene = Scene({"movable": 500, "ballooned": 12}, {"movable": 500, "ballooned": 12})
    before = scene.count(PageState.MOVABLE)
    scene.compact(0.5)
    assert scene.count(PageState.MOVABLE) == before
    assert scene.guest.statistics().compaction_failures == 1
    scene.compact(0.5)
    assert scene.guest.statistics().compaction_failures == 2
    scene.compact(0.9)
    assert scene.guest.statistics().compaction_failures == 2
    scene.compact(0.1)
    assert scene.guest.statistics().compaction_failures == 3
    scene.compact(1000)
    # 2, 4, 8, 16, 32 and then always 64 checks of 0.5 s are skipped.
    assert scene.guest.statistics().compaction_failures == 3 + 5 + (1000 - 62) // 32
    assert scene.host.executed == []


def test_it_stops_at_the_least_possible_number_of_blocks() -> None:
    """1 block partly ballooned for 100 pages is as good as it gets: no pass is made."""
    scene = Scene({"ballooned": 100}, {"movable": 10}, {})
    scene.compact(10)
    assert scene.guest.statistics().compaction_passes == 0
    assert scene.driver.deadline is None


def test_a_pass_does_not_undo_itself() -> None:
    """Ballooned pages never move twice and nothing oscillates: the second pass finds nothing to do."""
    layout = [{"movable": 200, "ballooned": 40 + block} for block in range(12)]
    scene = Scene(*layout)
    scene.compact()
    moved = [gfn for c in scene.host.executed if isinstance(c, PopulateDepopulate) for gfn in c.populate.tolist()]
    filled = [gfn for c in scene.host.executed if isinstance(c, PopulateDepopulate) for gfn in c.depopulate.tolist()]
    assert set(moved).isdisjoint(filled)
    assert len(set(moved)) == len(moved)
    assert scene.guest.statistics().partly_ballooned == 0
    scene.host.executed.clear()
    scene.compact(100)
    assert scene.host.executed == []


def test_without_verify_in_use_pages_move_without_a_command() -> None:
    """Nobody looks at contents then: the remap is bookkeeping."""
    scene = Scene({"movable": 100, "ballooned": 256}, {"movable": 56, "ballooned": 256}, verify=False)
    scene.host.executed.clear()
    scene.compact()
    assert {type(command) for command in scene.host.executed} == {PopulateDepopulate}
    assert scene.guest.statistics().pages_moved == 56


def test_the_worker_wakes_compaction_when_a_batch_leaves_blocks_partly_ballooned() -> None:
    """An inflation of single pages out of many blocks is tidied up at the same moment."""
    scene = Scene(*({"movable": 400} for _ in range(8)), {"movable": 10})
    scene.driver.do(TargetSet(blocks(9) - 600))
    scene.driver.assert_sound()
    statistics = scene.guest.statistics()
    assert statistics.balloon_2m_pages == 512
    assert statistics.partly_ballooned <= 1
    assert ballooned(scene.guest).isdisjoint(scene.host.words)


def test_blocks_are_emptied_for_an_inflation_that_finds_none_whole() -> None:
    """Every block is half used: the highest are emptied into the others and given up whole, without a migration."""
    scene = Scene(*({"movable": 200} for _ in range(16)))
    scene.host.executed.clear()
    scene.driver.do(TargetSet(blocks(12)))
    scene.driver.assert_sound()
    assert scene.count(PageState.BALLOON_2M)[12:] == [512] * 4
    assert {(type(c), c.order) for c in scene.host.executed if isinstance(c, Decrease | Populate)} == {(Decrease, 9)}
    statistics = scene.guest.statistics()
    assert statistics.pages_moved == 4 * 200
    assert (statistics.pages_migrated, statistics.current_pages) == (0, blocks(12))


def test_without_emptying_the_inflation_goes_by_single_pages_and_migration_tidies_up() -> None:
    """The same with vacate_blocks = 0 ends in the same 2 MiB pages, by way of populate_depopulate."""
    scene = Scene(*({"movable": 200} for _ in range(16)), vacate_blocks=0)
    scene.driver.do(TargetSet(blocks(12)))
    scene.driver.run_for(5)
    scene.driver.assert_sound()
    assert sum(scene.count(PageState.BALLOON_2M)) == blocks(4)
    assert scene.guest.statistics().pages_migrated > 0


def test_as_many_blocks_are_emptied_as_there_is_room_for() -> None:
    """Where the lower blocks are nearly full fewer are emptied, and the rest goes by single pages."""
    scene = Scene({"movable": 400}, {"movable": 400}, {"movable": 200}, {"movable": 200}, {"movable": 200})
    scene.driver.do(TargetSet(blocks(5) - 1000))
    scene.driver.assert_sound()
    assert scene.count(PageState.BALLOON_2M)[4] == 512
    assert scene.guest.statistics().current_pages == blocks(5) - 1000


def test_a_host_without_any_migration_way_makes_it_defer_not_fail() -> None:
    """At the limit, with two calls only, nothing can be migrated; nothing is lost either."""
    none = Features(populate_depopulate=False, exchange=False)
    scene = Scene({"ballooned": 100}, {"movable": 3}, {"ballooned": 100}, {}, features=none)
    scene.host.max_pages = len(scene.host.words)
    scene.compact(30)
    statistics = scene.guest.statistics()
    assert statistics.compaction_failures == statistics.migrations_without_headroom >= 3
    assert scene.driver.notes.count("no_headroom") == 1, "said once, not with every try"
    scene.host.max_pages += 1
    scene.compact(40)
    assert scene.guest.statistics().partly_ballooned == 0
    assert scene.driver.notes.count("no_headroom") == 1


def test_headroom_that_goes_again_is_noted_again() -> None:
    """Each change from having it to lacking it is said once."""
    scene = Scene({})
    for lacks in (False, True, True, False, True, True):
        scene.guest._migration.lacks_headroom = lacks
        scene.driver.do(Tick())
    assert scene.driver.notes.count("no_headroom") == 2


def test_a_block_with_slots_is_no_target_but_gives_its_ballooned_pages() -> None:
    """The highest block holds slots: it is not emptied, and the rest of its ballooned pages go to another."""
    scene = Scene({"ballooned": 112}, {}, {"movable": 5}, {"ballooned": 500})
    scene.guest._balloon.pages.remove(np.arange(3 * 512, 3 * 512 + 100))
    slots = np.arange(3 * 512, 3 * 512 + 100, dtype=np.int64)
    scene.guest._zone.change(slots, PageState.BALLOON_4K, PageState.SLOT)
    scene.guest._balloon.queues["foreign"].put(slots)
    scene.driver.slots.held.append(("foreign", slots))
    scene.compact()
    assert scene.count(PageState.SLOT) == [0, 0, 0, 100]
    assert scene.count(PageState.BALLOON_2M) == [0, 0, 512, 0]
    assert scene.count(PageState.BALLOON_4K) == [0, 0, 0, 0]


def test_a_block_with_slots_is_not_vacated_for_an_inflation() -> None:
    """What has slots cannot be given up whole: the inflation empties another block."""
    scene = Scene({"movable": 100}, {"movable": 100}, {"movable": 100}, {"movable": 100, "ballooned": 10})
    slots = scene.guest._balloon.hand_out("foreign", 10)
    scene.driver.slots.held.append(("foreign", slots))
    scene.driver.do(TargetSet(blocks(3) - 10))
    scene.driver.assert_sound()
    assert scene.count(PageState.BALLOON_2M) == [0, 0, 512, 0]
    assert scene.count(PageState.SLOT) == [0, 0, 0, 10]


def test_a_budget_bounds_what_is_moved() -> None:
    """What may be moved is saved up for an hour; beyond it a pass waits, and has not failed; 0 bounds nothing."""
    layout = ({"movable": 256, "ballooned": 256}, {"movable": 256}, {"movable": 100, "ballooned": 256})
    scene = Scene(*layout, driver=DriverSettings(move_pages_s=0.02))
    scene.compact(30.0)
    assert (scene.guest.statistics().pages_moved, scene.guest.statistics().compaction_failures) == (0, 0)
    rich = Scene(*layout, driver=DriverSettings(move_pages_s=0.03))
    rich.compact()
    assert rich.guest.statistics().pages_moved == 100
    unbounded = Scene(*layout, driver=DriverSettings(move_pages_s=0.0))
    unbounded.compact()
    assert unbounded.guest.statistics().pages_moved == 100
