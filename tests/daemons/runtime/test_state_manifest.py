"""The manifest of a state directory: what a start removes, what it refuses, and how an earlier format is made this one."""

import errno
import json
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from pathlib import Path
from threading import get_ident
from typing import Any

import numpy as np
import pytest

from tests.blackbox.host_directory import copy_sparse, unpack
from tests.daemons.runtime.test_state_dir import SUPERFRAMES, begin, die, fill, go_on, refused_and_left_alone
from tests.peer import do, listed
from xbd.daemons.runtime.outside import Calls, calls, replaced
from xbd.daemons.runtime.state_dir import StateDir, make_machine
from xbd.daemons.runtime.state_manifest import NAME, Manifest, Mark, make_manifest
from xbd.errors import ConfigError, DamagedState
from xbd.machine import HostSettings
from xbd.storage.image import Image, Kind
from xbd.storage.memory import Crash

_ALWAYS = {(Kind.HOST, 0), (Kind.DAEMON, 0), (Kind.CHECK, 0)}
# What is called of the facade while a state is opened and begun, but clocks.
_CALLS = [name for name in Calls.__slots__ if name not in ("monotonic", "wall_clock", "signals")]


def crash_at(most: int) -> dict[str, Callable[..., Any]]:
    """Make calls of which all from number *most* on raise Crash: nothing of a dead process is seen from outside.

    Those of other threads are none of its process: a log sink of an earlier test may still write.
    """
    numbers, mine = count(), get_ident()

    def wrapped(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:  # noqa: ANN401 - it passes on what it is given
            if get_ident() == mine and next(numbers) >= most:
                raise Crash
            return original(*args, **options)

        return call

    return {name: wrapped(getattr(calls, name)) for name in _CALLS}


def is_killed_at(path: Path, most: int) -> bool:
    """Go on with the host in a directory, to be killed at call number *most*; tells whether it was."""
    with replaced(**crash_at(most)), suppress(Crash):
        state = StateDir(path)
        try:
            go_on(state)
        except Crash:
            return True
        finally:
            # As the kernel does, which calls nothing.
            with suppress(Crash):
                die(state)
        return False
    return True


def names(path: Path) -> set[str]:
    """Name the files of a directory but the lock."""
    return {entry.name for entry in path.iterdir()} - {"lock"}


@pytest.mark.slow
@pytest.mark.parametrize("fixture", ["state-killed.tar.gz", "state-ended.tar.gz"])
def test_an_earlier_format_is_made_this_one_whenever_that_is_killed(tmp_path: Path, fixture: str) -> None:
    """Killed at each call of the upgrade, and at a later one again, the next start finds the same host, whole."""
    earlier = unpack(fixture, tmp_path / "earlier")
    _, unharmed = begin(copy_sparse(earlier, tmp_path / "expected"))
    expected = (listed(unharmed), unharmed.machine.statistics())
    for steps in count():
        path = copy_sparse(earlier, tmp_path / f"{steps}")
        if not is_killed_at(path, steps):
            break
        is_killed_at(path, steps // 2)
        state, host = begin(path)
        assert (listed(host), host.machine.statistics()) == expected
        assert host.audit() == []
        assert host.machine.host.checks is not None
        assert json.loads((path / "state.json").read_text())["format"] == 2
        assert set(state._manifest.marks.values()) == {Mark.KEPT}
        assert {"manifest-0.new", "state.new"} & names(path) == set()
        die(state)
        shutil.rmtree(path)
    assert steps > 20


def test_an_earlier_format_without_room_stays_what_it_is(tmp_path: Path) -> None:
    """On a full disk its host starts as before, without manifest and checks, and the start after that has room adds them."""
    path = unpack("state-killed.tar.gz", tmp_path / "state")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def place(descriptor: int, at: int, size_bytes: int) -> None:
        # What there is has its place already; for the checks of words, which are short, there would be room.
        if os.fstat(descriptor).st_size < at + size_bytes > 200_000:
            full()

    with replaced(fallocate=place):
        state, host = begin(path)
        assert host.machine.host.checks is None
        do(host, "destroy", domid="db")
        state.close(in_order=True)
    assert (json.loads((path / "state.json").read_text())["format"], (path / NAME).exists()) == (1, False)
    state, host = begin(path)
    assert json.loads((path / "state.json").read_text())["format"] == 2
    assert host.machine.host.checks is not None
    assert host.audit() == []
    die(state)


@pytest.mark.parametrize("is_begun", [False, True])
def test_a_new_host_is_begun_whenever_that_is_killed(tmp_path: Path, is_begun: bool) -> None:  # noqa: FBT001
    """Killed at each call of its beginning, again and again, the next start begins it, and no file is left over."""
    for steps in count():
        path = tmp_path / f"{steps}"
        if not is_killed_at(path, steps):
            break
        if is_begun and path.exists():
            is_killed_at(path, steps // 2)
        state, host = begin(path)
        assert host.machine.domains() == []
        assert names(path) == {"state.json", NAME, "undo", "host-0", "daemon-0", "check-0"}
        die(state)
    assert steps > 10


@pytest.mark.parametrize("killed_at", range(12))
def test_a_domain_that_comes_or_goes_leaves_no_file_that_is_nobody_s(tmp_path: Path, killed_at: int) -> None:
    """Killed at any call of a create and a destroy, the files are those of the domains, and so are the marks."""
    path = tmp_path / "state"
    state, host = begin(path)
    fill(host)
    try:
        with replaced(**crash_at(killed_at)):
            do(host, "destroy", domid="web")
            do(host, "create", name="new", max_pages=512, target_pages=512)
    except Crash:
        pass
    die(state)
    state, again = begin(path)
    domids = again.machine.domains()
    sections = {(kind, domid) for domid in domids for kind in (Kind.DOMAIN, Kind.AGENT)}
    assert 2 in domids
    assert set(state._manifest.marks) == sections | _ALWAYS
    assert {name for name in names(path) if name[:2] in ("do", "ag")} == {f"{k.name.lower()}-{n}" for k, n in sections}


def _stray(path: Path) -> None:
    shutil.copyfile(path / "domain-1", path / "domain-7")


def _forgotten(path: Path) -> None:
    """Give a third domain's files to a host of two, with a manifest that has them."""
    for name in ("domain", "agent"):
        shutil.copyfile(path / f"{name}-1", path / f"{name}-7")
    keys = [(kind, number) for kind in (Kind.DOMAIN, Kind.AGENT) for number in (1, 2, 7)]
    make_manifest(path, dict.fromkeys([*keys, *_ALWAYS], Mark.KEPT))


def _flipped(path: Path) -> None:
    words = np.memmap(path / NAME, dtype=np.uint8, mode="r+", offset=4096)
    words[8 + Kind.DOMAIN] ^= 4
    words.flush()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (_stray, "domain-7: is no file of this host: manifest-0 does not name it; move it away"),
        (_forgotten, "domain-7 belongs to it, by manifest-0"),
        (_flipped, "manifest-0: is damaged: 161 is not a valid Mark"),
        (lambda path: (path / NAME).unlink(), "manifest-0 cannot be opened"),
        (lambda path: make_manifest(path, {(Kind.HOST, 0): Mark.KEPT}), "is no file of this host"),
    ],
)
def test_what_the_manifest_does_not_mark_is_neither_used_nor_removed(
    tmp_path: Path, damage: Callable[[Path], object], said: str
) -> None:
    """A file too many, a domain that the host does not know, a mark that is none: refused, and all is as it was."""
    assert said in refused_and_left_alone(tmp_path / "state", damage, ConfigError, DamagedState)


def test_a_file_that_comes_while_the_host_runs_is_not_written_over(tmp_path: Path) -> None:
    """A create whose file is there, of somebody else, is refused, and the file is as it was."""
    state, host = begin(tmp_path / "state")
    fill(host)
    (tmp_path / "state" / "domain-3").write_text("mine")
    with pytest.raises(Exception, match="File exists"):
        do(host, "create", name="new", max_pages=512, target_pages=512)
    assert (tmp_path / "state" / "domain-3").read_text() == "mine"
    assert host.audit() == []
    die(state)


def test_a_half_begun_host_with_a_stray_file_is_left_alone(tmp_path: Path) -> None:
    """Before the first commit, too, only what is marked is removed."""
    state = StateDir(tmp_path / "state")
    make_machine(state, SUPERFRAMES, HostSettings(), None)
    die(state)
    (tmp_path / "state" / "domain-9").write_text("mine")
    with pytest.raises(ConfigError, match="domain-9: is no file of this host"):
        StateDir(tmp_path / "state")
    assert (tmp_path / "state" / "domain-9").read_text() == "mine"
    assert (tmp_path / "state" / "host-0").exists()


def test_marks_differ_in_more_than_a_bit() -> None:
    """No flipped bit makes one mark of another; a table of marks says which sections it has."""
    manifest = Manifest()
    manifest.mark(Kind.AGENT, 32_000, Mark.KEPT)
    assert manifest.marks == {(Kind.AGENT, 32_000): Mark.KEPT}
    assert min((one ^ other).bit_count() for one in Mark for other in Mark if one is not other) >= 4
    assert Image().store.kept() == set()
