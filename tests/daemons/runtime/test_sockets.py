"""Directories and groups of sockets: nobody else may put a socket in the place of ours."""

import grp
import os
import socket
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from xbd.daemons.runtime.sockets import bind_unix, let_group_enter, lock_runtime_dir, permit_group
from xbd.errors import ConfigError

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


def mode_of(path: Path) -> int:
    """Tell a file's permissions."""
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("shared", ["", "domains"])
@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o702])
def test_a_directory_that_others_can_write_is_refused(tmp_path: Path, shared: str, mode: int) -> None:
    """Also one with the sticky bit, and the one for the domains' sockets; told with what to do, and left as it is."""
    directory = tmp_path / "run" / shared
    directory.mkdir(parents=True)
    directory.chmod(mode)
    with pytest.raises(
        ConfigError, match=rf"can be written by everybody \(mode {mode:04o}\).*chmod it to 0750"
    ) as told:
        lock_runtime_dir(tmp_path / "run", None)

    assert told.value.path == directory
    assert mode_of(directory) == mode
    assert not (tmp_path / "run" / "hypervisor.lock").exists()


@as_root
def test_a_directory_of_another_s_is_refused(tmp_path: Path) -> None:
    """And one that another group can write; this process's own group may."""
    run = tmp_path / "run"
    run.mkdir(mode=0o770)
    os.chown(run, 12345, -1)
    with pytest.raises(ConfigError, match="belongs to user 12345"):
        lock_runtime_dir(run, None)
    os.chown(run, os.geteuid(), 12345)
    run.chmod(0o770)
    with pytest.raises(ConfigError, match="can be written by group 12345"):
        lock_runtime_dir(run, None)
    os.chown(run, -1, os.getegid())
    lock_runtime_dir(run, None).release()


def test_a_new_directory_is_private(tmp_path: Path) -> None:
    """With a group, its members find the socket in it, and no domain's."""
    own = grp.getgrgid(os.getegid()).gr_name
    lock_runtime_dir(tmp_path / "alone", None).release()
    lock_runtime_dir(tmp_path / "grouped", own).release()

    assert mode_of(tmp_path / "alone") == 0o700
    assert mode_of(tmp_path / "grouped") == 0o750
    assert mode_of(tmp_path / "grouped" / "domains") == 0o700


def test_an_old_directory_lets_a_new_group_in(tmp_path: Path) -> None:
    """One of mode 0700, from before there was a group, would keep its members out."""
    tmp_path.chmod(0o700)
    let_group_enter(tmp_path, grp.getgrgid(os.getegid()).gr_name)
    assert mode_of(tmp_path) == 0o750


def test_a_group_comes_and_goes(tmp_path: Path) -> None:
    """The socket's mode follows; one that does not exist changes nothing."""
    own = grp.getgrgid(os.getegid()).gr_name
    path = tmp_path / "a.sock"
    with bind_unix(path):
        assert mode_of(path) == 0o600
        permit_group(path, own)
        assert mode_of(path) == 0o660
        with pytest.raises(ConfigError, match="no group is called 'no-such-group-here'"):
            permit_group(path, "no-such-group-here")
        assert mode_of(path) == 0o660
        permit_group(path, None)
        assert mode_of(path) == 0o600


def test_a_file_in_the_place_of_a_socket_is_named_for_what_it_is(tmp_path: Path) -> None:
    """With what to do, rather than as an address in use."""
    path = tmp_path / "hypervisor.sock"
    path.write_text("precious")
    with pytest.raises(ConfigError, match="is no socket, and in the place of one; remove it"):
        bind_unix(path)


def test_a_link_in_the_place_of_a_socket_is_refused(tmp_path: Path) -> None:
    """Also one that leads to a socket that nobody listens on: what it leads to, and the link, stay."""
    path, stale = tmp_path / "hypervisor.sock", tmp_path / "stale.sock"
    bind_unix(stale).close()
    path.symlink_to(stale)
    with pytest.raises(ConfigError, match="is a link"):
        bind_unix(path)
    assert path.is_symlink()
    assert stale.is_socket()


def test_what_cannot_be_given_to_its_group_leaves_no_file(tmp_path: Path) -> None:
    """Neither the socket, nor anything that the binding needed."""
    with pytest.raises(ConfigError, match="no group is called"):
        bind_unix(tmp_path / "hypervisor.sock", group="no-such-group-here")
    assert list(tmp_path.iterdir()) == []


def test_a_stale_socket_is_replaced_and_a_living_one_is_not(tmp_path: Path) -> None:
    """And nothing else is left in the directory."""
    path = tmp_path / "hypervisor.sock"
    bind_unix(path).close()
    with bind_unix(path), pytest.raises(ConfigError, match="somebody listens there already"):
        bind_unix(path)
    assert list(tmp_path.iterdir()) == [path]


def test_of_two_that_bind_a_stale_path_at_once_one_wins(tmp_path: Path) -> None:
    """The other one is refused, and does not remove the socket of the one that has won."""
    path = tmp_path / "hypervisor.sock"
    for _ in range(100):
        with socket.socket(socket.AF_UNIX) as killed:
            killed.bind(str(path))
        together = threading.Barrier(2)

        def bind(together: threading.Barrier = together) -> socket.socket | None:
            together.wait()
            try:
                return bind_unix(path)
            except ConfigError:
                return None

        with ThreadPoolExecutor(2) as pool:
            bound = [one.result() for one in [pool.submit(bind) for _ in range(2)]]
        won = [one for one in bound if one is not None]
        with socket.socket(socket.AF_UNIX) as client:
            reached = client.connect_ex(str(path))
        for one in won:
            one.close()
        path.unlink()
        assert (len(won), reached) == (1, 0)
