"""Functions and methods that can be replaced by others, for the length of a block, and say so where they are defined.

A simulation takes a mechanism away to see that it is missed. It is replaced for the whole process, by whatever name a
module knows it. A call takes a tenth of a microsecond longer, so what every hypercall comes by is not among them: that
is replaced by passing another class (`xbd.machine.parts`).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, Final, TypeVar, cast

AnyFunction = TypeVar("AnyFunction", bound=Callable[..., Any])

# What each of them does at present.
_PRESENT: Final[dict[Callable[..., Any], Callable[..., Any]]] = {}


def replaceable(function: AnyFunction) -> AnyFunction:
    """Let a function, or a method of all objects of its class, be replaced by `replaced`."""

    @wraps(function)
    def part(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - as the function's own
        return _PRESENT[part](*args, **kwargs)

    _PRESENT[part] = function
    return cast(AnyFunction, part)


@contextmanager
def replaced(part: Callable[..., Any], make: Callable[[Any], Callable[..., Any]]) -> Iterator[None]:
    """Replace *part* for the length of a `with` block by what *make* makes of its original.

    Raises:
        KeyError: it is not `replaceable`; nothing is replaced.
    """
    original = _PRESENT[part]
    _PRESENT[part] = make(original)
    try:
        yield
    finally:
        _PRESENT[part] = original
