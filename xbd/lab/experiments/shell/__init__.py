"""The parts of experiments that use processes, networks and files."""
