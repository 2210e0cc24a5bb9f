"""From the settings map that a domain was created with to the guest that its agent runs.

The map comes from a host file or from a toolstack's `create`; the daemon checks it with
`plan_guest` before it creates the domain, so that no agent gets settings that it cannot use.
"""

from collections.abc import Mapping

from xbd.abi import BootInfo
from xbd.config.guest import GuestChoices
from xbd.guest import Guest
from xbd.settings import read


def plan_guest(settings: Mapping[str, object]) -> GuestChoices:
    """Read a guest's settings map. Raises BadSetting, with the path of the key under `guest`."""
    return read(GuestChoices, settings, "guest")


def guest_from_map(boot: BootInfo, settings: Mapping[str, object]) -> Guest:
    """Build the guest that a boot map and a settings map describe. Raises BadSetting as `plan_guest`."""
    plan = plan_guest(settings)
    return Guest(boot, plan.settings, boot.domid if plan.seed is None else plan.seed, plan.workload)
