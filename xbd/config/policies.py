"""Policies by name: those that come with xbd, those of other packages (entry points), and `module:object`."""

from collections.abc import Mapping
from dataclasses import is_dataclass
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final, cast

from xbd.errors import BadSetting, unknown_name
from xbd.policy.builtin.demand import Demand
from xbd.policy.builtin.fair import Fair, Static
from xbd.policy.builtin.mom import Mom
from xbd.policy.builtin.pressure import Pressure
from xbd.policy.builtin.qmemman import Qmemman
from xbd.policy.plugin import Policy, describe
from xbd.settings import read, settings_of

GROUP: Final = "xbd.policies"
DEFAULT_POLICY: Final = "demand"
# What pyproject.toml declares, too: known without an installation, and never another package's.
BUILT_IN: Final[Mapping[str, type[Policy]]] = {
    "fair": Fair,
    "demand": Demand,
    "qmemman": Qmemman,
    "mom": Mom,
    "pressure": Pressure,
    "static": Static,
}


def known_policies() -> tuple[str, ...]:
    """List the names of all policies that are installed: xbd's own, then other packages'."""
    return tuple(dict.fromkeys((*BUILT_IN, *sorted(entry_points(group=GROUP).names))))


def is_policy_name(name: str) -> bool:
    """Whether a policy can be called so: it is installed, or the name is `module:object`; nothing is imported."""
    module, colon, thing = name.partition(":")
    parts = (*module.split("."), *thing.split("."))
    return all(part.isidentifier() for part in parts) if colon else name in known_policies()


def refuse_unknown_policy(name: str) -> None:
    """Refuse what no policy can be called; nothing is imported. Raises BadArgument: names the closest one and all known ones."""
    if not is_policy_name(name):
        raise unknown_name("policy", name, known_policies())


def make_policy(name: str, settings: Mapping[str, Any], at: str = "") -> Policy:
    """Make a policy by name; a stranger's module is imported, so this may do anything that it does.

    Args:
        name: an entry point of `GROUP`, or `module:object`.
        settings: the policy's own, by keyword.
        at: the path of the settings, for errors.

    Raises:
        BadArgument: there is none of that name. BadSetting: it cannot be imported, or refuses its settings.
    """
    made = BUILT_IN[name] if name in BUILT_IN else _imported(name)
    if not isinstance(made, type) and hasattr(made, "step"):
        if settings:
            raise BadSetting(at, f"the policy {name!r} is made already, and takes no settings")
        return cast(Policy, made)
    if isinstance(made, type) and is_dataclass(made) and settings_of(made):
        return cast(Policy, read(made, settings, at))
    try:
        policy = made(**settings)
    except (Exception, SystemExit) as error:
        raise BadSetting(at, f"the policy {name!r} cannot be made of its settings: {describe(error)}") from error
    if not hasattr(policy, "step"):
        raise BadSetting(at, f"{name!r} makes a {type(policy).__name__}, which has no `step` and is no policy")
    return cast(Policy, policy)


def _imported(name: str) -> Any:  # noqa: ANN401 - a stranger's
    """Import what a name means. Raises BadArgument, BadSetting."""
    refuse_unknown_policy(name)
    found = [point for point in entry_points(group=GROUP) if point.name == name]
    point = found[0] if found else EntryPoint(name, name, GROUP)
    try:
        made = import_module(point.module)
        for part in point.attr.split("."):
            made = getattr(made, part)
    except (Exception, SystemExit) as error:
        raise BadSetting(
            "policy", f"{name!r} cannot be imported: {describe(error)}; PYTHONPATH says where modules are"
        ) from error
    if not callable(made) and not hasattr(made, "step"):
        raise BadSetting("policy", f"{name!r} is a {type(made).__name__}, and no policy")
    return made
