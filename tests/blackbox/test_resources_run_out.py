"""`create` and `destroy` while open files, disk or address space run out: a refusal that says so, and nothing left behind."""

import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import pytest

from tests.blackbox.daemons import until
from tests.blackbox.host import SMALL, files_in, hypervisor
from tests.blackbox.host_directory import FIXTURES, run_xbd, unpack
from tests.blackbox.rpc import Caller, Refused

# A shell that lowers a limit and then becomes the daemon.
LOWERED: Final = ("sh", "-c", 'ulimit {limit} && exec "$@"', "sh")
MOST_DOMAINS: Final = 400
# Room for a few small domains; each takes some hundred KiB.
DISK_KIB: Final = 24 << 10


def lowered(limit: str) -> list[str]:
    """Say how to run a daemon under a limit of the shell's `ulimit`."""
    return [part.replace("{limit}", limit) for part in LOWERED]


def create_until_refused(caller: Caller, **parameters: Any) -> tuple[int, dict[str, Any]]:  # noqa: ANN401 - as they travel
    """Create domains until one is refused; returns how many there are, and the refusal."""
    for number in range(MOST_DOMAINS):
        try:
            caller.call("create", name=f"web-{number}", **(SMALL | parameters))
        except Refused as refused:
            return number, refused.told
    raise AssertionError(f"{MOST_DOMAINS} domains were created, and nothing has run out")


def assert_nothing_is_left(caller: Caller, directory: Path, domains: int) -> None:
    """Fail unless there are so many domains, with their files and sockets, and of the refused one nothing."""
    assert len(caller.call("list")["domains"]) == domains
    assert caller.call("audit") == {"violations": []}
    numbers = range(1, domains + 1)
    assert files_in(directory / "run" / "domains") == {f"{number}.sock" for number in numbers}
    sections = {f"{kind}-{number}" for kind in ("domain", "agent") for number in numbers}
    kept = {"state.json", "manifest-0", "check-0", "undo", "lock", "host-0", "daemon-0", "ballast"}
    assert files_in(directory / "state") - kept == sections


def assert_it_goes_on(caller: Caller, directory: Path, domains: int) -> None:
    """Destroy two, create one anew, destroy all: everything works, however often `create` was refused.

    Two, for the daemon's own heap may have grown meanwhile by some of what one leaves.
    """
    for number in range(2):
        caller.call("destroy", domid=f"web-{number}")
    caller.call("create", name="again", **SMALL)
    caller.call("destroy", domid="again")
    for number in range(2, domains):
        caller.call("destroy", domid=f"web-{number}")
    assert_nothing_is_left(caller, directory, 0)


def is_sound(caller: Caller) -> bool:
    """Audit the host: whether nothing is wrong; False, too, where there is no memory for that yet."""
    try:
        return bool(caller.call("audit") == {"violations": []})
    except Refused as refused:
        if refused.told["errno"] != "ENOMEM":
            raise
        return False


@contextmanager
def saved_host(directory: Path, limit: str, memory: str = "4g") -> Iterator[Caller]:
    """Run a hypervisor with a state directory under a limit; hands out a connection."""
    (directory / "run").mkdir(exist_ok=True)
    state = ("--state-dir", str(directory / "state"))
    with (
        hypervisor(directory / "run", *state, memory=memory, launcher=lowered(limit)),
        Caller(directory / "run" / "hypervisor.sock") as caller,
    ):
        yield caller


@contextmanager
def small_disk(path: Path) -> Iterator[None]:
    """Have a disk of its own at *path*; skips the test where this user may not mount one."""
    path.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_KIB}k,mode=0700", "none", path], check=False)  # noqa: S603, S607
    if mounted.returncode != 0:
        pytest.skip("this user may not mount a disk")
    try:
        yield
    finally:
        subprocess.run(["umount", path], check=True)  # noqa: S603, S607


def fill(path: Path) -> int:
    """Write a file until its disk is full; returns its length in bytes."""
    with suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    return path.stat().st_size


