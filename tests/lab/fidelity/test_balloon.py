"""Strategy linux-virtio against a real Linux's virtio balloon, step by step."""

import json

import pytest
from click.testing import CliRunner

from xbd.cli.main import main
from xbd.lab.fidelity.balloon import BalloonStep, Blocks, balloon_steps


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_each_step_is_near_the_real_one(seed: int) -> None:
    """Whole free blocks, and those wholly and partly ballooned, are within a tenth or six blocks of what was measured."""
    steps = balloon_steps(seed)
    assert [step.name for step in steps if not step.is_near] == []
    assert [step.ballooned_pages for step in steps] == [0, 65_536, 65_536, 3_072, 3_072, 44_032, 44_032, 44_032, 3_072]
    assert sum(step.measured is not None for step in steps) == 6


def test_the_steps_that_follow_are_run_too() -> None:
    """The program ends, and leaves blocks half ballooned; compaction makes half of these whole, and the balloon goes down."""
    before, ended, compacted, back = balloon_steps(0)[-4:]
    assert ended.blocks == before.blocks, "a ballooned page in each block keeps it broken"
    assert compacted.blocks.free - ended.blocks.free > 60
    assert compacted.blocks.wholly - ended.blocks.wholly > 60
    assert compacted.blocks.partly < 30
    assert compacted.migrated - ended.migrated > 19_000
    assert back.blocks.free > compacted.blocks.free
    assert back.blocks.wholly + back.blocks.partly < 40


def test_a_step_that_is_far_off_is_told() -> None:
    """Seven blocks of few are too many, and so is more than a tenth of many."""
    near = BalloonStep("s", Blocks(95, 6, 0), 0, 0, Blocks(100, 0, 0))
    assert near.is_near
    assert not BalloonStep("s", Blocks(95, 7, 0), 0, 0, Blocks(100, 0, 0)).is_near
    assert not BalloonStep("s", Blocks(89, 6, 0), 0, 0, Blocks(100, 0, 0)).is_near


def test_the_command_prints_the_steps() -> None:
    """As a table, with what was measured in brackets, and as JSON; with a trace it is refused."""
    table = CliRunner().invoke(main, ["fidelity", "--balloon"])
    told = json.loads(CliRunner().invoke(main, ["fidelity", "--balloon", "--json"]).stdout)
    assert "(157)" in table.stdout
    assert [step["measured"] for step in told["steps"][-3:]] == [None] * 3
    assert CliRunner().invoke(main, ["fidelity", "--balloon", "a.csv"]).exit_code == 2
    assert CliRunner().invoke(main, ["fidelity"]).exit_code == 2
