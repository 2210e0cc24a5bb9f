"""A balloon that was refused memory until it was cancelled: what brings it back, and what its host's people are told."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.blackbox.rpc import Caller
from tests.processes import running

# With one try instead of four the balloon is cancelled by its first refusal, and not after 14 s. The rest is as it ever is.
HOST = """
[host]
memory = "64m"
name = "tight"
[[guest]]
name = "hog"
maximum = "32m"
[[guest]]
name = "better"
maximum = "24m"
target = "8m"
driver = { retry_max = 1 }
[[guest]]
name = "linux"
maximum = "24m"
target = "8m"
strategy = "stock"
driver = { retry_max = 1 }
[[guest]]
name = "filler"
maximum = "16m"
"""
MIB_PAGES = 256
# A state that does not come fails its test then; nothing is expected to take so long.
PATIENCE_S = 60.0


@pytest.fixture
def tight_host(tmp_path: Path) -> Iterator[Path]:
    """Run a host whose memory is all in use; yields its run-time directory."""
    host_file, runtime_dir = tmp_path / "host.toml", tmp_path / "run"
    host_file.write_text(HOST)
    with running("up", str(host_file), "--runtime-dir", str(runtime_dir)) as up:
        up.wait_until_it_says("4 guests are running")
        yield runtime_dir
        assert up.end() == 0, "".join(up.said)


def xbd(runtime_dir: Path, *arguments: str) -> tuple[int, str]:
    """Run an `xbd` command; its exit code and what it printed."""
    command = [sys.executable, "-m", "xbd", *arguments, "--socket", str(runtime_dir)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own command
    return done.returncode, done.stdout


def domain(caller: Caller, name: str) -> dict[str, Any]:
    """Look at a domain."""
    return caller.call("info", domain=name)


def wait_for(caller: Caller, name: str, **wanted: object) -> None:
    """Wait until a domain, or what its guest reports, is as it is wanted; fail with how it is instead."""
    end = time.monotonic() + PATIENCE_S
    pause = threading.Event()
    while True:
        told = domain(caller, name)
        told |= told["report"] or {}
        if all(told.get(key) == value for key, value in wanted.items()):
            return
        assert time.monotonic() < end, f"{name} is not {wanted}, but {told}"
        pause.wait(0.05)


def be_refused(caller: Caller, name: str) -> None:
    """Set a target for which the host has no memory, and wait until the guest's balloon is cancelled."""
    caller.call("set_target", domid=name, pages=24 * MIB_PAGES)
    wait_for(caller, name, worker_state="cancelled", tot_pages=8 * MIB_PAGES)


def test_free_memory_wakes_a_cancelled_balloon(tight_host: Path) -> None:
    """Another guest gives memory up, then a domain is destroyed: a cancelled balloon grows, each time without another word.

    Also when the first in the line does not listen to free memory, as Linux's driver does not.
    """
    with Caller(tight_host / "hypervisor.sock") as caller:
        assert caller.call("host")["free_frames"] == 0
        be_refused(caller, "linux")
        be_refused(caller, "better")
        caller.call("set_target", domid="hog", pages=24 * MIB_PAGES)
        wait_for(caller, "better", tot_pages=16 * MIB_PAGES, worker_state="cancelled")
        caller.call("destroy", domid="filler")
        wait_for(caller, "better", tot_pages=24 * MIB_PAGES, worker_state="done")
        assert domain(caller, "linux")["tot_pages"] == 8 * MIB_PAGES


def test_linux_is_woken_by_another_target_only_and_that_is_said(tight_host: Path) -> None:
    """Free memory and the same target do nothing; `mem-set --wait`, `wait` and `info` say why, and what helps: it does."""
    with Caller(tight_host / "hypervisor.sock") as caller:
        be_refused(caller, "linux")
        caller.call("destroy", domid="filler")
        code, said = xbd(tight_host, "mem-set", "linux", "24m", "--wait")
        assert code == 1
        told = json.loads(xbd(tight_host, "wait", "linux", "--timeout", "0.1", "--json")[1])[0]["reason"]
        for text in (said, xbd(tight_host, "info", "linux")[1], told):
            assert "cancelled after 1 refusal: the host had no memory for it" in text
            assert "only for another target" in text
        assert "the host has 16 MiB free" in said
        assert domain(caller, "linux")["tot_pages"] == 8 * MIB_PAGES
        assert xbd(tight_host, "mem-set", "linux", "22m", "--wait")[0] == 0
        # What it holds is seen at once, what it says of itself with its next report.
        wait_for(caller, "linux", tot_pages=22 * MIB_PAGES, worker_state="done")
        assert "cancelled" not in xbd(tight_host, "info", "linux")[1]
