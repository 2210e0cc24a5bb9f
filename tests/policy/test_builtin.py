"""The policies that are made after others', on cases that were worked out by hand from the facts about these."""

from dataclasses import replace
from itertools import pairwise

import pytest

from xbd.policy import DomainSnapshot, GuestReport, SetTarget, Snapshot, State, step
from xbd.policy.builtin.demand import Cache, Demand
from xbd.policy.builtin.mom import Mom
from xbd.policy.builtin.pressure import Pressure
from xbd.policy.builtin.qmemman import Qmemman
from xbd.policy.model import Settings
from xbd.units import MIB_PAGES as MIB


def guest(domid: int, held: int, most: int, **report: float | None) -> DomainSnapshot:
    """Make a domain that holds, and could hold, so many MiB, with what its guest reports (counts in MiB, but the pressure)."""
    told = {name: value if name == "pressure" or value is None else int(value * MIB) for name, value in report.items()}
    pages = held * MIB
    return DomainSnapshot(domid, pages, pages, pages, 0, most * MIB, guest=GuestReport(**told))  # type: ignore[arg-type]


def host(free: int, *domains: DomainSnapshot, total: int = 16384) -> Snapshot:
    """Make a host with so many MiB free, and in all."""
    return Snapshot(free * MIB, total * MIB, 0, domains)


def goals(targets: object) -> list[int]:
    """List the pages of targets."""
    assert isinstance(targets, list)
    return [target.pages for target in targets]


# -- demand


