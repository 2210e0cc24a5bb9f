"""The figures that are measured on clocks, sockets and processes, and the processes that they need."""
