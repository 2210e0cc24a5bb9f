"""`xbd xen` runs programs as they are, on a real hypervisor: how they end, what they start, and hostile ones."""

import os
import pwd
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pexpect  # type: ignore[import-untyped]  # it has no annotations
import pytest

from tests import forked
from tests.blackbox.host import SMALL, hypervisor
from tests.blackbox.users import STRANGER, needs_root, public_directory
from tests.catching import skip_where_none_are_caught
from xbd.client import connect

HANGS_AFTER_S = 60.0
HOSTILE = str(Path(__file__).with_name("hostile.py"))
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def may_catch() -> None:
    """Skip where it cannot be tried."""
    skip_where_none_are_caught()


@pytest.fixture(scope="module")
def host() -> Iterator[Path]:
    """Run a host with two domains and no guests; hands out the directory of its sockets."""
    with public_directory() as directory, hypervisor(directory):
        with connect(directory) as client:
            for name in ("one", "two"):
                client.call("create", {"name": name, **SMALL})
        yield directory


def xen(host: Path, *command: str) -> "subprocess.CompletedProcess[str]":
    """Run `xbd xen`."""
    return forked.run(["xen", "--socket", str(host), *command], HANGS_AFTER_S)


def hostile(host: Path, what: str, *options: str) -> list[str]:
    """Run the hostile program; returns its lines."""
    done = xen(host, *options, sys.executable, HOSTILE, what)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_program_ends_as_without_it(host: Path) -> None:
    """Its exit code and its signal are its own; what cannot be run has a shell's codes and a sentence."""
    assert xen(host, "sh", "-c", "exit 7").returncode == 7
    assert xen(host, "sh", "-c", "kill -SEGV $$").returncode == -signal.SIGSEGV
    # Python ignores SIGPIPE: a program must be ended by it all the same.
    assert xen(host, "sh", "-c", "kill -PIPE $$").returncode == -signal.SIGPIPE
    missing = xen(host, "no-such-program")
    assert (missing.returncode, missing.stderr) == (127, "xbd xen: no-such-program: not found in $PATH\n")
    strange = host / "strange"
    strange.write_bytes(b"\x7fELF")
    strange.chmod(0o755)
    refused = xen(host, str(strange))
    assert refused.returncode == 126
    assert refused.stderr == f"xbd xen: {strange}: cannot be executed: Exec format error\n"


def test_no_host_is_a_sentence(tmp_path: Path) -> None:
    """Without a hypervisor nothing is run."""
    done = xen(tmp_path / "none.sock", "echo", "run")
    assert (done.returncode, done.stdout) == (1, "")
    assert "no hypervisor at" in done.stderr


@pytest.mark.parametrize("options", [(), ("--delay", "physinfo=1ms")])
def test_what_it_leaves_behind_keeps_its_hypervisor(host: Path, tmp_path: Path, options: Sequence[str]) -> None:
    """The code comes when the command ends; a process that it left makes hypercalls later, also if nobody reads the report."""
    fifo, out = tmp_path / "fifo", tmp_path / "out"
    os.mkfifo(fifo)
    late = f"(read go < {fifo}; {sys.executable} {HOSTILE} domains > {out} 2>&1; echo > {fifo}) > /dev/null 2>&1 &"
    reading, writing = os.pipe()
    os.close(reading)
    command = forked.Forked(["xen", "--socket", str(host), *options, "sh", "-c", f"{late} exit 3"], stderr=writing)
    os.close(writing)
    assert command.wait(HANGS_AFTER_S) == 3
    fifo.write_text("go\n")
    fifo.read_text()
    assert out.read_text() == "0:2\n"


def test_inside_another_it_runs_plainly(host: Path) -> None:
    """Nested it changes nothing; faults are refused there."""
    again = f"{sys.executable} -m xbd xen"
    done = xen(host, "sh", "-c", f"{again} {sys.executable} {HOSTILE} domains; {again} --fail physinfo=EIO true")
    assert done.stdout == "0:2\n"
    assert "--fail and --delay are given to the outermost one" in done.stderr


