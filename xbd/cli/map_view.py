"""The host's frames as a picture: cells of a terminal or pixels, coloured by owner or by state; pure.

A cell stands for as many superframes as it takes to fit; its colour is the mean of theirs, so that a few
holes in much that is whole show as a darker shade.
"""

import colorsys
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from xbd.cli.tables import table
from xbd.control.frames import FREE, KINDS, OFFLINE, SHATTERED, WHOLE, Frames
from xbd.text import printable

Colours = NDArray[np.uint8]

BY: Final = ("owner", "state")
_FREE_COLOUR: Final = (48, 48, 52)
# Where a picture's last row has no superframes.
_NOTHING_COLOUR: Final = (255, 255, 255)
_OFFLINE_COLOUR: Final = (150, 40, 40)
STATE_COLOURS: Final = np.array([_FREE_COLOUR, (70, 170, 90), (235, 140, 50), _OFFLINE_COLOUR], dtype=np.uint8)
# Steps of the golden ratio give neighbouring domids hues that are far apart.
_HUE_STEP: Final = 0.61803398875
# An owner's shattered superframes are drawn darker than its whole ones.
_WHOLE_VALUE, _SHATTERED_VALUE = 0.95, 0.5
_LETTERS: Final = "abcdefghijklmnopqrstuvwxyz"
_STATE_LETTERS: Final = ".#+!"
_PNG_WIDTH_MOST: Final = 1024
_PNG_SCALE_MOST: Final = 8
# More superframes than a host can have.
_INDEX_BITS: Final = 40
# A legend of more owners than this is longer than the picture.
_LEGEND_OWNERS: Final = 16


def colours(frames: Frames, by: str) -> Colours:
    """Colour each superframe: (n, 3) uint8."""
    if by == "state":
        return STATE_COLOURS[frames.kind]
    owners, which = np.unique(frames.owner, return_inverse=True)
    bright = np.array([owner_colour(int(owner) - 1) for owner in owners], dtype=np.uint8).reshape(-1, 3)
    dark = np.array([owner_colour(int(owner) - 1, whole=False) for owner in owners], dtype=np.uint8).reshape(-1, 3)
    drawn = np.where((frames.kind == WHOLE)[:, None], bright[which], dark[which])
    drawn[frames.kind == FREE] = _FREE_COLOUR
    drawn[frames.kind == OFFLINE] = _OFFLINE_COLOUR
    return drawn


def owner_colour(domid: int, *, whole: bool = True) -> tuple[int, int, int]:
    """Choose a domain's colour: always the same, and darker for what is not *whole*."""
    value = _WHOLE_VALUE if whole else _SHATTERED_VALUE
    red, green, blue = colorsys.hsv_to_rgb(domid * _HUE_STEP % 1.0, 0.65, value)
    return int(red * 255), int(green * 255), int(blue * 255)


