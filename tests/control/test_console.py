"""The last lines of a daemon's log, as Xen's ring keeps them."""

from tests.peer import small_host
from xbd.control.console import CONSOLE_CHARACTERS, Console


def test_the_oldest_lines_go() -> None:
    """As many as have room stay, whole; how much is gone is counted."""
    console = Console()
    line = "x" * 99 + "\n"
    for _ in range(1000):
        console.add(line)
    assert CONSOLE_CHARACTERS - len(line) < len(console.text) <= CONSOLE_CHARACTERS
    assert console.text == line * (len(console.text) // len(line))
    assert console.first + len(console.text) == 1000 * len(line)
    console.add("y" * (CONSOLE_CHARACTERS + 5))
    assert console.text == "y" * CONSOLE_CHARACTERS
    assert console.first == 1000 * len(line) + 5


def test_what_a_terminal_would_act_upon_is_not_kept() -> None:
    """Neither colours, nor what a peer had logged."""
    console = Console()
    console.add("\x1b[2m12:00\x1b[0m [\x1b[31m\x1b[1merror\x1b[0m] \x1b]0;title\x07\n")
    assert console.text == "12:00 [error] ?]0;title?\n"


def test_a_toolstack_is_told_the_lines() -> None:
    """And how many characters lay before them."""
    host = small_host()
    host.console.add("one\n")
    assert host.call("console", {}) == {"text": "one\n", "first": 0}
