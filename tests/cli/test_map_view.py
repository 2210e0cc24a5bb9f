"""The picture of a host's frames: cells, colours, letters, legend."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xbd.cli import map_view
from xbd.cli.map_picture import picture
from xbd.cli.map_view import (
    cells,
    colours,
    healed_and_broken,
    legend,
    owner_colour,
    owners,
    pixels,
    plain_lines,
    square_pixels,
    terminal_lines,
)
from xbd.control.frames import Frames, frames_of
from xbd.errors import RemoteProtocolError


def frames(*kinds: int, owner: int = 3) -> Frames:
    """Make a map of superframes of these kinds, those that are not free of one owner (domid 2)."""
    kind = np.array(kinds, dtype=np.uint8)
    return Frames(kind, np.where(kind > 0, owner, 0).astype(np.uint16), np.where(kind > 0, 512, 0).astype(np.uint16))


def answer(drawn: Frames) -> dict[str, object]:
    """Write a map as the daemon would."""
    return {
        "superframes": drawn.kind.size,
        "kind": drawn.kind.tobytes(),
        "owner": drawn.owner.astype("<u2").tobytes(),
        "used": drawn.used.astype("<u2").tobytes(),
    }


def test_the_daemons_answer_is_read() -> None:
    """What is sent is what is drawn."""
    read = frames_of(answer(frames(0, 1, 2)))

    assert (read.kind.tolist(), read.owner.tolist(), read.used.tolist()) == ([0, 1, 2], [0, 3, 3], [0, 512, 512])


@pytest.mark.parametrize("wrong", [{"superframes": 4}, {"kind": b"\x00\x01\x07"}, {"owner": b""}, {"used": 5}])
def test_an_answer_that_is_none_is_refused(wrong: dict[str, object]) -> None:
    """Lengths and kinds that cannot be are the daemon's fault, and said so."""
    with pytest.raises(RemoteProtocolError):
        frames_of(answer(frames(0, 1, 2)) | wrong)


def test_letters_show_the_most_broken_superframe_of_a_cell() -> None:
    """By state and by owner; capitals are shattered, dots are free."""
    drawn = frames(0, 1, 2, 0, 1, 1, 0, 0, 0)

    assert plain_lines(drawn, "state", 9, 1) == ([".#+.##..."], 1)
    assert plain_lines(drawn, "owner", 9, 1) == ([".cC.cc..."], 1)
    assert plain_lines(drawn, "state", 3, 1) == (["+#."], 3)


@given(st.integers(1, 3000), st.integers(1, 120), st.integers(1, 40))
def test_a_picture_fits_its_place(count: int, width: int, height: int) -> None:
    """However many superframes there are, lines and their lengths stay within what was asked, in both ways of drawing."""
    drawn = frames(*([0, 1, 2] * count)[:count])
    letters, per_letter = plain_lines(drawn, "owner", width, height)
    coloured, per_cell = terminal_lines(drawn, "owner", width, height)

    assert len(letters) <= height
    assert max(map(len, letters)) <= width
    assert len(coloured) <= height
    assert {line.count("\u2580") for line in coloured} == {width}
    assert per_cell <= per_letter
    assert len(letters[-1]) + width * (len(letters) - 1) == -(-count // per_letter)


def test_a_cells_colour_is_the_mean_of_its_superframes() -> None:
    """A hole in what is whole shows as a shade."""
    squeezed, per_cell = cells(colours(frames(1, 1, 0), "state"), 2)

    assert per_cell == 2
    assert squeezed.tolist() == [map_view.STATE_COLOURS[1].tolist(), list(map_view._FREE_COLOUR)]


def test_owners_are_counted_largest_first() -> None:
    """Leaves and shattered superframes apart; nobody is no owner."""
    drawn = Frames(
        np.array([1, 1, 2, 2, 1, 0], dtype=np.uint8),
        np.array([2, 2, 2, 9, 9, 0], dtype=np.uint16),
        np.array([512] * 5 + [0], dtype=np.uint16),
    )

    assert owners(drawn) == [{"domid": 1, "whole": 2, "shattered": 1}, {"domid": 8, "whole": 1, "shattered": 1}]
    assert legend(drawn, {1: "web\x1b1", 8: "db"}, 1, letters=True)[1:] == [
        "6 superframes of 2 MiB: 1 free, 3 whole, 2 shattered; a cell is 1 of them",
        "  Name                         ID     Whole Shattered",
        "b web?1                        d1         2         1",
        "i db                           d8         1         1",
    ]


@pytest.mark.parametrize("count", [1, 511, 513])
def test_a_picture_has_a_square_for_each_superframe(count: int) -> None:
    """Every superframe's colour is in the pixels, and no picture is wider than a screen."""
    drawn = pixels(frames(*[2] * count), "state")

    assert drawn.shape[1] <= 1024
    assert (drawn == map_view.STATE_COLOURS[2]).all(axis=2).sum() % count == 0


def test_what_healed_and_what_broke_is_counted() -> None:
    """From shattered or free to whole, and from whole to shattered; of hosts of two sizes nothing is said."""
    assert healed_and_broken(frames(2, 0, 1, 1, 2), frames(1, 1, 2, 0, 2)) == (2, 1)
    assert healed_and_broken(frames(2), frames(1, 1)) == (0, 0)


@pytest.mark.parametrize("by", ["owner", "state"])
def test_a_picture_has_its_legend_below(by: str) -> None:
    """The squares are pasted as they are, and each colour among them is in a box of the legend, under the scale."""
    drawn = frames(0, 1, 2, 1, 2, 0, owner=6)
    whole = np.asarray(picture(drawn, {5: "web"}, by, "a host", ["a note"]))
    shades = {tuple(colour) for colour in colours(drawn, by).tolist()}
    side = square_pixels(drawn)
    found = {shade: np.flatnonzero((whole == shade).all(axis=2).any(axis=1)) for shade in shades}

    assert len(shades) == 3
    for rows in found.values():
        # Squares above, then at least the scale's line between them and the box.
        assert rows.size
        assert np.diff(rows).max() > side
    if by == "owner":
        assert owner_colour(5) in shades


def test_a_picture_is_as_wide_as_what_is_written() -> None:
    """A long title makes it wider, control characters in names do no harm, and of many owners the rest is counted."""
    owner = np.arange(1, 41, dtype=np.uint16)
    drawn = Frames(np.ones(40, dtype=np.uint8), owner, np.full(40, 512, dtype=np.uint16))
    short, wide = (picture(drawn, {0: "a\x1b\n"}, "owner", title) for title in ("x", "x" * 200))

    assert wide.width > short.width
    assert wide.height == short.height < picture(drawn, {}, "owner", "x", ["one", "more"]).height
