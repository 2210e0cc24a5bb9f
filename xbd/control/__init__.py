"""The daemons' decisions, without sockets, files or clocks: bytes, events and the time go in; bytes and actions come out.

In the order to read them:

- `controller`: a host's core, what each call of the toolstack does; `domain_record` is what it knows of a domain;
- `endpoint`: the server's end of one connection; `agent`: a guest's end of its own;
- `balancer`: the autoballoon daemon's core; `reload`: what a changed host file changes while the host runs;
- `targets`: which domains and sizes a request means; `guest_settings`: from a settings map to a guest;
- `listing`: the domains as `list` tells them, and when each changed last;
- `saved`, `client_sessions`, `event_log`, `notices`, `rate_limit`, `domain_sockets`: parts of the above.
"""
