"""What a SIGHUP finds in the place of a daemon's file may be anything: it is refused in a sentence, and the daemon goes on."""

import os
import signal
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.blackbox.host import beside, end_in_order, hypervisor
from tests.blackbox.host_directory import run_xbd
from tests.blackbox.rpc import Caller
from tests.processes import Xbd, running

pytestmark = pytest.mark.slow

HOST = '[host]\nmemory = "64m"\n'
STRANGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "a pipe": (os.mkfifo, "it is a pipe, which is read only when a daemon starts"),
    "a device": (lambda path: path.symlink_to("/dev/zero"), "it is a device"),
    "a directory": (Path.mkdir, "cannot be read: Is a directory"),
    "nested": (lambda path: path.write_text("x = " + "[" * 100_000), "is nested too deeply"),
    "a long number": (lambda path: path.write_text("x = " + "9" * 5000), "is not TOML"),
}


def assert_it_refuses(xbd: Xbd, file: Path, event: str) -> None:
    """Have a daemon read each of what is strange, and say why it does not take it."""
    for make, said in STRANGE.values():
        if file.is_dir():
            file.rmdir()
        else:
            file.unlink()
        make(file)
        xbd.process.send_signal(signal.SIGHUP)
        xbd.wait_until_it_says(event)
        assert said in xbd.said[-1]


def test_a_hypervisor_goes_on_whatever_its_file_has_become(tmp_path: Path) -> None:
    """It answers after each, and ends in order."""
    file = tmp_path / "host.toml"
    file.write_text(HOST)
    with running("hypervisor", "--config", str(file), "--runtime-dir", str(tmp_path / "run")) as xbd:
        xbd.wait_until_it_says("hypervisor_ready")
        with Caller(tmp_path / "run" / "hypervisor.sock") as caller:
            assert_it_refuses(xbd, file, "reload_failed")
            assert caller.call("list") == {"domains": []}
        end_in_order(xbd)


def test_autoballoon_goes_on_whatever_its_file_has_become(tmp_path: Path) -> None:
    """It lives after each, and ends in order."""
    file = tmp_path / "autoballoon.toml"
    file.write_text("[autoballoon]\n")
    with ExitStack() as daemons:
        daemons.enter_context(hypervisor(tmp_path))
        xbd = daemons.enter_context(beside(tmp_path, "autoballoon", "--config", str(file)))
        assert_it_refuses(xbd, file, "reload_failed")


def test_a_daemon_starts_with_what_a_pipe_says(tmp_path: Path) -> None:
    """At the start a file may be a shell's `<(...)`; `xbd up`, whose processes each read it, says that it may not."""
    reader, writer = os.pipe()
    os.write(writer, HOST.encode())
    os.close(writer)
    arguments = ("hypervisor", "--config", f"/dev/fd/{reader}", "--runtime-dir", str(tmp_path / "run"))
    with running(*arguments, pass_fds=[reader]) as xbd:
        xbd.wait_until_it_says("hypervisor_ready")
        end_in_order(xbd)
    os.close(reader)
    os.mkfifo(tmp_path / "host.toml")
    done = run_xbd("up", str(tmp_path / "host.toml"))
    assert (done.returncode, done.stderr.count("\n")) == (78, 1)
    assert "it is a pipe" in done.stderr
