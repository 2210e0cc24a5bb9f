"""A host for other people's tests, and the parts of it that the lab and the suite share.

`host()` is the public part: a whole host in one process on virtual time.
"""

from xbd.testing._host import Host, host

__all__ = ["Host", "host"]
