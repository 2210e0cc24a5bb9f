"""State directories: what a killed daemon leaves, what an orderly one leaves, and what is refused."""

import io
import json
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from tests.blackbox.host_directory import unpack
from tests.machine.crashing import assert_same_state
from tests.peer import clock, create_again, do
from xbd import abi
from xbd.cli.main import main
from xbd.control.controller import Controller
from xbd.daemons.hypervisor import add_what_is_new
from xbd.daemons.runtime.state_dir import StateDir, make_machine
from xbd.daemons.runtime.state_dump import dump_state, restore_state
from xbd.daemons.runtime.state_files import checksum, data_extents
from xbd.errors import ConfigError, DamagedState
from xbd.machine import Machine
from xbd.machine.settings import HostSettings
from xbd.storage.image import Image, Kind
from xbd.storage.memory import Crash

SUPERFRAMES = 16
PAGES = 4 * 512


def begin(path: Path) -> tuple[StateDir, Controller]:
    """Begin, or go on with, the host in a directory, as the daemon does."""
    state = StateDir(path)
    return state, go_on(state)


def go_on(state: StateDir) -> Controller:
    """Begin, or go on with, the host of a directory that was opened."""
    host = Controller(make_machine(state, SUPERFRAMES, HostSettings()), clock=clock)
    if host.is_restored:
        host.restore()
    state.begin()
    add_what_is_new(host, state)
    return host


def die(state: StateDir) -> None:
    """Be killed: the kernel lets go of the lock, and of nothing that was written."""
    assert state._lock is not None
    state._lock.release(as_found=False)


def fill(host: Controller) -> Machine:
    """Make two domains, one of them with a broken superpage and words in its pages."""
    for name in ("web", "db"):
        do(host, "create", name=name, max_pages=PAGES, target_pages=PAGES)
    gfns = np.arange(100, 700, dtype=np.int64)
    with host.step():
        host.machine.execute(1, abi.Store(gfns, np.arange(1, 601, dtype=np.uint64)))
        host.machine.execute(1, abi.Decrease(gfns[50:60]))
    return host.machine


def test_a_killed_daemon_leaves_all_that_was_done(tmp_path: Path) -> None:
    """The next one has the same machine, array by array, and the same domains."""
    state, host = begin(tmp_path / "state")
    before = fill(host)
    die(state)

    _, again = begin(tmp_path / "state")

    assert_same_state(before, again.machine)
    assert again.audit() == []
    assert [again.record(domid).name for domid in (1, 2)] == ["web", "db"]


@pytest.mark.parametrize("notes", range(1, 7))
def test_a_step_in_whose_middle_it_was_killed_was_never_begun(tmp_path: Path, notes: int) -> None:
    """Whatever it had written of the step is as it was before."""
    state, host = begin(tmp_path / "state")
    machine = fill(host)
    frames = machine.statistics()
    counts = machine.domain_info(1).hypercalls
    left = notes

    def count() -> None:
        nonlocal left
        left -= 1
        if not left:
            raise Crash

    state.undo.on_note = count
    with pytest.raises(Crash):
        machine.execute(1, abi.Decrease(np.arange(300, 800, dtype=np.int64)))
    die(state)

    state, again = begin(tmp_path / "state")

    assert again.audit() == []
    assert state.undone == notes
    assert again.machine.statistics() == frames
    assert again.machine.domain_info(1).hypercalls == counts


def test_domains_that_go_leave_no_file(tmp_path: Path) -> None:
    """Their files go with the step, and what an unfinished step made goes with the next start."""
    state, host = begin(tmp_path / "state")
    fill(host)
    do(host, "destroy", domid="web")
    host.call("create", {"name": "late", "max_pages": PAGES, "target_pages": PAGES})  # and killed before the commit
    die(state)

    state, again = begin(tmp_path / "state")

    assert again.machine.domains() == [2]
    assert sorted(path.name for path in (tmp_path / "state").glob("[da]*-*")) == ["agent-2", "daemon-0", "domain-2"]


def test_a_domain_of_a_number_that_was_used_before_begins_empty(tmp_path: Path) -> None:
    """Nothing of the former domain's file is seen in the new one's."""
    state, host = begin(tmp_path / "state")
    fill(host)
    do(host, "destroy", domid="web")
    create_again(host, 1, "new", 512)
    die(state)

    _, again = begin(tmp_path / "state")

    assert again.machine.find("new") == 1
    assert again.machine.domain_info(1).tot_pages == 512
    assert again.machine.domain_info(1).hypercalls == {}


