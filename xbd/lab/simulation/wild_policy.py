"""A policy that fails: it does as another one does, and now and then raises, or answers what nobody can mean."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from xbd.config.policies import make_policy
from xbd.lab.simulation.rng import Rng
from xbd.policy import Policy, SetTarget, Snapshot

_FAILS: Final = 0.05


def fails_now_and_then(inner: str, seed: int) -> "WildPolicy":
    """Make one by the name of what it does as, for the process of a stranger's policy."""
    return WildPolicy(make_policy(inner, {}), Rng(np.random.default_rng(seed)))


class WildPolicy:
    """Does as *inner*, until the generator says otherwise; most of what it then wants is beyond every bound."""

    def __init__(self, inner: Policy, rng: Rng) -> None:
        self._inner = inner
        self._rng = rng

    def step(self, state: Any, snapshot: Snapshot, now: float) -> tuple[object, Sequence[SetTarget]]:  # noqa: ANN401 - as the protocol says
        """Do as the other, or fail."""
        after, targets = self._inner.step(state, snapshot, now)
        if not self._rng.bernoulli(_FAILS) or not snapshot.domains:
            return after, targets
        domid = self._rng.choice(snapshot.domains).domid
        match self._rng.below(5):
            case 0:
                raise ZeroDivisionError("a policy fails")
            case 1:
                return after, [SetTarget(domid, -1)]
            case 2:
                return after, [SetTarget(domid, 1), SetTarget(domid, 2)]
            case 3:
                return after, [SetTarget(each.domid, 0, "nothing", urgent=True) for each in snapshot.domains]
            case _:
                return after, [SetTarget(each.domid, 1 << 40, "all", urgent=True) for each in snapshot.domains]
