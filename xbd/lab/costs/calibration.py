"""A price file from measurements of one machine: what they tell replaces prices of another file, the rest is taken over."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Final

from xbd.lab.costs.prices import PRIMITIVES, Price, Prices
from xbd.units import SUPER_PAGES

# What is measured, in microseconds each.
MEASURED: Final[Mapping[str, str]] = {
    "zero_4k": "zeroing 4 KiB",
    "zero_2m": "zeroing 2 MiB",
    "copy_4k": "copying 4 KiB",
    "copy_2m": "copying 2 MiB",
    "fault_4k": "faulting 4 KiB in",
    "fault_2m": "faulting 2 MiB in, as one huge page",
    "access_4k": "reading a word anywhere in memory in 4 KiB pages",
    "access_2m": "reading a word anywhere in memory in 2 MiB pages",
    "move_4k": "move_pages, for 4 KiB",
    "drop_4k_untouched": "MADV_DONTNEED of 4 KiB that were not touched",
    "drop_4k_touched": "MADV_DONTNEED of 4 KiB that were touched",
    "drop_2m_touched": "MADV_DONTNEED of 2 MiB that were touched, as one huge page",
}


@dataclass(frozen=True, slots=True)
class Timing:
    """A measurement that was repeated: its median, the least and the most, in microseconds."""

    value: float
    least: float
    most: float


def timing_of(samples_us: Sequence[float]) -> Timing:
    """Make a timing of repeats; what is below 0, for an overhead was taken off, is 0."""
    kept = [max(sample, 0.0) for sample in samples_us]
    return Timing(median(kept), min(kept), max(kept))


@dataclass(frozen=True, slots=True)
class Measurements:
    """What one machine was found to do: *timings* by the names of `MEASURED`, and for the rest why it *refused*."""

    machine: str
    timings: dict[str, Timing] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)

    def as_map(self) -> dict[str, object]:
        """Return it as a map for JSON."""
        timings = {
            name: {"us": timing.value, "least_us": timing.least, "most_us": timing.most}
            for name, timing in self.timings.items()
        }
        return {"machine": self.machine, "measured": timings, "refused": self.refused}

    def lines(self) -> list[str]:
        """Format it for people."""
        rows = [f"{'measured':64} {'us':>10} {'least to most':>22}"]
        for name, timing in self.timings.items():
            rows.append(f"{MEASURED[name]:64} {timing.value:10.3f} {f'{timing.least:.3f} to {timing.most:.3f}':>22}")
        return rows + [f"{MEASURED[name]}: not measured: {reason}" for name, reason in self.refused.items()]


def calibrated(found: Measurements, base: Prices) -> Prices:
    """Make a price file of what was found; a price that nothing measured tells is the one of *base*, and says so."""
    changed = {
        name: Price(
            value=old.value,
            low=old.low,
            high=old.high,
            source=f"not measured here, taken over from {base.name}: {old.source}",
        )
        for name in PRIMITIVES
        for old in [base.of(name)]
    }
    for name, (timing, source) in _prices_of(found.timings).items():
        changed[name] = Price(value=timing.value, low=timing.least, high=timing.most, source=f"measured here: {source}")
    slowdown = _slowdown(found.timings, base)
    if slowdown is not None:
        changed["broken_slowdown"] = slowdown
    refused = "; ".join(f"{MEASURED[name]}: {reason}" for name, reason in found.refused.items())
    about = f"measured on {found.machine} by xbd calibrate" + (f". Not measured: {refused}" if refused else "")
    return base.changed(changed, name="calibrated", about=about[:_ABOUT_CHARS])


# As much as a price file takes.
_ABOUT_CHARS: Final = 1024


def _prices_of(timings: Mapping[str, Timing]) -> dict[str, tuple[Timing, str]]:
    """Derive the prices that a program can measure, each with its source."""
    found: dict[str, tuple[Timing, str]] = {}
    if "zero_4k" in timings:
        found["zero_page"] = timings["zero_4k"], MEASURED["zero_4k"]
    if "move_4k" in timings:
        found["move_page"] = timings["move_4k"], MEASURED["move_4k"]
    if "drop_4k_untouched" in timings:
        found["unmap"] = timings["drop_4k_untouched"], MEASURED["drop_4k_untouched"]
    if {"fault_4k", "zero_4k"} <= timings.keys():
        found["fault"] = (
            _less(timings["fault_4k"], timings["zero_4k"]),
            "faulting 4 KiB in, less zeroing them; no hypervisor",
        )
    if {"drop_4k_touched", "drop_4k_untouched"} <= timings.keys():
        zap = _less(timings["drop_4k_touched"], timings["drop_4k_untouched"])
        found["zap"] = zap, "MADV_DONTNEED of 4 KiB, touched less untouched"
        if "drop_2m_touched" in timings:
            further = _less(timings["drop_2m_touched"], timings["drop_4k_touched"])
            each = Timing(*(one / (SUPER_PAGES - 1) for one in (further.value, further.least, further.most)))
            found["struct_page"] = (
                each,
                "MADV_DONTNEED of a touched huge page less that of 4 KiB, for each further page",
            )
    return found


def _less(whole: Timing, part: Timing) -> Timing:
    """Take a part off a timing."""
    value = max(whole.value - part.value, 0.0)
    return Timing(value, min(max(whole.least - part.most, 0.0), value), max(whole.most - part.least, value))


def _slowdown(timings: Mapping[str, Timing], base: Prices) -> Price | None:
    """Widen the range of the slowdown by what reads anywhere in memory lose here, though no program does just that."""
    if not {"access_4k", "access_2m"} <= timings.keys() or not timings["access_4k"].value:
        return None
    lost = max(1 - timings["access_2m"].value / timings["access_4k"].value, 0.0)
    old = base.of("broken_slowdown")
    source = f"reading anywhere in memory loses {lost:.1%} here; else from {base.name}: {old.source}"
    return Price(value=old.value, low=min(old.least, lost), high=max(old.most, lost), source=source[:_ABOUT_CHARS])
