"""The simulation: the real cores in one process, with every fault between them, from one seed.

Theory of operation. A `World` is a schedule of events on virtual time. In it are a `Daemon` (a `Host` on a
`Machine` whose state a `MemoryStore` keeps, so that it can die at any note and be recovered), a
`Player` for each domain (an `Agent` with a real guest and its workload, or a `HostileGuest`), an `Operator` and the
autoballoon `Policy` with a `Caller` each, and `Connection`s between them: bytes that are delayed, cut
and lost. All chance comes from one seed, in a stream for each who draws.

What is checked. A `WatchedHost` lets nothing be carried out but the command that is due. A `Oracle` for each
domain follows the answers that its guest got, and says which pages it holds, what they say, what
it granted and mapped. After every event that changed the machine it is audited; every hundred events,
and after each restart of the daemon, it is compared with all books, and every guest recounts itself.
When the events that were asked for are done the faults stop, and all must come to rest, or say why not.

What it deliberately is not: sockets, tasks, clocks and files. Those are `xbd soak`'s.
"""
