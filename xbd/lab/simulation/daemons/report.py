"""The outcomes of simulated daemons, for people."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from xbd.lab.simulation.daemons.options import FAULTS, DaemonOptions
from xbd.lab.simulation.daemons.points import POINTS


@dataclass(frozen=True, slots=True)
class DaemonOutcome:
    """The result of a run.

    *events*: lines of the trace; *seconds*: of virtual time. *digest*: of the trace. *violation*: what was found, None:
    nothing. *happened*: counts by fault; *reached*: counts by point.
    """

    options: DaemonOptions
    events: int
    seconds: float
    digest: str
    violation: str | None
    happened: Mapping[str, int]
    reached: Mapping[str, int]

    @property
    def when(self) -> str:
        """When it ended, for people."""
        return f"after {self.seconds:.3f} s"

    def as_map(self) -> dict[str, object]:
        """Return it as a map for JSON."""
        return {
            "seed": self.options.seed,
            "events": self.events,
            "seconds": round(self.seconds, 6),
            "digest": self.digest,
            "violation": self.violation,
            "faults": dict(self.happened),
            "reached": dict(self.reached),
            "command": self.options.command_line(),
        }


def never_reached(done: Sequence[DaemonOutcome]) -> list[str]:
    """List the points that no run reached."""
    return sorted(POINTS - {point for outcome in done for point in outcome.reached})


def tell(done: Sequence[DaemonOutcome]) -> list[str]:
    """Sum up what befell runs."""
    happened: Counter[str] = Counter()
    for outcome in done:
        happened.update(outcome.happened)
    events, seconds = sum(outcome.events for outcome in done), sum(outcome.seconds for outcome in done)
    missed = never_reached(done)
    return [
        f"{events:,} lines in {seconds:,.0f} s of virtual time",
        "faults: " + (", ".join(f"{happened[name]:,} {name}" for name in FAULTS if happened[name]) or "none"),
        f"reached {len(POINTS) - len(missed)} of {len(POINTS)} points" + ("; never:" if missed else ""),
        *(f"  {point}" for point in missed),
    ]
