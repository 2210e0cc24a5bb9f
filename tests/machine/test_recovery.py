"""A machine that dies at any instant: what was done is there, what was under way is not."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.machine.crashing import CrashingMachine
from tests.machine.test_grants_model import HOSTS, STEPS, TYPES, Play, Step
from tests.machine.test_machine_model import SETTINGS, SUPERFRAMES, Chaos
from xbd.machine import HostSettings
from xbd.storage.image import Kind


@pytest.mark.slow
@pytest.mark.parametrize("name", SETTINGS)
def test_dying_in_the_middle_of_random_operations(name: str) -> None:
    """Before each of many random operations a copy dies in the middle of it, and is as before the operation."""
    machine = CrashingMachine(SUPERFRAMES, SETTINGS[name], seed=1)
    chaos = Chaos(SETTINGS[name], seed=5, machine=machine)
    for _ in range(60):
        chaos.step()
    for domid in list(chaos.twin.model.domains):
        chaos.twin.destroy(domid)
    assert machine.deaths > 10
    assert machine.store.kept() == {(Kind.HOST, 0), (Kind.CHECK, 0)}


@pytest.mark.slow
@settings(max_examples=5)
@given(
    superframes=st.integers(4, 8),
    host=st.sampled_from(HOSTS),
    seed=st.integers(0, 100),
    steps=st.lists(STEPS, min_size=20, max_size=25),
)
def test_dying_while_domains_share(superframes: int, host: HostSettings, seed: int, steps: list[Step]) -> None:
    """Grants, mappings, references, zombies and messages are as before the step in the middle of which a copy died."""
    play = Play(superframes, host, TYPES, CrashingMachine(superframes, host, seed))
    for who in (1, 2, 3):
        play.step(Step("create", who, who, 0, 1, odd=False))
    for step in steps:
        play.step(step)
