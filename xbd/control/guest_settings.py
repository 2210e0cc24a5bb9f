"""From the settings map that a domain was created with to the guest that its agent runs.

The map comes from a host file or from a toolstack's `create`; the daemon checks it with
`plan_guest` before it creates the domain, so that no agent gets settings that it cannot use.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from xbd.abi import BootInfo
from xbd.config.strategies import DEFAULT_STRATEGY, STRATEGIES
from xbd.errors import BadArgument
from xbd.guest import BlockBackEnd, Guest, GuestSettings, override_driver
from xbd.guest.workload import Driven, Workload, make_workload

_KEYS: Final = ("strategy", "driver", "workload", "verify", "seed", "block_back_end")
_MAX_SEED: Final = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class GuestPlan:
    """What a guest is to be: its settings, what it runs, and its seed (None: of its domid)."""

    settings: GuestSettings
    workload: Workload
    seed: int | None


def plan_guest(settings: Mapping[str, object]) -> GuestPlan:
    """Read a guest's settings map.

    `strategy`, `driver` (overrides), `workload`, `verify`, `seed`, `block_back_end`, all optional: `workload` is a
    profile's name, or a map of `profile` and its options; `block_back_end` a map of `persistent`, for a guest that
    serves the others' disks.

    Raises:
        BadArgument: an unknown key, or a value that cannot be; names it and what is known.
    """
    for key in settings:
        if key not in _KEYS:
            raise BadArgument(f"unknown guest setting {key!r}", ", ".join(_KEYS))
    strategy = settings.get("strategy", DEFAULT_STRATEGY)
    if not isinstance(strategy, str) or strategy not in STRATEGIES:
        raise BadArgument(f"guest setting strategy = {strategy!r}", f"one of {', '.join(STRATEGIES)}")
    driver = override_driver(STRATEGIES[strategy].driver, _map(settings, "driver"))
    verify = settings.get("verify", False)
    if not isinstance(verify, bool):
        raise BadArgument(f"guest setting verify = {verify!r}", "true or false")
    seed = settings.get("seed")
    if seed is not None and (type(seed) is not int or not 0 <= seed <= _MAX_SEED):
        raise BadArgument(f"guest setting seed = {seed!r}", f"a whole number from 0 to {_MAX_SEED}")
    planned = GuestSettings(driver=driver, verify=verify, block_back_end=_block_back_end(settings))
    return GuestPlan(planned, _workload(settings.get("workload", "idle")), seed)


def _block_back_end(settings: Mapping[str, object]) -> BlockBackEnd | None:
    if "block_back_end" not in settings:
        return None
    match settings["block_back_end"]:
        case {"persistent": bool(persistent), **others} if not others:
            return BlockBackEnd(persistent=persistent)
        case unexpected:
            raise BadArgument(f"guest setting block_back_end = {unexpected!r}", '{"persistent": true or false}')


def _map(settings: Mapping[str, object], key: str) -> Mapping[str, object]:
    options = settings.get(key, {})
    if not isinstance(options, dict):
        raise BadArgument(f"guest setting {key} = {options!r}", "a map")
    return options


def _workload(chosen: object) -> Workload:
    if isinstance(chosen, dict):
        options = dict(chosen)
        chosen = options.pop("profile", None)
    else:
        options = {}
    if not isinstance(chosen, str):
        raise BadArgument(f"guest setting workload: profile = {chosen!r}", "a workload's name")
    workload = make_workload(chosen, options)
    if isinstance(workload, Driven):
        raise BadArgument(
            f"guest setting workload = {chosen!r}", "one that an agent can play; `xbd replay` plays traces"
        )
    return workload


def guest_from_map(boot: BootInfo, settings: Mapping[str, object]) -> Guest:
    """Build the guest that a boot map and a settings map describe. Raises BadArgument as `plan_guest`."""
    plan = plan_guest(settings)
    return Guest(boot, plan.settings, boot.domid if plan.seed is None else plan.seed, plan.workload)
