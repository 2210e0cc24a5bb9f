"""Refusals of a XenStore: each is an errno name, which is sent as text."""

from xbd.errors import XbdError

# The names that a client knows (Xen public/io/xs_wire.h, xsd_errors); no other may be sent.
ERRNO_NAMES = frozenset(
    {"EINVAL", "EACCES", "EEXIST", "EISDIR", "ENOENT", "ENOMEM", "ENOSPC", "EIO"}
    | {"ENOTEMPTY", "ENOSYS", "EROFS", "EBUSY", "EAGAIN", "EISCONN", "E2BIG", "EPERM"}
)


class StoreError(XbdError):
    """A request was refused, and has changed nothing.

    Attributes: *errno* a name of `ERRNO_NAMES`, *message* why, for the log and for tests.
    """

    def __init__(self, errno: str, message: str) -> None:
        assert errno in ERRNO_NAMES, errno
        super().__init__(f"{errno}: {message}")
        self.errno = errno
        self.message = message
