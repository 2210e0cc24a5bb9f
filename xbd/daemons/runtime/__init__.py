"""What every daemon stands on: listening sockets, connections, signals, state directories, the service manager."""
