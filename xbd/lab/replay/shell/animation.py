"""Two strategies side by side as a GIF: how superpages break and heal over a replay. Needs Pillow, the extra `plots`."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import IO, Final

from PIL import Image, ImageDraw

from xbd.cli.map_picture import Colour, write
from xbd.cli.map_view import STATE_COLOURS, pixels
from xbd.control.frames import KINDS, OFFLINE, Frames
from xbd.testing.virtual_host import VirtualHost
from xbd.units import SUPER_PAGES

# Pictures of a GIF, and how long each is shown, the last for longer.
MOMENTS: Final = 100
_SHOWN_MS, _LAST_SHOWN_MS = 100, 4000
_PAPER, _INK, _FAINT = (255, 255, 255), (27, 27, 27), (100, 100, 100)
_CURVE: Final = (0, 114, 178)
_MARGIN, _LINE, _CURVE_HEIGHT, _BOX = 16, 20, 80, 12
_LEAST_SIDE: Final = 320


@dataclass(frozen=True, slots=True, eq=False)
class Moment:
    """A host at one time: its *frames*, and the share of what the guests hold that lies in superpages."""

    t_s: float
    frames: Frames
    coverage: float


@dataclass(slots=True, eq=False)
class Film:
    """What is seen of one replay: so many moments over its length, whatever that is, and the last one.

    *title*: the strategy's name.
    """

    title: str
    length_s: float
    moments: list[Moment] = field(default_factory=list)
    last: Moment | None = None

    def see(self, t_s: float, host: VirtualHost) -> None:
        """Look at a host, if a moment is due."""
        is_due = len(self.moments) < MOMENTS and t_s >= len(self.moments) * self.length_s / MOMENTS
        if not is_due and t_s < self.length_s:
            return
        drawn = host.machine.frame_map()
        domains = [host.machine.domain(domid) for domid in host.domids()]
        held = sum(domain.tot_pages for domain in domains)
        coverage = SUPER_PAGES * sum(domain.leaves for domain in domains) / held if held else 1.0
        self.last = Moment(t_s, Frames(drawn.kind, drawn.owner, drawn.used), coverage)
        if is_due:
            self.moments.append(self.last)

    def shown(self) -> list[Moment]:
        """List what is shown; the end is always among it."""
        tail = [] if self.last is None or self.last in self.moments[-1:] else [self.last]
        return self.moments + tail


def write_gif(file: IO[bytes], films: Sequence[Film]) -> None:
    """Write films of the same traces side by side, picture by picture. Raises OSError."""
    first, *rest = range(min(len(film.shown()) for film in films))
    durations = [_SHOWN_MS] * len(rest) + [_LAST_SHOWN_MS]
    # The last picture has all colours.
    palette = picture_of(films, rest[-1] if rest else first).quantize(64)
    others: Iterator[Image.Image] = (
        picture_of(films, at).quantize(palette=palette, dither=Image.Dither.NONE) for at in rest
    )
    begin = picture_of(films, first).quantize(palette=palette, dither=Image.Dither.NONE)
    begin.save(file, format="GIF", save_all=True, append_images=others, duration=durations, loop=0)


def picture_of(films: Sequence[Film], at: int) -> Image.Image:
    """Draw one picture: for each film its frames, by state, and its superpages so far as a curve."""
    maps = [_map_of(film.shown()[at]) for film in films]
    side, height = max(_LEAST_SIDE, *(one.width for one in maps)), max(one.height for one in maps)
    size = (len(films) * (side + _MARGIN) + _MARGIN, 5 * _MARGIN + 3 * _LINE + height + _CURVE_HEIGHT)
    image = Image.new("RGB", size, _PAPER)
    pen = ImageDraw.Draw(image)
    for number, (film, drawn) in enumerate(zip(films, maps, strict=True)):
        left, moment = _MARGIN + number * (side + _MARGIN), film.shown()[at]
        write(pen, left, _MARGIN, f"{film.title}: {moment.coverage:.1%} in superpages")
        image.paste(drawn, (left, _MARGIN + _LINE + 4))
        _curve(pen, film, at, (left, 2 * _MARGIN + _LINE + height), side)
    bottom = size[1] - _MARGIN - _LINE
    write(pen, _MARGIN, bottom, f"{films[0].shown()[at].t_s:,.0f} s", _FAINT)
    _legend(pen, _MARGIN + 90, bottom)
    return image


def _map_of(moment: Moment) -> Image.Image:
    """Draw the frames; of a small host as large as the curve is wide."""
    drawn = pixels(moment.frames, "state")
    times = max(_LEAST_SIDE // drawn.shape[1], 1)
    return Image.fromarray(drawn.repeat(times, axis=0).repeat(times, axis=1))


def _curve(pen: ImageDraw.ImageDraw, film: Film, at: int, corner: tuple[int, int], width: int) -> None:
    """Draw the share in superpages so far, from 0 at the bottom to all at the top, over the film's length."""
    left, top = corner
    bottom = top + _CURVE_HEIGHT
    pen.rectangle((left, top, left + width - 1, bottom), outline=_FAINT)
    points = [
        (left + (width - 1) * one.t_s / max(film.length_s, 1e-9), bottom - _CURVE_HEIGHT * one.coverage)
        for one in film.shown()[: at + 1]
    ]
    if len(points) > 1:
        pen.line(points, _CURVE, 2)
    write(pen, left + 4, bottom + 2, "memory in superpages, 0 to 100 %, over time", _FAINT)


def _legend(pen: ImageDraw.ImageDraw, x: int, y: int) -> None:
    # Nothing of a replay's host goes offline.
    colours: list[Colour] = [(red, green, blue) for red, green, blue in STATE_COLOURS[:OFFLINE].tolist()]
    for key, colour in zip(KINDS[:OFFLINE], colours, strict=True):
        pen.rectangle((x, y + 2, x + _BOX, y + 2 + _BOX), colour)
        write(pen, x + _BOX + 6, y, key)
        x += 90
