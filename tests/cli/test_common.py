"""What the commands share: errors as sentences, progress on a terminal."""

import io
import sys

import click
import pytest

from xbd.cli.common import EXIT_INTERRUPTED, Failure, raise_as_failure
from xbd.cli.follow import LiveView
from xbd.cli.progress import Following
from xbd.errors import ConfigError, HypercallError, PeerLost, RemoteProtocolError


@pytest.mark.parametrize(
    ("error", "exit_code", "sentence"),
    [
        (PeerLost("gone"), 1, "gone"),
        (HypercallError("no", "yes", errno="EBUSY"), 1, "EBUSY: no (expected yes)"),
        (RemoteProtocolError("odd", "even"), 1, "odd (expected even)"),
        (RemoteProtocolError("odd"), 1, "odd"),
        (ConfigError("f.toml", "host.x", "is wrong"), 78, "f.toml: host.x: is wrong"),
        (ExceptionGroup("two tasks", [PeerLost("gone"), PeerLost("too")]), 1, "gone"),
        (ExceptionGroup("nested", [ExceptionGroup("deeper", [ConfigError("f", "k", "r")])]), 78, "f: k: r"),
    ],
)
def test_what_xbd_raises_on_purpose_is_a_sentence(error: Exception, exit_code: int, sentence: str) -> None:
    """With the exit code that scripts rely on."""
    with pytest.raises(Failure) as failure:
        raise_as_failure(error)
    assert (failure.value.exit_code, failure.value.message) == (exit_code, sentence)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), BaseExceptionGroup("tasks", [KeyboardInterrupt()])])
def test_ctrl_c_leaves_without_a_word(error: BaseException) -> None:
    """As shells expect it: 130."""
    with pytest.raises(click.exceptions.Exit) as leaving:
        raise_as_failure(error)
    assert leaving.value.exit_code == EXIT_INTERRUPTED


@pytest.mark.parametrize("error", [ValueError("bug"), ExceptionGroup("tasks", [PeerLost("gone"), ValueError("bug")])])
def test_a_bug_keeps_its_traceback(error: Exception) -> None:
    """Nothing hides it, not even another task's honest failure beside it."""
    with pytest.raises(type(error)) as raised:
        raise_as_failure(error)
    assert raised.value is error


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        """Return True."""
        return True


def test_progress_is_drawn_over_itself_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each drawing begins where the last one did, and in the end nothing is left."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    view = LiveView()
    view.show([Following(1, "web1", "1 web1", 1024, 512, 0.0)])
    view.show([Following(1, "web1", "1 web1", 1024, 512, 0.0)])
    view.clear()
    first, second, last = terminal.getvalue().split("\x1b[J")[1:]
    assert first.startswith("0 of 1 at their targets\nweb1 ")
    assert second == first
    assert first.endswith("\x1b[2F")
    assert last == ""


def test_progress_is_not_drawn_where_nobody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipe gets the outcome alone."""
    pipe = io.StringIO()
    monkeypatch.setattr(sys, "stderr", pipe)
    view = LiveView()
    view.show([Following(1, "web1", "1 web1", 1024, 512, 0.0)])
    view.clear()
    assert pipe.getvalue() == ""
