"""Packages whose public names are imported when they are first used, so that who needs one of them waits for no other.

numpy and trio take longer to import than a short command takes for all else. The package lists its names in `__all__`,
and, for type checkers, imports them under TYPE_CHECKING; then it says where they are:

    __getattr__, __dir__ = lazily(__name__, {"xbd.guest.kernel": ("Guest",)})
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module


def lazily(
    package: str, modules: Mapping[str, Sequence[str]]
) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """Make the `__getattr__` and the `__dir__` of *package*.

    Args:
        package: its dotted name.
        modules: where its names are: dotted name of a module to names in it.
    """
    homes = {name: module for module, names in modules.items() for name in names}

    def find(name: str) -> object:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}; public are {', '.join(sorted(homes))}")
        found: object = getattr(import_module(homes[name]), name)
        # From now on it is found without this function.
        vars(sys.modules[package])[name] = found
        return found

    return find, lambda: sorted({*vars(sys.modules[package]), *homes})
