"""Do one run and return its outcome; shorten a run that failed."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from traceback import extract_tb
from typing import Protocol, TypeVar

from xbd.lab.simulation.options import EXCLUDABLE, FAULTS, Options
from xbd.lab.simulation.switches import SWITCHES, find, switched_off
from xbd.lab.simulation.world import World, Write
from xbd.policy import Policy
from xbd.testing.oracle import Violation


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a run.

    *events*: done in all, healing included; *seconds*: of virtual time. *digest*: of the trace. *violation*: what was
    found, None: nothing; *while_healing*: the faults had stopped. *tally*: counts of faults and other happenings.
    """

    options: Options
    events: int
    seconds: float
    digest: str
    violation: str | None
    while_healing: bool
    tally: Mapping[str, int]

    @property
    def when(self) -> str:
        """When it ended, for people."""
        return "when it was healed" if self.while_healing else f"at event {self.events:,}"

    def as_map(self) -> dict[str, object]:
        """Return it as a map for JSON."""
        return {
            "seed": self.options.seed,
            "events": self.events,
            "seconds": round(self.seconds, 6),
            "digest": self.digest,
            "violation": self.violation,
            "while_healing": self.while_healing,
            "tally": dict(self.tally),
            "command": self.options.command_line(),
        }


def seed_of(text: str) -> int:
    """Derive a seed from a text, such as a commit's name."""
    return int.from_bytes(sha256(text.encode()).digest()[:6], "big")


def run(
    options: Options,
    write: Write | None = None,
    watch: Callable[[World], None] | None = None,
    policy: Policy | None = None,
) -> Outcome:
    """Do one run; *watch* and *policy* as `World` takes them. Raises BadArgument: there is no such switch."""
    with switched_off(find(options.off, SWITCHES)):
        world = World(options, write, watch, policy)
        violation = None
        try:
            world.run()
        except Violation as found:
            violation = str(found)
        except Exception as error:  # noqa: BLE001 - any exception of a core is a finding
            at = extract_tb(error.__traceback__)[-1]
            where = f"{at.filename.rpartition('xbd/')[2]}:{at.lineno}"
            violation = f"{type(error).__name__} in {where}: {error}"
    tally = dict(sorted((world.tally + world.daemon.oracles.tally).items()))
    return Outcome(options, world.events, world.schedule.now, world.digest, violation, world.healing, tally)


class Found(Protocol):
    """What is known of a run of any simulation, that it may be shortened."""

    @property
    def events(self) -> int:
        """How much was done."""

    @property
    def violation(self) -> str | None:
        """What was found."""


AnyFound = TypeVar("AnyFound", bound=Found)


def leave_out(
    found: AnyFound,
    kinds: Iterable[str],
    run_without: Callable[[AnyFound, str], AnyFound],
    limit: Callable[[AnyFound], AnyFound],
) -> AnyFound:
    """Leave out one kind of fault after the other, as long as the run still fails and is no longer.

    Args:
        found: a run that failed.
        kinds: what may be left out.
        run_without: runs again without a kind.
        limit: makes a run end where it failed.
    """
    best = limit(found)
    for kind in kinds:
        tried = run_without(best, kind)
        if tried.violation is not None and tried.events <= best.events:
            best = limit(tried)
    return best


def shrink(found: Outcome, run_one: Callable[[Options], Outcome] = run) -> Outcome:
    """Search for a shorter run with fewer kinds of faults that also fails; the failure may be another one."""
    loud = [name for name in EXCLUDABLE if name not in FAULTS or found.tally.get(name)]
    best = leave_out(
        found,
        [name for name in loud if name not in found.options.without],
        lambda best, name: run_one(replace(best.options, without=(*best.options.without, name))),
        _limit_events,
    )
    return _prefix(best, run_one)


def _limit_events(found: Outcome) -> Outcome:
    """Limit the run to the events that were done until the failure."""
    if found.while_healing:
        return found
    return replace(found, options=replace(found.options, events=found.events))


def _prefix(found: Outcome, run_one: Callable[[Options], Outcome]) -> Outcome:
    """Find the failure earlier: by comparing after each event, or by stopping the faults sooner."""
    best = _limit_events(found)
    if not found.while_healing:
        tried = run_one(replace(best.options, compare_every=1))
        return _limit_events(tried) if tried.violation is not None and tried.events < best.events else best
    least, most = 0, best.options.events
    while most - least > max(1, most // 64):
        middle = (least + most) // 2
        tried = run_one(replace(best.options, events=middle))
        if tried.violation is None:
            least = middle
        else:
            best = _limit_events(tried)
            most = min(middle, best.options.events)
    return best
