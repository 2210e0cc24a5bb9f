"""What a policy is, and how it is asked so that nothing that it does harms anybody; pure.

A policy is a value with one method, `step(state, snapshot, now) -> (state, targets)`, without any effect: it may look at
what it is given and nothing else. What it answers are wishes: the safety layer (`autoballoon`) keeps them within bounds
and headroom, shrinks before it grows, and leaves out who does not move. A policy that raises, or answers what cannot be
meant, is not asked again, and every domain keeps its target, as under `static`. One that does not return cannot be stopped
here: a stranger's policy is a `PolicyProcess` (`xbd.daemons.policy_process`), which asks it in a process that can be killed.
"""

import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from xbd.errors import XbdError
from xbd.policy.model import MOST_PAGES, SetTarget, Snapshot
from xbd.replaceable import replaceable
from xbd.text import printable, quote

# A reason is a line of a log.
MAX_REASON_CHARS: Final = 200


class Policy(Protocol):
    """What domains should hold: a value whose fields are its settings (`xbd.settings` notes them).

    Its name is an entry point of the group `xbd.policies`, or `module:object`, which makes one from settings by keyword.
    """

    def step(self, state: Any, snapshot: Snapshot, now: float) -> tuple[object, Sequence[SetTarget]]:  # noqa: ANN401
        """Say what domains should hold; pure.

        Args:
            state: what the last step returned; None at first, and whenever the policy begins anew.
            snapshot: the host at this moment; each domain once. What a guest reports is its own word.
            now: seconds on a clock that never runs backwards.

        Returns:
            The new state, and a target for each domain whose target matters, each with its reason; who is not named keeps
            its target.
        """


class PolicyFailed(XbdError):
    """A policy that runs elsewhere could not be asked. Says what it did there."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a policy answered: its targets and its new state; or what is wrong with it, the *trouble*, a sentence."""

    targets: tuple[SetTarget, ...] = ()
    own: object = None
    trouble: str = ""


@replaceable
def ask(policy: Policy, own: object, snapshot: Snapshot, now: float) -> Answer:
    """Ask a policy; what it raises, or answers and cannot mean, is its trouble."""
    try:
        after, targets = policy.step(own, snapshot, now)
        raw = [(each.domid, each.pages, each.reason, each.urgent) for each in targets]
    except PolicyFailed as failed:
        return Answer(trouble=str(failed))
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a stranger's code may raise anything, and answer anything
        return Answer(trouble=f"it raised {describe(error)}")
    return checked(raw, after, snapshot)


def checked(raw: object, own: object, snapshot: Snapshot) -> Answer:
    """Check targets as plain (domid, pages, reason, urgent); what cannot be meant is the answer's trouble."""
    known = {domain.domid for domain in snapshot.domains}
    targets: list[SetTarget] = []
    if not isinstance(raw, list) or len(raw) > len(known):
        return Answer(trouble=f"it answered {quote(raw)}, not a list of at most {len(known)} targets")
    for each in raw:
        if not isinstance(each, list | tuple) or len(each) != 4:
            return Answer(
                trouble=f"it answered the target {quote(each)}, not a number, pages, a reason and whether it is urgent"
            )
        domid, pages, reason, urgent = each
        if type(domid) is not int or domid not in known:
            return Answer(trouble=f"it set a target of domain {quote(domid)}, which it was not shown")
        if type(pages) is not int or not 0 <= pages <= MOST_PAGES:
            return Answer(trouble=f"it set the target of d{domid} to {quote(pages)}, not 0 to {MOST_PAGES} whole pages")
        known.remove(domid)
        words = printable(reason[:MAX_REASON_CHARS]) if isinstance(reason, str) else ""
        targets.append(SetTarget(domid, pages, words, urgent is True))
    return Answer(tuple(targets), own)


def describe(error: BaseException) -> str:
    """Describe what a policy raised, and where, in a line."""
    where = traceback.extract_tb(error.__traceback__)[-1:]
    at = "".join(f" ({frame.filename.rpartition('/')[2]}, line {frame.lineno})" for frame in where)
    try:
        said = str(error)[:MAX_REASON_CHARS]
    except Exception:  # noqa: BLE001 - an error of a stranger's may not even be told
        said = ""
    return printable(f"{type(error).__name__}{said and ': '}{said}{at}")
