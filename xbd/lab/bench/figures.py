"""Figures of benchmarks: medians with their spread over repeats."""

import statistics
from dataclasses import dataclass

# Repeats of each measurement; the figure is their median, the spread their quartiles.
REPEATS = 7


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure: a median with its quartiles, and, for a ratio, what it is measured against."""

    value: float
    unit: str
    low: float
    high: float
    ratio_to: str | None = None

    def as_map(self) -> dict[str, float | str]:
        """Return it as a map for JSON."""
        spelt: dict[str, float | str] = {"value": self.value, "unit": self.unit, "low": self.low, "high": self.high}
        if self.ratio_to is not None:
            spelt["ratio_to"] = self.ratio_to
        return spelt


def summarize(samples: list[float], unit: str, ratio_to: str | None = None) -> Figure:
    """Make a figure from repeated samples."""
    low, middle, high = statistics.quantiles(samples, n=4) if len(samples) > 1 else samples * 3
    return Figure(round(middle, 4), unit, round(low, 4), round(high, 4), ratio_to)
