"""Benchmarks: `command` is `xbd bench`, `shell/` has the figures that real processes are measured for."""
