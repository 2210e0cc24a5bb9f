"""Getting plain errors out of nurseries."""

from collections.abc import Iterator
from contextlib import contextmanager

from xbd.errors import XbdError


@contextmanager
def plain_errors() -> Iterator[None]:
    """Raise the first `XbdError` of a nursery as itself, when nothing but such errors ended the nursery.

    Bugs (everything else) come out as the group that they are in.
    """
    try:
        yield
    except BaseExceptionGroup as group:
        expected, rest = group.split(XbdError)
        if expected is None or rest is not None:
            raise
        first: BaseException = expected
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        raise first from first.__cause__
