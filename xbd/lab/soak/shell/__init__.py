"""The processes of a soak, its faults, its traffic, and who looks."""
