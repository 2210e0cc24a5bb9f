"""Sharing a host out by demand."""

from hypothesis import given
from hypothesis import strategies as st

from xbd.policy import Share, share_out

_PAGES = st.integers(0, 5000)
_SHARES = st.lists(
    st.builds(lambda n, w, low, extra: Share(n, w, low, low + extra), _PAGES, _PAGES, st.integers(1, 500), _PAGES),
    min_size=1,
    max_size=6,
)


@given(_SHARES, st.integers(0, 20_000), st.sampled_from([1, 7, 512]))
def test_never_promises_memory_twice(shares: list[Share], host_pages: int, granularity: int) -> None:
    """The targets' sum exceeds the host only where the domains' least do, and each is within its bounds."""
    targets = share_out(host_pages, shares, granularity)
    least = [-(-min(s.least, s.most) // granularity) * granularity for s in shares]

    assert sum(targets) <= max(host_pages, sum(least))
    for target, share, low in zip(targets, shares, least, strict=True):
        assert low <= target <= max(share.most, low)
        assert target % granularity == 0


@given(_SHARES, st.integers(0, 20_000))
def test_gives_everybody_what_it_asks_when_all_fits(shares: list[Share], spare: int) -> None:
    """A host that holds all demand gives each domain just its demand within its bounds, and keeps the rest."""
    full = [max(min(s.needed + s.wanted, s.most), s.least) for s in shares]

    assert share_out(sum(full) + spare, shares) == full


def test_page_cache_shrinks_before_anything_else() -> None:
    """With too little for all, what is needed is met and the caches get the rest in equal fractions."""
    shares = [Share(1000, 1000, 1, 4000), Share(1000, 3000, 1, 4000)]

    assert share_out(4000, shares) == [1500, 2500]
