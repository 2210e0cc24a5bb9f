"""The shells: processes that own sockets, clocks and tasks, and the plain objects that they drive.

`host`, `endpoint`, `agent` and `guest_settings` decide and import no trio; `hypervisor` and
`guests` carry bytes between them and the world.
"""