def _other_format(path: Path) -> None:
    (path / "state.json").write_text('{"format": 99, "xbd": "9.9"}')


def _no_json(path: Path) -> None:
    (path / "state.json").write_text("{")


def _shorter(path: Path) -> None:
    os.truncate(path / "domain-1", 8192)


def _header(path: Path) -> None:
    with (path / "domain-2").open("r+b") as file:
        file.seek(20)
        file.write(b"X")


def _missing(path: Path) -> None:
    (path / "domain-1").unlink()


def _swapped(path: Path) -> None:
    shutil.copyfile(path / "domain-1", path / "domain-2")


def _log(path: Path) -> None:
    with (path / "undo").open("r+b") as file:
        file.write((1 << 40).to_bytes(8, "little"))


def _leaf(path: Path) -> None:
    """Make one leaf of d1 that of another block."""
    words = np.memmap(path / "domain-1", dtype=np.int64, mode="r+", offset=4096)
    text = (path / "domain-1").read_bytes()[:4096].partition(b"\n")[0]
    offset = 0
    for name, (rows, width) in json.loads(text)["columns"].items():
        if name == "blocks":
            break
        offset += -(-rows * width // 512) * 512
    words[offset + 2 * 2] = words[offset + 3 * 2]
    words.flush()


DAMAGES = {
    "another format": (_other_format, "format"),
    "no json": (_no_json, "is damaged"),
    "shortened": (_shorter, "domain-1 has 8192 bytes"),
    "header": (_header, "domain-2: its header is damaged"),
    "missing": (_missing, "domain-1 cannot be opened"),
    "swapped": (_swapped, "its header says domain-1"),
    "undo log": (_log, "words of notes"),
    "two blocks, one frame": (_leaf, "mapped more than once"),
}


def refused_and_left_alone(
    path: Path, damage: Callable[[Path], object], *refusals: type[ConfigError | DamagedState]
) -> str:
    """Damage the state of a host that was killed: the next start refuses it and changes nothing; returns what is said."""
    state, host = begin(path)
    fill(host)
    die(state)
    damage(path)
    before = {entry.name: entry.read_bytes()[:4096] for entry in path.iterdir()}
    with pytest.raises(refusals) as refused:
        begin(path)
    assert {entry.name: entry.read_bytes()[:4096] for entry in path.iterdir()} == before
    return str(refused.value)


@pytest.mark.parametrize("name", DAMAGES)
def test_what_is_damaged_is_refused_and_left_alone(tmp_path: Path, name: str) -> None:
    """It is said what is wrong with it, and nothing of it is changed."""
    damage, said = DAMAGES[name]

    assert said in refused_and_left_alone(tmp_path / "state", damage, ConfigError)


@pytest.mark.parametrize("name", ["host-0", "domain-1", "agent-2"])
def test_a_flipped_bit_after_an_orderly_end_is_found(tmp_path: Path, name: str) -> None:
    """An orderly end leaves checksums, and the next daemon holds every file against them."""
    path = tmp_path / "state"
    state, host = begin(path)
    fill(host)
    state.close(in_order=True)
    again, _ = begin(path)
    again.close(in_order=True)
    with (path / name).open("r+b") as file:
        file.seek(os.lseek(file.fileno(), 8192, os.SEEK_DATA))
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))

    with pytest.raises((ConfigError, DamagedState), match=f"{name} is not what the last daemon left"):
        begin(path)


