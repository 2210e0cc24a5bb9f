"""Taking the socket that a service manager passes: the right one, and nothing else."""

import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from xbd.daemons.runtime.activation import take_passed_socket
from xbd.errors import ConfigError

PID = 42


def environment(count: int = 1) -> dict[str, str]:
    """Spell out what a manager says of *count* sockets."""
    return {"LISTEN_PID": str(PID), "LISTEN_FDS": str(count), "LISTEN_FDNAMES": ":".join(["tools"] * count), "A": "b"}


def is_open(descriptor: int) -> bool:
    """Tell whether a descriptor is open."""
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


@pytest.fixture
def bound(tmp_path: Path) -> Iterator[socket.socket]:
    """Listen where clients look."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "hypervisor.sock"))
        (tmp_path / "hypervisor.sock").chmod(0o660)
        listener.listen()
        yield listener


def test_the_socket_that_clients_look_for_is_taken(tmp_path: Path, bound: socket.socket) -> None:
    """Not inherited by children, who are not told of it either; a link to its directory is as good."""
    (tmp_path / "link").symlink_to(tmp_path)
    copy = os.dup(bound.fileno())
    environ = environment()
    listener = take_passed_socket(environ, PID, tmp_path / "link" / "hypervisor.sock", copy)

    assert listener is not None
    with listener, socket.socket(socket.AF_UNIX) as client:
        client.connect(str(tmp_path / "hypervisor.sock"))
        listener.accept()[0].close()
        assert not listener.get_inheritable()
        assert listener.gettimeout() == 0
    assert not is_open(copy)
    assert environ == {"A": "b"}
    assert stat.S_ISSOCK((tmp_path / "hypervisor.sock").stat().st_mode)


@pytest.mark.parametrize("environ", [{}, {"LISTEN_PID": "43", "LISTEN_FDS": "1"}, {"LISTEN_FDS": "1"}, environment(0)])
def test_what_is_meant_for_nobody_or_another_is_left_alone(tmp_path: Path, environ: dict[str, str]) -> None:
    """The daemon binds its own socket then."""
    assert take_passed_socket(environ, PID, tmp_path / "hypervisor.sock") is None


def test_another_path_is_refused(tmp_path: Path, bound: socket.socket) -> None:
    """Nobody would look there; both paths are named, and where to correct it. The descriptor is closed."""
    copy = os.dup(bound.fileno())
    with pytest.raises(ConfigError) as refused:
        take_passed_socket(environment(), PID, tmp_path / "run" / "hypervisor.sock", copy)

    assert str(refused.value) == (
        f"{tmp_path}/run/hypervisor.sock: the passed socket 'tools' is bound to '{tmp_path}/hypervisor.sock'; "
        f"a listening Unix stream socket at {tmp_path}/run/hypervisor.sock is expected; "
        f"correct ListenStream= in its unit"
    )
    assert not is_open(copy)


@pytest.mark.parametrize(
    ("family", "kind", "words"),
    [
        (socket.AF_INET, socket.SOCK_STREAM, "is a AF_INET SOCK_STREAM"),
        (socket.AF_UNIX, socket.SOCK_DGRAM, "is a AF_UNIX SOCK_DGRAM"),
        (socket.AF_UNIX, socket.SOCK_STREAM, "is bound to ''"),
    ],
)
def test_other_kinds_are_refused(
    tmp_path: Path, family: socket.AddressFamily, kind: socket.SocketKind, words: str
) -> None:
    """By what they are."""
    with socket.socket(family, kind) as other:
        copy = os.dup(other.fileno())
        with pytest.raises(ConfigError, match=words):
            take_passed_socket(environment(), PID, tmp_path / "hypervisor.sock", copy)
    assert not is_open(copy)


def test_what_is_no_socket_or_not_open_is_refused(tmp_path: Path) -> None:
    """A file, and a descriptor that nobody opened."""
    with (tmp_path / "file").open("w") as file:
        copy = os.dup(file.fileno())
        for words in ("is no socket", "is not open"):
            with pytest.raises(ConfigError, match=words):
                take_passed_socket(environment(), PID, tmp_path / "hypervisor.sock", copy)
            assert not is_open(copy)


def test_a_socket_that_does_not_listen_or_is_open_to_all_is_refused(tmp_path: Path) -> None:
    """SocketMode=0666 lets everybody move memory."""
    path = tmp_path / "hypervisor.sock"
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(path))
        with pytest.raises(ConfigError, match="does not listen"):
            take_passed_socket(environment(), PID, path, os.dup(bound.fileno()))
        bound.listen()
        path.chmod(0o666)
        with pytest.raises(ConfigError, match=r"everybody may use .*mode 0666.*SocketMode=0660"):
            take_passed_socket(environment(), PID, path, os.dup(bound.fileno()))


def test_more_than_one_is_refused(tmp_path: Path) -> None:
    """Rather than one of them left without anybody who accepts."""
    with pytest.raises(ConfigError, match=r"2 sockets were passed \(tools:tools\), one is expected"):
        take_passed_socket(
            environment(2), PID, tmp_path / "hypervisor.sock", 1 << 24
        )  # none that this process has open


def test_a_count_that_is_none_is_refused(tmp_path: Path) -> None:
    """By its text."""
    with pytest.raises(ConfigError, match="'one' is not a number of descriptors"):
        take_passed_socket({**environment(), "LISTEN_FDS": "one"}, PID, tmp_path / "hypervisor.sock")