def test_it_has_its_terminal(host: Path) -> None:
    """A program reads its terminal, and hears Ctrl-C from it."""
    script = "trap 'echo heard' INT; test -t 0; echo tty $?; until read x; do :; done; cat"
    command = ["-m", "xbd", "xen", "--socket", str(host), "sh", "-c", script]
    child = pexpect.spawn(sys.executable, command, encoding="utf-8", timeout=HANGS_AFTER_S)
    child.expect("tty 0")
    child.sendintr()
    # One that comes just before the shell reads is heard with the next.
    while child.expect(["heard", pexpect.TIMEOUT], timeout=1) == 1:
        child.sendintr()
    child.sendline("one")
    child.sendline("another")
    child.expect("another\r\nanother")
    child.sendeof()
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0


def test_bad_pointers_and_counts_are_errnos(host: Path) -> None:
    """Addresses of nothing, of half a struct and of the kernel are EFAULT, a count beyond reason EINVAL."""
    assert hostile(host, "pointers") == [*["{'EFAULT'}"] * 4, "EINVAL ENOSYS ENOSYS 0:2"]


def test_a_struct_that_changes_meanwhile_is_an_errno(host: Path) -> None:
    """Whatever another thread writes into it, each call is answered, and the next one is right."""
    assert hostile(host, "changing") == ["True 0:2"]


def test_a_caller_may_go_while_it_waits(host: Path) -> None:
    """One that executes another program, or ends, in the middle of a call harms nobody, and the other program has Xen."""
    assert hostile(host, "ends", "--delay", "physinfo=200ms") == ["0:2", "0:2"]


def test_other_files_are_the_kernels(host: Path) -> None:
    """The same ioctl on another file is ENOTTY, on none EBADF; Xen's other files are not there."""
    assert hostile(host, "other_files") == ["ENOTTY:0", "EBADF:0", "ENOENT", "0:2"]


def test_faults_are_counted(host: Path) -> None:
    """An operation fails just so often, and what happened is told in the end."""
    command = f"for i in 1 2 3; do {sys.executable} {HOSTILE} domains; done"
    done = xen(host, "--fail", "getdomaininfolist=EAGAIN:2", "--delay", "getdomaininfolist=1ms", "sh", "-c", command)
    assert done.stdout == "EAGAIN:0\nEAGAIN:0\n0:2\n"
    assert done.stderr.splitlines() == [
        "xbd xen: getdomaininfolist: 2 of 2 failed with EAGAIN, in 3 calls",
        "xbd xen: getdomaininfolist: 3 delayed by 0.001 s",
    ]


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ("--fail=maxmem=EIO", "no operation 'maxmem'; did you mean 'max_mem'?"),
        ("--fail=max_mem=EWHAT", "'EWHAT' is no errno"),
        ("--fail=max_mem=errorcode", "'errorcode' is no errno"),
        ("--fail=max_mem=EIO:0", "'0' is no number of times"),
        ("--delay=max_mem=2h", "'2h' is no time"),
    ],
)
def test_faults_that_make_no_sense_are_refused(host: Path, option: str, sentence: str) -> None:
    """Each mistake is named, and nothing is run."""
    done = xen(host, option, "echo", "run")
    assert (done.returncode, done.stdout) == (2, "")
    assert sentence in done.stderr


def has_environment(process: Path, mark: str) -> bool:
    """Tell whether a process was started with a word in its environment."""
    try:
        return mark.encode() in (process / "environ").read_bytes()
    except OSError:
        return False


