"""A XenStore: the tree of names, values and permissions in which a Xen host's tools and guests meet.

Pure: bytes in, bytes out. Read `store` first (a message comes in, answers and events go out), then `operations` (one
function for each) and `transactions` (every change is one); `tree`, `permissions`, `watches` and `quota` are what these
use. `bridge` shows the host in the store. `codec` is the wire; `xbd.daemons.xenstore_sockets` adds sockets and a clock,
`xbd.daemons.xenstore_file` a place on disk.
"""
