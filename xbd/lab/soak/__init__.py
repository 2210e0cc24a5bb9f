"""Soak tests: a host of real processes under load and faults, and checks of everything that can be checked meanwhile.

Read `command` first: the phases of a soak. The modules beside it are pure: `options`, `schedule` (which faults happen,
and when), `population` (which guests there are), `commands` (what the checker guest does; what
its memory must hold says `xbd.testing.oracle`), `tally` (what is
counted, what is a finding) and `report`. Those in `shell/` run: `processes` starts and stops the processes, `relay` is
one of them; `traffic`, `checker`, `injector` and `watcher` run at the same time, and `teardown` ends a soak.
"""
