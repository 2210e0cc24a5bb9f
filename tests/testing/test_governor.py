"""A policy that governs a virtual host: the same guests, the same safety layer, as on a real one."""

import pytest

import xbd.testing
from xbd.config.policies import BUILT_IN
from xbd.errors import BadArgument
from xbd.guest import Demand
from xbd.guest.workload import Bursty, Driven
from xbd.policy import Settings
from xbd.testing import Host
from xbd.units import MIB_PAGES as MIB

SETTINGS = Settings(headroom_pages=16 * MIB, threshold_pages=2 * MIB)


def _three(host: Host) -> list[int]:
    return [host.add(f"web{n}", "256m", "128m", workload=Bursty(period_ticks=20 + n)) for n in range(3)]


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_policy_governs_real_guests(name: str) -> None:
    """Headroom and bounds hold, and the policy makes no trouble, while guests come and go with their bursts."""
    with xbd.testing.host("512m") as host:
        web, governor = _three(host), host.govern(name, SETTINGS)
        for _ in range(12):
            host.advance(host.now + 10)
            held = [host.machine.domain(domid).tot_pages for domid in web]
            assert min(held) >= 32 * MIB
            assert host.machine.statistics().free_frames >= 16 * MIB
        assert governor.state.trouble == ""
        assert (governor.targets > 0) is (name != "static")


def test_pressure_gives_to_who_stalls() -> None:
    """A guest whose programs wait gets more within seconds; the reason says that it stalled."""
    with xbd.testing.host("1g") as host:
        domid = host.add("worker", "512m", "128m", workload=Driven(), verify=False)
        governor = host.govern("pressure", SETTINGS, stall_grow=0.5)
        host.send(domid, Demand(200 * MIB, 0))
        host.advance(1)
        reason = governor.state.decisions[domid].reason
        assert "stall" in reason
        assert host.machine.domain(domid).target_pages == 192 * MIB


def test_a_policy_that_is_not_known_is_refused() -> None:
    """By name, with those that are known."""
    with xbd.testing.host("64m") as host, pytest.raises(BadArgument, match="no policy 'fare'"):
        host.govern("fare")
