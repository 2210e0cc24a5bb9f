"""Replays of real guests' memory traces on an emulated host, in one process on virtual time.

Read `replay` first: traces, targets and the report. `variants` are interfaces that a host may offer for migration;
`report` formats the results; `command` is `xbd replay`.
"""
