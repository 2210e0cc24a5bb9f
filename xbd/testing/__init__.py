"""Hosts for tests; `host` and `Host` are the public interface, everything else may change without notice.

`host()` gives a whole host in one process on virtual time. Read `_host` first (sizes as text, one strategy, an audit at
the end), then `virtual_host` (the machine, its guests and the order in which they step). `processes` runs a real host:
daemon and agents as processes of their own. `oracle` says what a guest must hold by the answers that it got. The lab and the project's own tests use both.
"""

from typing import TYPE_CHECKING

from xbd.lazy import lazily

if TYPE_CHECKING:
    from xbd.testing._host import Host, host

__all__ = ["Host", "host"]

__getattr__, __dir__ = lazily(__name__, {"xbd.testing._host": ("Host", "host")})
