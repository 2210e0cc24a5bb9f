"""The processes of a soak and their directories: starting, killing, stopping, and detecting unexpected ends."""

import math
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import trio

from xbd.client.runtime_dir import hypervisor_socket
from xbd.errors import XbdError
from xbd.lab.soak import population
from xbd.lab.soak.options import Options
from xbd.lab.soak.tally import Tally, longest_s
from xbd.testing.processes import START_TIMEOUT_S, XBD, Process, end_soon, ended, start
from xbd.units import PAGE_BYTES

# A process that ends in order takes up to 2 s of grace; one that takes longer than this is killed, which is a finding.
_END_TIMEOUT_S: Final = 30.0
# The size of the disk: the reserve that guests' calls leave free (see `state_dir`), and as much for a small host's state.
_DISK_MIB: Final = 768
_DISK_MIB_PER_GUEST: Final = 4
# How much a full disk has left: half of the reserve, so that guests' calls wait, but a restart or a new domain still
# has room.
_FULL_MIB: Final = 128
_MESSAGE_BYTES: Final = 4096
_POLL_EVERY_S: Final = 0.2


class Member:
    """One process of a soak, which may be started again.

    Attributes: *process*: the running one, if any; *expected_codes*: exit codes that are no finding; *starts_again*:
    whether it is started again when it ends by itself.
    """

    def __init__(self, processes: "SoakProcesses", name: str, command: Sequence[str]) -> None:
        self.name = name
        self.process: Process | None = None
        self.expected_codes: tuple[int, ...] = ()
        self.starts_again = False
        # One restart after the other: where there is much to end, the next is due before the first is done.
        self._restarting = trio.Lock()
        self._ended_by_us = False
        self._processes = processes
        self._command = command

    async def start(self) -> None:
        """Start it; an unexpected end is a finding."""
        assert self.process is None, f"{self.name} runs already"
        environment = os.environ | {"NOTIFY_SOCKET": str(self._processes.notify_path)}
        if self.name != "hypervisor":
            del environment["NOTIFY_SOCKET"]
        self._ended_by_us = False
        with (self._processes.directory / "logs" / f"{self.name}.log").open("ab") as log:
            self.process = start(
                self._command, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True, env=environment
            )
        self._processes.nursery.start_soon(self._watch, self.process)

    async def _watch(self, process: Process) -> None:
        code = await ended(process)
        if self.process is not process:
            return  # `end` has ended it, and there may be another one
        self.process = None
        if self._ended_by_us:
            return
        if code not in self.expected_codes:
            self._processes.found(f"{self.name} ended by itself, with {code}; see logs/{self.name}.log")
        if self.starts_again:
            await trio.sleep(_POLL_EVERY_S)
            if self.process is None and not self._ended_by_us:
                await self.start()

    async def restart(self) -> None:
        """Kill it, if it runs, and start it again."""
        async with self._restarting:
            await self.end(signal.SIGKILL)
            await self.start()

    def send(self, number: signal.Signals) -> bool:
        """Send it a signal; returns whether it was running."""
        if self.process is None or self.process.poll() is not None:
            return False
        self.process.send_signal(number)
        return True

    def write_line(self, line: str) -> None:
        """Write a line to its standard input, which must not be full."""
        if self.process is not None and self.process.stdin is not None:
            self.process.stdin.write(f"{line}\n")
            self.process.stdin.flush()

    async def end(self, number: signal.Signals = signal.SIGKILL) -> int | None:
        """End it by a signal and wait; returns its exit code, None: it was not running."""
        process = self.process
        self._ended_by_us = True
        if process is None:
            return None
        self.send(signal.SIGCONT)
        await end_soon(process, number, _END_TIMEOUT_S)
        if process.returncode == -signal.SIGKILL != -number:
            self._processes.found(f"{self.name} did not end within {_END_TIMEOUT_S:g} s of {number.name}")
        if self.process is process:
            self.process = None
        return process.returncode


