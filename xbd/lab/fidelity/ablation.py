"""What each mechanism of the guest model is worth: the model run again without it.

A mechanism is taken away as the simulations do it (`xbd.lab.simulation.switches`); the guest itself has no code for this.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

import numpy as np

from xbd.abi import Frames
from xbd.frames import WHOLE
from xbd.guest import GuestSettings
from xbd.guest.workload import Trace
from xbd.guest.workload.kernel_memory import kernel_of
from xbd.guest.workload.placement import listed_most, share_out
from xbd.guest.zone import SOURCES, Mobility, PageState, Zone
from xbd.lab.fidelity.curve import guest_of, model_curve
from xbd.lab.simulation.switches import Switch, constant, instead, switched_off


def _whole_first(zone: Zone, count: int, mobility: Mobility, to: PageState, _rng: np.random.Generator) -> Frames:
    others = [source for source in SOURCES[mobility] if source != WHOLE]
    return zone.allocate(count, mobility, to, sources=(WHOLE, *others))


def _cache_apart(gfns: Frames, cache_pages: int, _rng: np.random.Generator) -> tuple[Frames, Frames]:
    processes = gfns.size - cache_pages
    return gfns[:processes], gfns[processes:]


def _other_guest(**settings: object) -> Callable[[Any], Callable[[Trace], GuestSettings]]:
    return lambda original: lambda trace: replace(original(trace), **settings)


MECHANISMS: Final[Mapping[str, Switch]] = {
    "smallest pieces first": Switch(
        "whole blocks are broken before holes are filled", [(Zone.allocate_smallest, instead(_whole_first))]
    ),
    "lists of processors": Switch("what is freed is free at once", [(listed_most, constant(0))]),
    "runs of page cache": Switch(
        "page cache that is read while processes grow lies apart from them", [(share_out, instead(_cache_apart))]
    ),
    "huge pages": Switch(
        "no process has huge pages, and the kernel keeps nothing free for them",
        [(guest_of, _other_guest(huge_pages=False))],
    ),
    "wear": Switch("the guest has just booted", [(guest_of, _other_guest(wear=0.0))]),
    "slab": Switch("no kernel memory comes with page cache and processes", [(kernel_of, constant(0))]),
}


def ablations(trace: Trace, seed: int) -> Iterator[tuple[str, str, Frames]]:
    """Run the model without each mechanism; iterates over its name, what is missing, and the curve as `model_curve` returns it."""
    for name, switch in MECHANISMS.items():
        with switched_off([switch]):
            yield name, switch.missing, model_curve(trace, seed)