def test_open_files_run_out(tmp_path: Path) -> None:
    """A host has as many domains as it could start again with: the next one is refused, and a restart has them all."""
    with saved_host(tmp_path, "-n 360") as caller:
        domains, told = create_until_refused(caller)
        # 288 for the daemon and its tools, seven for each domain.
        assert (domains, told["errno"]) == (10, "ENFILE")
        assert "open files" in told["message"]
        refused = caller.pipeline([("create", {"name": "more", **SMALL})] * 20)
        assert all(isinstance(one, Refused) for one in refused)
        assert_nothing_is_left(caller, tmp_path, domains)
    with saved_host(tmp_path, "-n 360") as caller:
        assert_nothing_is_left(caller, tmp_path, domains)
        assert_it_goes_on(caller, tmp_path, domains)


def test_what_is_counted_for_a_domain_is_enough(tmp_path: Path) -> None:
    """With every place taken by somebody, tools and guests, a full host can still end a domain and make another."""
    with saved_host(tmp_path, "-n 360") as caller, ExitStack() as held:
        domains, _ = create_until_refused(caller)
        for _ in range(250):
            held.enter_context(Caller(tmp_path / "run" / "hypervisor.sock"))
        for domid in range(1, domains + 1):
            for _ in range(4):
                one = held.enter_context(socket.socket(socket.AF_UNIX))
                one.connect(str(tmp_path / "run" / "domains" / f"{domid}.sock"))
        assert_it_goes_on(caller, tmp_path, domains)


def test_the_disk_runs_out(tmp_path: Path) -> None:
    """However little is free, `create` works or is refused; a full disk keeps nobody from looking and destroying."""
    with small_disk(tmp_path / "state"), saved_host(tmp_path, "-n 2000") as caller:
        for number in range(3):
            caller.call("create", name=f"web-{number}", **SMALL)
        ballast = tmp_path / "state" / "ballast"
        length = fill(ballast)
        errnos = []
        for free in range(0, 40 * 4096, 4096):
            os.truncate(ballast, length - free)
            try:
                caller.call("create", name="more", **SMALL)
            except Refused as refused:
                errnos.append(refused.told["errno"])
            else:
                caller.call("destroy", domid="more")
            fill(ballast)
        assert len(errnos) > 0
        assert set(errnos) == {"ENOSPC"}
        caller.call("destroy", domid="web-2")
        with Caller(tmp_path / "run" / "hypervisor.sock") as other:
            assert len(other.call("list")["domains"]) == 2
        ballast.unlink()
        assert_nothing_is_left(caller, tmp_path, 2)
        assert_it_goes_on(caller, tmp_path, 2)


@pytest.mark.parametrize("max_pages", [1024, 64 << 18], ids=["small", "64 GiB"])
def test_the_address_space_runs_out(tmp_path: Path, max_pages: int) -> None:
    """Under `ulimit -v` domains are made until one is refused; the daemon goes on, and ends in order."""
    with saved_host(tmp_path, "-v 2500000") as caller:
        domains, told = create_until_refused(caller, max_pages=max_pages)
        assert told["errno"] == "ENOMEM"
        assert domains > 0
        refused = caller.pipeline([("create", {"name": "more", **SMALL, "max_pages": max_pages})] * 20)
        assert all(isinstance(one, Refused) for one in refused)
        assert_nothing_is_left(caller, tmp_path, domains)
        assert_it_goes_on(caller, tmp_path, domains)


def test_a_host_starts_again_on_a_full_disk(tmp_path: Path) -> None:
    """What every start reads had its place before: a full disk keeps no saved host from starting, or from being managed."""
    with small_disk(tmp_path / "state"):
        with saved_host(tmp_path, "-n 2000") as caller:
            caller.call("create", name="web-0", **SMALL)
        fill(tmp_path / "state" / "ballast")
        with saved_host(tmp_path, "-n 2000") as caller:
            assert caller.call("set_target", domid="web-0", pages=1024) == {"pages": 1024}
            why = run_xbd("--socket", str(tmp_path / "run"), "explain", "web-0").stdout
            assert "the disk of the host's state directory is full; no guest's calls are answered" in why
            assert_nothing_is_left(caller, tmp_path, 1)


