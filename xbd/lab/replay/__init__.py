"""Replaying real guests' memory traces on an emulated host."""
