"""The order of trio's tasks from a seed: the one place that touches what trio keeps private.

trio shuffles the tasks that are ready, on purpose. Where its own tests want the same order twice, they set a switch
and seed a generator, both private (`trio._core._run`, since 0.11); so does pytest-trio under Hypothesis. When a trio
changes that, `NotSeeded` names what is missing, and a test says what to do.
"""

import gc
import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import trio
from trio._core import _run

from xbd.errors import XbdError

SWITCH: Final = "_ALLOW_DETERMINISTIC_SCHEDULING"
GENERATOR: Final = "_r"


class NotSeeded(XbdError):
    """This trio's order of tasks cannot be seeded; says what is missing."""


@contextmanager
def seeded(seed: int, scheduler: types.ModuleType = _run) -> Iterator[None]:
    """Take the order of tasks from *seed* for the length of a block; garbage is collected only when that is asked for.

    Raises:
        NotSeeded: trio has changed what this touches.
    """
    missing = [name for name in (SWITCH, GENERATOR) if not hasattr(scheduler, name)]
    if missing:
        raise NotSeeded(
            f"trio {trio.__version__} has no {' and no '.join(missing)} in {scheduler.__name__}; the simulation of daemons"
            " needs them for the same order of tasks twice: see xbd.lab.simulation.shell.scheduler"
        )
    before, generator = getattr(scheduler, SWITCH), getattr(scheduler, GENERATOR)
    state = generator.getstate()
    collects = gc.isenabled()
    # What is collected at some allocation would close its files at another moment in the next run. What is there before
    # is no run's: looking through it takes longer than all that a run leaves.
    gc.freeze()
    gc.disable()
    setattr(scheduler, SWITCH, True)
    generator.seed(seed)
    try:
        yield
    finally:
        setattr(scheduler, SWITCH, before)
        generator.setstate(state)
        gc.collect()
        gc.unfreeze()
        if collects:
            gc.enable()
