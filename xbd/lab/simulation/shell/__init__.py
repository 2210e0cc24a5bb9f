"""The tasks of the simulation of the daemons: scheduler, processes, calls that fail, and people."""