@pytest.mark.parametrize("bit", [0, 7, 31, 63])
@pytest.mark.parametrize("gfn", [100, 699, 2047])
def test_a_flipped_bit_of_a_content_word_after_a_kill_is_found(tmp_path: Path, gfn: int, bit: int) -> None:
    """In a word that was written, and in one that never was: the start is refused, and says how many there are."""
    path = tmp_path / "state"
    state, host = begin(path)
    machine = fill(host)
    mfn = int(machine.domain(1).p2m.lookup(np.array([gfn]))[0]) - 1
    die(state)
    content, _ = machine.image.sections[Kind.HOST, 0].span("content")
    with (path / "host-0").open("r+b") as file:
        file.seek(4096 + 8 * (content + mfn) + bit // 8)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ (1 << bit % 8)]))

    with pytest.raises(ConfigError, match=f"1 content word changed, the first that of frame {mfn:#x}"):
        begin(path)


@pytest.mark.parametrize("fixture", ["state-killed.tar.gz", "state-ended.tar.gz"])
def test_a_host_of_an_earlier_version_has_its_words_checked_from_then_on(tmp_path: Path, fixture: str) -> None:
    """What it had written has checks when it was taken up once; a word that changes then is found by the next start."""
    path = unpack(fixture, tmp_path / "state")
    state, host = begin(path)
    content, words = host.machine.image.sections[Kind.HOST, 0].span("content")[0], host.machine.host.content
    mfns = np.flatnonzero(words)
    die(state)
    with (path / "host-0").open("r+b") as file:
        os.pwrite(file.fileno(), (int(words[mfns[0]]) ^ 1).to_bytes(8, "little"), 4096 + 8 * (content + int(mfns[0])))

    with pytest.raises(ConfigError, match="1 content word changed"):
        begin(path)


def test_a_checksum_is_the_same_however_holes_are_cut(tmp_path: Path) -> None:
    """A page that was touched and is zero says the same as a hole, also between two pages that are not."""
    words = np.zeros((3, 512), dtype=np.int64)
    words[0], words[2] = 1, 2
    whole, sparse = tmp_path / "whole", tmp_path / "sparse"
    whole.write_bytes(words.tobytes())
    with sparse.open("wb") as file:
        os.pwrite(file.fileno(), words[0].tobytes(), 0)
        os.pwrite(file.fileno(), words[2].tobytes(), 2 * words[0].nbytes)
    with whole.open("rb") as one, sparse.open("rb") as other:
        assert list(data_extents(other.fileno(), 0, words.nbytes)) != list(data_extents(one.fileno(), 0, words.nbytes))
        assert checksum(one.fileno()) == checksum(other.fileno())


def test_one_in_use_or_of_somebody_else_is_refused(tmp_path: Path) -> None:
    """A second daemon is kept out, and a directory with other things in it is not ours to use."""
    state, _ = begin(tmp_path / "state")
    with pytest.raises(ConfigError, match="in use"):
        StateDir(tmp_path / "state")
    die(state)
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter.txt").write_text("dear")
    with pytest.raises(ConfigError, match=r"letter\.txt"):
        StateDir(tmp_path / "home")
    assert [entry.name for entry in (tmp_path / "home").iterdir()] == ["letter.txt"]


def test_one_killed_before_its_first_commit_begins_anew(tmp_path: Path) -> None:
    """Half made files are thrown away: there was never a host."""
    state = StateDir(tmp_path / "state")
    Machine(SUPERFRAMES, image=Image(state))
    die(state)

    _, host = begin(tmp_path / "state")

    assert host.machine.domains() == []
    assert not host.is_restored


def test_a_dump_is_the_host_on_another_machine(tmp_path: Path) -> None:
    """Dumped with a step half done, restored elsewhere: the same machine, and the directory as sparse as it was."""
    state, host = begin(tmp_path / "state")
    before = fill(host)
    die(state)
    state_dir, archive, other = (str(tmp_path / name) for name in ("state", "host.dump", "other"))
    dumped = json.loads(CliRunner().invoke(main, ["dump", state_dir, archive, "--json"]).stdout)
    restored = json.loads(CliRunner().invoke(main, ["restore", archive, other, "--json"]).stdout)
    size_bytes = (tmp_path / "host.dump").stat().st_size
    assert dumped == {"files": dumped["files"], "state_dir": state_dir, "archive": archive, "bytes": size_bytes}
    assert restored == {"files": dumped["files"], "archive": archive, "state_dir": other}

    _, again = begin(tmp_path / "other")

    assert_same_state(before, again.machine)
    blocks = sum(path.stat().st_blocks for path in (tmp_path / "other").iterdir())
    assert blocks <= 2 * sum(path.stat().st_blocks for path in (tmp_path / "state").iterdir())


def _cut(archive: Path) -> None:
    os.truncate(archive, archive.stat().st_size // 2)


def _garbage(archive: Path) -> None:
    archive.write_bytes(b"garbage" * 100)


@pytest.mark.parametrize("damage", [_cut, _garbage])
def test_a_damaged_dump_is_refused_whole(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    """Nothing of it is left in the directory that it was to be restored to."""
    state, host = begin(tmp_path / "state")
    fill(host)
    die(state)
    dump_state(tmp_path / "state", tmp_path / "host.dump")
    damage(tmp_path / "host.dump")

    with pytest.raises(ConfigError, match=r"host\.dump"):
        restore_state(tmp_path / "host.dump", tmp_path / "other")

    assert not (tmp_path / "other").exists()


def _add(tar: tarfile.TarFile, name: str, size_bytes: int, kind: bytes = tarfile.REGTYPE, text: bytes = b"") -> None:
    member = tarfile.TarInfo(name)
    member.size, member.type, member.linkname = size_bytes, kind, name
    tar.addfile(member, io.BytesIO(text or b"\1" * size_bytes))


def _hostile(archive: Path, extents: object, *more: tuple[str, int, bytes]) -> None:
    """Write a dump whose manifest names *extents* of its undo log, and then *more* members."""
    told = {"size_bytes": 1 << 40, "extents": [], "crc": 0}
    files = dict.fromkeys(("host-0", "daemon-0", "state.json"), told) | {"undo": told | {"extents": extents}}
    text = json.dumps({"format": 1, "files": files}).encode()
    with tarfile.open(archive, "w:gz") as tar:
        _add(tar, "manifest.json", len(text), text=text)
        for name, size_bytes, kind in more:
            _add(tar, name, size_bytes, kind)


@pytest.mark.parametrize(
    ("extents", "more", "said"),
    [
        ([[0, 4 << 30]], (), "more than any host's state does"),
        ([], (("undo", 300_000, tarfile.REGTYPE),), "unpacks to more than its manifest says"),
        ([], (("undo", 300_000, tarfile.XHDTYPE),), "unpacks to more than its manifest says"),
        ([], (("undo", 0, tarfile.SYMTYPE),), "which is no file of its manifest"),
        ([], (("undo", 0, tarfile.LNKTYPE),), "which is no file of its manifest"),
        ([], (("undo", 0, tarfile.REGTYPE), ("undo", 0, tarfile.REGTYPE)), "which is no file of its manifest"),
        ([], (("\x1b[2J", 0, tarfile.REGTYPE),), r"x1b.2J' is in it"),
        ([[0, 1 << 70]], (), "lies outside"),
        ([[[[]]]], (), "lies outside"),
        ([], (), "undo is missing|host-0 is missing"),
    ],
)
def test_a_hostile_dump_is_refused_before_it_does_harm(
    tmp_path: Path, extents: object, more: tuple[tuple[str, int, bytes], ...], said: str
) -> None:
    """What unpacks to too much, links, strange members: a sentence, and no directory and no lock is left behind."""
    _hostile(tmp_path / "host.dump", extents, *more)
    with pytest.raises(ConfigError, match=said):
        restore_state(tmp_path / "host.dump", tmp_path / "other")
    assert [entry.name for entry in tmp_path.iterdir()] == ["host.dump"]


def test_a_directory_that_was_there_is_left_as_it_was(tmp_path: Path) -> None:
    """Empty, without a lock, after a dump that cannot be restored."""
    (tmp_path / "other").mkdir(mode=0o700)
    _hostile(tmp_path / "host.dump", [])
    with pytest.raises(ConfigError, match="is missing"):
        restore_state(tmp_path / "host.dump", tmp_path / "other")
    assert list((tmp_path / "other").iterdir()) == []


def test_what_cannot_be_dumped_or_restored_says_why(tmp_path: Path) -> None:
    """A host that runs, a directory that is none, a target that is taken."""
    state, host = begin(tmp_path / "state")
    fill(host)
    with pytest.raises(ConfigError, match="in use"):
        dump_state(tmp_path / "state", tmp_path / "host.dump")
    die(state)
    dump_state(tmp_path / "state", tmp_path / "host.dump")
    with pytest.raises(ConfigError, match="exists"):
        dump_state(tmp_path / "state", tmp_path / "host.dump")
    with pytest.raises(ConfigError, match="no state directory"):
        dump_state(tmp_path, tmp_path / "other.dump")
    with pytest.raises(ConfigError, match="not empty"):
        restore_state(tmp_path / "host.dump", tmp_path / "state")
