"""The guests' block I/O: front ends in guests, the back end in dom0, and the messages between them.

Read `messages` first (the protocol), then `front_end` and `back_end`; `block` connects both to a guest's kernel. Of the
front end are `ring`, `pages` and `disk`, of the back end `client`, `service` and `slots`.
"""

from xbd.guest.io.block import BlockIo

__all__ = ["BlockIo"]
