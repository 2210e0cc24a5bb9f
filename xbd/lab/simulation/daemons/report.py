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


def render(done: Sequence[DaemonOutcome], failed: Sequence[tuple[DaemonOutcome, DaemonOutcome]]) -> str:
    """Format a report of runs; *failed*: each failure with its shortest form."""
    lines: list[str] = []
    for outcome, short in failed:
        lines.append(f"seed {outcome.options.seed} fails after {outcome.seconds:.3f} s: {outcome.violation}")
        if short.violation != outcome.violation:
            lines.append(f"  shortened: {short.violation}")
        lines.append(f"  again: {short.options.command_line()}")
    happened: Counter[str] = Counter()
    for outcome in done:
        happened.update(outcome.happened)
    if len(done) == 1 and not failed:
        lines.append(f"seed {done[0].options.seed}: trace {done[0].digest}")
    events, seconds = sum(outcome.events for outcome in done), sum(outcome.seconds for outcome in done)
    lines.append(f"{events:,} lines in {seconds:,.0f} s of virtual time")
    lines.append("faults: " + (", ".join(f"{happened[name]:,} {name}" for name in FAULTS if happened[name]) or "none"))
    missed = never_reached(done)
    lines.append(f"reached {len(POINTS) - len(missed)} of {len(POINTS)} points" + ("; never:" if missed else ""))
    lines += [f"  {point}" for point in missed]
    runs = "1 run" if len(done) == 1 else f"{len(done)} runs"
    lines.append(f"{runs}, {len(failed)} failed" if failed else f"{runs}, all is well")
    return "\n".join(lines)
