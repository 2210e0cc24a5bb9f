"""`xbd.testing.host`, the host for tests."""

import pytest

import xbd.testing
from xbd.config.strategies import STRATEGIES
from xbd.errors import BadArgument, BadSize, OutOfFrames
from xbd.guest import ModeSet, parse_mode
from xbd.units import MIB_PAGES


def test_time_moves_only_in_advance() -> None:
    """A stuck guest never reaches its target; made normal again, it does without an advance of time."""
    with xbd.testing.host("1g") as host:
        guest = host.add("web", "512m")
        host.send(guest, ModeSet(parse_mode("stuck")))
        host.set_target(guest, 256 * MIB_PAGES)
        host.advance(1000)
        assert host.machine.domain_info(guest).tot_pages == 512 * MIB_PAGES

        host.send(guest, ModeSet(parse_mode("normal")))
        assert host.now == 1000
        assert host.machine.domain_info(guest).tot_pages == 256 * MIB_PAGES


def test_the_end_is_audited() -> None:
    """A frame that is lost inside the block fails it at its end."""

    def lose_a_frame() -> None:
        with xbd.testing.host("1g") as host:
            guest = host.add("web", "512m")
            host.machine.domain(guest).tot_pages -= 1

    with pytest.raises(AssertionError, match="does not add up"):
        lose_a_frame()


def test_a_full_host_refuses_another_guest() -> None:
    """A guest that does not fit is refused, and the other one is undisturbed."""
    with xbd.testing.host("1g") as host:
        host.add("a", "768m")
        with pytest.raises(OutOfFrames):
            host.add("b", "512m")
        assert host.domids() == [1]


@pytest.mark.parametrize(
    ("name", "hint"),
    [("fulll", "; did you mean 'full'?"), ("foo", ""), ("", ""), (None, ""), (["full"], "; did you mean 'full'?")],
)
def test_an_unknown_strategy_is_refused_with_the_known_ones(name: object, hint: str) -> None:
    """The refusal quotes the name, suggests a close one if there is one, and lists all strategies."""
    with pytest.raises(BadArgument) as refused, xbd.testing.host("1g", strategy=name):  # type: ignore[arg-type]  # whatever is passed
        pass

    assert refused.value.message == f"no strategy {name!r}{hint}"
    assert refused.value.expected == f"one of {', '.join(STRATEGIES)}"


def test_an_unknown_workload_is_refused_with_the_known_ones() -> None:
    """The refusal of a profile lists the profiles, and no guest is made."""
    with xbd.testing.host("1g") as host:
        with pytest.raises(BadArgument, match="no workload 'stedy'; did you mean 'steady'") as refused:
            host.add("web", "512m", workload="stedy")

        assert "steady" in refused.value.expected
        assert host.domids() == []


def test_what_is_public_is_listed() -> None:
    """The public names of `xbd.testing` are those of the documents."""
    assert xbd.testing.__all__ == ["Host", "host"]


@pytest.mark.parametrize("size", ["3m", 3, 5, 1.5, None, True, "", "1k", b"2m", "many"], ids=repr)
def test_a_size_is_never_rounded(size: object) -> None:
    """What is no multiple of 2 MiB, or no size, is refused by a sentence, wherever a size is given; nothing is made."""
    with pytest.raises(BadSize, match="invalid memory size"), xbd.testing.host(size):  # type: ignore[arg-type]  # whatever is passed
        pass
    with xbd.testing.host(16) as host:
        with pytest.raises(BadSize, match="invalid memory size"):
            host.add("a", size)  # type: ignore[arg-type]  # as above
        with pytest.raises(BadSize, match="invalid memory size"):
            host.add_dom0(size)  # type: ignore[arg-type]  # as above
        if size is not None:
            with pytest.raises(BadSize, match="invalid memory size"):
                host.add("a", "8m", size)  # type: ignore[arg-type]  # as above
        assert host.domids() == []
        assert host.machine.statistics().frames == 16 * 256
