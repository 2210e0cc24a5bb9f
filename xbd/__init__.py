"""xbd: a Xen host's memory side in user space."""

__version__ = "0.1.0"
