"""From the settings map that a domain was created with to the guest that its agent runs.

The map comes from a host file or from a toolstack's `create`; the daemon checks it with
`plan_guest` before it creates the domain, so that no agent gets settings that it cannot use.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from xbd.abi import BootInfo
from xbd.config.guest import GuestChoices
from xbd.guest import Guest, GuestSettings
from xbd.guest.workload import Workload
from xbd.settings import read


@dataclass(frozen=True, slots=True)
class GuestPlan:
    """What a guest is to be: its settings, what it runs, and its seed (None: of its domid)."""

    settings: GuestSettings
    workload: Workload
    seed: int | None


def plan_guest(settings: Mapping[str, object]) -> GuestPlan:
    """Read a guest's settings map, as `GuestChoices`. Raises BadSetting, with the path of the key under `guest`."""
    chosen = read(GuestChoices, settings, "guest")
    planned = GuestSettings(chosen.planned_driver(), verify=chosen.verify, block_back_end=chosen.block_back_end)
    return GuestPlan(planned, chosen.workload, chosen.seed)


def guest_from_map(boot: BootInfo, settings: Mapping[str, object]) -> Guest:
    """Build the guest that a boot map and a settings map describe. Raises BadSetting as `plan_guest`."""
    plan = plan_guest(settings)
    return Guest(boot, plan.settings, boot.domid if plan.seed is None else plan.seed, plan.workload)
