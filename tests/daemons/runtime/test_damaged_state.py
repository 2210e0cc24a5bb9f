"""State directories that were damaged: whatever is in them, a host starts and is sound, or it is refused in a sentence."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from tests.blackbox.host_directory import copy_sparse, unpack
from tests.peer import clock, do
from xbd.control.controller import Controller
from xbd.daemons.runtime.state_dir import StateDir, make_machine
from xbd.errors import ConfigError, DamagedState
from xbd.machine import HostSettings

_PAGE_BYTES = 4096
_WORDS = (0, 1, -1, 2, 511, 512, 1 << 20, 1 << 31, 1 << 32, 1 << 62, (1 << 63) - 1, -(1 << 63))
ROUNDS = 150


def start(path: Path) -> None:
    """Go on with the host in a directory as the daemon does, end its domains, and audit it before and after."""
    state = StateDir(path)
    try:
        host = Controller(make_machine(state, 16, HostSettings()), clock=clock)
        assert host.is_restored
        host.restore()
        state.begin()
        assert host.audit() == []
        for domid in host.machine.living_domains():
            host.domain_info(domid)
            with host.step():
                host.machine.reboot(domid)
        assert host.audit() == []
        for domid in host.machine.living_domains():
            do(host, "destroy", domid=domid)
        assert host.audit() == []
    finally:
        state.close(in_order=False)


def pages(path: Path) -> dict[str, dict[int, bytes]]:
    """Take down every page of every file that is not all zeros."""
    told: dict[str, dict[int, bytes]] = {}
    for entry in sorted(path.iterdir()):
        with entry.open("rb") as file:
            at, end, found = 0, os.fstat(file.fileno()).st_size, {}
            while at < end:
                try:
                    at = os.lseek(file.fileno(), at, os.SEEK_DATA) // _PAGE_BYTES * _PAGE_BYTES
                except OSError:  # a hole up to the end
                    break
                page = os.pread(file.fileno(), _PAGE_BYTES, at)
                if page.strip(b"\0"):
                    found[at] = page
                at += _PAGE_BYTES
            told[entry.name] = found | {end: b""}
    return told


def damage(path: Path, found: dict[str, dict[int, bytes]], rng: np.random.Generator) -> None:
    """Change one byte, or one word, somewhere in what is no hole."""
    name = str(rng.choice([name for name, there in found.items() if len(there) > 1]))
    at = int(rng.choice([at for at, page in found[name].items() if page]))
    page = found[name][at]
    with (path / name).open("r+b") as file:
        if rng.random() < 0.4 and len(page) == _PAGE_BYTES:
            # Most pages are zeros but for a few words, so a word that is not is often the one.
            words = np.frombuffer(page, dtype=np.int64)
            used = np.flatnonzero(words)
            word = int(rng.choice(used)) if rng.random() < 0.7 else int(rng.integers(words.size))
            value = int(rng.choice(_WORDS)) if rng.random() < 0.5 else int(words[word]) + int(rng.integers(-3, 4))
            value = min(max(value, -(1 << 63)), (1 << 63) - 1)
            os.pwrite(file.fileno(), value.to_bytes(8, "little", signed=True), at + 8 * word)
        else:
            used = np.flatnonzero(np.frombuffer(page, dtype=np.uint8))
            byte = int(rng.choice(used)) if rng.random() < 0.7 else int(rng.integers(len(page)))
            os.pwrite(file.fileno(), bytes([page[byte] ^ (1 << int(rng.integers(8)))]), at + byte)


def is_refused(path: Path, seed: int) -> bool:
    """Go on with a host; tells whether it was refused. Every other error fails the test, naming the seed."""
    try:
        start(path)
    except (ConfigError, DamagedState):
        return True
    except Exception as error:
        raise AssertionError(f"seed {seed}: {type(error).__name__}") from error
    return False


def place(path: Path, name: str, column: str, word: int) -> int:
    """Find where in a section's file a word of a column lies, as its header says."""
    told = json.loads((path / name).read_bytes()[:_PAGE_BYTES].partition(b"\n")[0])["columns"]
    at = _PAGE_BYTES
    for other, (rows, width) in told.items():
        if other == column:
            return at + 8 * word
        at += -(-rows * width // 512) * _PAGE_BYTES
    raise AssertionError(f"{name} has no column {column}")


# Numbers that would end a daemon later, or never let it start: each is refused before anybody is let in.
NUMBERS = {
    "an inbox that is read for ever": ("domain-2", "inbox", 1, 1 << 60),
    "an inbox that begins outside": ("domain-2", "inbox", 0, -5),
    "no next birth": ("host-0", "births", 32_752, (1 << 63) - 1),
    "a birth that was never": ("host-0", "births", 9, 77),
    "a host of no superframes": ("host-0", "settings", 0, 0),
    "no next event": ("daemon-0", "next_event", 0, (1 << 63) - 1),
    "a count below nothing": ("domain-1", "counts", 3, -1),
    "no next count": ("domain-1", "counts", 3, (1 << 63) - 1),
    "a target of all memory there is": ("domain-1", "limits", 3, 1 << 62),
    "a limit beyond the gfn space": ("domain-1", "limits", 2, 1 << 40),
    "a space of 2**62 pages": ("domain-1", "limits", 1, 1 << 62),
    "a name of no characters": ("domain-1", "name", 0, 0),
    "an unprintable name": ("domain-1", "name", 1, 0x0A0A0A),
    "a record that is cut short": ("agent-1", "record", 0, 5),
    "a record of another kind": ("agent-1", "record", 1, 0x01),
    "a session of no client": ("daemon-0", "clients", 0, 1 << 40),
    "a client that has seen what never was": ("daemon-0", "clients", 3, 1 << 62),
    "a list of guests that is none": ("daemon-0", "described", 0, 1 << 40),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_that_cannot_be_is_refused(tmp_path: Path, name: str) -> None:
    """It is refused at the start, in words of its own, not when the number is first used."""
    file, column, word, value = NUMBERS[name]
    path = unpack("state-killed.tar.gz", tmp_path / "state")
    before = pages(path)
    with (path / file).open("r+b") as opened:
        os.pwrite(opened.fileno(), value.to_bytes(8, "little", signed=True), place(path, file, column, word))
    damaged = pages(path)
    assert damaged != before
    with pytest.raises((ConfigError, DamagedState)) as refused:
        start(path)
    assert "does not fit together" not in str(refused.value)
    assert pages(path) == damaged


@pytest.mark.slow
@pytest.mark.parametrize("how", ["killed in mid-step", "killed between steps"])
def test_whatever_byte_is_changed_it_starts_soundly_or_is_refused(tmp_path: Path, how: str) -> None:
    """Changed bytes and words, one at a time: no other error, and what is refused is left byte for byte as it was."""
    whole = unpack("state-killed.tar.gz" if how == "killed in mid-step" else "state-ended.tar.gz", tmp_path / "whole")
    (whole / "checksums.json").unlink(missing_ok=True)
    found = pages(whole)
    refused = 0
    for seed in range(ROUNDS):
        path = copy_sparse(whole, tmp_path / f"{seed}")
        damage(path, found, np.random.default_rng(seed))
        before = pages(path)
        if is_refused(path, seed):
            refused += 1
            assert pages(path) == before, f"seed {seed}: what was refused has changed"
        for entry in path.iterdir():
            entry.unlink()
    assert ROUNDS // 10 < refused < ROUNDS
