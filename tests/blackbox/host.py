"""A host's daemons in a directory, as processes, and those who keep connecting at their sockets."""

import signal
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from tests.processes import Xbd, running

# A small domain of two superpages.
SMALL: Final = {"max_pages": 1024, "target_pages": 512, "autostart": False}


def files_in(directory: Path) -> set[str]:
    """Name all files in and below a directory."""
    return {str(path.relative_to(directory)) for path in directory.rglob("*") if not path.is_dir()}


def descriptors_of(xbd: Xbd) -> int:
    """Count what a process has open."""
    return len(list(Path(f"/proc/{xbd.process.pid}/fd").iterdir()))


def end_in_order(xbd: Xbd, with_signal: signal.Signals = signal.SIGTERM) -> None:
    """Have a daemon end, unless it was ended already; either way its exit code must be 0."""
    open_still = xbd.process.stderr is not None and not xbd.process.stderr.closed
    code = xbd.end(with_signal) if open_still else xbd.process.returncode
    assert code == 0, "".join(xbd.said)


@contextmanager
def hypervisor(directory: Path, *more: str, memory: str = "256m", launcher: Sequence[str] = ()) -> Iterator[Xbd]:
    """Run a hypervisor whose sockets are in *directory*; it must end in order, its last audit clean."""
    command = ("hypervisor", "--memory", memory, "--runtime-dir", str(directory), *more)
    with running(*command, launcher=launcher) as xbd:
        xbd.wait_until_it_says("hypervisor_ready")
        yield xbd
        end_in_order(xbd)


@contextmanager
def beside(directory: Path, daemon: str, *more: str) -> Iterator[Xbd]:
    """Run another daemon on the hypervisor's socket in *directory*; it must end in order."""
    with running(daemon, "--socket", str(directory / "hypervisor.sock"), *more) as xbd:
        xbd.wait_until_it_says(f"{daemon}_ready")
        yield xbd
        end_in_order(xbd)


@contextmanager
def connecting(path: Path, said: bytes = b"\xff", *, connectors: int = 3) -> Iterator[None]:
    """Connect to a socket, say something and leave, all the time, whether or not it is there; its name is a pattern."""
    enough = threading.Event()

    def connect() -> None:
        while not enough.is_set():
            with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as one:
                one.settimeout(0.01)
                one.connect(str(next(path.parent.glob(path.name), path)))
                one.sendall(said)
            enough.wait(0.0005)

    threads = [threading.Thread(target=connect) for _ in range(connectors)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        enough.set()
        for thread in threads:
            thread.join()
