"""The slot table: what programs hold, what they free, and what their pages should say."""

import numpy as np
import pytest

from xbd.abi import Frames
from xbd.guest.workload.holdings import CHUNK_SLOTS, Holdings, Pool

GFNS = 40 * CHUNK_SLOTS


def gfns(first: int, count: int) -> Frames:
    """Name some gfns in a row."""
    return np.arange(first, first + count, dtype=np.int64)


def test_words_differ_between_slots_pools_and_generations() -> None:
    """No two pages held over time should say the same, though they lie in the same gfn."""
    holdings = Holdings(GFNS, seed=1)
    rng = np.random.default_rng(0)
    seen: set[int] = set()
    for _ in range(5):
        holdings.place(Pool.ANON, gfns(0, 700))
        words = holdings.words_of(gfns(0, 700)).tolist()
        assert len(set(words)) == 700
        assert seen.isdisjoint(words)
        seen.update(words)
        holdings.forget(holdings.pick(Pool.ANON, 700, rng, 0.5))
    assert 0 not in seen, "a scrubbed page must not look right"


def test_two_guests_say_different_words() -> None:
    """The seed makes a guest's words its own."""
    words = []
    for seed in (1, 2):
        holdings = Holdings(GFNS, seed)
        holdings.place(Pool.ANON, gfns(0, 100))
        words.append(set(holdings.words_of(gfns(0, 100)).tolist()))
    assert words[0].isdisjoint(words[1])


def test_a_moved_page_keeps_its_word() -> None:
    """The word belongs to the slot, not to the gfn."""
    holdings = Holdings(GFNS, seed=1)
    holdings.place(Pool.CACHE, gfns(0, 10))
    words = holdings.words_of(gfns(0, 10))
    holdings.move(gfns(3, 4), gfns(1000, 4))
    assert (holdings.words_of(gfns(1000, 4)) == words[3:7]).all()
    assert set(holdings.held().tolist()) == {0, 1, 2, 7, 8, 9, 1000, 1001, 1002, 1003}
    assert holdings.check() == []


def some_of(pages: set[int], most: int, rng: np.random.Generator) -> Frames:
    """Choose up to *most* of *pages*: anywhere and in any order, or neighbours that come one after the other."""
    ordered = np.array(sorted(pages), dtype=np.int64)
    count = int(rng.integers(0, most + 1))
    return rng.permutation(ordered)[:count] if rng.random() < 0.5 else ordered[:count]


@pytest.mark.parametrize("words", [True, False])
@pytest.mark.parametrize("seed", range(6))
def test_random_use_matches_dicts(seed: int, *, words: bool) -> None:
    """Placing, freeing and moving agree with one dict of gfn to word per pool; the table never overflows."""
    rng = np.random.default_rng(seed)
    holdings = Holdings(GFNS, seed, words=words)
    model: dict[Pool, dict[int, int]] = {pool: {} for pool in Pool}
    free = set(range(GFNS))

    def words_of(gfns: Frames) -> list[int]:
        return holdings.words_of(gfns).tolist() if words else [0] * gfns.size

    for _ in range(300):
        pool = Pool(int(rng.integers(len(Pool))))
        most = int(rng.choice([1, 10, 600, 5000]))
        what = rng.random()
        if what < 0.5:
            some = some_of(free, most, rng)
            holdings.place(pool, some)
            free.difference_update(some.tolist())
            model[pool].update(zip(some.tolist(), words_of(some), strict=True))
        elif what < 0.6:
            old = some_of(set(model[pool]), min(most, len(free)), rng)
            new = rng.permutation(np.array(sorted(free), dtype=np.int64))[: old.size]
            holdings.move(old, new)
            free.difference_update(new.tolist())
            free.update(old.tolist())
            moved = [model[pool].pop(gfn) for gfn in old.tolist()]
            model[pool].update(zip(new.tolist(), moved, strict=True))
        else:
            wanted = int(rng.integers(0, most + 1))
            picked = holdings.pick(pool, wanted, rng, float(rng.random()))
            assert (picked.words is not None) == words
            assert picked.gfns.size == min(wanted, len(model[pool]))
            found = [0] * picked.gfns.size if picked.words is None else picked.words.tolist()
            for gfn, word in zip(picked.gfns.tolist(), found, strict=True):
                assert model[pool].pop(gfn) == word
            holdings.forget(picked)
            free.update(picked.gfns.tolist())
        assert holdings.pages == [len(model[pool]) for pool in Pool]
    assert holdings.check() == []
    assert set(holdings.held().tolist()) == set().union(*model.values())


def test_many_small_frees_do_not_use_the_table_up() -> None:
    """Chunks that frees left partly filled are freed first once there are many of them."""
    holdings = Holdings(GFNS, seed=3, words=False)
    rng = np.random.default_rng(3)
    holdings.place(Pool.ANON, gfns(0, GFNS))
    for _ in range(2000):
        picked = holdings.pick(Pool.ANON, 7, rng, 0.5)
        assert picked.words is None
        holdings.forget(picked)
        holdings.place(Pool.ANON, picked.gfns)
    assert holdings.pages[Pool.ANON] == GFNS
    assert holdings.check() == []