def test_an_older_state_is_refused_on_a_full_disk(tmp_path: Path) -> None:
    """A state whose every page that a start reads has no place yet, grants among them, is refused with a sentence."""
    with small_disk(tmp_path / "disk"):
        state = unpack("state-ended.tar.gz", tmp_path / "disk" / "state")
        ballast = tmp_path / "disk" / "ballast"
        length = fill(ballast)
        for free in (0, 100 * 4096):
            os.truncate(ballast, length - free)
            done = run_xbd("hypervisor", "--memory", "4g", "--runtime-dir", str(tmp_path), "--state-dir", str(state))
            assert done.returncode == 78
            assert "the saved host cannot be read: No space left on device" in done.stderr
            fill(ballast)


def test_a_hello_on_a_full_disk_is_refused_or_answered(tmp_path: Path) -> None:
    """A client's session needs a place on the disk: without one it is refused with a sentence; nobody else notices."""
    with small_disk(tmp_path / "state"), saved_host(tmp_path, "-n 2000") as caller:
        fill(tmp_path / "state" / "ballast")
        with (
            Caller(tmp_path / "run" / "hypervisor.sock", hello=False) as other,
            pytest.raises(Refused) as refused,
        ):
            other.call("hello", version=1, session="new")
        assert refused.value.told["errno"] == "ENOSPC"
        # Commands do without one.
        assert run_xbd("--socket", str(tmp_path / "run"), "list").returncode == 0
        made = run_xbd("--socket", str(tmp_path / "run"), "create", "web", "--target", "8m")
        assert (made.returncode, "the domain is not created" in made.stderr) == (1, True)
        (tmp_path / "state" / "ballast").unlink()
        with Caller(tmp_path / "run" / "hypervisor.sock", hello=False) as other:
            assert other.call("hello", version=1, session="new")["resumed"] is False
        assert_nothing_is_left(caller, tmp_path, 0)


def test_a_dump_that_finds_no_room_is_not_left_there(tmp_path: Path) -> None:
    """Also one so small that only its last write fails: exit 78, a sentence, and no half archive."""
    state = unpack("state-ended.tar.gz", tmp_path / "state")
    with small_disk(tmp_path / "disk"):
        ballast = tmp_path / "disk" / "ballast"
        length = fill(ballast)
        for free in (0, 4096):
            os.truncate(ballast, length - free)
            done = run_xbd("dump", str(state), str(tmp_path / "disk" / "host.dump"))
            assert done.returncode in {0, 78}
            assert (tmp_path / "disk" / "host.dump").exists() == (done.returncode == 0)
            assert (free > 0) or "host.dump: cannot be written: No space left on device" in done.stderr


def test_a_dump_is_not_called_unreadable_where_there_is_no_room_for_it(tmp_path: Path) -> None:
    """`xbd restore` to a full disk names the directory and the disk, and leaves no file of the host."""
    with small_disk(tmp_path / "disk"):
        fill(tmp_path / "disk" / "ballast")
        done = run_xbd("restore", str(FIXTURES / "host.dump"), str(tmp_path / "disk" / "state"))
        assert (done.returncode, done.stdout) == (78, "")
        assert "disk/state: cannot be written: No space left on device" in done.stderr
        assert files_in(tmp_path / "disk") - {"ballast", "state/lock"} == set()


def test_messages_that_no_memory_is_left_for_cost_their_senders_alone(tmp_path: Path) -> None:
    """Under `ulimit -v` tools that each leave a message of 1 MiB unfinished are dropped; others are served."""
    unfinished = b"\x94\x00\x05\xa4list\x91\xc6" + (1 << 20).to_bytes(4, "big") + bytes((1 << 20) - 100)
    with saved_host(tmp_path, "-v 700000") as caller, ExitStack() as held:
        domains, _ = create_until_refused(caller, max_pages=64 << 18)
        dropped = 0
        for _ in range(200):
            one = held.enter_context(Caller(tmp_path / "run" / "hypervisor.sock"))
            try:
                one.socket.sendall(unfinished)
            except OSError:
                dropped += 1
        assert dropped > 0
        assert len(caller.call("list")["domains"]) == domains
        held.close()
        # What they had sent is given back when the daemon has seen them go.
        until(lambda: is_sound(caller))
