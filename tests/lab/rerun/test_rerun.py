"""What was recorded of a host, done again on another: the same answers, or the differences counted."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import IO

import numpy as np
import pytest
from click.testing import CliRunner, Result

from tests.machine.test_machine_model import Chaos
from xbd import abi
from xbd.cli.main import main
from xbd.control.series_read import runs_of
from xbd.daemons.recorder import RecordedMachine, Recorder
from xbd.errors import ConfigError
from xbd.machine import HostSettings
from xbd.machine.nodes import Nodes


def record(path: Path, seed: int = 3, steps: int = 60) -> None:
    """Record a random run of a small host, held against its model."""
    machine = RecordedMachine(5, Recorder(path), settings=HostSettings())
    chaos = Chaos(HostSettings(), seed, machine)
    for _ in range(steps):
        chaos.step()
    machine.end_recording()


def rerun(*arguments: str | Path) -> Result:
    """Run `xbd rerun`."""
    return CliRunner().invoke(main, ["rerun", *map(str, arguments)])


@pytest.mark.parametrize("seed", range(4))
def test_the_same_again(tmp_path: Path, seed: int) -> None:
    """On a host of the same settings every answer and the end are the recorded ones."""
    record(tmp_path / "r", seed)
    result = rerun(tmp_path / "r", "--audit", "7", "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert (told["different"], told["violations"], told["truncated_line"]) == ({}, [], None)
    assert told["end"] == told["recorded_end"]
    assert sum(told["done"].values()) > 40


def test_a_recording_becomes_a_series(tmp_path: Path) -> None:
    """Its moments are in order, the last one after its last line, and is the end that was recorded."""
    record(tmp_path / "r", steps=150)
    result = rerun(tmp_path / "r", "--series", tmp_path / "r.csv", "--json")
    assert result.exit_code == 0, result.output
    ((run, moments),) = runs_of((tmp_path / "r.csv").read_text().splitlines(keepends=True)).items()
    lines = len((tmp_path / "r").read_text().splitlines())
    end = json.loads(result.stdout)["end"]
    assert (run, [one.t_s for one in moments]) == ("r", [*map(float, range(100, lines + 1, 100)), float(lines + 1)])
    assert moments[-1].host["free_pages"] == end["free_frames"]
    assert moments[-1].host["superpages"] == sum(end["leaves"].values())


def test_a_domain_that_was_renamed_leaves_its_name_to_another_one(tmp_path: Path) -> None:
    """It is recorded, so that who is called so next is not refused when it is done again."""
    machine = RecordedMachine(5, Recorder(tmp_path / "r"), settings=HostSettings())
    first = machine.create("web", max_pages=512, target_pages=512)
    machine.rename(first, "www")
    machine.create("web", max_pages=512, target_pages=512)
    machine.end_recording()
    result = rerun(tmp_path / "r", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["done"] == {"create": 2, "rename": 1}


def test_a_host_of_several_nodes_is_the_same_again(tmp_path: Path) -> None:
    """Its nodes, affinities, claim sets, what went offline, and requests by node are recorded, too."""
    machine = RecordedMachine(6, Recorder(tmp_path / "r"), nodes=Nodes((3, 3), ((10, 30), (30, 10))))
    machine.create("web", max_pages=2048, target_pages=512, nodes=[1], is_hard=True)
    machine.claim_set(1, [(512, 1), (512, None)])
    machine.execute(1, abi.Populate(np.arange(512, 600), node=1, exact=True))
    machine.go_offline(0, 1024)
    machine.come_online(0, 512)
    machine.execute(1, abi.Populate(np.arange(1024, 1100), node=0))
    machine.end_recording()
    result = rerun(tmp_path / "r", "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["done"] == {"create": 1, "claim_set": 1, "populate": 2, "go_offline": 1, "come_online": 1}
    assert (told["different"], told["end"]) == ({}, told["recorded_end"])
    lines = (tmp_path / "r").read_text().splitlines()
    for wrong in ({"superframes": [3, 3]}, {"superframes": [3, "3"], "distances": []}, 7):
        (tmp_path / "wrong").write_text("\n".join([json.dumps({**json.loads(lines[0]), "nodes": wrong}), *lines[1:]]))
        assert rerun(tmp_path / "wrong").exit_code == 1


def test_under_other_settings(tmp_path: Path) -> None:
    """Differences are counted and shown, and are no failure where they were asked for."""
    record(tmp_path / "r")
    result = rerun(tmp_path / "r", "--set", "populate_depopulate=false", "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["different"]["populate_depopulate"] > 0
    assert told["first_differences"][0]["now"]["errno"] == "EOPNOTSUPP"
    assert "answered otherwise" in rerun(tmp_path / "r", "--strategy", "stock").output
    assert rerun(tmp_path / "r", "--memory", "4m").exit_code == 0


def test_an_answer_that_is_not_the_recorded_one_is_a_failure(tmp_path: Path) -> None:
    """Exit 1, with the line."""
    record(tmp_path / "r")
    lines = (tmp_path / "r").read_text().splitlines()
    number = next(n for n, line in enumerate(lines) if '"operation":"decrease"' in line and '"errno"' not in line)
    lines[number] = json.dumps(json.loads(lines[number]) | {"answer": [511, "EBUSY"]})
    (tmp_path / "r").write_text("\n".join(lines) + "\n")
    result = rerun(tmp_path / "r")
    assert result.exit_code == 1
    assert f'line {number + 1}: decrease: [511, "EBUSY"] recorded' in result.output


def test_a_recording_that_was_cut_short_is_done_up_to_there(tmp_path: Path) -> None:
    """A killed daemon leaves half a line and no end: that is said, and is no failure."""
    record(tmp_path / "r")
    text = (tmp_path / "r").read_text()
    (tmp_path / "r").write_text(text[: text.rindex("\n", 0, -200) + 30])
    result = rerun(tmp_path / "r")
    assert result.exit_code == 0, result.output
    assert "was cut short" in result.output
    assert "ends without a word" in result.output


BROKEN = {
    "empty": ("", "is empty"),
    "no header": ('{"n": 1}\n', "does not describe a host"),
    "garbage": ("garbage\n", "line 1: not JSON"),
    "unknown settings": ('{"format":1,"superframes":5,"settings":{"a":1},"xbd":"0"}\n', "settings.a: is not a key"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_no_recording_is_refused_in_a_sentence(tmp_path: Path, name: str) -> None:
    """Exit 1; it is said what was found and what was expected."""
    text, said = BROKEN[name]
    (tmp_path / "r").write_text(text)
    result = rerun(tmp_path / "r")
    assert result.exit_code == 1
    assert said in result.output


@pytest.mark.parametrize(
    "line", ['{"n":1,"domain":1,"operation":"x"}', '{"do":"x","domain":1}', '{"do":"create","domain":1}']
)
def test_a_broken_line_in_the_middle_is_named(tmp_path: Path, line: str) -> None:
    """With its number."""
    record(tmp_path / "r", steps=5)
    header = (tmp_path / "r").read_text().splitlines()[0]
    (tmp_path / "r").write_text(f"{header}\n{line}\n{line}\n")
    result = rerun(tmp_path / "r")
    assert result.exit_code == 1
    assert "line 2:" in result.output


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("home_fill=sometimes", 'home_fill: \'sometimes\' is not one of "always", "populate_depopulate", "never"'),
        ("coalesce=1", "coalesce: '1' is not true or false"),
        ("nosuch=true", "nosuch: is not a key of this section; known are populate_depopulate, exchange_translated, "),
        ("coalesce", "coalesce: '' is not true or false"),
    ],
)
def test_a_setting_that_does_not_exist_is_refused(tmp_path: Path, override: str, said: str) -> None:
    """With those that do."""
    record(tmp_path / "r", steps=5)
    result = rerun(tmp_path / "r", "--set", override)
    assert result.exit_code == 1
    assert f"--set.{said}" in result.output


class FullDisk:
    """A file whose disk is full after a few lines; it does nothing but fail, as the kernel would."""

    def __init__(self, file: IO[str], lines: int) -> None:
        self._file, self._left = file, lines

    def write(self, text: str) -> int:
        """Write, while there is room."""
        if not self._left:
            raise OSError(28, "No space left on device")
        self._left -= 1
        return self._file.write(text)

    def flush(self) -> None:
        """Flush."""
        self._file.flush()

    def close(self) -> None:
        """Close."""
        self._file.close()


def test_a_full_disk_ends_the_recording_and_not_the_host(tmp_path: Path) -> None:
    """The machine goes on; what was written before can be done again."""
    recorder = Recorder(tmp_path / "r")
    assert recorder._file is not None
    recorder._file = FullDisk(recorder._file, 3)  # type: ignore[assignment]  # all that is used of a file
    machine = RecordedMachine(5, recorder)
    domid = machine.create("web", max_pages=1024, target_pages=1024)
    for gfn in range(5):
        assert machine.execute(domid, abi.Decrease(np.array([gfn], dtype=np.int64))) == abi.MemopResult(1)
    machine.end_recording()
    assert machine.audit() == []
    assert len((tmp_path / "r").read_text().splitlines()) == 3


def test_a_recording_is_not_written_over(tmp_path: Path) -> None:
    """The file must be new."""
    (tmp_path / "r").write_text("precious")
    with pytest.raises(ConfigError, match="exists"):
        Recorder(tmp_path / "r")


_HEAD = json.dumps({"format": 1, "superframes": 2, "settings": asdict(HostSettings()), "xbd": "0"})


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["[" * 100_000], "not JSON"),
        ([_HEAD.replace(": 2,", f": {1 << 60},")], "does not describe a host of at most"),
        ([_HEAD.replace('"always"', '["always"]')], "settings.home_fill: ['always'] is not one of"),
        ([_HEAD, '{"do": ["create"], "domain": 1}'], "do ['create']"),
        ([_HEAD, '{"do": "create", "domain": 1, "name": [1], "max_pages": 512, "target_pages": 512}'], "name is [1]"),
        ([_HEAD, '{"do": "set_target", "domain": 1, "target_pages": 1e300}'], "target_pages is 1e+300"),
        ([_HEAD, '{"do": "reboot", "domain": 1, "contacts": 5}'], "unknown parameter 'contacts'"),
        (
            [_HEAD, '{"domain": 1, "operation": "load", "gfns": [[0, 65000, 1], [0, 65000, 1]]}'],
            "at most 65536 numbers",
        ),
        ([_HEAD, f'{{"domain": 1, "operation": "load", "gfns": [{1 << 80}]}}'], "at most 65536 numbers"),
        ([_HEAD, '{"end": 5}'], "an end of 5"),
        ([_HEAD, "x" * (1 << 24)], "longer than any operation"),
    ],
    ids=range(11),
)
def test_a_hostile_recording_is_refused_in_a_sentence(tmp_path: Path, lines: list[str], said: str) -> None:
    """Depth, absurd sizes, values of other types: exit 1 with what is wrong, no traceback, no memory for it."""
    (tmp_path / "r").write_text("\n".join(lines) + "\n")
    result = rerun(tmp_path / "r")
    assert (result.exit_code, type(result.exception)) == (1, SystemExit)
    assert said in result.stderr
