"""State directories that were damaged: whatever is in them, a host starts and is sound, or it is refused in a sentence."""

import os
from pathlib import Path

import numpy as np
import pytest

from tests.blackbox.host_directory import copy_sparse, unpack
from xbd.errors import ConfigError, DamagedState
from xbd.machine import HostSettings
from xbd.services.host import Host
from xbd.services.state_dir import StateDir, make_machine

_PAGE_BYTES = 4096
_WORDS = (0, 1, -1, 2, 511, 512, 1 << 20, 1 << 31, 1 << 32, 1 << 62, (1 << 63) - 1, -(1 << 63))
ROUNDS = 150


def start(path: Path) -> None:
    """Go on with the host in a directory as the daemon does, end its domains, and audit it before and after."""
    state = StateDir(path)
    try:
        host = Host(make_machine(state, 16, HostSettings()))
        assert host.is_restored
        host.restore()
        host.commit()
        state.begin()
        assert host.audit() == []
        for domid in host.machine.living_domains():
            host.domain_map(domid)
            host.machine.reboot(domid)
            host.commit()
        assert host.audit() == []
        for domid in host.machine.living_domains():
            host.call("destroy", {"domid": domid})
            host.commit()
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
