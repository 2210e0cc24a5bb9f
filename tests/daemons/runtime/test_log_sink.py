"""The log sink over writers that refuse, over real pipes, sockets and terminals: no line torn, none lost without being counted."""

import io
import os
import socket
import threading
from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xbd.daemons.runtime.log_sink import MAX_LINE_CHARACTERS, LogSink, Writer, polled_writer_to, writer_to

# A sink that does not catch up by itself fails its test after that.
PATIENCE_S = 30.0


class Place:
    """Where a sink writes to: takes as many bytes as it has room for, then would block."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.taken = b""

    def write(self, encoded: bytes) -> int:
        """Take what there is room for. Raises BlockingIOError: there is none."""
        taken = encoded[: self.room]
        if not taken:
            raise BlockingIOError
        self.room -= len(taken)
        self.taken += taken
        return len(taken)


def sink_to(place: Place) -> LogSink:
    """Make a sink that says what was lost as `lost N`."""
    return LogSink(place.write, tell=lambda lines: f"lost {lines}")


def wait_until_caught_up(sink: LogSink) -> None:
    """Wait until the sink, by itself, has written everything that it owes."""
    waited = threading.Event()
    for _ in range(int(PATIENCE_S / 0.02)):
        if not sink.owes:
            return
        waited.wait(0.02)
    raise AssertionError("it did not catch up")


def fill(descriptor: int) -> None:
    """Fill a pipe or terminal until nothing more goes in, by a description of its own."""
    own = os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
    with suppress(BlockingIOError):
        while True:
            os.write(own, b"." * 4096)
    with suppress(BlockingIOError):
        while True:
            os.write(own, b".")
    os.close(own)


def test_lines_that_find_no_room_are_counted_and_said_before_the_next() -> None:
    """Two lines are lost; when there is room, the line that says so comes first."""
    place = Place(4)
    sink = sink_to(place)
    for text in ("one\n", "two\n", "three\n"):
        assert sink.write(text) == len(text)
    assert (place.taken, sink.lost_lines) == (b"one\n", 2)
    place.room = 1000
    sink.write("four\n")

    assert place.taken == b"one\nlost 2\nfour\n"
    assert sink.lost_lines == 0


def test_a_line_that_was_begun_is_finished_before_anything_else() -> None:
    """A line of which two bytes fitted is not torn: its rest precedes what was lost, and the next line."""
    place = Place(2)
    sink = sink_to(place)
    sink.write("one\n")
    sink.write("two\n")
    place.room = 1000
    sink.write("three\n")

    assert place.taken == b"one\nlost 1\nthree\n"


def test_what_is_owed_is_written_without_another_line() -> None:
    """When nothing more is logged, the rest of a line, and the number of the lost, still come."""
    place = Place(2)
    sink = sink_to(place)
    sink.write("one\n")
    sink.write("two\n")
    place.room = 1000
    wait_until_caught_up(sink)

    assert place.taken == b"one\nlost 1\n"


@given(st.lists(st.tuples(st.integers(0, 30), st.text("abü\n", max_size=12))))
def test_every_line_is_written_whole_or_counted(steps: list[tuple[int, str]]) -> None:
    """Whatever room there is between whichever pieces of text: written and lost lines make up all, in order."""
    place = Place(0)
    sink = sink_to(place)
    for room, text in steps:
        place.room = room
        sink.write(text)
    place.room = 1_000_000
    sink.write("\n")
    text = "".join(text for _, text in steps) + "\n"
    lines = place.taken.decode().splitlines(keepends=True)
    lost = sum(int(line.split()[1]) for line in lines if line.startswith("lost "))
    kept = [line for line in lines if not line.startswith("lost ")]

    assert all(line.endswith("\n") for line in lines)
    assert len(kept) + lost == text.count("\n")
    rest = iter(text.splitlines(keepends=True))
    assert all(line in rest for line in kept)


def test_a_line_without_an_end_comes_when_it_is_flushed_or_grows_too_long() -> None:
    """A prompt is written by flush, and a line of a mebibyte is not kept for ever."""
    place = Place(10 * MAX_LINE_CHARACTERS)
    sink = sink_to(place)
    sink.write("no end")
    assert place.taken == b""
    sink.flush()
    assert place.taken == b"no end"
    sink.write("x" * (MAX_LINE_CHARACTERS + 1))

    assert len(place.taken) == len("no end") + MAX_LINE_CHARACTERS + 1


def test_a_write_within_a_write_is_written_after_it() -> None:
    """A finalizer that warns while a line is written neither waits for itself nor tears the line."""
    taken: list[bytes] = []

    def write(encoded: bytes) -> int:
        if not taken:
            sink.write("inner\n")
        taken.append(encoded)
        return len(encoded)

    sink = LogSink(write, tell=str)
    sink.write("outer\n")

    assert taken == [b"outer\n", b"inner\n"]


def test_bytes_are_no_text() -> None:
    """By this click tells text streams from others."""
    with pytest.raises(TypeError, match="bytes"):
        sink_to(Place(1)).write(b"")  # type: ignore[arg-type]


@pytest.mark.parametrize("make", [writer_to, polled_writer_to])
def test_a_full_pipe_and_one_without_a_reader_are_refused_at_once(make: Callable[[int], Writer]) -> None:
    """A blocking pipe that is full is not waited for, and stays blocking for others; one that nobody reads raises."""
    reading, writing = os.pipe()
    write = make(writing)
    assert write(b"line\n") == 5
    fill(writing)
    with pytest.raises(BlockingIOError):
        write(b"line\n")
    assert os.get_blocking(writing)
    os.close(reading)
    with pytest.raises(BrokenPipeError):
        write(b"line\n")
    os.close(writing)


def test_a_line_longer_than_the_pipe_is_finished_when_it_is_read() -> None:
    """A line of 200,000 bytes goes through a pipe of 65,536, whole, as its reader reads."""
    reading, writing = os.pipe()
    sink = LogSink(writer_to(writing), tell=str)
    sink.write("x" * 200_000 + "\n")
    read = b""
    while not read.endswith(b"\n"):
        read += os.read(reading, 65536)
    os.close(reading)
    os.close(writing)

    assert read == b"x" * 200_000 + b"\n"


def test_a_socket_that_nobody_reads_is_refused_at_once() -> None:
    """As standard error is to the journal: sent to without waiting, and without a flag that others would see."""
    ours, theirs = socket.socketpair()
    write = writer_to(ours.fileno())
    with suppress(BlockingIOError):
        while True:
            write(b"." * 4096)
    with pytest.raises(BlockingIOError):
        write(b"." * 4096)
    assert os.get_blocking(ours.fileno())
    theirs.close()
    with pytest.raises(BrokenPipeError):
        write(b"line\n")
    ours.close()


def test_a_terminal_that_is_stopped_or_closed_is_refused_at_once() -> None:
    """A terminal that takes no more (as after Ctrl-S) is not waited for; one that was closed raises."""
    master, slave = os.openpty()
    write = writer_to(slave)
    assert write(b"line\n") == 5
    fill(slave)
    with pytest.raises(BlockingIOError):
        write(b"line\n")
    assert os.get_blocking(slave)
    os.close(master)
    with pytest.raises(OSError, match="Input/output"):
        write(b"line\n")
    os.close(slave)


def test_a_full_disk_is_refused() -> None:
    """What a device has no room for is lost and counted."""
    full = os.open("/dev/full", os.O_WRONLY)
    sink = LogSink(writer_to(full), tell=str)
    sink.write("line\n")

    assert sink.lost_lines == 1
    os.close(full)


def test_it_is_a_stream_as_others_are() -> None:
    """It tells its descriptor, encoding and that it is no terminal, and can be written to only."""
    reading, writing = os.pipe()
    sink = LogSink(writer_to(writing), descriptor=writing, tell=str)
    print("a", "b", file=sink)

    assert os.read(reading, 100) == b"a b\n"
    assert (sink.fileno(), sink.isatty(), sink.encoding, sink.writable()) == (writing, False, "utf-8", True)
    with pytest.raises(io.UnsupportedOperation):
        sink.read()
    os.close(reading)
    os.close(writing)


def test_what_is_no_log_line_gets_a_mark_of_its_own() -> None:
    """Each line that has no priority yet, such as those of a traceback, whether it comes whole or in pieces."""
    place = Place(1000)
    sink = LogSink(place.write, mark="<3>")
    for text in ("<6>fine\n", "Traceback:\n", "  File", " x\n", "Error: one\ntwo\n\n", "<4>two\n<8>no priority\n"):
        sink.write(text)

    assert place.taken == (b"<6>fine\n<3>Traceback:\n<3>  File x\n<3>Error: one\n<3>two\n\n<4>two\n<3><8>no priority\n")
