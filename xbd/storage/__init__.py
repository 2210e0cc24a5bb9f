"""Arrays that outlive a process, and the undo log that makes each step on them all or nothing.

Read `image` first (named arrays, sections, how a step is committed), then `undo` (the log). `memory` is a store in
memory, for tests and simulations; the one on disk is `xbd.daemons.runtime.state_dir`.
"""
