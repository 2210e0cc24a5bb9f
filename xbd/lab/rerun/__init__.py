"""Rerun of what a hypervisor recorded, on another machine; `command` holds all of it: `xbd rerun`."""
