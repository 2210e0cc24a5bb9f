"""The policy in its scenarios, and each of its safety mechanisms: needed, and seen to be."""

from typing import Final

import pytest

from tests.policy.scenarios import SCENARIOS
from xbd.policy import Safety

# Which scenario turns red without it.
NEEDED_BY: Final = {
    Safety.HEADROOM: "roomy",
    Safety.BUDGET: "leftovers",
    Safety.TWO_PHASES: "a newcomer",
    Safety.CAP_MAX: "a reservation",
    Safety.HOLD_RESERVATIONS: "a reservation",
    Safety.LEAVE_OUT_STUCK: "one stuck",
    Safety.HOLD_UNREACHABLE: "a floor",
    Safety.REMEMBER_REFUSALS: "a floor",
    Safety.RETRY: "recovers late",
    Safety.BOUND_DEMAND: "absurd demand",
    Safety.ABLE_ONLY: "demand of one that cannot balloon",
    Safety.THRESHOLD: "jitter",
    Safety.MIN_INTERVAL: "seesaw",
}


@pytest.mark.parametrize("name", SCENARIOS)
def test_scenario_ends_well(name: str) -> None:
    """What must hold holds at every step and at the end, within the limit."""
    assert SCENARIOS[name].play() == []


@pytest.mark.parametrize("safety", Safety)
def test_safety_mechanism_is_needed(safety: Safety) -> None:
    """With the mechanism off its scenario turns red; with it on the same is green."""
    scenario = SCENARIOS[NEEDED_BY[safety]]

    assert scenario.play() == []
    assert scenario.play(safety)
