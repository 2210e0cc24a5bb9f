"""The output of a soak: a line of progress while it runs, a report as text and JSON at its end."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from xbd.guest.state import LATE_S
from xbd.lab.soak.options import KINDS, Options
from xbd.lab.soak.tally import (
    DESCRIPTORS_NOISE,
    DESCRIPTORS_PER_HOUR,
    JUDGED_FROM_S,
    RSS_NOISE_MIB,
    RSS_PER_HOUR_MIB,
    Slope,
    Tally,
    Times,
    is_flat,
    times_of,
)

# Agents are to be back within this after the daemon said READY.
AGENTS_BACK_S: Final = 1.0
_SLOPES: Final = {
    "own_mib": ("memory of its own", "MiB"),
    "rss_mib": ("memory with mapped files", "MiB"),
    "descriptors": ("descriptors beside its domains'", ""),
}
_TIMES: Final = {
    "ready": "restart to READY",
    "agents_back": "READY until all agents are back",
    "witness": "a hypercall of the checker guest",
    "toolstack": "a toolstack call",
    "toolstack_undisturbed": "a toolstack call without a fault",
    "audit": "an audit",
}


@dataclass(slots=True)
class Report:
    """The results of a soak. *left_out*: kinds of faults that could not be injected here, and why."""

    options: Options
    tally: Tally
    seconds: float
    ended: str = "the time was up"
    left_out: Mapping[str, str] = field(default_factory=dict)
    settled: Mapping[str, int] = field(default_factory=dict)
    leaks: Mapping[str, object] = field(default_factory=dict)
    evidence: str | None = None

    @property
    def is_well(self) -> bool:
        """Whether nothing was found."""
        return not self.tally.findings

    def agents_within(self) -> tuple[int, int]:
        """Count the restarts after which all agents were back in time, and all measured restarts."""
        took = self.tally.seconds.get("agents_back", [])
        return sum(seconds <= AGENTS_BACK_S for seconds in took), len(took)

    def as_map(self) -> dict[str, Any]:
        """Return it as a map for JSON."""
        tally = self.tally
        operations = sum(tally.operations.values())
        in_time, measured = self.agents_within()
        slopes = {
            name: slope.as_map() | {"flat": is_flat(name, slope)}
            for name, slope in tally.slopes().items()
            if slope is not None
        }
        return {
            "ok": self.is_well,
            "options": self.options.as_map(),
            "seconds": round(self.seconds, 1),
            "ended": self.ended,
            "operations": dict(sorted(tally.operations.items())),
            "operations_per_s": round(operations / max(self.seconds, 1e-9), 1),
            "faults": dict(sorted(tally.faults.items())),
            "faults_left_out": dict(self.left_out) | dict.fromkeys(self.options.without, "--without"),
            "guests": {"came": tally.guests_came, "went": dict(sorted(tally.guests_went.items()))},
            "restarts": tally.restarts,
            "agents_back_within_1_s": {"restarts": in_time, "of": measured},
            "latency_s": {name: times.as_map() for name, times in self._times().items()},
            "ticks": dict(tally.ticks) | {"tick_worst_ms": tally.tick_worst_ms},
            "slopes": slopes,
            "settled": dict(self.settled),
            "leaks": dict(self.leaks),
            "remarks": dict(sorted(tally.remarks.items())),
            "findings": list(tally.findings),
            "more_findings": tally.more_findings,
            "evidence": self.evidence,
        }

    def _times(self) -> dict[str, Times]:
        every = {name: times_of(seconds) for name, seconds in self.tally.seconds.items()}
        return {name: times for name, times in every.items() if times is not None}

    def render(self) -> str:
        """Format it as text."""
        tally, options = self.tally, self.options
        operations = sum(tally.operations.values())
        lines = [
            f"{options.guests} guests for {self.seconds:,.0f} s, seed {options.seed}; {self.ended}",
            f"operations: {operations:,} ({operations / max(self.seconds, 1e-9):,.0f}/s): "
            + ", ".join(f"{count:,} {name}" for name, count in tally.operations.most_common()),
            "faults: " + (", ".join(f"{tally.faults[kind]} {kind}" for kind in KINDS if tally.faults[kind]) or "none"),
        ]
        lines += [f"  left out: {kind}: {why}" for kind, why in self.left_out.items()]
        if options.without:
            lines.append("  left out: " + ", ".join(options.without))
        went = ", ".join(f"{count} {how}" for how, count in tally.guests_went.most_common())
        lines.append(f"guests: {tally.guests_came} came; {went or 'none'} went")
        times = self._times()
        if times:
            lines.append(f"{'latencies':36} {'count':>9} {'median':>11} {'p99':>11} {'worst':>11}")
        for name, label in _TIMES.items():
            if name in times:
                lines.append(_times_line(label, times[name]))
        if "agents_back" in times:
            lines.append("agents were back within 1 s after {} of {} restarts measured".format(*self.agents_within()))
        if tally.ticks["ticks"]:
            lines.append(_ticks_line(tally))
        lines += self._slope_lines()
        lines += [f"settled: {', '.join(f'{count} {how}' for how, count in self.settled.items())}"] * bool(self.settled)
        lines += [f"leaks: {_leaks_line(self.leaks)}"] * bool(self.leaks)
        lines += [f"remark: {what} ({count} times)" for what, count in sorted(tally.remarks.items())]
        lines += [f"FOUND at {finding.strip()}" for finding in tally.findings]
        if tally.more_findings:
            lines.append(f"FOUND {tally.more_findings} more")
        if self.evidence is not None:
            lines.append(f"evidence: {self.evidence}")
        lines.append("all is well" if self.is_well else f"again: {options.command_line()}")
        return "\n".join(lines)

    def _slope_lines(self) -> list[str]:
        lines = []
        for name, slope in self.tally.slopes().items():
            label, unit = _SLOPES[name]
            if slope is None:
                lines.append(f"daemon's {label}: too few samples for a slope")
                continue
            verdict = _verdict(name, slope)
            lines.append(
                f"daemon's {label}: {slope.per_hour:+,.1f} {unit}/h, {slope.growth:+.2f} {unit} over {slope.seconds:.0f} s: {verdict}"
            )
        lines.append(
            f"  (flat: at most {RSS_NOISE_MIB:g} MiB over the samples or {RSS_PER_HOUR_MIB:g} MiB/h; descriptors"
            f" {DESCRIPTORS_NOISE:g} or {DESCRIPTORS_PER_HOUR:g}/h; judged from {JUDGED_FROM_S:g} s on)"
        )
        return lines


def _verdict(name: str, slope: Slope) -> str:
    if name == "rss_mib":
        return "it follows the guests"
    if slope.seconds < JUDGED_FROM_S:
        return "too short to judge"
    return "flat" if is_flat(name, slope) else "NOT FLAT"


def _times_line(label: str, times: Times) -> str:
    cells = (_short(times.median_s), _short(times.p99_s), _short(times.worst_s))
    return f"  {label:34} {times.count:9,} " + " ".join(f"{cell:>11}" for cell in cells)


def _ticks_line(tally: Tally) -> str:
    ticks, late = tally.ticks["ticks"], tally.ticks["ticks_late"]
    worst = _short(tally.tick_worst_ms / 1000)
    return f"guests' ticks: {ticks:,}, {late / ticks:.2%} of them {LATE_S * 1000:g} ms late or more, faults included; the worst {worst}"


def _short(seconds: float) -> str:
    return f"{seconds * 1000:,.2f} ms" if seconds < 1 else f"{seconds:,.2f} s"


def _leaks_line(leaks: Mapping[str, object]) -> str:
    found = {name: count for name, count in leaks.items() if count}
    return ", ".join(f"{count} {name}" for name, count in found.items()) or f"none ({', '.join(leaks)})"


def progress_line(options: Options, tally: Tally, now_s: float, phase: str) -> str:
    """Format a line of progress."""
    worst = {name: max(tally.seconds.get(name) or [0.0]) for name in ("toolstack", "witness", "ready", "agents_back")}
    return (
        f"{now_s:5.0f}/{options.duration_s:.0f} s {phase}: {sum(tally.operations.values()):,} operations,"
        f" {sum(tally.faults.values())} faults, {tally.restarts} restarts, {tally.guests} guests;"
        f" worst: toolstack {_short(worst['toolstack'])}, checker {_short(worst['witness'])},"
        f" READY {_short(worst['ready'])}, agents {_short(worst['agents_back'])};"
        f" {len(tally.findings) + tally.more_findings} found"
    )
