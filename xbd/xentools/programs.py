"""Finding a tool as a shell does, but the real one where the name is that of a wrapper.

Debian's /usr/sbin/xl asks a running Xen in /sys/hypervisor which version's tool it should start; the tools lie in
/usr/lib/xen-VERSION/bin.
"""

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from xbd.hypercalls.releases import XEN_4_17
from xbd.xentools.run import Program

_TOOLS: Final = f"lib/xen-{XEN_4_17.major}.{XEN_4_17.minor}/bin"


# What xl does without files of its own, unless an option asks for more.
_WITHOUT_FILES: Final = frozenset(
    ("list", "info", "vcpu-list", "uptime", "claims", "sharing", "domid", "domname", "vm-list", "dmesg", "mem-max")
)
_ASKING_FOR_FILES: Final = frozenset(("-l", "--long", "-n", "--numa"))


def needs_files(command: Sequence[str]) -> bool:
    """Tell whether a command may need files of Xen's tools: all do but some of xl's."""
    match command:
        case (program, verb, *options) if Path(program).name == "xl" and verb in _WITHOUT_FILES:
            return not _ASKING_FOR_FILES.isdisjoint(options)
    return True


def find_program(command: Sequence[str], environ: Mapping[str, str]) -> Program | None:
    """Find a command's program, and give it a $PATH in which the real tools come first; None: there is none."""
    path = environ.get("PATH", os.defpath)
    tools = []
    for one in path.split(os.pathsep):
        where = Path(one)
        found = where.parent / _TOOLS
        if where.name in ("bin", "sbin") and str(found) not in tools and os.path.isdir(found):  # noqa: PTH112 - never raises
            tools.append(str(found))
    path = os.pathsep.join([*(one for one in tools if one not in path.split(os.pathsep)), path])
    file = shutil.which(command[0], path=path)
    return None if file is None else Program(file, tuple(command), {**environ, "PATH": path})