class SoakProcesses:
    """Directories, the daemon and the agent processes.

    Attributes:
        disturbed: how many faults are active.
        agents_disturbed: how many of them keep agents from reconnecting.
        disturbances: how many of these there were so far.
        no_disk: why the state directory has no disk of its own; None: it has.
    """

    def __init__(self, directory: Path, options: Options, tally: Tally, nursery: trio.Nursery) -> None:
        self.directory = directory
        self.runtime_dir = directory / "run"
        self.relay_dir = directory / "relay"
        self.disk = directory / "disk"
        self.state_dir = self.disk / "state"
        self.notify_path = directory / "notify.sock"
        self.nursery = nursery
        self.tally = tally
        self.started_at = trio.current_time()
        self.disturbances = 0
        self.disturbed = 0
        self.agents_disturbed = 0
        self.daemon_lock = trio.Lock()
        self.socket = hypervisor_socket(self.runtime_dir)
        self._options = options
        # As `population.trace_file` names those of each size.
        self.traces = [directory / f"trace{number}.csv" for number in range(len(options.traces))]
        for name in ("logs", "disk"):
            (directory / name).mkdir()
        (directory / "host.toml").write_text(self._host_toml(), encoding="utf-8")
        self.no_disk = self._mount()
        self._ready = trio.Event()
        # From when until when the daemon served; the last is open as long as it does.
        self._served: list[tuple[float, float]] = []
        self._notifications = socket.socket(
            socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        )
        self._notifications.bind(str(self.notify_path))
        host_file = str(directory / "host.toml")
        self.daemon = Member(
            self, "hypervisor", (*XBD, "hypervisor", "--config", host_file, "--state-dir", str(self.state_dir), *self._runtime_dir_option(), "--supervised")
        )  # fmt: skip
        relay = (sys.executable, "-m", "xbd.lab.soak.shell.relay", str(self.runtime_dir), str(self.relay_dir))
        self.relay = Member(self, "relay", relay)
        self.relay.expected_codes = (0,)
        self.hosts = {
            group: Member(
                self, f"guests-{group}",
                (*XBD, "guests", "--processes", "1", "--only", f"{group}*", "--socket", str(self._socket_for(group)),
                 "--supervised"),
            )
            for group in population.GROUPS
        }  # fmt: skip
        self.dom0 = self.single_agent("dom0")
        self.dom0.starts_again = True
        policy_file = directory / "autoballoon.toml"
        governed = ", ".join(f'"{group}*"' for group in population.GOVERNED)
        policy_file.write_text(f"[autoballoon]\ndomains = [{governed}]\n", encoding="utf-8")
        autoballoon = (*XBD, "autoballoon", "--config", str(policy_file), "--socket", str(self.socket))
        self.autoballoon = Member(self, "autoballoon", autoballoon)
        self.store_socket = directory / "store.sock"
        self.xenstored = Member(
            self, "xenstored",
            (*XBD, "xenstored", "--socket", str(self.socket), "--xenstore-socket", str(self.store_socket),
             "--state-dir", str(directory / "store")),
        )  # fmt: skip

    def _runtime_dir_option(self) -> tuple[str, str]:
        return ("--runtime-dir", str(self.runtime_dir))

    def _socket_for(self, group: str) -> Path:
        return hypervisor_socket(self.relay_dir if group in population.RELAYED else self.runtime_dir)

    def single_agent(self, name: str) -> Member:
        """Make the agent process of a single guest."""
        command = (*XBD, "guest", name, "--socket", str(self.socket), "--supervised")
        member = Member(self, f"guest-{name}", command)
        # Its guest was shut down or destroyed, or the daemon was not running when it started.
        member.expected_codes = (0, 1)
        return member

    def _host_toml(self) -> str:
        memory = population.host_memory_pages(self._options.guests) * PAGE_BYTES
        return (
            f'[host]\nmemory = "{memory}b"\nname = "soak"\n\n'
            f'[dom0]\nmaximum = "{population.DOM0_PAGES * PAGE_BYTES}b"\nverify = true\nautostart = false\n'
        )

    @property
    def now_s(self) -> float:
        """Seconds since the start of the soak."""
        return trio.current_time() - self.started_at

    def found(self, what: str) -> None:
        """Record a finding."""
        self.tally.found(what, at_s=self.now_s)

    def is_governed(self, name: str) -> bool:
        """Tell whether the autoballoon daemon sets a guest's target."""
        return self.autoballoon.process is not None and name[0] in population.GOVERNED

    def agents(self) -> Mapping[str, Member]:
        """List the agent processes but those of single guests, by group; dom0's too."""
        return {**self.hosts, "dom0": self.dom0}

    # -- the daemon

    async def open(self) -> None:
        """Start everything."""
        self.nursery.start_soon(self._receive_notifications)
        await self.start_daemon()
        await self.relay.start()
        for member in self.agents().values():
            await member.start()
        await self.xenstored.start()
        if self._options.autoballoon:
            await self.autoballoon.start()

    async def start_daemon(self) -> float:
        """Start the daemon and wait for its READY; returns the time of that. Raises XbdError: it did not come."""
        with suppress(BlockingIOError):  # drop what an earlier daemon sent last
            while self._notifications.recv(_MESSAGE_BYTES):
                pass
        self._ready = trio.Event()
        started = trio.current_time()
        if self._served:
            since, until = self._served[-1]
            self._served[-1] = (since, min(until, started))
        await self.daemon.start()
        with trio.move_on_after(START_TIMEOUT_S):
            while self.daemon.process is not None:
                with trio.move_on_after(_POLL_EVERY_S):
                    await self._ready.wait()
                    ready = trio.current_time()
                    self.tally.took("ready", ready - started)
                    self._served.append((ready, math.inf))
                    return ready
        raise XbdError("the hypervisor did not become ready; see logs/hypervisor.log")

    def served_in_a_row_s(self, within_s: float) -> float:
        """Tell for how long the daemon has served in a row at most, in the last *within_s* seconds."""
        return longest_s(self._served, trio.current_time(), within_s)

    async def _receive_notifications(self) -> None:
        """Receive the daemon's notifications to its service manager; a full socket would block the daemon."""
        with self._notifications:
            while True:
                await trio.lowlevel.wait_readable(self._notifications)
                with suppress(BlockingIOError):
                    if b"READY=1" in self._notifications.recv(_MESSAGE_BYTES):
                        self._ready.set()

    async def close(self) -> None:
        """End every process; agents first, as when a host is shut down."""
        with trio.CancelScope(shield=True):
            for member in (*self.agents().values(), self.autoballoon, self.xenstored, self.daemon):
                await member.end(signal.SIGTERM)
            await self.relay.end()

    # -- the disk

    def _mount(self) -> str | None:
        """Mount a small disk for the state directory; returns why that is impossible, None: it is mounted."""
        if "full-disk" not in self._options.kinds:
            return "--without"
        image = self.directory / "disk.img"
        with image.open("wb") as file:
            file.truncate((_DISK_MIB + _DISK_MIB_PER_GUEST * self._options.guests) << 20)
        # Not a tmpfs: there a hole that is only read takes space too.
        for command in (
            ["mkfs.ext4", "-q", "-F", "-m", "0", str(image)],
            ["mount", "-o", "loop", str(image), str(self.disk)],
        ):
            try:
                done = subprocess.run(command, check=False, capture_output=True, text=True)  # noqa: S603 - fixed commands
            except OSError as error:
                return f"{command[0]}: {error.strerror}"
            if done.returncode:
                return f"{command[0]}: {done.stderr.strip()}"
        return None

    def unmount(self) -> None:
        """Unmount the disk and remove its image."""
        if self.no_disk is None:
            subprocess.run(["umount", "--lazy", str(self.disk)], check=False)  # noqa: S603, S607 - as it was mounted
        (self.directory / "disk.img").unlink(missing_ok=True)

    def fill_disk(self) -> None:
        """Fill the disk but for a few MiB."""
        filesystem = os.statvfs(self.disk)
        ballast = filesystem.f_bavail * filesystem.f_frsize - (_FULL_MIB << 20)
        if ballast > 0:
            descriptor = os.open(self.disk / "ballast", os.O_RDWR | os.O_CREAT, 0o600)
            try:
                os.posix_fallocate(descriptor, 0, ballast)
            finally:
                os.close(descriptor)

    def empty_disk(self) -> None:
        """Remove the file that fills the disk."""
        (self.disk / "ballast").unlink(missing_ok=True)

    def keep_state(self) -> None:
        """Copy the state from its disk, as evidence, holes as holes."""
        if self.state_dir.exists() and shutil.which("cp"):
            copy = self.directory / "state"
            subprocess.run(["cp", "-a", "--sparse=always", str(self.state_dir), str(copy)], check=False)  # noqa: S603, S607
