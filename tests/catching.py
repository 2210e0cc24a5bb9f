"""Whether a program's hypercalls can be caught on this machine: what tests of `xbd xen` need."""

import subprocess
import sys
from functools import cache

import pytest

_TRY = "from xbd.xentools.seccomp import *\ntry: catch()\nexcept CannotCatch as error: print(error)"


@cache
def _reason_against() -> str:
    done = subprocess.run([sys.executable, "-c", _TRY], capture_output=True, text=True, check=True, timeout=60)  # noqa: S603 - our own
    return done.stdout.strip()


def skip_where_none_are_caught() -> None:
    """Skip the test where the system does not let a program's hypercalls be caught."""
    if _reason_against():
        pytest.skip(_reason_against())
