"""Price files: what each primitive costs on some machine, with its source and, where it is assumed, its range.

A price file is TOML: a table `[price.NAME]` for each primitive, and, where prices were fitted, the figures that they were
fitted to and those that they predict (`[[published]]`). `presets/kvm-xeon6252.toml` shows every key.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Final

from xbd.config.toml import load_toml, read_file
from xbd.errors import BadSetting
from xbd.settings import Section, number, text

_MOST_US: Final = 1e6
_MOST_GIB_S: Final = 1e6


@dataclass(frozen=True, kw_only=True)
class Price:
    """What a primitive costs: microseconds of a processor, but for a share. Raises BadSetting: it is not in its range.

    *low*, *high*: between these it is assumed; None: it is known as it is.
    """

    value: Annotated[float, number("the price", 0, _MOST_US)]
    low: Annotated[float | None, number("the least that it may be", 0, _MOST_US)] = None
    high: Annotated[float | None, number("the most that it may be", 0, _MOST_US)] = None
    source: Annotated[str, text("where it is from", lines=True)]

    def __post_init__(self) -> None:
        if not self.least <= self.value <= self.most:
            raise BadSetting("value", f"{self.value:g} is not between low and high, {self.least:g} and {self.most:g}")

    @property
    def least(self) -> float:
        """The least that it may be."""
        return self.value if self.low is None else self.low

    @property
    def most(self) -> float:
        """The most that it may be."""
        return self.value if self.high is None else self.high


def _price(doc: str) -> Section:
    return Section(of=Price, doc=doc, missing=f"is missing; it is a table [price.NAME]: {doc}")


@dataclass(frozen=True, kw_only=True)
class PriceList:
    """The price of every primitive."""

    call: Annotated[Price, _price("a hypercall, or a request of a virtio balloon, without what it names")]
    guest_extent: Annotated[Price, _price("the guest's own work for an extent: its page allocator, its lists")]
    extent: Annotated[Price, _price("the host's work for an extent that is named, either way")]
    struct_page: Annotated[Price, _price("what a kernel does for each further page of a 2 MiB page that comes or goes")]
    unmap: Annotated[Price, _price("taking an extent away from the guest, whether or not it was touched")]
    zap: Annotated[Price, _price("what more an extent costs to take that was touched: page tables, TLB, freeing it")]
    fault: Annotated[Price, _price("backing at a first touch, 4 KiB or 2 MiB, without zeroing it")]
    zero_page: Annotated[Price, _price("zeroing 4 KiB that a fault has backed: once by the host, once by the guest")]
    scrub_page: Annotated[Price, _price("zeroing 4 KiB that were given up, where the host does that")]
    move_page: Annotated[Price, _price("moving a 4 KiB page in use: copy, page tables, TLB of all its processors")]
    broken_slowdown: Annotated[
        Price, _price("the share of a busy processor that is lost where memory is in 4 KiB pages instead of 2 MiB")
    ]


@dataclass(frozen=True, kw_only=True)
class Published:
    """A figure that was published, *gib_s*, and the price that was *fitted* to it; empty: it is a prediction."""

    name: Annotated[str, text("which it is")]
    gib_s: Annotated[float, number("GiB/s", 0, _MOST_GIB_S)]
    fitted: Annotated[str, text("the price that follows from it; left out: it is predicted")] = ""


@dataclass(frozen=True, kw_only=True)
class Prices:
    """A whole price file. Raises BadSetting: a figure fits a price that there is not."""

    name: Annotated[str, text("what machine it is")]
    about: Annotated[str, text("how it was made", lines=True)] = ""
    price: Annotated[PriceList, Section(of=PriceList, missing="is missing; it has a table for each primitive")]
    published: Annotated[tuple[Published, ...], Section(of=Published, many=True)] = field(default=())

    def __post_init__(self) -> None:
        for nth, figure in enumerate(self.published, start=1):
            if figure.fitted and figure.fitted not in PRIMITIVES:
                raise BadSetting(f"published[{nth}].fitted", f"{figure.fitted!r} is not one of {', '.join(PRIMITIVES)}")

    def values(self) -> dict[str, float]:
        """Return the prices by name."""
        return {name: self.of(name).value for name in PRIMITIVES}

    def of(self, name: str) -> Price:
        """Return one price."""
        found: Price = getattr(self.price, name)
        return found

    def uncertain(self) -> list[str]:
        """Name the prices that have a range."""
        return [name for name in PRIMITIVES if self.of(name).least < self.of(name).most]

    def changed(self, by: Mapping[str, Price], *, name: str, about: str) -> "Prices":
        """Return them with some prices replaced, under another name, without the figures that fitted the old ones."""
        return Prices(name=name, about=about, price=replace(self.price, **dict(by)))

    def as_toml(self) -> str:
        """Format it as a price file."""
        lines = [f"name = {_quoted(self.name)}", f"about = {_quoted(self.about)}"]
        for name in PRIMITIVES:
            price = self.of(name)
            lines += ["", f"[price.{name}]", f"value = {price.value:.6g}"]
            lines += [f"{end} = {at:.6g}" for end, at in (("low", price.low), ("high", price.high)) if at is not None]
            lines.append(f"source = {_quoted(price.source)}")
        return "\n".join(lines) + "\n"


PRIMITIVES: Final = tuple(one.name for one in fields(PriceList))


def _quoted(written: str) -> str:
    """Write a text as TOML does, on a line."""
    escaped = written.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t")
    return f'"{escaped}"'


def parse_prices(written: str, path: Path | str) -> Prices:
    """Read a price file; *path* is what errors call it. Raises ConfigError, naming the key and the reason."""
    return read_file(Prices, load_toml(written, path), path)
