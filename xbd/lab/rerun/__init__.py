"""Doing again what a hypervisor recorded."""
