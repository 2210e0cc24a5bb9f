"""A policy that governs a virtual host: the same guests, the same safety layer, as on a real one."""

from pathlib import Path

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


@pytest.mark.parametrize(
    ("does", "says"),
    [
        ("raise ValueError('no')", "it raised ValueError: no"),
        pytest.param("while True: pass", "it did not answer within 1 s", marks=pytest.mark.slow),
        ("return None, 7", "it raised TypeError"),
        ("return None, [7]", "it raised AttributeError"),
        ("return None, [SetTarget(99, 512)]", "it set a target of domain 99, which it was not shown"),
        ("return None, [SetTarget(domid, float('nan'))]", "to nan, not 0 to"),
        ("return None, [SetTarget(domid, -1)]", "to -1, not 0 to"),
        ("return None, [SetTarget(domid, 1 << 60)]", "to 1152921504606846976, not 0 to"),
        ("return None, [SetTarget(domid, 'much')]", "to 'much', not 0 to"),
    ],
)
def test_a_strangers_policy_that_fails_harms_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, does: str, says: str
) -> None:
    """Whatever it does in its process, its trouble is told, guests keep what they have, and the test goes on."""
    (tmp_path / "fails.py").write_text(
        "from xbd.policy import SetTarget\nclass Mine:\n    def step(self, state, snapshot, now):\n"
        f"        domid = snapshot.domains[0].domid\n        {does}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with xbd.testing.host("512m") as host:
        web, governor = _three(host), host.govern("fails:Mine", SETTINGS)
        host.advance(3)
        assert says in governor.state.trouble
        assert [host.machine.domain(domid).target_pages for domid in web] == [128 * MIB] * 3


def test_a_policy_that_is_not_known_is_refused() -> None:
    """By name, with those that are known."""
    with xbd.testing.host("64m") as host, pytest.raises(BadArgument, match="no policy 'fare'"):
        host.govern("fare")