def cells(drawn: Colours, most: int) -> tuple[Colours, int]:
    """Average superframes into at most *most* cells; returns the cells' colours, and superframes per cell."""
    per_cell = max(-(-len(drawn) // most), 1)
    starts = np.arange(0, len(drawn), per_cell)
    sums = np.add.reduceat(drawn.astype(np.int64), starts, axis=0)
    sizes = np.minimum(per_cell, len(drawn) - starts)
    return (sums // sizes[:, None]).astype(np.uint8), per_cell


def terminal_lines(frames: Frames, by: str, width: int, height: int) -> tuple[list[str], int]:
    """Draw in true colour, two cells to a character; returns the lines and the superframes per cell."""
    squeezed, per_cell = cells(colours(frames, by), width * height * 2)
    rows = -(-len(squeezed) // width)
    rows += rows % 2
    grid = np.zeros((rows * width, 3), dtype=np.uint8)
    grid[: len(squeezed)] = squeezed
    pairs = grid.reshape(rows // 2, 2, width, 3)
    lines = [
        "".join(_half_block(*upper, *lower) for upper, lower in zip(*pair.tolist(), strict=True)) for pair in pairs
    ]
    return [line + "\x1b[0m" for line in lines], per_cell


def _half_block(*rgb: int) -> str:
    return "\x1b[38;2;{};{};{};48;2;{};{};{}m▀".format(*rgb)


def plain_lines(frames: Frames, by: str, width: int, height: int) -> tuple[list[str], int]:
    """Draw in letters, one cell to a character: state or owner of the cell's most shattered superframe."""
    per_cell = max(-(-frames.kind.size // (width * height)), 1)
    text = "".join(_letter(kind, owner, by) for kind, owner in _most_shattered(frames, per_cell))
    return [text[at : at + width] for at in range(0, len(text), width)], per_cell


def _most_shattered(frames: Frames, per_cell: int) -> list[tuple[int, int]]:
    """Find kind and owner of each cell's most shattered superframe: a reader looks for these."""
    ranked = (frames.kind.astype(np.int64) << _INDEX_BITS) + np.arange(frames.kind.size)
    chosen = np.maximum.reduceat(ranked, np.arange(0, ranked.size, per_cell)) & ((1 << _INDEX_BITS) - 1)
    return list(zip(frames.kind[chosen].tolist(), frames.owner[chosen].tolist(), strict=True))


def _letter(kind: int, owner: int, by: str) -> str:
    if by == "state" or kind in (FREE, OFFLINE):
        return _STATE_LETTERS[kind]
    letter = _LETTERS[(owner - 1) % len(_LETTERS)]
    return letter if kind == WHOLE else letter.upper()


def kind_counts(frames: Frames) -> list[tuple[int, str]]:
    """Count the superframes of each kind; offline ones are left out where there are none."""
    counts = [(frames.count(kind), name) for kind, name in enumerate(KINDS)]
    return [(count, name) for count, name in counts if count or name != KINDS[OFFLINE]]


def legend(frames: Frames, names: Mapping[int, str], per_cell: int, *, letters: bool) -> list[str]:
    """Explain the picture, with counts: superframes by state, and the largest owners."""
    counts = ", ".join(f"{count} {name}" for count, name in kind_counts(frames))
    lines = ["", f"{frames.kind.size} superframes of 2 MiB: {counts}; a cell is {per_cell} of them"]
    rows = [
        (
            _LETTERS[row["domid"] % len(_LETTERS)] if letters else "",
            printable(names.get(row["domid"], "")),
            f"d{row['domid']}",
            str(row["whole"]),
            str(row["shattered"]),
        )
        for row in owners(frames)[:_LEGEND_OWNERS]
    ]
    return lines + table(("", "Name", "ID", "Whole", "Shattered"), rows, (-1, -24, 6, 9, 9))


def owners(frames: Frames) -> Sequence[dict[str, int]]:
    """Count, by owner, the superframes that are its leaves, and the shattered ones of which it holds most; largest first."""
    whole = np.bincount(frames.owner[frames.kind == WHOLE], minlength=1 << 16)
    shattered = np.bincount(frames.owner[frames.kind == SHATTERED], minlength=1 << 16)
    total = whole + shattered
    total[0] = 0
    largest = np.argsort(-total, kind="stable")[: np.count_nonzero(total)]
    return [
        {"domid": owner - 1, "whole": int(whole[owner]), "shattered": int(shattered[owner])}
        for owner in largest.tolist()
    ]


def healed_and_broken(before: Frames, now: Frames) -> tuple[int, int]:
    """Count the superframes that were shattered or free and are whole now, and those that were whole and are shattered now."""
    if before.kind.size != now.kind.size:
        return 0, 0
    healed = np.count_nonzero((before.kind != WHOLE) & (now.kind == WHOLE))
    return int(healed), int(np.count_nonzero((before.kind == WHOLE) & (now.kind == SHATTERED)))


def _columns(frames: Frames) -> int:
    """Tell how many squares a row of pixels has: twice as many as there are rows."""
    return min(max(int(np.ceil(np.sqrt(frames.kind.size * 2))), 1), _PNG_WIDTH_MOST)


def square_pixels(frames: Frames) -> int:
    """Tell how wide a superframe's square is, in pixels."""
    return max(min(_PNG_WIDTH_MOST // _columns(frames), _PNG_SCALE_MOST), 1)


def pixels(frames: Frames, by: str) -> Colours:
    """Draw as pixels, row by row: (height, width, 3) uint8, each superframe a square."""
    drawn, columns, scale = colours(frames, by), _columns(frames), square_pixels(frames)
    rows = -(-len(drawn) // columns)
    grid = np.full((rows * columns, 3), _NOTHING_COLOUR, dtype=np.uint8)
    grid[: len(drawn)] = drawn
    return grid.reshape(rows, columns, 3).repeat(scale, axis=0).repeat(scale, axis=1)
