"""A hundred guests that are driven by xl and xenstore-write alone, while the host's processes are killed.

$XL_SOAK_S is for how many seconds: `XL_SOAK_S=300 pytest tests/xentools/test_soak.py`; without it, forty things are done.
"""

import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from tests import forked
from tests.processes import WATCHDOG_S, Xbd, children_of, running
from xbd.client.blocking import connect
from xbd.domain import DomainInfo
from xbd.errors import XbdError

GUESTS = 100
ROUNDS = 40
LASTS_S = float(os.environ.get("XL_SOAK_S", "0"))
MIB = 256
SETTLES_WITHIN_S = 40.0
ENDS_WITHIN_S = WATCHDOG_S + LASTS_S
# `xbd up` gives up agents that die again and again sooner than after 10 s.
AGENTS_LIVE_S = 11.0
HOST = f"""
[host]
memory = "8g"
state_dir = "state"
[[guest]]
name = "web{{n}}"
count = {GUESTS}
maximum = "32m"
"""
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("tools")]


class Host:
    """A host of real processes, and who drives it: what each guest was last told to hold, in MiB."""

    def __init__(self, directory: Path, up: Xbd, seed: int) -> None:
        self.run_dir = directory / "run"
        self.up = up
        self.rng = np.random.default_rng(seed)
        self.wanted_mib: dict[int, int] = {}
        self.spared_until_s: dict[str, float] = {}
        self.done: Counter[str] = Counter()

    def tool(self, *command: str) -> bool:
        """Run one of Xen's tools; says whether it did well."""
        self.done[command[1] if command[0] == "xl" else command[0]] += 1
        return forked.run(["xen", "--socket", str(self.run_dir), *command], SETTLES_WITHIN_S).returncode == 0

    def insist(self, *command: str) -> None:
        """Run a tool until it does well: what it asks may be killed in the middle."""
        until_s = time.monotonic() + SETTLES_WITHIN_S
        while not self.tool(*command):
            assert time.monotonic() < until_s, f"{command} never did well"

    def act(self, store: list[Xbd]) -> None:
        """Do one thing to one guest, or kill somebody."""
        domid, mib = int(self.rng.integers(1, GUESTS + 1)), 2 * int(self.rng.integers(3, 17))
        key = f"/local/domain/{domid}"
        match int(self.rng.integers(10)):
            case 0 | 1 | 2:
                self.insist("xl", "mem-set", str(domid), str(mib))
                self.wanted_mib[domid] = mib
            case 3 | 4 | 5:
                # The limit is not xenstore-write's to move: within it only.
                mib = min(mib, self.wanted_mib.get(domid, 32))
                self.insist("xenstore-write", f"{key}/memory/target", str(mib * 1024))
                self.wanted_mib[domid] = mib
            case 6:
                self.tool("xl", "pause", str(domid))
            case 7:
                self.tool("xl", "reboot", str(domid))
            case 8:
                self.kill_a_child()
            case _:
                store[0].end(signal.SIGKILL)
                store[0] = start_store(self.run_dir)
                self.done["kills of xenstored"] += 1

    def kill_a_child(self) -> None:
        """Kill the hypervisor or the agents, unless they were killed just now."""
        now_s = time.monotonic()
        children = {
            name: pid
            for name, pid in sorted(children_of(self.up.process.pid).items())
            if self.spared_until_s.get(name, 0) < now_s
        }
        if not children:
            return
        name = str(self.rng.choice(list(children)))
        with suppress(ProcessLookupError):
            os.kill(children[name], signal.SIGKILL)
        self.done[f"kills of {name}"] += 1
        self.spared_until_s[name] = now_s + AGENTS_LIVE_S

    def listed(self) -> list[DomainInfo]:
        """List the domains; nothing while the hypervisor is away."""
        try:
            with connect(self.run_dir) as client:
                return list(client.list())
        except XbdError:
            return []

    def settle(self) -> None:
        """Let every guest run, and wait until each holds what it was last told to."""
        until_s = time.monotonic() + SETTLES_WITHIN_S
        while True:
            domains = self.listed()
            for one in domains:
                for _ in range(one.pauses):
                    self.tool("xl", "unpause", str(one.domid))
            wrong = [
                (one.name, one.state, one.tot_pages // MIB, one.target_pages // MIB, self.wanted_mib.get(one.domid, 32))
                for one in domains
                if one.state != "running"
                or not one.tot_pages == one.target_pages == self.wanted_mib.get(one.domid, 32) * MIB
            ]
            if len(domains) == GUESTS and not wrong:
                return
            assert time.monotonic() < until_s, f"{len(domains)} guests; not as told: {wrong}"


def start_store(run_dir: Path) -> Xbd:
    """Run the XenStore, which is saved beside the host's sockets."""
    state = run_dir.parent / "store"
    command = ("xenstored", "--socket", str(run_dir / "hypervisor.sock"), "--state-dir", str(state))
    xbd = Xbd(command, within_s=ENDS_WITHIN_S)
    xbd.wait_until_it_says("xenstored_ready")
    return xbd


@pytest.mark.parametrize("seed", range(1))
def test_nothing_is_lost(tmp_path: Path, seed: int, record_property: Callable[[str, object], None]) -> None:
    """Each guest holds what it was last told, by whichever way, is as xl shows it, and the host's audit is clean."""
    (tmp_path / "host.toml").write_text(HOST)
    run_dir = tmp_path / "run"
    command = ("up", str(tmp_path / "host.toml"), "--runtime-dir", str(run_dir))
    with running(*command, within_s=ENDS_WITHIN_S) as up:
        up.wait_until_it_says(f"{GUESTS} guests are running")
        store = [start_store(run_dir)]
        try:
            host = Host(tmp_path, up, seed)
            until_s, rounds = time.monotonic() + LASTS_S, 0
            while rounds < ROUNDS or time.monotonic() < until_s:
                host.act(store)
                rounds += 1
            host.settle()
            record_property("done", dict(host.done))
            done = forked.run(["xen", "--socket", str(run_dir), "xl", "list"], SETTLES_WITHIN_S)
            shown = [row.split() for row in done.stdout.splitlines()[1:]]
            assert [(int(row[1]), int(row[2]), row[4]) for row in shown] == [
                (domid, host.wanted_mib.get(domid, 32), "-b----") for domid in range(1, GUESTS + 1)
            ]
            with connect(run_dir) as client:
                assert client.audit() == []
        finally:
            with suppress(subprocess.SubprocessError):
                store[0].end(signal.SIGTERM)
