"""The daemons: what owns sockets, files, clocks and tasks, and carries bytes to and from what decides (`xbd.control`).

Begin with `hypervisor` (with `domain_sockets`, the sockets that it listens on) and `guests`, the agents' processes. `metrics` is
the smallest daemon, and a model for another one; `autoballoon` and `xenstored` are clients of the hypervisor with sockets of
their own; `supervisor` is `xbd up`. What all of them stand on is in `runtime`.
"""
