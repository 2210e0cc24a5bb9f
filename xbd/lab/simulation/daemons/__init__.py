"""A simulation of the daemons themselves: what it does, what it knows, what it has seen. The tasks are in `../shell`.

How it works. All five daemons run in one process, each the code that ships, on one seed: hypervisor, agents,
autoballoon, xenstored, metrics. Their sockets and files are real, on a file system in memory. Time is trio's mock
clock, and the order of tasks comes from the seed (`shell.scheduler`), so the same seed gives the same trace, byte for
byte. Every call by which a daemon reaches the outside goes through `xbd.daemons.runtime.outside`, and there it fails
as the seed says (`shell.faulty_calls`).

A `Process` (`shell.process`) is what a process is to its daemon: it can be told to stop, and it can be dropped at any
call and at any note of the undo log. What it had written by then stays, and nothing that it does afterwards counts.
People (`shell.operators`, `shell.visitors`) create, destroy and look; what they were answered they write into a
`Ledger`, and after each restart it is held against what the host says.

Read `options` first (what goes wrong), then `shell/world` (one run), `ledger` (what must hold).
"""