def needy(held: int, used: int, cache: int, refaulted: int, available: int | None = None) -> Snapshot:
    """Make a host with 100 MiB free, and two guests of up to 2000 MiB: one that holds and reads so much, and one that uses 400."""
    one = guest(1, held, 2000, used_pages=used, cache_pages=cache, refaulted_pages=refaulted, available_pages=available)
    other = guest(2, 500, 2000, used_pages=400, cache_pages=100, refaulted_pages=0)
    return host(100, replace(one, demand_pages=used * 5 // 4 * MIB), replace(other, demand_pages=500 * MIB))


def test_demand_gives_cache_that_is_read_again_before_what_is_left() -> None:
    """400 MiB used want 500; 10 MiB/s read again for 10 s are 200 MiB that a cache of 100 lacks: 300 more, of 600 that there are."""
    _, (first, other) = Demand().step(
        Demand().step(None, needy(700, 400, 100, 0), 0.0)[0], needy(700, 400, 100, 100), 10.0
    )
    assert (first.pages, other.pages) == (800 * MIB, 500 * MIB)
    assert first.reason == "by what its guest asks for (500 MiB), and cache that it reads again (300 MiB)"
    assert other.reason == "by what its guest asks for (500 MiB)"


def test_demand_leaves_worthless_cache_to_whoever_there_is() -> None:
    """Cache that nobody reads counts for nothing, however much: what is left after 500 each is shared evenly."""
    policy = Demand()
    for cache in (100, 800):
        state, _ = policy.step(None, needy(700, 400, cache, 7), 0.0)
        _, targets = policy.step(state, needy(700, 400, cache, 7), 10.0)
        assert goals(targets) == [650 * MIB, 650 * MIB]


def test_demand_forgets_what_a_cache_needed() -> None:
    """Ten minutes after it was last read again nothing of it is left, half of that after five."""
    policy = Demand()
    state, _ = policy.step(None, needy(700, 400, 100, 0), 0.0)
    state, _ = policy.step(state, needy(700, 400, 100, 100), 10.0)
    after, _ = policy.step(state, needy(700, 400, 100, 100), 310.0)
    gone, targets = policy.step(state, needy(700, 400, 100, 100), 610.0)
    assert [round(known[1].needed_pages / MIB) for known in (state, after, gone)] == [300, 150, 0]
    assert goals(targets) == [650 * MIB, 650 * MIB]


def test_demand_shares_what_caches_need_if_there_is_too_little() -> None:
    """Both use 400 of 1300 MiB and want 500; caches that need 600 and 200 get 300 between them, in proportion."""
    policy, snapshot = Demand(), needy(700, 400, 100, 0)
    known: dict[str | int, Cache] = {1: Cache(0, 600.0 * MIB, 0.0), 2: Cache(0, 200.0 * MIB, 0.0)}
    _, targets = policy.step(known, snapshot, 0.0)
    assert goals(targets) == [725 * MIB, 575 * MIB]


def test_demand_grows_a_guest_at_once_that_has_hardly_anything_left() -> None:
    """Less than a 32nd of what it holds is left: half as much again, urgently; not while growth is under way, nor a silent one."""
    policy, stalling = Demand(), replace(needy(400, 390, 5, 0, available=12), free_pages=300 * MIB)
    _, (first, _) = policy.step(None, stalling, 0.0)
    assert (first.pages, first.urgent) == (600 * MIB, True)
    one, other = stalling.domains
    growing = replace(stalling, domains=(replace(one, target_pages=one.tot_pages + 1), other))
    silent = replace(stalling, domains=(replace(one, demand_pages=None), other))
    assert not any(target.urgent for each in (growing, silent) for target in policy.step(None, each, 0.0)[1])


def test_demand_of_a_liar_costs_others_only_what_they_do_not_ask_for() -> None:
    """A guest that says it has read everything again, ever more of it, gets what is left, and the other all it asks for."""
    policy, state = Demand(), None
    for second in range(20):
        state, (first, other) = policy.step(state, needy(700, 400, 100, 1 << 40 << second), float(second))
    assert (first.pages, other.pages) == (800 * MIB, 500 * MIB)


# -- qmemman


def test_qmemman_with_enough_memory() -> None:
    """Preferences are 1300 and 650 MiB; of the surplus, 535,417 pages, the first gets two thirds; 0.999 of both are set."""
    snapshot = host(1100, guest(1, 2000, 4096, used_pages=1000), guest(2, 1000, 2048, used_pages=500))
    # Free: 281600 / 1.00781 = 279417 pages, less 12800; held 768000; preferences 332800 and 166400.
    _, targets = Qmemman().step(None, snapshot, 0.0)
    assert goals(targets) == [689_054, 344_527]


def test_qmemman_shares_what_is_beyond_a_maximum_equally() -> None:
    """A target beyond its guest's maximum is that, and the other gets 0.999 of what is beyond."""
    snapshot = host(1100, guest(1, 2000, 2048, used_pages=1000), guest(2, 1000, 8192, used_pages=500))
    # 689054 is 164766 beyond 2048 MiB; 344527 + int(0.999 x 164766) = 509128.
    _, targets = Qmemman().step(None, snapshot, 0.0)
    assert goals(targets) == [524_288, 509_128]


def test_qmemman_with_too_little_memory() -> None:
    """The donor goes to its preference; the acceptors get what it gives and what is free, by their preferences."""
    snapshot = host(
        50,
        guest(1, 2000, 4096, used_pages=1000),
        guest(2, 500, 4096, used_pages=1000),
        guest(3, 400, 4096, used_pages=500),
    )
    # Free: 12800 / 1.00781 = 12700, less 12800: -100. The donor gives 179200; 179100 is shared 2 : 1.
    _, targets = Qmemman().step(None, snapshot, 0.0)
    assert goals(targets) == [332_800, 128_000 + 119_400, 102_400 + 59_700]


def test_qmemman_knows_a_least_preference_and_dom0s() -> None:
    """A guest that uses 10 MiB prefers 200; dom0 gets 350 more than 1.3 times what it uses. Together: 51200 and 122880 pages."""
    snapshot = host(1100, guest(0, 400, 4096, used_pages=100), guest(1, 400, 4096, used_pages=10))
    # Surplus: 266617 + 204800 - 174080 = 297337. Of that to dom0 122880/174080, and 0.999 of all.
    _, targets = Qmemman().step(None, snapshot, 0.0)
    assert goals(targets) == [
        int(0.999 * (122_880 + 297_337 * 122_880 / 174_080)),
        int(0.999 * (51_200 + 297_337 * 51_200 / 174_080)),
    ]


@pytest.mark.parametrize(
    ("free", "held", "moves"),
    # Alone, a guest is offered 0.999 of what there is: 100 and 200 MiB more than it holds.
    [(156, 2000, False), (257, 2000, True)],
)
def test_qmemman_leaves_small_transfers_undone(free: int, held: int, *, moves: bool) -> None:
    """Less than 150 MiB in all are not worth it, for one that has its preference."""
    _, targets = Qmemman().step(None, host(free, guest(1, held, 4096, used_pages=1000)), 0.0)
    assert bool(targets) is moves


def test_qmemman_hears_what_changed_by_30_mib_and_looks_every_3_s() -> None:
    """Between its checks it does nothing, unless a guest's use has changed by that much; then at once."""
    policy = Qmemman()
    snapshot = host(1100, guest(1, 1000, 4096, used_pages=500))
    state, first = policy.step(None, snapshot, 0.0)
    state, soon = policy.step(state, host(1100, guest(1, 1000, 4096, used_pages=529)), 1.0)
    heard, changed = policy.step(state, host(1100, guest(1, 1000, 4096, used_pages=531)), 2.0)
    _, due = policy.step(state, snapshot, 3.0)
    assert [bool(first), bool(soon), bool(changed), bool(due)] == [True, False, True, True]
    assert heard.used == {1: 531 * MIB}


def test_qmemman_leaves_out_who_says_nothing_or_does_not_move() -> None:
    """One without a report, and one that is stuck, get no target."""
    stuck = replace(guest(2, 1000, 4096, used_pages=100), floor_pages=1000 * MIB, ceiling_pages=1000 * MIB)
    _, targets = Qmemman().step(None, host(2000, guest(1, 1000, 4096), stuck, guest(3, 500, 4096, used_pages=100)), 0.0)
    assert [target.domid for target in targets] == [3]


# -- mom


@pytest.mark.parametrize(
    ("free", "unused", "pages"),
    [
        # 19 % of the host is free: 5 % of 1000 MiB go, if what is used and 20 % are left.
        (3112, 500, int(256_000 * 0.95)),
        (3112, 220, 256_000 - 220 * MIB + 51_200),
        # Less than 20 % free in it, and not critical: it is left alone.
        (3112, 200, None),
        # 4 % free: the share to be kept is -1 %; it gives up what it uses.
        (655, 10, int(256_000 - 2560 + (655 / 16384 - 0.05) * 256_000)),
        # Above 20 % it grows by 5 %.
        (3300, 10, int(256_000 * 1.05)),
        # A change of less than 0.25 % is not sent.
        (3112, 202, None),
    ],
)  # fmt: skip
def test_mom_by_the_hosts_free_memory(free: int, unused: int, pages: int | None) -> None:
    """Below 20 % a guest shrinks, by 5 % and never below what it must keep; else it grows by 5 %."""
    _, targets = Mom().step(None, host(free, guest(1, 1000, 4096, unused_pages=unused)), 0.0)
    assert goals(targets) == ([] if pages is None else [pages])


def test_mom_grows_to_the_maximum_and_looks_every_10_s() -> None:
    """The last step is what is left to it; in between nothing is done."""
    snapshot = host(8000, guest(1, 1000, 1020, unused_pages=0), guest(2, 500, 1000))
    state, targets = Mom().step(None, snapshot, 5.0)
    assert (goals(targets), state) == ([1020 * MIB], 5.0)
    assert Mom().step(state, snapshot, 14.0) == (5.0, [])
    assert Mom().step(state, snapshot, 15.0)[1] == targets


# -- pressure


def _alone(pressure: float, available: float = 500.0) -> Snapshot:
    return host(4000, guest(1, 1000, 4096, pressure=pressure, available_pages=available))


def test_pressure_is_bounded_both_ways() -> None:
    """In calm a step takes at most 2 %, to a quarter below what is held; under pressure it gives at most 10 %."""
    policy, calm = Pressure(), []
    state = None
    for now in range(0, 200, 5):
        state, targets = policy.step(state, _alone(0.0), float(now))
        calm.append(goals(targets)[0])
    assert calm[0] == 256_000 - int((2.0 * 0.005 + 0.1 * 0.005 * 5) * 256_000)
    assert 0 < max(before - after for before, after in pairwise(calm)) <= 0.02 * 256_000
    assert calm[-1] == int(0.75 * 256_000 - 0.02 * 256_000)
    assert state is not None
    assert state.of == {1: -policy.most_integral}
    _, targets = policy.step(state, _alone(0.09), 200.0)
    assert goals(targets) == [192_000 + int(0.1 * 256_000)]


@pytest.mark.parametrize(("pressure", "available"), [(0.5, 500.0), (0.0, 10.0)])
def test_pressure_answers_a_stall_at_once(pressure: float, available: float) -> None:
    """Much pressure, or hardly anything available: a quarter more, between steps too, and the integral begins anew."""
    policy = Pressure()
    state, _ = policy.step(None, _alone(0.0), 0.0)
    state, targets = policy.step(state, _alone(pressure, available), 1.0)
    assert goals(targets) == [320_000]
    assert (targets[0].urgent, state.of) == (True, {1: 0.0})


def test_pressure_takes_nothing_from_one_that_has_little_left() -> None:
    """A calm guest with less than a sixteenth available is not shrunk; one that does not report is left alone."""
    assert goals(Pressure().step(None, _alone(0.0, 60.0), 0.0)[1]) == [256_000]
    assert Pressure().step(None, host(100, guest(1, 100, 200)), 0.0)[1] == []


def test_an_urgent_growth_does_not_wait_for_the_interval() -> None:
    """The safety layer moves nobody twice in ten seconds, but who stalls and there is memory for."""
    settings = Settings(headroom_pages=0, threshold_pages=0)
    state, _ = step(State(settings), _alone(0.0), 0.0, Pressure())
    calm, none = step(state, replace(_alone(0.09), free_pages=3000 * MIB), 6.0, Pressure())
    _, at_once = step(calm, _alone(0.5), 7.0, Pressure())
    assert none == []
    assert SetTarget(1, 320_000) in at_once
