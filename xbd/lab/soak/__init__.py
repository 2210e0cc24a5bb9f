"""Soaking a whole host: what `xbd soak` is made of.

`options`, `schedule`, `people`, `book`, `tally` and `report` decide and are pure: what is to go wrong and when, which
guests come, what the witness must find, what counts as a finding. `stage` owns the processes, `relay` is one of
them; `traffic`, `witness`, `injector` and `watcher` are what goes on at the same time, and `finale` is how it ends.
"""
