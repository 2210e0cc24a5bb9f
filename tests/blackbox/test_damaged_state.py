"""A state directory in which something is missing or damaged: refused in a sentence, exit 78, and left as it was."""

import io
import json
import os
import re
import signal
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.blackbox.host_directory import EX_CONFIG, run_xbd, tree, unpack
from tests.blackbox.test_fixtures import check_guests, check_host, host_on
from tests.processes import children_of, running

pytestmark = pytest.mark.slow

Damage = Callable[[Path], None]
HOST = """
[host]
memory = "32m"
runtime_dir = "run"
state_dir = "state"
[[guest]]
name = "web"
maximum = "8m"
"""
_DEEP = "[" * 100_000


def missing(name: str) -> Damage:
    """Remove a file."""
    return lambda path: (path / name).unlink()


def shortened(name: str, size_bytes: int) -> Damage:
    """Cut a file short."""
    return lambda path: os.truncate(path / name, size_bytes)


def written(name: str, text: str) -> Damage:
    """Put something else into a file."""

    def damage(path: Path) -> None:
        (path / name).write_text(text)

    return damage


def instead(name: str, make: Callable[[Path], object]) -> Damage:
    """Put something that is no file in a file's place."""

    def damage(path: Path) -> None:
        (path / name).unlink()
        make(path / name)

    return damage


def headed(name: str, told: object) -> Damage:
    """Give a section another header, whose checksum is right."""

    def damage(path: Path) -> None:
        line = told.encode() if isinstance(told, str) else json.dumps(told).encode()
        header = line + b"\n" + f"{zlib.crc32(line):08x}\n".encode()
        with (path / name).open("r+b") as file:
            file.write(header.ljust(4096, b"\0"))

    return damage


def _header(path: Path, at: int = 20) -> None:
    with (path / "daemon-0").open("r+b") as file:
        file.seek(at)
        file.write(b"X")


# What each file of a host that was killed in mid-step may have come to, and what is then said.
KILLED: dict[str, tuple[Damage, str]] = {
    "no state.json": (missing("state.json"), "state.json: is missing, though there is 'agent-1'"),
    "no undo": (missing("undo"), "undo: cannot be opened: No such file"),
    "no daemon-0": (missing("daemon-0"), "daemon-0 cannot be opened: No such file"),
    "no host-0": (missing("host-0"), "host-0 cannot be opened: No such file"),
    "no domain-3": (missing("domain-3"), "domain-3 cannot be opened: No such file"),
    "no agent-2": (missing("agent-2"), "agent-2 cannot be opened: No such file"),
    "empty undo": (shortened("undo", 0), "undo: has 0 bytes, expected at least 1048576"),
    "half an undo": (shortened("undo", 512 << 10), "undo: has 524288 bytes"),
    "empty state.json": (shortened("state.json", 0), "state.json: is damaged"),
    "empty daemon-0": (shortened("daemon-0", 0), "daemon-0: its header is damaged"),
    "half a domain": (shortened("domain-1", 1 << 20), "domain-1 has 1048576 bytes, expected 15769600"),
    "half an agent": (shortened("agent-1", 4096), "agent-1 has 4096 bytes"),
    "a changed header": (_header, "daemon-0: its header is damaged"),
    "a list": (written("state.json", "[1]"), "state.json: is damaged: it holds no map"),
    "deep": (written("state.json", _DEEP), "state.json: is damaged"),
    "a long number": (written("state.json", '{"format": ' + "9" * 5000 + "}"), "state.json: is damaged"),
    "true is no format": (written("state.json", '{"format": true}'), "state.json: format: True"),
    "committed or not": (written("state.json", '{"format": 1, "committed": "no"}'), "state.json: committed: 'no'"),
    "whose log": (written("state.json", '{"format": 1, "log": [7]}'), "state.json: log: [7]"),
    "another's log": (written("state.json", '{"format": 1, "log": 7}'), "undo: is not the log of this state"),
    "a directory": (instead("agent-1", Path.mkdir), "agent-1 cannot be opened: Is a directory"),
    "a pipe": (instead("state.json", os.mkfifo), "state.json: cannot be read: it is no regular file"),
    "a link to nothing": (instead("state.json", lambda at: at.symlink_to("gone")), "state.json: cannot be read"),
    "header of a list": (headed("daemon-0", [1, 2]), "daemon-0: its header is none of a section"),
    "header of deep text": (headed("daemon-0", "[" * 4000), "daemon-0: its header"),
    "columns of text": (
        headed("daemon-0", {"format": 1, "kind": "daemon", "number": 0, "columns": {"clients": "x"}}),
        "daemon-0: its columns make no sense",
    ),
    "columns out of all bounds": (
        headed("host-0", {"format": 1, "kind": "host", "number": 0, "columns": {"content": [1 << 70, 1 << 70]}}),
        "host-0 has 335872 bytes, expected",
    ),
    "no column": (
        headed("host-0", {"format": 1, "kind": "host", "number": 0, "columns": {"content": [40448, 1], "x": [512, 1]}}),
        "host",
    ),
}
# The same of one that ended in order.
ENDED: dict[str, tuple[Damage, str]] = {
    "no state.json": (missing("state.json"), "state.json: is missing"),
    "no daemon-0": (missing("daemon-0"), "checksums.json: is not of the sections that are there: daemon-0 is missing"),
    "no undo": (missing("undo"), "undo: cannot be opened"),
    "a list of checksums": (written("checksums.json", "[]"), "checksums.json: is damaged: it holds no map"),
    "checksums of another kind": (
        written("checksums.json", '{"host-0": {}}'),
        "checksums.json: is not of the sections",
    ),
}
CASES = [("killed", name, *told) for name, told in KILLED.items()] + [
    ("ended", name, *told) for name, told in ENDED.items()
]


