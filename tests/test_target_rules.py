"""The rules about targets: what may be set, in which order, what a guest uses, and that nobody has rules of its own."""

import re

import pytest

from tests.test_layers import MODULES, ROOT
from xbd.target_rules import Bound, broken_bound, is_reached, limit_comes_first, static_max_pages, used_pages
from xbd.units import SUPER_PAGES, round_down, round_up


@pytest.mark.parametrize(
    ("pages", "bound"),
    [(0, Bound.MINIMUM), (511, Bound.MINIMUM), (512, None), (700, None), (1024, None), (1025, Bound.MOST)],
)
def test_a_target_lies_between_minimum_and_limit(pages: int, bound: Bound | None) -> None:
    """Both are targets themselves, and what is asked for counts, not what rounding makes of it."""
    assert broken_bound(pages, 512, 1024) is bound


def test_no_target_is_nothing() -> None:
    """A domain without a minimum keeps a page."""
    assert (broken_bound(0, 0, 1024), broken_bound(1, 0, 1024)) == (Bound.MINIMUM, None)


def test_a_limit_is_never_below_the_target_that_is_being_set() -> None:
    """It is raised first and lowered last; where it stays as it is, either order will do."""
    assert [limit_comes_first(pages, 1024) for pages in (512, 1024, 1025)] == [False, False, True]


@pytest.mark.parametrize("pages", [1, 511, 512, 513, 1024])
def test_a_static_maximum_is_whole_superpages(pages: int) -> None:
    """It holds every page of the gfn space."""
    assert static_max_pages(pages) == round_up(pages)
    assert round_down(pages) <= pages <= static_max_pages(pages) < pages + SUPER_PAGES


def test_a_target_is_reached_exactly() -> None:
    """A page short is not there."""
    assert [is_reached(pages, 512) for pages in (511, 512, 513)] == [False, True, False]


@pytest.mark.parametrize(
    ("counts", "used"),
    [((9, 3, 2), 10), ((1, 1, 5), 0), ((True, 3, 2), None), ((9.0, 3, 2), None), (("9", 3, 2), None)],
)
def test_what_a_guest_uses_is_read_with_care(counts: tuple[object, ...], used: int | None) -> None:
    """A report is a guest's word: what are no numbers say nothing, and nobody uses less than nothing."""
    report = dict(zip(("movable_pages", "unmovable_pages", "cache_pages"), counts, strict=True))
    assert used_pages(report) == used
    assert used_pages(dict(list(report.items())[:2])) is None


# How a rule looked where it was written once more.
_COPIES = re.compile(
    r"-\(-\w[\w.]* // SUPER_PAGES\) \* SUPER_PAGES|(\b[\w.]+) - \1 % SUPER_PAGES|tot_pages == [\w.]*target_pages"
)
# What a simulation checks is written independently of what it checks, on purpose.
_HOMES = {"xbd/target_rules.py", "xbd/lab/simulation/checks.py"}


def test_a_rule_has_one_home() -> None:
    """Rounding to superpages and reaching a target are written in `units` and `target_rules` alone."""
    sources = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in MODULES}
    copies = {name: match[0] for name, text in sources.items() for match in _COPIES.finditer(text)}

    assert copies.keys() == _HOMES
