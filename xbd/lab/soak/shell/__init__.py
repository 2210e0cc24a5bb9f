"""The parts of a soak that use processes, sockets and clocks."""
