"""What the system lacks at a start or a boot is refused with a sentence; it ends no daemon with a traceback."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.peer import clock, do
from xbd.control.controller import Controller
from xbd.daemons import hypervisor
from xbd.daemons.runtime import sockets
from xbd.daemons.runtime.outside import replaced
from xbd.daemons.runtime.state_dir import StateDir, make_machine
from xbd.errors import ConfigError, OutOfResources
from xbd.machine import HostSettings

SUPERFRAMES = 16


def lacks(number: int) -> Callable[..., Any]:
    """Make a call that fails with this error."""

    def fail(*args: object, **options: object) -> None:
        del args, options
        raise OSError(number, os.strerror(number))

    return fail


def make_host(directory: Path) -> None:
    """Leave a host of one domain in a state directory."""
    state = StateDir(directory)
    host = Controller(make_machine(state, SUPERFRAMES, HostSettings()), clock=clock)
    do(host, "create", name="web", max_pages=1024, target_pages=512)
    state.begin()
    state.close(in_order=True)


def test_a_socket_without_a_descriptor_is_refused(tmp_path: Path) -> None:
    """Who binds a socket and gets no descriptor is told so: a store that has no socket for a domain goes on."""
    with replaced(socket=lacks(errno.EMFILE)), pytest.raises(ConfigError, match="cannot listen there: Too many open"):
        sockets.bind_unix(tmp_path / "s.sock")


@pytest.mark.parametrize("call", ["open", "fallocate", "mmap"])
def test_a_new_host_for_which_something_lacks_is_refused(tmp_path: Path, call: str) -> None:
    """A new host that gets no file is refused, and the directory can be used by the next daemon."""
    state = StateDir(tmp_path / "state")
    with replaced(**{call: lacks(errno.ENOSPC)}), pytest.raises(ConfigError, match="cannot hold the host: No space"):
        make_machine(state, SUPERFRAMES, HostSettings())

    make_host(tmp_path / "state")


def test_a_saved_host_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    """A recovery that gets no descriptor, at whichever file, is refused, and the next one has the host."""
    make_host(tmp_path / "state")
    opened, is_done = 0, False

    while not is_done:
        left, state = opened, StateDir(tmp_path / "state")

        def open_at_most(path: str, flags: int, mode: int = 0o666) -> int:
            nonlocal left
            left -= 1
            if left < 0:
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            return os.open(path, flags, mode)

        try:
            with replaced(open=open_at_most):
                make_machine(state, SUPERFRAMES, HostSettings())
            is_done = True
        except ConfigError as error:
            assert "the saved host cannot be" in str(error)  # noqa: PT017 - the last one has none
        opened += 1
    state.close(in_order=False)

    assert opened > 4
    again = StateDir(tmp_path / "state")
    assert make_machine(again, SUPERFRAMES, HostSettings()).domains() == [1]
    again.close(in_order=False)


@pytest.mark.parametrize(
    ("call", "number", "said"),
    [
        ("truncate", errno.ENOSPC, "cannot hold the host: No space"),
        ("socket", errno.ENFILE, "the saved host cannot be taken up: ENFILE: no socket for d1"),
    ],
)
async def test_a_state_that_cannot_be_begun_is_refused(tmp_path: Path, call: str, number: int, said: str) -> None:
    """A full disk when all else is ready, or no descriptor for a domain's socket: a sentence, and nothing is changed."""
    make_host(tmp_path / "state")
    state = StateDir(tmp_path / "state")
    machine = make_machine(state, SUPERFRAMES, HostSettings())
    with replaced(**{call: lacks(number)}), pytest.raises(ConfigError, match=said):
        await hypervisor.serve(machine, tmp_path / "run", state=state, stop=trio.Event())

    again = StateDir(tmp_path / "state")
    assert make_machine(again, SUPERFRAMES, HostSettings()).domains() == [1]
    again.close(in_order=False)


def test_a_boot_opens_no_file_once_it_is_reserved(tmp_path: Path) -> None:
    """What a reboot needs is reserved, or refused; when it is under way, no descriptor can be lacking."""
    state = StateDir(tmp_path / "state")
    host = Controller(make_machine(state, SUPERFRAMES, HostSettings()), clock=clock)
    do(host, "create", name="web", max_pages=1024, target_pages=512)
    contacts = host.machine.reserve_reboot(1)
    with replaced(open=lacks(errno.EMFILE)):
        with host.step():
            assert host.machine.reboot(1, contacts).domid == 1
        with pytest.raises(OutOfResources, match="d1 is not booted"):
            host.open_session(host.record(1), 0, "a session", None)
        with pytest.raises(OutOfResources, match="d1 is not destroyed"):
            host.call("destroy", {"domid": 1})
    assert host.audit() == []
    state.close(in_order=False)
