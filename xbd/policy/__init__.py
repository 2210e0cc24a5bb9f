"""Policies: pure functions from what is known of a host to what its domains should hold."""

from xbd.policy.shares import Share, share_out

__all__ = ["Share", "share_out"]
