"""What a recorder's clocks show between two samples: that the machine slept, was too busy, or that its clock was set."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

# What clocks may differ by without a word, and how many periods may pass until the next sample.
STEP_S: Final = 0.5
PERIODS: Final = 2.5


@dataclass(frozen=True, slots=True)
class Moment:
    """The clocks at one moment: *since_boot_s* goes on while the machine sleeps, *awake_s* does not, *utc_s* may be set."""

    since_boot_s: float
    awake_s: float
    utc_s: float


def remarks(before: Moment, now: Moment, period_s: float) -> Iterator[str]:
    """Say what happened between two samples that were to be *period_s* apart."""
    passed_s = now.since_boot_s - before.since_boot_s
    slept_s = passed_s - (now.awake_s - before.awake_s)
    if slept_s > STEP_S:
        yield f"the machine slept for {slept_s:.1f} s: a gap"
    if passed_s - max(slept_s, 0.0) > PERIODS * period_s:
        yield f"nothing was recorded for {passed_s:.1f} s, as the recorder was stopped or the machine too busy: a gap"
    step_s = now.utc_s - before.utc_s - passed_s
    if abs(step_s) > STEP_S:
        yield f"the clock was set {'forward' if step_s > 0 else 'back'} by {abs(step_s):.1f} s; t_s goes on as if it were not"
