"""The demo: eight guests under `stock` and under `full`, with real processes; `command` holds all of it: `xbd demo`."""
