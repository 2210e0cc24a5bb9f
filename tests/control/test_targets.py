"""Which domains and how much memory are meant."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.cli.views import MIB, domain
from xbd.control.targets import BadRequest, can_be_destroyed, choose, is_any, is_guest, parse_amount, plan, round_pages
from xbd.domain import DomainInfo
from xbd.units import SUPER_PAGES

DOMAINS = [
    domain(domid=1, name="web1"),
    domain(domid=2, name="web2"),
    domain(domid=7, name="db"),
    domain(domid=8, name="odd[1]*"),
]


@pytest.mark.parametrize(
    ("names", "domids"),
    [
        (["web1"], [1]),
        (["7"], [7]),
        (["web*"], [1, 2]),
        (["*"], [1, 2, 7, 8]),
        (["db", "web?", "1", "db"], [1, 2, 7]),
        (["web[2-9]"], [2]),
        (["odd[1]*"], [8]),
    ],
)
def test_domains_are_meant_by_name_number_or_pattern(names: list[str], domids: list[int]) -> None:
    """Each once, in the order of domids; a name that looks like a pattern means itself, too."""
    assert [chosen.domid for chosen in choose(DOMAINS, names)] == domids


WITH_DOM0 = [
    domain(domid=0, name="dom0", min_pages=128 * MIB),
    *DOMAINS,
    domain(domid=9, name="web9", state="zombie"),
]


@pytest.mark.parametrize(
    ("names", "meant", "domids"),
    [
        (["*"], is_guest, [1, 2, 7, 8]),
        (["*"], can_be_destroyed, [1, 2, 7, 8, 9]),
        (["*"], is_any, [0, 1, 2, 7, 8, 9]),
        (["dom0"], is_guest, [0]),
        (["Domain-0"], is_guest, [0]),
        (["0", "web*"], is_guest, [0, 1, 2]),
        (["9"], is_guest, [9]),
        (["web9"], can_be_destroyed, [9]),
        (["web9"], is_any, [9]),
    ],
)
def test_a_pattern_means_guests(names: list[str], meant: Callable[[DomainInfo], bool], domids: list[int]) -> None:
    """Whoever changes all guests by a pattern changes neither dom0 nor what is left of the dead; who looks sees all."""
    assert [chosen.domid for chosen in choose(WITH_DOM0, names, meant)] == domids


def test_a_zombie_has_lost_its_name() -> None:
    """A new domain may have it by now; who changes something finds the zombie by its number."""
    with pytest.raises(BadRequest, match="web9 is an invalid domain identifier"):
        choose(WITH_DOM0, ["web9"])


def test_a_target_below_the_minimum_is_refused() -> None:
    """Nothing is planned for any domain, and the sentence names the minimum."""
    with pytest.raises(BadRequest, match="dom0: 64m is less than its minimum, 128 MiB"):
        plan(WITH_DOM0[:2], parse_amount("64m"))


@pytest.mark.parametrize("name", ["nosuch", "web", "9", "WEB1", "", "9" * 5000])
def test_an_unknown_name_is_refused_in_xls_words(name: str) -> None:
    """Scripts look for them."""
    with pytest.raises(BadRequest) as refusal:
        choose(DOMAINS, ["web1", name])
    assert str(refusal.value).startswith(f"{name} is an invalid domain identifier")


def test_a_pattern_that_matches_nothing_is_refused() -> None:
    """Silence would look like success."""
    with pytest.raises(BadRequest, match=r"no domain matches 'x\*'"):
        choose(DOMAINS, ["x*"])


@pytest.mark.parametrize("text", ["256x", "", "m", "0", "0%", "101%", "-1%", "%", "50%%", "x%"])
def test_no_size_is_refused_in_xls_words(text: str) -> None:
    """What xl accepts by mistake is refused with the same words."""
    with pytest.raises(BadRequest) as refusal:
        parse_amount(text)
    assert str(refusal.value).startswith(f"invalid memory size: {text};")


def test_a_percentage_is_of_the_static_maximum() -> None:
    """Whatever the domain holds now, or may hold now."""
    half = plan([domain(tot_pages=0, max_pages=2 * MIB), domain(gfn_count=1024 * MIB)], parse_amount("50%"))
    assert [change.target.pages for change in half] == [256 * MIB, 512 * MIB]


def test_an_odd_gfn_space_counts_whole_superframes() -> None:
    """A trace's guest has some pages over; its static maximum is rounded up as the machine's is."""
    assert domain(gfn_count=512 * MIB - 3).static_max_pages == 512 * MIB
    assert plan([domain(gfn_count=512 * MIB - 3)], parse_amount("512m"))[0].target.exact


def test_rounding_says_from_what_to_what() -> None:
    """Down to 2 MiB, up where that would be nothing."""
    assert str(round_pages(255 * MIB)) == "254 MiB (255 MiB rounded to a multiple of 2 MiB)"
    assert str(round_pages(1)) == "2 MiB (4 KiB rounded to a multiple of 2 MiB)"
    assert str(round_pages(256 * MIB)) == "256 MiB"


@pytest.mark.parametrize("text", ["514m", "513m", "1t"])
def test_beyond_the_static_maximum_is_refused_in_xls_words(text: str) -> None:
    """Nothing is planned for anybody then, even if rounding would make it fit."""
    with pytest.raises(BadRequest, match="memory_dynamic_max must be less than or equal to memory_static_max"):
        plan([domain(gfn_count=4096 * MIB), domain()], parse_amount(text))


def test_only_what_needs_a_higher_limit_grows() -> None:
    """Below the limit the target goes first, above it the limit."""
    seen = domain(tot_pages=100 * MIB, max_pages=300 * MIB)
    grows = [plan([seen], parse_amount(text))[0].grows for text in ("64m", "200m", "300m", "302m")]
    assert grows == [False, False, False, True]


@given(pages=st.integers(1, 1 << 30))
def test_rounding_stays_within_a_superpage(pages: int) -> None:
    """A target is whole superpages, positive, and less than one away from what was asked for."""
    rounded = round_pages(pages)
    assert rounded.pages % SUPER_PAGES == 0
    assert rounded.pages > 0
    assert abs(rounded.pages - pages) < SUPER_PAGES
