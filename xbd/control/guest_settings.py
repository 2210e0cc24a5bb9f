"""From the settings map that a domain was created with to the guest that its agent runs.

The map comes from a host file or from a toolstack's `create`; the daemon checks it with
`plan_guest` before it creates the domain, so that no agent gets settings that it cannot use. The trace that a guest
plays is read by whoever runs it.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from xbd.abi import BootInfo
from xbd.config.guest import GuestChoices, PlaysTrace
from xbd.errors import BadArgument
from xbd.guest import Guest
from xbd.guest.workload import Played, Trace, Workload
from xbd.settings import read

FindTrace = Callable[[Path], Trace]


def plan_guest(settings: Mapping[str, object]) -> GuestChoices:
    """Read a guest's settings map. Raises BadSetting, with the path of the key under `guest`."""
    return read(GuestChoices, settings, "guest")


def no_trace(path: Path) -> Trace:
    """Refuse to find a trace. Raises BadArgument."""
    raise BadArgument(f"the trace {path} was not read", "an agent that reads it before it boots the guest")


def workload_of(plan: GuestChoices, gfn_count: int, find_trace: FindTrace) -> Workload:
    """Make the workload of a guest of *gfn_count* pages. Raises TraceError: its trace cannot be played in it."""
    chosen = plan.workload
    if not isinstance(chosen, PlaysTrace):
        return chosen
    played = Played(trace=find_trace(Path(chosen.trace)), pace=chosen.pace, io_pages_s=chosen.io_pages_s)
    played.check(gfn_count)
    return played


def guest_from_map(boot: BootInfo, settings: Mapping[str, object], find_trace: FindTrace = no_trace) -> Guest:
    """Build the guest that a boot map and a settings map describe.

    Raises:
        BadSetting: as `plan_guest`.
        TraceError: as `workload_of`.
    """
    plan = plan_guest(settings)
    return build_guest(boot, plan, boot.domid if plan.seed is None else plan.seed, find_trace)


def build_guest(boot: BootInfo, plan: GuestChoices, seed: int, find_trace: FindTrace = no_trace) -> Guest:
    """Build the guest that was planned. Raises TraceError: as `workload_of`."""
    workload = workload_of(plan, boot.gfn_count, find_trace)
    chosen = plan.settings
    if isinstance(workload, Played) and plan.wear is None:
        chosen = replace(chosen, wear=workload.wear)
    return Guest(boot, chosen, seed, workload)
