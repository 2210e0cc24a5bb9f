"""Which of several agent processes plays which guest."""

import pytest

from xbd.abi import MAX_DOMAINS
from xbd.control.agent_share import EVERY_GUEST, AgentShare


@pytest.mark.parametrize("count", [1, 2, 3, 7, 64, 256])
def test_each_domain_is_of_one_share(count: int) -> None:
    """Whatever its number, dom0's and the last one's included; a single share has all."""
    shares = [AgentShare(index, count) for index in range(count)]
    for domid in (*range(2000), MAX_DOMAINS - 1, MAX_DOMAINS):
        assert sum(share.holds(domid) for share in shares) == 1
    assert EVERY_GUEST.holds(0)


@pytest.mark.parametrize("stride", [1, 2, 3, 4, 10])
@pytest.mark.parametrize("count", [2, 3, 4, 8])
def test_shares_are_even_whatever_the_pattern(count: int, stride: int) -> None:
    """Of every so many domains each share has about as many: of a busy and an idle one in turn not all the busy ones."""
    domids = range(1, 1 + 500 * stride, stride)
    sizes = [sum(AgentShare(index, count).holds(domid) for domid in domids) for index in range(count)]
    assert max(sizes) - min(sizes) <= 0.05 * len(domids)
