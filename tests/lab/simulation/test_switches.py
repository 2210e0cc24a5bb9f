"""The simulation fails when any of the safety mechanisms is switched off."""

import pytest

from xbd.errors import BadArgument
from xbd.lab.simulation.options import Options
from xbd.lab.simulation.outcome import run
from xbd.lab.simulation.shell.daemon_switches import DAEMON_SWITCHES
from xbd.lab.simulation.switches import SWITCHES, switched_off
from xbd.machine import grants

# By mechanism: a seed that fails without it, and after how many events.
KNOWN: dict[str, tuple[int, int]] = {
    "answer-window": (1, 327),
    "one-session": (1, 499),
    "resend": (0, 430),
    "notice-numbers": (35, 600),
    "scrub-on-free": (0, 247),
    "scrub-on-reboot": (7, 600),
    "scrub-on-move": (1, 296),
    "frame-references": (1, 451),
    "births": (19, 782),
    "cut-off": (21, 300),
    "zombies": (1, 749),
    "max-pages": (23, 471),
    "claims": (5, 1702),
    "eexist": (1, 270),
    "home-uniqueness": (15, 845),
    "undo-p2m": (18, 331),
    "undo-content": (4, 932),
    "undo-session": (0, 2137),
    "undo-grants": (1, 298),
    "undo-limits": (14, 479),
    "commit": (0, 419),
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


def test_a_switch_replaces_a_part_that_is_public() -> None:
    """No switch reaches for a private name: a refactoring inside a module cannot switch a switch off."""
    switches = [*SWITCHES.items(), *DAEMON_SWITCHES.items()]
    private = [(name, part) for name, one in switches for _, part, _ in one.patches if part.startswith("_")]

    assert private == []


@pytest.mark.slow
@pytest.mark.parametrize("name", KNOWN)
def test_a_mechanism_that_is_switched_off_is_missed(name: str) -> None:
    """A run fails without the mechanism, and the same run finds nothing with it."""
    found = first_found(name)

    assert found is not None
    assert run(Options(found.seed, events=found.events)).violation is None


def test_a_switch_is_off_no_longer_than_its_run() -> None:
    """The original is restored also after an exception."""
    there = grants.cut_off

    def fail() -> None:
        with switched_off(["cut-off"]):
            assert grants.cut_off is not there
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()

    assert grants.cut_off is there


def test_an_unknown_switch_is_refused() -> None:
    """The refusal lists the known switches."""
    with pytest.raises(BadArgument, match="no switch 'gravity'") as refused, switched_off(["gravity"]):
        pass

    assert "answer-window" in refused.value.expected
