"""The simulation fails when any of the safety mechanisms is switched off."""

import pytest

from xbd.errors import BadArgument
from xbd.lab.simulation.options import Options
from xbd.lab.simulation.outcome import run
from xbd.lab.simulation.switches import SWITCHES

# By mechanism: a seed that fails without it, and after how many events.
KNOWN: dict[str, tuple[int, int]] = {
    "answer-window": (1, 327),
    "one-session": (1, 499),
    "resend": (0, 546),
    "notice-numbers": (7, 800),
    "scrub-on-free": (0, 247),
    "scrub-on-reboot": (7, 100),
    "scrub-on-move": (1, 400),
    "frame-references": (1, 451),
    "births": (19, 782),
    "cut-off": (5, 1390),
    "zombies": (1, 777),
    "max-pages": (23, 303),
    "claims": (5, 859),
    "node-claims": (4, 800),
    "redemption": (3, 1080),
    "same-node": (6, 770),
    "eexist": (1, 68),
    "home-uniqueness": (6, 920),
    "undo-p2m": (19, 200),
    "undo-content": (4, 932),
    "undo-session": (0, 2137),
    "undo-grants": (1, 298),
    "multicall-step": (18, 907),
    "undo-limits": (14, 480),
    "changes": (0, 100),
    "commit": (0, 419),
    "lives": (0, 1366),
    "policy-guard": (20, 199),
    "policy-bounds": (35, 1389),
    "isolation": (0, 247),
}
# A change of the code may change which seed fails; then one of these many others does.
OTHERS = 40
EVENTS_OF_OTHERS = 4000


def first_found(name: str) -> Options | None:
    """Search for a run that fails without a mechanism; the known seed comes first."""
    known, events = KNOWN[name]
    for seed, most in ((known, events + 100), *((seed, EVENTS_OF_OTHERS) for seed in range(OTHERS))):
        options = Options(seed, events=most, off=(name,))
        if run(options).violation is not None:
            return options
    return None


def test_each_switch_has_a_known_seed() -> None:
    """Every switch has an entry in KNOWN."""
    assert KNOWN.keys() == SWITCHES.keys()


@pytest.mark.slow
@pytest.mark.parametrize("name", KNOWN)
def test_a_mechanism_that_is_switched_off_is_missed(name: str) -> None:
    """A run fails without the mechanism, and the same run finds nothing with it."""
    found = first_found(name)

    assert found is not None
    assert run(Options(found.seed, events=found.events)).violation is None


def test_a_switch_is_off_no_longer_than_its_run() -> None:
    """A run without a mechanism leaves nothing behind: the next run is as it was before."""
    before = run(Options(1, events=300))
    run(Options(1, events=300, off=("answer-window", "one-session", "births", "zombies", "commit")))

    assert run(Options(1, events=300)) == before


def test_an_unknown_switch_is_refused() -> None:
    """The refusal lists the known switches."""
    with pytest.raises(BadArgument, match="no switch 'gravity'") as refused:
        run(Options(1, off=("gravity",)))

    assert "answer-window" in refused.value.expected
