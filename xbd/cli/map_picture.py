"""The host's frames as a picture that explains itself: title, scale, legend with names. Needs Pillow, the extra `plots`."""

from collections.abc import Mapping, Sequence
from typing import Final

from PIL import Image, ImageDraw, ImageFont

from xbd.cli.map_view import STATE_COLOURS, kind_counts, owner_colour, owners, pixels, square_pixels
from xbd.control.frames import Frames
from xbd.text import printable
from xbd.units import SUPER_PAGES, format_pages

Colour = tuple[int, int, int]

_PAPER: Final = (255, 255, 255)
_INK: Final = (27, 27, 27)
_FAINT: Final = (100, 100, 100)
_MARGIN: Final = 16
_LINE: Final = 20
_BOX: Final = 12
# Behind two boxes.
_TEXT_AT: Final = 2 * (_BOX + 2) + 8
_TITLE_POINTS, _TEXT_POINTS = 18, 13
# A scale shorter than this cannot be seen.
_SCALE_PIXELS_LEAST: Final = 48
# More owners than this are summed up.
_OWNERS_MOST: Final = 16
_NAME_CHARS: Final = 28


def picture(frames: Frames, names: Mapping[int, str], by: str, title: str, notes: Sequence[str] = ()) -> Image.Image:
    """Draw the whole picture; *names* of domains by domid, *notes*: lines under the title."""
    drawn = Image.fromarray(pixels(frames, by))
    counts = ", ".join(f"{count:,} {name}" for count, name in kind_counts(frames))
    notes = [*notes, f"{frames.kind.size:,} superframes of 2 MiB: {counts}; from the first, row by row"]
    entries = _entries(frames, names, by)
    title_font, text_font = ImageFont.load_default(_TITLE_POINTS), ImageFont.load_default(_TEXT_POINTS)
    written = [title_font.getlength(printable(title)), *(text_font.getlength(note) for note in notes)]
    written += [_TEXT_AT + text_font.getlength(text) for _, text in entries]
    size = (
        max(drawn.width, *(int(length) + 1 for length in written)) + 2 * _MARGIN,
        3 * _MARGIN + _LINE * (2 + len(notes) + len(entries)) + drawn.height + _LINE,
    )
    image = Image.new("RGB", size, _PAPER)
    pen = ImageDraw.Draw(image)
    pen.text((_MARGIN, _MARGIN), printable(title), _INK, title_font)
    y = _MARGIN + _LINE + 6
    for note in notes:
        write(pen, _MARGIN, y, note, _FAINT)
        y += _LINE
    image.paste(drawn, (_MARGIN, y))
    y += drawn.height + _MARGIN // 2
    _scale(pen, y, square_pixels(frames))
    y += _LINE + _MARGIN // 2
    for boxes, text in entries:
        for at, colour in enumerate(boxes):
            left = _MARGIN + at * (_BOX + 2)
            pen.rectangle((left, y + 2, left + _BOX, y + 2 + _BOX), colour)
        write(pen, _MARGIN + _TEXT_AT, y, text)
        y += _LINE
    return image


def write(pen: ImageDraw.ImageDraw, x: int, y: int, text: str, colour: Colour = _INK) -> None:
    """Write a line of text."""
    pen.text((x, y), text, colour, ImageFont.load_default(_TEXT_POINTS))


def _scale(pen: ImageDraw.ImageDraw, y: int, square: int) -> None:
    """Draw a bar that is as long as a round amount of memory."""
    squares = 1
    while squares * square < _SCALE_PIXELS_LEAST:
        squares *= 2
    right = _MARGIN + squares * square
    middle = y + _LINE // 2
    pen.line((_MARGIN, middle, right, middle), _INK, 2)
    for x in (_MARGIN, right):
        pen.line((x, middle - 4, x, middle + 4), _INK, 2)
    write(pen, right + 8, y + 2, f"{format_pages(squares * SUPER_PAGES)} ({squares} squares)")


def _entries(frames: Frames, names: Mapping[int, str], by: str) -> list[tuple[list[Colour], str]]:
    """List the legend's lines, each with its colours."""
    by_kind: list[Colour] = [(red, green, blue) for red, green, blue in STATE_COLOURS.tolist()]
    if by == "state":
        meanings = (
            "free as a whole",
            "whole: one superpage of a domain",
            "shattered: held or free in pieces",
            "offline: out of use",
        )
        return [([colour], meaning) for colour, meaning in zip(by_kind, meanings, strict=True)]
    rows = owners(frames)
    entries: list[tuple[list[Colour], str]] = [
        ([owner_colour(row["domid"]), owner_colour(row["domid"], whole=False)], _owner(row, names))
        for row in rows[:_OWNERS_MOST]
    ]
    if len(rows) > _OWNERS_MOST:
        entries.append(([], f"and {len(rows) - _OWNERS_MOST} domains more"))
    return [*entries, ([by_kind[0]], "free; of an owner the light ones are whole, the dark ones shattered")]


def _owner(row: Mapping[str, int], names: Mapping[int, str]) -> str:
    name = printable(names.get(row["domid"], ""))[:_NAME_CHARS]
    return f"{name} (d{row['domid']}): {row['whole']:,} whole, {row['shattered']:,} shattered"