def refusal(*arguments: str) -> str:
    """Run a command that is to be refused, and return the one sentence that it says."""
    done = run_xbd(*arguments)
    said = [line for line in done.stderr.splitlines() if not line.startswith("{")]
    assert (done.returncode, len(said), done.stdout) == (EX_CONFIG, 1, ""), done.stderr
    return said[0]


@pytest.mark.parametrize(("how", "name", "damage", "said"), CASES, ids=[f"{how}-{name}" for how, name, *_ in CASES])
def test_a_damaged_state_is_refused_and_left_as_it_was(
    tmp_path: Path, how: str, name: str, damage: Damage, said: str
) -> None:
    """The hypervisor says in a sentence what is wrong, exits with 78, and has changed nothing, not even added a lock."""
    del name
    state = unpack(f"state-{how}.tar.gz", tmp_path / "state")
    (state / "lock").unlink()
    damage(state)
    before = tree(state)
    arguments = ("--state-dir", str(state), "--runtime-dir", str(tmp_path / "run"))
    assert said in refusal("hypervisor", "--memory", "32m", *arguments)
    assert tree(state) == before


@pytest.mark.parametrize(
    "name", ["no state.json", "no undo", "no daemon-0", "empty undo", "a changed header", "deep", "a pipe"]
)
def test_a_damaged_state_is_not_dumped(tmp_path: Path, name: str) -> None:
    """`xbd dump` refuses what no daemon would go on with, leaves it as it was, and makes no file."""
    damage, said = KILLED[name]
    state = unpack("state-killed.tar.gz", tmp_path / "state")
    (state / "lock").unlink()
    damage(state)
    before = tree(state)
    assert said in refusal("dump", str(state), str(tmp_path / "host.dump"))
    assert tree(state) == before
    assert not (tmp_path / "host.dump").exists()


def test_a_log_of_zeros_is_not_the_log(tmp_path: Path) -> None:
    """A log that was made anew, of the right size, is found out: its state names the one that belongs to it."""
    state = unpack("state-killed.tar.gz", tmp_path / "state")
    with host_on(state, tmp_path / "run"):
        pass
    (state / "undo").write_bytes(bytes(1 << 20))
    arguments = ("--state-dir", str(state), "--runtime-dir", str(tmp_path / "run"))
    assert "undo: is not the log of this state" in refusal("hypervisor", "--memory", "32m", *arguments)


def test_what_was_put_back_is_the_host_that_it_was(tmp_path: Path) -> None:
    """A log that was missing for a while costs nothing: the step that it tells of is undone, answers are as they were."""
    state = unpack("state-killed.tar.gz", tmp_path / "state")
    (state / "undo").rename(tmp_path / "undo")
    arguments = ("--state-dir", str(state), "--runtime-dir", str(tmp_path / "run"))
    refusal("hypervisor", "--memory", "32m", *arguments)
    (tmp_path / "undo").rename(state / "undo")
    with host_on(state, tmp_path / "run") as run:
        check_host(run)
        check_guests(run)


