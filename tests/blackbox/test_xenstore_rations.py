"""What a guest may cause at its socket of the store: so many connects, and so many log lines, however it floods."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

import pytest

from tests.blackbox.host import SMALL, beside, hypervisor
from tests.blackbox.rpc import Caller
from tests.blackbox.xs import WRITE, Store, introduce, packed
from tests.processes import Xbd

# Far more than anybody has in order.
FLOOD: Final = 400
# A few lines at once, then one a minute; beside them the daemon's own.
LINES_AT_MOST: Final = 12


@contextmanager
def store_of_a_domain(directory: Path) -> Iterator[tuple[Xbd, Path]]:
    """Run a store that knows domain 8; hands out the daemon and the domain's socket."""
    with beside(directory, "xenstored") as xbd:
        with Store(directory / "xenstored" / "socket") as tools:
            tools.ask(introduce(8))
        yield xbd, directory / "xenstored" / "domains" / "8.sock"


def lines_about(xbd: Xbd, *events: str) -> list[str]:
    """End a daemon; list its log lines of these events."""
    xbd.end()
    return [line for line in xbd.said if any(event in line for event in events)]


@pytest.mark.parametrize("said", [b"", b"\xff" * 64], ids=["nothing", "nonsense"])
def test_a_flood_of_connects_leaves_few_lines_and_others_are_served(tmp_path: Path, said: bytes) -> None:
    """Who connects without end is let in rarely and logged hardly ever; tools and other domains notice nothing."""
    with store_of_a_domain(tmp_path) as (xbd, path):
        with ExitStack() as held:
            for _ in range(FLOOD):
                one = held.enter_context(Store(path))
                with suppress(ConnectionError):
                    one.socket.sendall(said)
            with Store(tmp_path / "xenstored" / "socket") as tools:
                assert tools.ask((WRITE, b"/a\0b"))[0][0] == WRITE
                tools.ask(introduce(9))
            with Store(tmp_path / "xenstored" / "domains" / "9.sock") as other:
                assert other.ask((WRITE, b"/local/domain/9/data\0b"))
        lines = lines_about(xbd, "peer_refused", "peer_dropped", "descriptors_exhausted")
        # Who breaks the protocol is named; who says nothing waits for a place, or gives it to the next one.
        assert len(lines) <= LINES_AT_MOST, "".join(lines)
        assert lines or not said


def test_one_who_is_dropped_may_not_come_again_at_once_without_end(tmp_path: Path) -> None:
    """After some sixteen connects that broke the protocol the next one waits to be accepted."""
    with store_of_a_domain(tmp_path) as (_, path):
        answered = 0
        for _ in range(FLOOD):
            with Store(path) as one:
                one.socket.sendall(packed(WRITE, b"", request=1)[:12] + b"\xff" * 4)
                one.socket.settimeout(1.0)
                try:
                    while one.socket.recv(64):
                        pass
                except TimeoutError:
                    break
                answered += 1
        assert 16 <= answered <= 20


def test_targets_that_are_none_are_refused_in_few_lines(tmp_path: Path) -> None:
    """Whoever may write a target may write nonsense without end: a few lines of the log tell of it."""
    with hypervisor(tmp_path), beside(tmp_path, "xenstored") as xbd:
        with Caller(tmp_path / "hypervisor.sock") as caller:
            caller.call("create", name="web", **SMALL)
        with Store(tmp_path / "xenstored" / "socket") as tools:
            for number in range(FLOOD):
                tools.ask((WRITE, b"/local/domain/1/memory/target\0none-%d" % number))
                if number % 4 == 0:
                    # Let the daemon look: what is written between two looks is one request.
                    threading.Event().wait(0.01)
        lines = lines_about(xbd, "xenstore_target")
        assert 0 < len(lines) <= LINES_AT_MOST, "".join(lines)
