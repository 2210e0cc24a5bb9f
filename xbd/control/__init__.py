"""What the daemons decide, without sockets, files or clocks.

Read `controller` first (what the toolstack's calls do), then `endpoint` (one connection's end), `agent` (a guest's
end of its own connection) and `balancer` (the autoballoon daemon's core).
"""
