"""The lab: tools that run whole hosts to test, measure and compare them.

Every part has a `command.py`, which is its command, and pure modules; what needs processes, sockets or clocks is in its
`shell/`. On virtual time in one process: `simulation` (faults from a seed), `replay` (real guests' traces),
`experiments` (all strategies compared), `fidelity` (the guest model against real guests) and `rerun` (a recording
again). With real processes: `soak` (load and faults), `bench` (performance) and `demo`. To understand the lab read
`xbd.testing.virtual_host` first, then `replay`, `experiments` and `simulation`.
"""
