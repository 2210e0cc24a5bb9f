"""A XenStore: the tree of names, values and permissions in which a Xen host's tools and guests meet.

Pure: bytes in, bytes out. `codec` is the wire, `store` the store, `bridge` what of the host is shown in it;
`xbd.daemons.xenstore_sockets` gives it sockets, a clock and a place on disk.
"""
