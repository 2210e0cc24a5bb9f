"""The keys of all files as `describe` lists them, held against the files that come along."""

from pathlib import Path

import pytest

from xbd.cli.settings_view import describe
from xbd.config.autoballoon import AutoballoonFile
from xbd.config.host import HostFile
from xbd.lab.arena.plan import ArenaFile
from xbd.lab.experiments.plan import ExperimentFile

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.mark.parametrize(
    ("kind", "file"),
    [
        (HostFile, "small"),
        (AutoballoonFile, "autoballoon"),
        (ExperimentFile, "experiments/debate"),
        (ArenaFile, "experiments/arena"),
    ],
)
def test_every_key_has_a_meaning_and_is_in_the_file_that_shows_all(kind: type, file: str) -> None:
    """What is declared is described, and written of in the shipped file; the driver's keys are in the documents alone."""
    text = (CONFIGS / f"{file}.toml").read_text()
    rows = list(describe(kind))
    assert [row.key for row in rows if not (row.doc and row.expected)] == []
    own = [row.key for row in rows if ".driver." not in row.key]
    assert [key for key in own if key.rpartition(".")[2] not in text] == []
