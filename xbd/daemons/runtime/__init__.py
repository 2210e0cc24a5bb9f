"""What every daemon stands on, each mechanism once.

In the order to read them:

- `service`: a daemon's life, with signals, the service manager and its watchdog (`sd_notify`, `check_in`);
- `listener`: the accept loop, admission and places; `transport`: a connection's bytes; `peers`: a connection and its endpoint;
- `reconnect`: a client that follows its hypervisor through restarts;
- `outside`: every call to the operating system, in one object that a simulation can replace;
- `sockets`, `owned_path`, `lock`: binding, whose a path is, one daemon at a time;
- `state_dir`, with `state_files`, `state_lock` and `state_dump`: a host's saved state; `disk_gate`: guests wait while its disk is full;
- `log_sink`: standard error that neither raises nor waits; `activation`, `nurseries`, `malloc_trim`: small parts.
"""
