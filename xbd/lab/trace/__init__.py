"""Traces of guests' memory: recorded on a Linux machine, made of what other tools recorded, looked at, cut, multiplied.

Read `columns` first (what a trace can say), then `proc` (a row of it from /proc) and `table` (a file of it). `findings`
are what `xbd trace check` finds; `changes` makes one trace of another, `samples` of what `sadf`, `prometheus` and
`mapping` read. `shell` has the commands: `shell.record` writes a file that outlives crashes and full disks.
"""