def test_the_death_of_either_side(tmp_path: Path) -> None:
    """A host that is gone is ENODEV until it is there again; without a listener a hypercall is ENOSYS."""
    mark = f"mark-{os.getpid()}"
    command = [sys.executable, "-m", "xbd", "xen", "--socket", str(tmp_path), sys.executable, HOSTILE, "one_by_one"]
    with hypervisor(tmp_path) as first:
        program = subprocess.Popen(  # noqa: S603 - our own
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, "XBD_TEST": mark}
        )
        assert program.stdin is not None
        assert program.stdout is not None
        lines = program.stdout
        assert lines.readline() == "0:0\n"
        assert first.end(signal.SIGTERM) == 0

    def ask() -> str:
        assert program.stdin is not None
        program.stdin.write("\n")
        program.stdin.flush()
        return lines.readline()

    with program:
        assert ask() == "ENODEV:0\n"
        with hypervisor(tmp_path):
            assert ask() == "0:0\n"
            marked = [int(one.name) for one in Path("/proc").glob("[0-9]*") if has_environment(one, mark)]
            (listener,) = set(marked) - {program.pid}
            os.kill(listener, signal.SIGKILL)
            assert ask() == "ENOSYS:0\n"


def test_where_namespaces_are_denied_a_sentence_says_what_works(host: Path) -> None:
    """Without a view of its own a program has its hypervisor all the same."""
    deny = "echo 0 > /proc/sys/user/max_user_namespaces && exec setpriv --bounding-set=-all --inh-caps=-all "
    own = f"{sys.executable} -m xbd xen --socket {host} {sys.executable} {HOSTILE} domains"
    command = ["unshare", "-Ur", "sh", "-c", f"{deny} {own}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=HANGS_AFTER_S)  # noqa: S603 - our own
    except FileNotFoundError:
        pytest.skip("no unshare here (Debian: util-linux)")
    if done.returncode:
        pytest.skip(f"they are denied here already: {done.stderr:.120}")
    assert done.stdout == "0:2\n"
    assert done.stderr.startswith("xbd xen: no private view of the file system is allowed here (")
    assert "xl list, info, vcpu-list," in done.stderr


def test_what_runs_on_this_machine_is_reached_as_before(host: Path) -> None:
    """Libxl's locks have a place of their own; directories beside it are what they were, and may be written to as before."""
    there = [path.name for path in Path("/run").iterdir() if path.name != "xen"]
    look = "ls -A /run; touch /run/xen/x && ls /var/run/xen; touch /run/lock/xbd-test && rm /run/lock/xbd-test; echo $?"
    done = xen(host, "sh", "-c", look)
    *seen, lock, code = done.stdout.split()
    assert sorted(seen) == sorted([*there, "xen"])
    assert (lock, code, done.stderr) == ("x", "0", "")
    assert not Path("/run/xen/x").exists()


@needs_root
def test_an_ordinary_user_needs_nothing_more() -> None:
    """As nobody, on nobody's host: hypercalls work, and the directories of Xen's tools are there and its own."""
    user = pwd.getpwnam(STRANGER)
    ids = (user.pw_uid, user.pw_gid, ())
    with public_directory() as directory:
        os.chown(directory, *ids[:2])
        script = directory / "hostile.py"
        script.write_text(Path(HOSTILE).read_text(encoding="utf-8"), encoding="utf-8")
        start = ["hypervisor", "--memory", "64m", "--runtime-dir", str(directory)]
        daemon = forked.Forked(start, stderr=subprocess.PIPE, user=ids)
        assert daemon.stderr is not None
        try:
            assert any("hypervisor_ready" in line for line in daemon.stderr)
            look = f"/usr/bin/python3 {script} domains; touch /var/lib/xen/x && ls /var/lib/xen /etc/xen; id -un"
            done = forked.run(["xen", "--socket", str(directory), "sh", "-c", look], HANGS_AFTER_S, ids)
        finally:
            daemon.kill()
            daemon.wait()
            daemon.stderr.close()
    assert done.stderr == ""
    assert done.stdout == "0:0\n/etc/xen:\nxl.conf\n\n/var/lib/xen:\nx\nnobody\n"
    assert done.stderr == ""
