"""The lab: hosts in one process on virtual time, replays of real traces, benchmarks, the demo."""
