"""The guests' block I/O: front ends in guests, the back end in dom0, and what they write to each other."""

from xbd.guest.io.block import BlockIo

__all__ = ["BlockIo"]
