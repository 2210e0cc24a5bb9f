"""Benchmarks: figures with their spread, each a rate or a ratio measured in one run.

Read `command` first (`xbd bench`), then `figures` and `record` (what is kept of each release). `model` has the figures
of the guest model, which do not depend on the machine. `shell/` has those that are measured on clocks: `allocator`,
`wire`, `host`, `grants`, `recovery`, `fleet`, `listing`, `flood` and `xenstore`; `echo` and `flooder` are processes that they need.
"""
