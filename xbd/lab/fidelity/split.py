"""Where the model is wrong: its error by the phase of the trace, and by the order of the free blocks.

The phases follow from the trace's own demand, from what its programs hold (neither free nor page cache), and know nothing
of the model or of the free blocks:

- *load* begins when the programs hold a tenth of all memory more than at their least since the last load, and ends when
  they have given three quarters of that rise, to its highest, back;
- *after load* is the five minutes after its end, or until the next load;
- *start* is what comes before the first load, *idle* the rest.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from xbd.abi import Frames
from xbd.guest.workload import Trace
from xbd.lab.experiments.tables import TextTable
from xbd.lab.fidelity.curve import real_curve, whole
from xbd.units import SUPER_ORDER, SUPER_PAGES

START, LOAD, AFTER_LOAD, IDLE = PHASES = ("start", "load", "after load", "idle")
_RISE: Final = 0.1
_FALL: Final = 0.75
_AFTER_LOAD_S: Final = 300.0
# The classes of orders, first and end; the last is what a 2 MiB page can be made of.
ORDERS: Final = {"0-3": (0, 4), "4-8": (4, SUPER_ORDER), "9 and up": (SUPER_ORDER, None)}


@dataclass(frozen=True, slots=True)
class ClassError:
    """The error of a class of samples or blocks, as a share of all the guest's memory.

    *error_share*: mean absolute; *bias_share*: with its sign, above 0 where the model has more.
    """

    samples: int
    error_share: float
    bias_share: float


def phases_of(trace: Trace) -> list[str]:
    """Name the phase of each sample, see the module."""
    pages = trace.anon_pages.tolist()
    lowest = highest = pages[0]
    phase, ended_s, found = START, 0.0, []
    for now_s, held in zip(trace.seconds.tolist(), pages, strict=True):
        highest, lowest = max(highest, held), lowest if phase == LOAD else min(lowest, held)
        if phase == LOAD and highest - held >= _FALL * (highest - lowest):
            phase, ended_s, lowest = AFTER_LOAD, now_s, held
        elif phase != LOAD and held - lowest >= _RISE * trace.total_pages:
            phase, highest = LOAD, held
        elif phase == AFTER_LOAD and now_s - ended_s > _AFTER_LOAD_S:
            phase = IDLE
        found.append(phase)
    return found


def by_phase(trace: Trace, free: Frames) -> dict[str, ClassError]:
    """Split the error of *free*, as `model_free` returns it, in whole blocks' pages by phase; phases that are not there are left out."""
    errors = (whole(free) - real_curve(trace)) * SUPER_PAGES
    phases = np.array(phases_of(trace))
    return {phase: _error(errors[phases == phase], trace) for phase in PHASES if phase in phases}


def by_order(trace: Trace, free: Frames) -> dict[str, ClassError]:
    """Split the error of *free*, as `model_free` returns it, by the order of block; empty where the trace does not say them."""
    if not trace.free_by_order.size:
        return {}
    return {
        name: _error(free[:, first:end].sum(axis=1) - trace.free_by_order[:, first:end].sum(axis=1), trace)
        for name, (first, end) in ORDERS.items()
    }


def _error(errors: Frames, trace: Trace) -> ClassError:
    of_all = errors / trace.total_pages
    return ClassError(errors.size, float(np.abs(of_all).mean()), float(of_all.mean()))


def tables_of(trace: Trace, free: Frames) -> Iterator[TextTable]:
    """Format both splits."""
    for kind, title, found in (
        ("phase", "whole blocks, by phase", by_phase(trace, free)),
        ("order", "free pages, by order of block", by_order(trace, free)),
    ):
        if found:
            rows = [
                (name, str(one.samples), f"{one.error_share:.1%}", f"{one.bias_share:+.1%}")
                for name, one in found.items()
            ]
            about = "mean error of all memory; bias: with its sign, above 0 where the model has more"
            yield TextTable(f"{trace.name}, {title}", about, (kind, "samples", "error", "bias"), tuple(rows))
