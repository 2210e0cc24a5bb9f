"""Deterministic simulation: the real cores in one process, with faults injected between them, from one seed.

How it works. A `World` runs events from a schedule on virtual time. It holds a `Daemon` (a real `Controller` on a real
`Machine`, whose state is kept in a `MemoryStore`, so that it can be killed at any write and be recovered), a `Player`
for each domain (a real `Agent` with a real guest and its workload, or with a `HostileGuest`), an `Operator` and the
autoballoon `Policy` with a `Caller` each, and `Connection`s between them: byte streams that are delayed, cut into
pieces and lost. Every random choice comes from the seed, with a generator of its own for each purpose.

What is checked. A `WatchedController` lets the daemon execute only the command that is due. An `Oracle` for each domain
follows the answers that its guest got, and knows which pages the domain holds, their content words, and what it granted
and mapped. After every event that changed the machine, the machine is audited. Every hundred events, and after each
restart of the daemon, it is compared with all oracles, and every guest recounts its own counters. When the events that
were asked for are done, the faults stop; then every domain must reach its target, or there must be a known reason.

Not simulated: sockets, tasks, clocks and files. `xbd soak` runs those.

Read `world` first (one run), then `xbd.testing.oracle` and `checks` (what is checked), `faults` and `options` (what goes wrong, and
how often), `player` and `toolstack` (who acts), `daemon` (crash and restart), `connection` (bytes). `outcome` runs one
seed and shortens a failure; `switches` turns single safety mechanisms off, to show that their absence is found.
"""
