"""The commands of `xbd`, a module for each family; the table in `xbd.cli.main` lists them all.

`domains` (create to destroy), `memory` (targets, limits, claims) and `inspect` (list, info, events, audit) are the ones
to read first; `daemons` runs the hypervisor, the agents and whole hosts.
"""