def test_who_was_killed_before_the_first_commit_begins_anew(tmp_path: Path) -> None:
    """A state that says that nothing was ever committed is cleared; one that says nothing of it never is."""
    state = unpack("state-killed.tar.gz", tmp_path / "state")
    (state / "state.json").write_text('{"format": 1, "committed": false}')
    with host_on(state, tmp_path / "run"):
        kept = ["check-0", "daemon-0", "host-0", "lock", "manifest-0", "state.json", "undo"]
        assert sorted(path.name for path in state.iterdir()) == kept
    assert json.loads((state / "state.json").read_text())["committed"] is True


def test_up_does_not_try_again_what_is_refused(tmp_path: Path) -> None:
    """At the first start `xbd up` ends with 78, and says once what is wrong."""
    (tmp_path / "host.toml").write_text(HOST)
    state = unpack("state-killed.tar.gz", tmp_path / "state")
    (state / "daemon-0").unlink()
    done = run_xbd("up", str(tmp_path / "host.toml"))
    assert done.returncode == EX_CONFIG, done.stderr
    assert len(re.findall("daemon-0 cannot be opened", done.stderr)) == 1
    assert "giving up" in done.stderr
    assert "Traceback" not in done.stderr


def test_up_gives_up_when_the_state_was_damaged_while_it_ran(tmp_path: Path) -> None:
    """A hypervisor that is killed is started again once; that it refuses its state ends everything with 78."""
    (tmp_path / "host.toml").write_text(HOST)
    with running("up", str(tmp_path / "host.toml")) as up:
        up.wait_until_it_says("1 guests are running")
        (tmp_path / "state" / "undo").unlink()
        os.kill(children_of(up.process.pid)["hypervisor"], signal.SIGKILL)
        up.wait_until_it_says("giving up")
        up.end(signal.SIGCONT)
        assert up.process.returncode == EX_CONFIG
    said = "".join(up.said)
    assert said.count("starting it again from its state") == 1
    assert said.count("undo: cannot be opened") == 1


def _dump_with(path: Path, manifest: object) -> None:
    """Make a dump whose manifest says something else."""
    text = manifest.encode() if isinstance(manifest, str) else json.dumps(manifest).encode()
    with tarfile.open(path, "w:gz") as archive:
        member = tarfile.TarInfo("manifest.json")
        member.size = len(text)
        archive.addfile(member, io.BytesIO(text))


_FILES = {name: {"size_bytes": 0, "extents": [], "crc": 0} for name in ("undo", "host-0", "daemon-0", "state.json")}


@pytest.mark.parametrize(
    ("manifest", "said"),
    [
        ([1], "format: [1]"),
        (_DEEP, "manifest.json: is damaged"),
        ({"format": True}, "format: True"),
        ({"format": 1}, "names no files"),
        ({"format": 1, "files": [1]}, "names no files"),
        ({"format": 1, "files": {"../x": {}}}, "which is no file of a state directory"),
        ({"format": 1, "files": {**_FILES, "undo": "x"}}, "undo is described by 'x'"),
        (
            {"format": 1, "files": {**_FILES, "undo": {"size_bytes": 1 << 80, "extents": [], "crc": 0}}},
            "undo is described",
        ),
        ({"format": 1, "files": {**_FILES, "undo": {"size_bytes": 8, "extents": [[4, 9]], "crc": 0}}}, "lies outside"),
        ({"format": 1, "files": {**_FILES, "undo": {"size_bytes": 8, "extents": [7], "crc": 0}}}, "its part 7"),
        ({"format": 1, "files": {"undo": {"size_bytes": 0, "extents": [], "crc": 0}}}, "host-0 is missing"),
    ],
)
def test_a_dump_of_another_shape_is_refused(tmp_path: Path, manifest: object, said: str) -> None:
    """`xbd restore` says what is wrong with the manifest, and restores nothing."""
    _dump_with(tmp_path / "host.dump", manifest)
    assert said in refusal("restore", str(tmp_path / "host.dump"), str(tmp_path / "state"))
    assert not (tmp_path / "state").exists()
