"""Memory that was freed goes back to the operating system."""

from pathlib import Path

import pytest
import trio
import trio.testing

from xbd.daemons.runtime import malloc_trim
from xbd.daemons.runtime.malloc_trim import TRIM_EVERY_S, trim_now_and_then


def own_kib() -> int:
    """Tell what this process holds of its own."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon:"))


def full_of_holes() -> list[bytearray]:
    """Take 64 MiB in pieces of 8 KiB and give all but every eighth back; returns those."""
    pieces = [bytearray(8192) for _ in range(8192)]
    for piece in pieces:
        piece[:] = b"x" * len(piece)
    return pieces[::8]


async def test_holes_are_given_back_now_and_then(autojump_clock: trio.testing.MockClock) -> None:
    """Between pieces that stay, too."""
    del autojump_clock
    if malloc_trim.find_trim() is None:
        pytest.skip("this C library has no malloc_trim")
    kept = full_of_holes()
    before = own_kib()
    with trio.move_on_after(TRIM_EVERY_S * 1.5):
        await trim_now_and_then()
    assert own_kib() < before - 32 * 1024
    assert len(kept) == 1024


async def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is nothing to ask it for."""
    monkeypatch.setattr(malloc_trim, "find_trim", lambda: None)
    with trio.fail_after(1):
        await trim_now_and_then()
