"""The releases of Xen whose tools are understood, each by its tables."""

from typing import Final

from xbd.hypercalls import release_4_17
from xbd.hypercalls.layout import Release

# The tools of Debian 12.
XEN_4_17: Final = Release.of(4, 17, ".7", release_4_17)
